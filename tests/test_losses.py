"""Losses by hand: one voxel at a time, and the mean over samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medseg3d.checks import ConfigError
from medseg3d.task import Task, load_task
from medseg3d.training.losses import build_loss, in_regions, region_table
from medseg3d.training.optimizer import WeightAverage, build_optimizer, learning_rate_factor
from tests.training_helpers import ball_task

REGIONS = Task.from_dict(
    {
        "name": "r",
        "channels": {"a": []},
        "labels": {"whole": [1, 2], "core": [2]},
        "write": {"whole": 1, "core": 2},
        "patch_size": [16, 16, 16],
    }
)


def test_region_table_of_brats_says_which_region_each_value_lies_in() -> None:
    table = region_table(load_task("brats"))
    # rows: background, 1 oedema, 2 necrosis, 3 enhancing; columns: WT, TC, ET
    assert table.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_regions_of_a_target_lie_in_memory_region_by_region() -> None:
    """Against logits in another order every operation of the loss would take twice as long."""
    codes = torch.tensor([[[0, 1], [2, 3]], [[3, 3], [0, 1]]])
    found = in_regions(region_table(load_task("brats")), codes)
    assert found[0].tolist() == [[[0, 1], [1, 1]], [[0, 0], [1, 1]], [[0, 0], [0, 1]]]
    assert found.shape == (2, 3, 2, 2)
    assert all(region.is_contiguous() for sample in found for region in sample)


def test_region_loss_of_undecided_logits() -> None:
    # Two voxels: background and core. Logits 0 mean probability 1/2 everywhere.
    logits, target = torch.zeros(1, 2, 2, 1, 1), torch.tensor([0, 2]).reshape(1, 1, 2, 1, 1)
    # Dice of each region: 2 * 0.5 / (1 + 1) = 1/2; cross entropy: log 2.
    assert build_loss("dice", REGIONS)(logits, target).item() == pytest.approx(0.5, abs=1e-4)
    assert build_loss("dice_ce", REGIONS)(logits, target).item() == pytest.approx(0.5 + math.log(2), abs=1e-4)


def test_softmax_loss_of_undecided_logits() -> None:
    # Three classes with probability 1/3 each; two voxels of classes 0 and 2.
    logits, target = torch.zeros(1, 3, 2, 1, 1), torch.tensor([0, 2]).reshape(1, 1, 2, 1, 1)
    # Dice without background: class 1: 0, class 2: (2/3) / (2/3 + 1) = 0.4; mean 0.2, so the loss is 0.8; cross entropy: log 3.
    assert build_loss("dice", ball_task())(logits, target).item() == pytest.approx(0.8, abs=1e-4)
    assert build_loss("auto", ball_task())(logits, target).item() == pytest.approx(0.8 + math.log(3), abs=1e-4)


@pytest.mark.parametrize("task", [ball_task(), REGIONS], ids=["softmax", "regions"])
def test_perfect_logits_cost_nothing_and_wrong_ones_much(task: Task) -> None:
    target = torch.randint(0, 3, (2, 1, 6, 5, 4), generator=torch.Generator().manual_seed(0))
    if task.regions:
        right = region_table(task)[target[:, 0]].movedim(-1, 1) * 40 - 20
    else:
        right = nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float() * 40
    assert build_loss("auto", task)(right, target).item() < 1e-3
    assert build_loss("auto", task)(-right, target).item() > 5


@pytest.mark.parametrize("task", [ball_task(), REGIONS], ids=["softmax", "regions"])
def test_loss_of_a_batch_is_the_mean_over_its_samples(task: Task) -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(3, task.out_channels, 6, 5, 4, generator=random)
    target = torch.randint(0, 3, (3, 1, 6, 5, 4), generator=random)
    loss = build_loss("dice_ce", task)
    alone = [loss(logits[i : i + 1], target[i : i + 1]).item() for i in range(3)]
    assert loss(logits, target).item() == pytest.approx(sum(alone) / 3, rel=1e-5)


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="dice_ce"):
        build_loss("focal", ball_task())
    with pytest.raises(ConfigError, match="does not fit"):
        build_loss("cross_entropy", ball_task())
    with pytest.raises(ConfigError, match="does not fit"):
        build_loss("dice", load_task("shapes"))


def test_learning_rate_rises_then_falls() -> None:
    def factor(step: int, schedule: str) -> float:
        return learning_rate_factor(step, total_steps=104, warmup_steps=4, schedule=schedule)

    assert [factor(s, "poly") for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(54, "poly") == pytest.approx(0.5**0.9)
    assert factor(54, "cosine") == pytest.approx(0.5)
    assert factor(103, "constant") == 1
    assert factor(104, "poly") == factor(104, "cosine") == 0
    with pytest.raises(ConfigError, match="poly, cosine"):
        factor(0, "step")


def test_norms_and_biases_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, free = build_optimizer(network, 1e-3, 0.05).param_groups
    assert decayed["weight_decay"] == 0.05
    assert [p.ndim for p in decayed["params"]] == [5, 2]
    assert free["weight_decay"] == 0
    assert [p.ndim for p in free["params"]] == [1, 1, 1, 1]


def test_weight_average_moves_by_one_minus_decay() -> None:
    network = nn.BatchNorm3d(1)
    average = WeightAverage(network, 0.9)
    nn.init.constant_(network.weight, 2.0)
    network.running_mean.fill_(10.0)
    network.num_batches_tracked.fill_(7)
    average.update(network, step=10_000)
    assert average.network.weight.item() == pytest.approx(1 + 0.1)
    assert average.network.running_mean.item() == pytest.approx(1.0)
    assert average.network.num_batches_tracked.item() == 7
    early = WeightAverage(nn.BatchNorm3d(1), 0.9)
    early.update(network, step=0)
    assert early.network.weight.item() == pytest.approx(1 + 0.9), (
        "the first step keeps only a tenth of the random start"
    )
