"""The training loop: an interrupted run equals an uninterrupted one, faults are skipped, budgets become steps."""

from __future__ import annotations

import copy
import csv
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from medseg3d.augmentation import Augmentation
from medseg3d.checks import ConfigError, MedSegError
from medseg3d.io import find_cases
from medseg3d.preprocessing import Preprocessing
from medseg3d.training import budget
from medseg3d.training.budget import fit_budget
from medseg3d.training.checkpoint import load_state
from medseg3d.training.dataset import Cases, prepare
from medseg3d.training.interruption import TrainingInterrupted
from medseg3d.training.losses import build_loss
from medseg3d.training.parts import network_config, new_network
from medseg3d.training.recipe import Recipe
from medseg3d.training.sampling import Patches
from medseg3d.training.trainer import SKIPPED_IN_A_ROW, Trainer
from medseg3d.training.validation import dice_from_codes, mean_score
from tests.training_helpers import NETWORK, ball_task, write_balls

RECIPE: dict[str, Any] = {
    "batch_size": 2,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "warmup_epochs": 1,
    "schedule": "poly",
    "gradient_clip": 1.0,
    "ema": 0.99,
    "precision": "float32",
    "validation_interval": 2,
    "overlap": 0.25,
    "workers": 0,
    "seed": 3,
}
TASK = ball_task()
PREPROCESSING = Preprocessing.from_task(TASK)


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    dataset = find_cases(write_balls(tmp_path_factory.mktemp("balls"), 4), TASK, labels=True)
    return prepare(dataset, dataset.cases, task=TASK, preprocessing=PREPROCESSING)


def trainer(
    folder: Path, cases: Cases, *, resume: bool = False, epochs: int = 4, loss: nn.Module | None = None, **recipe: Any
) -> Trainer:
    """A trainer of 3 steps an epoch on three balls, validated on the fourth; drop-path makes torch's own stream count."""
    patches = Patches(
        cases[:3], patch_size=TASK.patch_size, augmentation=Augmentation(TASK.patch_size, mirror_axes=(0,)), seed=3
    )
    return Trainer(
        network=new_network(network_config(TASK, {**NETWORK, "drop_path": 0.2}), 3),
        loss=loss or build_loss("auto", TASK),
        dataset=patches,
        validation=cases[3:],
        inferer=SimpleInferer(),
        device="cpu",
        bundle_root=folder,
        task=TASK,
        preprocessing=PREPROCESSING,
        max_epochs=epochs,
        steps_per_epoch=3,
        recipe=Recipe(**(RECIPE | recipe)),
        resume=resume,
    )


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the times."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    first, second = load_state(a / "models"), load_state(b / "models")
    assert first["step"] == second["step"]
    for part in ("network", "average"):
        assert all(torch.equal(first[part][k], second[part][k]) for k in first[part])
    moments, others = first["optimizer"]["state"], second["optimizer"]["state"]
    assert all(torch.equal(moments[i][k], others[i][k]) for i in moments for k in moments[i])
    best, other = (torch.load(f / "models" / "model.pt", weights_only=True) for f in (a, b))
    assert all(torch.equal(best[k], other[k]) for k in best)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, balls: Cases) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer(folder, balls).run()
    return folder


@pytest.mark.parametrize("stop_at", [6, 8], ids=["between epochs", "within an epoch"])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    tmp_path: Path, balls: Cases, uninterrupted: Path, stop_at: int
) -> None:
    trainer(tmp_path, balls).run(stop_at=stop_at)
    assert load_state(tmp_path / "models")["step"] == stop_at
    resumed = trainer(tmp_path, balls, resume=True)
    resumed.run()
    assert_same_run(tmp_path, uninterrupted)
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]
    assert [row["score"] != "" for row in rows(tmp_path)] == [False, True, False, True]


def test_workers_change_nothing(tmp_path: Path, balls: Cases, uninterrupted: Path) -> None:
    trainer(tmp_path, balls, workers=2).run()
    assert_same_run(tmp_path, uninterrupted)


def test_another_seed_is_another_run(tmp_path: Path, balls: Cases, uninterrupted: Path) -> None:
    trainer(tmp_path, balls, seed=4).run()
    assert rows(tmp_path) != rows(uninterrupted), "drop-path follows the seed"


