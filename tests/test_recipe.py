"""What a training may do besides the plain steps: begin with other weights, end early, say what is odd."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medseg3d.checks import ConfigError
from medseg3d.training.budget import fit_budget
from medseg3d.training.checkpoint import load_state
from medseg3d.training.parts import network_config, new_network
from medseg3d.training.recipe import Recipe
from medseg3d.training.run import train
from medseg3d.training.settings import merge_settings
from tests.training_helpers import NETWORK, SETTINGS, ball_task, write_balls

TASK = ball_task()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data"), 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return train(TASK, data, tmp_path_factory.mktemp("runs") / "ball", overrides=SETTINGS, epochs=1)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"accumulate": 3}, "divisible by accumulate=3"),
        ({"accumulate": 0}, "at least 1"),
        ({"shares": 0}, "at least 1"),
        ({"channel_dropout": 1.0}, "below 1"),
        ({"low_resolution": 1.5}, "at most 1"),
        ({"compile": 1}, "true or false"),
        ({"logger": "neptune"}, "mlflow, wandb"),
        ({"patience": -1}, "at least 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(override: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge_settings(TASK, override)


def test_a_run_goes_on_with_its_shares_whatever_the_threads(tmp_path: Path, data: Path) -> None:
    """Norm statistics are those of a share: with other ones the weights would be others."""
    settings = SETTINGS | {"batch_size": 4, "warmup_epochs": 0, "schedule": "constant", "device": "cpu"}
    before = torch.get_num_threads()
    try:
        weights = {}
        for name, threads in {"same": 2, "fewer": 1}.items():
            torch.set_num_threads(2)
            train(TASK, data, tmp_path / name, overrides=settings, epochs=1)
            torch.set_num_threads(threads)
            train(TASK, data, tmp_path / name, overrides=settings, epochs=2, resume=True)
            assert yaml.safe_load((tmp_path / name / "configs" / "train.yaml").read_text())["shares"] == 2
            weights[name] = load_state(tmp_path / name / "models")["network"]
        alone = train(TASK, data, tmp_path / "alone", overrides=settings | {"shares": 1}, epochs=2)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, weights["fewer"][key]) for key, one in weights["same"].items())
    other = load_state(alone / "models")["network"]
    assert any(not torch.equal(one, other[key]) for key, one in weights["same"].items())


def test_a_batch_is_shared_by_processes_and_pieces() -> None:
    values: dict[str, Any] = dict.fromkeys(Recipe.__dataclass_fields__, 0)
    assert Recipe(**{**values, "batch_size": 12, "accumulate": 3}).samples(2) == 6
    with pytest.raises(ConfigError, match="2 processes times 3 pieces"):
        Recipe(**{**values, "batch_size": 9, "accumulate": 3}).samples(2)


def test_fine_tuning_takes_all_weights_but_those_of_other_labels(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = torch.load(trained / "models" / "model.pt", weights_only=True)
    config = network_config(TASK, NETWORK)
    with caplog.at_level("INFO", "medseg3d"):
        same = new_network(config, 5, trained, TASK).state_dict()
    assert all(torch.equal(same[k], best[k]) for k in best)
    assert "made anew" not in caplog.text
    other = ball_task(labels={"left": [1], "right": [2]})
    with caplog.at_level("INFO", "medseg3d"):
        head = new_network(config, 5, trained, other).state_dict()
    assert "last layer is made anew: ball has the labels shell, core, this task left, right" in caplog.text
    fresh = [k for k in best if not torch.equal(head[k], best[k])]
    assert fresh == ["decoder.predict.weight", "decoder.predict.bias"]
    three = ball_task(labels={"a": [1], "b": [2], "c": [3]}, channels={"T1": [], "T2": []})
    wider = new_network(network_config(three, NETWORK), 5, trained, three).state_dict()
    assert wider["decoder.predict.weight"].shape[0] == 4
    assert wider["encoder.stages.0.embed.proj.weight"].shape[1] == 2
    deep = "encoder.stages.2.blocks.0.ffn.fc1.weight"
    assert torch.equal(wider[deep], best[deep])
    with pytest.raises(ConfigError, match="another network"):
        new_network(network_config(TASK, {**NETWORK, "decoder_width": 24}), 5, trained, TASK)


def test_fine_tuning_takes_the_sizes_of_the_model_too(trained: Path, data: Path, tmp_path: Path) -> None:
    settings = {k: v for k, v in SETTINGS.items() if k != "network"}
    run = train(TASK, data, tmp_path / "tuned", overrides=settings | {"fine_tune": str(trained)}, epochs=1)
    first, second = (load_state(r / "models")["network"] for r in (trained, run))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    assert float(rows(run)[0]["loss"]) < float(rows(trained)[0]["loss"])


def test_a_score_that_stands_still_ends_the_training(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS | {"validation_interval": 1, "patience": 2, "learning_rate": 1e-9, "ema": 0.0}
    with caplog.at_level("INFO", "medseg3d"):
        run = train(TASK, data, tmp_path / "run", overrides=settings, epochs=30)
    scores = [float(row["score"]) for row in rows(run)]
    assert 3 <= len(scores) < 30
    assert max(scores[-2:]) <= max(scores[:-2]) + 0.001
    assert "enough" in caplog.text
    train(TASK, data, run, resume=True)
    assert len(rows(run)) == len(scores), "a training that ended so is not begun again"


def test_a_budget_too_small_for_an_epoch_is_said_before_training(caplog: pytest.LogCaptureFixture) -> None:
    plan = fit_budget(4, 0.1, 1, 50, 5)
    assert plan == {"epochs": 1, "steps_per_epoch": 30, "validation_interval": 5}
    assert "too small for one epoch: it holds 30 of its 50 steps" in caplog.text


def test_a_compiled_network_trains_and_saves_plain_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # traced as ever, but not made into C++, which takes minutes and a compiler
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    run = train(TASK, data, tmp_path / "run", overrides=SETTINGS | {"compile": True}, epochs=1)
    plain = new_network(network_config(TASK, NETWORK), 0)
    plain.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
