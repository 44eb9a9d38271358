"""Trackers of experiments: they get the numbers of metrics.csv, nothing that names a machine or a case, and cost no training."""

from __future__ import annotations

import csv
import getpass
import platform
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from medseg3d.checks import ConfigError
from medseg3d.training.run import train
from medseg3d.training.tracking import MLFLOW_TAGS, Tracker
from tests.training_helpers import SETTINGS, ball_task, write_balls

TASK = ball_task()
REASON = "the package is in the 'trackers' extra"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data"), 3)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def stand_in(name: str, calls: list[tuple[Any, ...]]) -> ModuleType:
    """What the trackers' own packages offer, as far as it is used; notes what is sent."""
    module = ModuleType(name)

    def start_run(run_id: str | None, run_name: str | None, tags: dict[str, str]) -> SimpleNamespace:
        calls.append(("start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "a1"))

    def init(**options: Any) -> SimpleNamespace:
        calls.append(("start", options["id"], options["name"]))
        calls.append(("params", options["config"]))
        return SimpleNamespace(
            log=lambda values, step: calls.append(("log", values, step)), finish=lambda: calls.append(("end",))
        )

    module.start_run, module.init, module.Settings = start_run, init, object  # type: ignore[attr-defined]
    module.log_params = lambda values: calls.append(("params", values))  # type: ignore[attr-defined]
    module.log_metrics = lambda values, step: calls.append(("log", values, step))  # type: ignore[attr-defined]
    module.end_run = lambda: calls.append(("end",))  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_trackers_get_the_numbers_of_metrics_csv(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setitem(sys.modules, name, stand_in(name, calls))
    settings = SETTINGS | {"logger": name, "validation_interval": 1}
    run = train(TASK, data, tmp_path / "run", overrides=settings, epochs=1)
    train(TASK, data, run, overrides={"epochs": 2}, resume=True)
    starts = [call for call in calls if call[0] == "start"]
    assert len(starts) == 2
    ident = (run / "logs" / f"{name}.id").read_text()
    assert starts[1][1] == ident, "a run that goes on stays the same run there"
    logged = [call for call in calls if call[0] == "log"]
    assert [step for _, _, step in logged] == [1, 2]
    assert logged[1][1]["score"] == pytest.approx(float(rows(run)[1]["score"]))
    assert calls[-1] == ("end",)
    (_, params) = next(call for call in calls if call[0] == "params")
    assert params["batch_size"] == 2
    assert not any(str(tmp_path) in str(value) for value in params.values()), "no paths"


def test_a_tracker_that_is_not_installed_or_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'medseg3d\[trackers\]'"):
        Tracker("mlflow", tmp_path, {})
    module = stand_in("wandb", [])

    def no_network(**options: Any) -> SimpleNamespace:
        def log(values: Any, step: int) -> None:
            raise OSError("no route to host")

        return SimpleNamespace(log=log, finish=lambda: None)

    module.init = no_network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    tracker = Tracker("wandb", tmp_path, {})
    tracker.log({"loss": 1.0}, 1)
    tracker.log({"loss": 1.0}, 2)
    tracker.close()
    assert caplog.text.count("no route to host") == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_takes_no_new_run_is_said_and_one_that_goes_on_without_it_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No server, no account: before the first step that is an error, afterwards a warning."""
    module = stand_in(name, [])

    def refused(**options: Any) -> None:
        raise RuntimeError("no account\nmore about that")

    module.start_run = module.init = refused  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    words = rf"{name} takes no new run \(no account\); mend that and give --resume, or .*--set logger=null"
    with pytest.raises(ConfigError, match=words):
        Tracker(name, tmp_path, {})
    assert not (tmp_path / "logs" / f"{name}.id").exists()
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs" / f"{name}.id").write_text("a1")
    tracker = Tracker(name, tmp_path, {})
    tracker.log({"loss": 1.0}, 1)
    tracker.close()
    assert caplog.text.count("the training goes on without it") == 1
    assert (tmp_path / "logs" / f"{name}.id").read_text() == "a1"


def test_a_training_whose_tracker_takes_no_run_ends_in_words(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = stand_in("wandb", [])
    monkeypatch.setattr(module, "init", None)  # calling it fails
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ConfigError, match="wandb takes no new run"):
        train(TASK, data, tmp_path / "run", overrides=SETTINGS | {"logger": "wandb"}, epochs=1)
    run = train(TASK, data, tmp_path / "run", overrides={"logger": None}, resume=True)
    assert len(rows(run)) == 1


def trained_twice(name: str, data: Path, folder: Path) -> Path:
    """One epoch, and a second one after a stop."""
    run = train(TASK, data, folder / "run", overrides=SETTINGS | {"logger": name, "validation_interval": 1}, epochs=1)
    return train(TASK, data, run, overrides={"epochs": 2}, resume=True)


@pytest.mark.slow
def test_mlflow_itself_without_a_server(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason=REASON)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    run = trained_twice("mlflow", data, tmp_path)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs(["0"])
    assert found.info.run_id == (run / "logs" / "mlflow.id").read_text()
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(int(r["epoch"]), float(r["loss"])) for r in rows(run)]
    assert found.data.params["batch_size"] == "2"
    assert {key: found.data.tags[key] for key in MLFLOW_TAGS} == MLFLOW_TAGS
    told = [path.read_text() for part in ("params", "tags") for path in (tmp_path / "store").rglob(f"{part}/*")]
    assert len(told) > 10
    for secret in (str(data), str(tmp_path), platform.node(), "ball_"):
        assert not [text for text in told if secret in text]


@pytest.mark.slow
def test_wandb_itself_offline(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason=REASON)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = trained_twice("wandb", data, tmp_path)
    ident = (run / "logs" / "wandb.id").read_text()
    parts = sorted((run / "logs" / "wandb").glob(f"offline-run-*-{ident}"))
    assert len(parts) == 2, "what is sent later: two parts of one run"
    for part, row in zip(parts, rows(run), strict=True):
        sent = (part / f"run-{ident}.wandb").read_bytes()
        assert f"{float(row['loss'])!r}".encode() in sent
        assert b"batch_size" in sent
        names = {path.name for path in (part / "files").iterdir()}
        assert not names & {"wandb-metadata.json", "output.log"}
        for secret in (str(data), getpass.getuser(), platform.node(), "ball_"):
            assert len(secret) < 5 or secret.encode() not in sent, secret