class Interrupting(nn.Module):
    """The usual loss, and Ctrl-C in the middle of the step number ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.loss, self.at, self.samples = build_loss("auto", TASK), at, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        before = self.samples
        self.samples += len(logits)
        if before < 2 * self.at <= self.samples:  # of a batch of two
            signal.raise_signal(signal.SIGINT)
        return self.loss(logits, target)


def test_ctrl_c_finishes_the_step_and_saves(
    tmp_path: Path, balls: Cases, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with caplog.at_level("INFO", "medseg3d"), pytest.raises(TrainingInterrupted):
        trainer(tmp_path, balls, loss=Interrupting(5)).run()
    assert "--resume" in caplog.text
    assert load_state(tmp_path / "models")["step"] == 5
    assert signal.getsignal(signal.SIGINT) is before
    trainer(tmp_path, balls, resume=True).run()
    assert_same_run(tmp_path, uninterrupted)


class Broken(nn.Module):
    """A loss that is not a number in some steps."""

    def __init__(self, bad_calls: range) -> None:
        super().__init__()
        self.loss, self.bad_calls, self.calls = build_loss("auto", TASK), bad_calls, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return self.loss(logits, target) * (float("nan") if self.calls in self.bad_calls else 1.0)


def test_a_step_without_finite_gradient_changes_nothing(
    tmp_path: Path, balls: Cases, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path, balls, loss=Broken(range(1, 2)), epochs=1)
    before = copy.deepcopy(run.network.state_dict())
    run.run(stop_at=1)
    assert all(torch.equal(before[k], v) for k, v in run.network.state_dict().items()), "norm statistics too"
    assert run.skipped == 1
    assert "not finite" in caplog.text
    assert "ball_" in caplog.text
    run = trainer(tmp_path, balls, resume=True, epochs=1)
    run.run()
    assert rows(tmp_path)[0]["skipped_steps"] == "1"
    assert not torch.equal(before["decoder.predict.weight"], run.network.decoder.predict.weight)


def test_many_such_steps_end_the_run_with_the_good_weights_kept(tmp_path: Path, balls: Cases) -> None:
    run = trainer(tmp_path, balls, loss=Broken(range(7, 10_000)), epochs=40)
    with pytest.raises(MedSegError, match="lower learning_rate"):
        run.run()
    assert run.skipped == SKIPPED_IN_A_ROW
    assert all(
        torch.isfinite(v).all() for v in torch.load(tmp_path / "models" / "model.pt", weights_only=True).values()
    )


def test_a_finished_training_is_not_overwritten(uninterrupted: Path, balls: Cases) -> None:
    before = (uninterrupted / "models" / "model.pt").read_bytes()
    with pytest.raises(ConfigError, match="resume"):
        trainer(uninterrupted, balls).run()
    trainer(uninterrupted, balls, resume=True).run()
    assert (uninterrupted / "models" / "model.pt").read_bytes() == before


def test_measuring_leaves_no_trace(tmp_path: Path, balls: Cases, uninterrupted: Path) -> None:
    run = trainer(tmp_path, balls)
    step_s, validation_s = run.measure(steps=3)
    assert 0 < step_s < 10
    assert 0 < validation_s < 10
    run.run()
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize(("seconds", "agreed", "done"), [(0, 0, 10), (9, 18, 28), (-5, 0, 10), (1000, 100, 110)])
def test_steps_are_timed_without_the_slow_first_ones(
    monkeypatch: pytest.MonkeyPatch, seconds: float, agreed: int, done: int
) -> None:
    clock, said = [0.0], []
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def step(number: int) -> None:
        clock[0] += 20.0 if number < 2 else 0.5  # two that compile, then half a second each

    def agree(count: int) -> int:
        said.append(count)
        return count

    batches = iter(range(budget.most_measured(8)))
    assert budget.time_steps(step, batches, least=8, seconds=seconds, agree=agree) == 0.5
    assert said == [agreed]
    assert next(batches, 110) == done


def test_a_budget_is_filled_and_not_passed() -> None:
    # 50 steps of 0.1 s and a validation of 1 s every 5 epochs: 5.2 s an epoch, after 1 s for the last validation
    plan = fit_budget(105, 0.1, 1, 50, 5)
    assert plan == {"epochs": 20, "steps_per_epoch": 50, "validation_interval": 5}
    # a validation of 20 s may come every 40 epochs of 5 s: 5.5 s an epoch
    assert fit_budget(570, 0.1, 20, 50, 5) == {"epochs": 100, "steps_per_epoch": 50, "validation_interval": 40}
    assert fit_budget(4, 0.1, 1, 50, 5) == {"epochs": 1, "steps_per_epoch": 30, "validation_interval": 5}
    with pytest.raises(ConfigError, match="give more time"):
        fit_budget(1, 0.1, 1, 50, 5)


def test_dice_by_hand_and_labels_nobody_has() -> None:
    reference = torch.tensor([0, 1, 1, 2]).numpy().astype("uint8")
    prediction = torch.tensor([1, 1, 1, 1]).numpy().astype("uint8")
    assert dice_from_codes(reference, prediction, TASK) == pytest.approx([2 * 2 / (2 + 4), 0])
    regions = ball_task(labels={"whole": [1, 2], "core": [2]}, write={"whole": 1, "core": 2})
    assert dice_from_codes(reference, prediction, regions) == pytest.approx([2 * 3 / (3 + 4), 0])
    nobody = dice_from_codes(reference[:1], prediction[:1] * 0, TASK)
    assert all(math.isnan(d) for d in nobody)
    assert mean_score({"a": 0.5, "b": float("nan")}) == 0.5
