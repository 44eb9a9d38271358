"""From a folder to a run directory: what is refused before anything is written, what goes on, what a time budget becomes."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

from medseg3d import Predictor, load_task, read_volume, write_volume
from medseg3d.checks import ConfigError, InputError
from medseg3d.task import Task, task_names
from medseg3d.training.losses import build_loss
from medseg3d.training.parts import TASK_SETTINGS, new_network, task_with
from medseg3d.training.run import train, validate
from medseg3d.training.settings import RUN_MARK, merge_settings, render, template
from medseg3d.volume import Volume
from tests.training_helpers import SETTINGS, ball_task, write_balls


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_balls(tmp_path / "data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data and a run of two epochs on them."""
    data = write_balls(tmp_path_factory.mktemp("data"))
    return data, train(ball_task(), data, tmp_path_factory.mktemp("runs") / "ball", overrides=SETTINGS, epochs=2)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"learnig_rate": 1}, "did you mean learning_rate"),
        ({"zzz": 1}, "known are epochs"),
        ({"bundle_root": "/"}, "'bundle_root' does not exist"),
        ({"learning_rate": "fast"}, "must be a number"),
        ({"learning_rate": 0}, "above 0"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"epochs": 2.5}, "must be a whole number"),
        ({"epochs": 0}, "at least 1"),
        ({"ema": 1}, "below 1"),
        ({"overlap": 1.0}, "below 1"),
        ({"foreground_share": 2}, "at most 1"),
        ({"schedule": "step"}, "poly, cosine"),
        ({"loss": "cross_entropy"}, "dice_ce"),
        ({"precision": "fp8"}, "bf16"),
        ({"device": "tpu"}, "use cpu or cuda"),
        ({"patch_size": [16, 16]}, "spacing_mm"),
        ({"patch_size": 16}, "must be a list"),
        ({"network": "mit_b0"}, "network.name=mit_b0"),
        ({"network.name": "unet"}, "unet"),
        ({"network.depht": 3}, "depht"),
        ({"seed.x": 3}, "has no parts"),
        ({"loss": "$print(1)"}, "plain data"),
        ({"network.name": "@learning_rate"}, "plain data"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_in_words(override: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge_settings(ball_task(), override)


def test_settings_come_from_defaults_task_and_user_in_this_order() -> None:
    task = ball_task(train={"learning_rate": 0.5, "batch_size": 7, "network": {"decoder_width": 64}})
    merged = merge_settings(task, task.train, {"batch_size": 3, "network.dropout": 0.1, "weight_decay": "1e-3"})
    assert (merged["learning_rate"], merged["batch_size"], merged["weight_decay"]) == (0.5, 3, 0.001)
    assert merged["patch_size"] == [16, 16, 16]
    network = merged["network"]
    assert (network["decoder_width"], network["dropout"], network["in_channels"], network["out_channels"]) == (
        64,
        0.1,
        1,
        3,
    )
    assert set(merged) == set(yaml.safe_load(template().split(RUN_MARK)[0]))


def test_the_written_config_says_what_the_run_does_and_keeps_its_comments() -> None:
    task = ball_task(channels={"T1: é # no comment": ["yes", "0x1"]})
    values = merge_settings(task, {"workers": 2}) | {
        "task": task.as_dict(),
        "bundle_root": "/a b: c#d",
        "phantom": True,
    }
    text = render(values)
    again = yaml.safe_load(text)
    assert {k: again[k] for k in values} == values
    assert [line.split("#")[1] for line in template().splitlines() if line.startswith("workers")] == [
        line.split("#")[1] for line in text.splitlines() if line.startswith("workers")
    ]
    assert text.split("# --- wiring")[1].strip() == template().split("# --- wiring")[1].strip()


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_built_and_stepped(name: str) -> None:
    task = load_task(name)
    settings = merge_settings(task, task.train)
    task = task_with(task, **{k: settings[k] for k in TASK_SETTINGS})
    network = new_network(settings["network"], 0)
    image = torch.randn(2, len(task.inputs), *[32] * task.network_dims)
    if task.kind == "classification":
        target = torch.tensor([0, 1])
    else:
        target = torch.full((2, 1, *image.shape[2:]), len(task.values if task.regions else task.labels))
    optimizer = torch.optim.AdamW(network.parameters(), settings["learning_rate"])
    losses = []
    for _ in range(3):
        loss = build_loss(settings["loss"], task)(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def missing_channel(data: Path) -> Task:
    return ball_task(channels={"MRI": [], "CT": []})


def foreign_value(data: Path) -> Task:
    label = read_volume(data / "labels" / "ball_3.nii.gz", labels=True)
    label.data[0, 0, 0, 0] = 7
    write_volume(label, data / "labels" / "ball_3.nii.gz")
    return ball_task()


def other_grid(data: Path) -> Task:
    label = read_volume(data / "labels" / "ball_3.nii.gz", labels=True)
    write_volume(Volume(label.data, np.diag([1, 1, 2, 1.0])), data / "labels" / "ball_3.nii.gz")
    return ball_task()


def truncated(data: Path) -> Task:
    path = data / "images" / "ball_3.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:5000]))
    return ball_task()


def not_finite(data: Path) -> Task:
    image = read_volume(data / "images" / "ball_3.nii.gz")
    image.data[0, 1, 1, 1] = np.nan
    write_volume(image, data / "images" / "ball_3.nii.gz")
    return ball_task()


def empty(data: Path) -> Task:
    shutil.rmtree(data)
    data.mkdir()
    return ball_task()


def code_in_task(data: Path) -> Task:
    return ball_task(labels={"$__import__('os')": [1], "core": [2]})


@pytest.mark.parametrize(
    "spoil", [missing_channel, foreign_value, other_grid, truncated, not_finite, empty, code_in_task]
)
def test_bad_input_stops_before_anything_is_written(data: Path, tmp_path: Path, spoil: Callable[[Path], Task]) -> None:
    task = spoil(data)
    with pytest.raises((ConfigError, InputError)) as caught:
        train(task, data, tmp_path / "run", overrides=SETTINGS, epochs=1)
    assert not (tmp_path / "run").exists()
    if spoil in (foreign_value, other_grid, truncated, not_finite):
        assert isinstance(caught.value, InputError)
        assert "ball_3" in str(caught.value)
        assert caught.value.finding.fix


def test_no_data_and_no_sample_is_said() -> None:
    with pytest.raises(ConfigError, match="--data FOLDER"):
        train(ball_task())
    with pytest.raises(ConfigError, match="unknown task 'brain'"):
        train("brain")
    with pytest.raises(ConfigError, match="not both"):
        train(ball_task(), epochs=3, max_time_s=3)


def test_a_run_is_not_overwritten(finished: tuple[Path, Path]) -> None:
    data, run = finished
    before = rows(run)
    with pytest.raises(ConfigError, match="--resume, or give another output"):
        train(ball_task(), data, run, overrides=SETTINGS, epochs=2)
    assert rows(run) == before


def test_a_folder_of_something_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("cat")
    with pytest.raises(ConfigError, match="no run directory"):
        train(ball_task(), data, tmp_path / "photos", overrides=SETTINGS)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.txt"]


def test_a_run_goes_on_with_its_data_alone(finished: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = finished
    mine = shutil.copytree(run, tmp_path / "run")
    moved = shutil.copytree(data, tmp_path / "moved")
    train(ball_task(), moved, mine, overrides={"validation_interval": 1}, epochs=3, resume=True)
    assert [r["epoch"] for r in rows(mine)] == ["1", "2", "3"]
    assert rows(mine)[:2] == rows(run)
    assert (
        yaml.safe_load((mine / "configs" / "train.yaml").read_text())["steps_per_epoch"] == SETTINGS["steps_per_epoch"]
    )
    with pytest.raises(ConfigError, match="another version of task"):
        train(ball_task(crop=True), moved, mine, resume=True)
    image = read_volume(moved / "images" / "ball_1.nii.gz")
    image.data[0, 0, 0, 0] += 1
    write_volume(image, moved / "images" / "ball_1.nii.gz")
    with pytest.raises(ConfigError, match="other data"):
        train(ball_task(), moved, mine, epochs=4, resume=True)
    assert len(rows(mine)) == 3


def test_two_trainings_never_share_a_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ConfigError, match="another training is running"):
        train(ball_task(), data, tmp_path / "run", overrides=SETTINGS)


def test_a_time_budget_is_a_number_of_steps(data: Path, tmp_path: Path) -> None:
    timed = train(ball_task(), data, tmp_path / "timed", overrides=SETTINGS, max_time_s=6)
    config = yaml.safe_load((timed / "configs" / "train.yaml").read_text())
    plan = {k: config[k] for k in ("epochs", "steps_per_epoch", "validation_interval")}
    assert len(rows(timed)) == plan["epochs"] >= 1
    with (timed / "metrics.csv").open() as file:
        # The plan's arithmetic is tested by itself; here only its order of size, since other work may share the processor.
        assert sum(float(r["seconds"]) for r in csv.DictReader(file)) < 18
    counted = train(ball_task(), data, tmp_path / "counted", overrides=SETTINGS | plan)
    assert rows(counted) == rows(timed)


def test_ct_statistics_are_those_of_the_training_cases(data: Path, tmp_path: Path) -> None:
    run = train(ball_task(), data, tmp_path / "run", overrides=SETTINGS | {"intensity": "ct"}, epochs=1)
    split = json.loads((run / "configs" / "data.json").read_text())
    assert len(split["training"]) == 4
    assert len(split["validation"]) == 1
    values = np.concatenate(
        [
            read_volume(data / "images" / f"{c['name']}.nii.gz").data[
                read_volume(data / "labels" / f"{c['name']}.nii.gz").data > 0
            ]
            for c in split["training"]
        ]
    )
    metadata = json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]
    (statistics,) = metadata["preprocessing"]["statistics"]
    assert statistics["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert statistics["low"] == pytest.approx(np.percentile(values, 0.5), rel=1e-5)
    assert metadata["task"]["intensity"] == "ct"


def test_sample_run_is_marked_and_its_validation_cases_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train("nuclei", overrides={"steps_per_epoch": 30, "device": "cpu"}, epochs=2)
    assert run == tmp_path / "runs" / "nuclei-sample"
    assert json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["phantom"] is True
    evaluation = validate(run)
    assert evaluation is not None
    assert len(evaluation.rows) == 5
    assert (run / "validation" / "summary.json").exists()
    Predictor.from_bundle(run)
    assert "phantom" in caplog.text


def test_classification_learns(tmp_path: Path) -> None:
    settings = {"steps_per_epoch": 40, "validation_interval": 3, "device": "cpu", "ema": 0.9}
    run = train("shapes", None, tmp_path / "run", overrides=settings, epochs=3)
    assert float(rows(run)[-1]["loss"]) < 0.8 * float(rows(run)[0]["loss"])
    assert float(rows(run)[-1]["accuracy"]) > 0.5
    scored = validate(run)
    assert scored is not None
    assert scored.summary["accuracy"] > 0.5
