"""Deep supervision: what the coarser maps are asked, and that nothing of it is left in a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.inference.model import load_model
from medseg3d.networks import SegFormer
from medseg3d.task import load_task
from medseg3d.training.checkpoint import load_state
from medseg3d.training.dataset import Cases
from medseg3d.training.losses import build_loss
from medseg3d.training.run import train
from medseg3d.training.settings import merge_settings
from medseg3d.training.supervision import DeeplySupervised, coarse_label, supervised_loss
from tests.test_trainer import TASK, assert_same_run, balls, trainer  # noqa: F401
from tests.training_helpers import NETWORK, SETTINGS, write_balls


def test_a_coarse_label_is_the_one_in_the_middle_of_its_cell() -> None:
    label = torch.arange(10).view(1, 1, 10)
    assert coarse_label(label, (1,)).flatten().tolist() == list(range(10))
    assert coarse_label(label, (4,)).flatten().tolist() == [2, 6, 9]  # the last cell holds 8 and 9 alone
    assert coarse_label(label, (8,)).flatten().tolist() == [4, 9]
    assert coarse_label(label, (32,)).flatten().tolist() == [9]
    square = torch.arange(48).view(1, 1, 6, 8)
    assert coarse_label(square, (2, 4)).squeeze().tolist() == [[10, 14], [26, 30], [42, 46]]


def test_weights_halve_from_level_to_level() -> None:
    class Mean(nn.Module):
        def forward(self, logits: Tensor, label: Tensor) -> Tensor:
            assert logits.shape[2:] == label.shape[2:]
            return logits.mean()

    logits = [torch.full((2, 3, n, n), value) for n, value in ((16, 1.0), (4, 10.0), (2, 100.0))]
    found = supervised_loss(Mean(), logits, torch.zeros(2, 1, 16, 16), ((1, 1), (4, 4), (8, 8)))
    assert float(found) == pytest.approx((1 + 10 / 2 + 100 / 4) / 1.75)


@pytest.mark.parametrize(
    ("strides", "size", "sizes"),
    [
        (None, (40, 33, 64), [(40, 33, 64), (5, 5, 8), (3, 3, 4), (2, 2, 2)]),
        ([[4, 4, 1], 2, 2, 2], (32, 48, 6), [(32, 48, 6), (4, 6, 3), (2, 3, 2), (1, 2, 1)]),
        (None, (64, 33), [(64, 33), (8, 5), (4, 3), (2, 2)]),
    ],
)
def test_every_map_predicts_at_its_stride_and_learns(strides, size, sizes) -> None:
    torch.manual_seed(0)
    network = SegFormer(len(size), 1, 3, strides=strides, **NETWORK)
    before = torch.random.get_rng_state()
    trained = DeeplySupervised(network, 5)
    assert torch.equal(before, torch.random.get_rng_state())
    image = torch.randn(2, 1, *size)
    logits = trained(image)
    assert [tuple(level.shape) for level in logits] == [(2, 3, *s) for s in sizes]
    label = torch.randint(0, 3, (2, 1, *size))
    loss = supervised_loss(build_loss("auto", TASK), logits, label, trained.strides)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.heads.parameters())
    # The main logits are the network's own.
    network.eval()
    with torch.no_grad():
        assert torch.equal(trained(image)[0], network(image))


def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path: Path, balls: Cases) -> None:  # noqa: F811
    whole, parts, plain = (tmp_path / name for name in ("whole", "parts", "plain"))
    trainer(whole, balls, epochs=2, deep_supervision=True).run()
    trainer(parts, balls, epochs=2, deep_supervision=True).run(stop_at=4)
    trainer(parts, balls, epochs=2, deep_supervision=True, resume=True).run()
    assert_same_run(whole, parts)
    heads, others = (load_state(folder / "models")["heads"] for folder in (whole, parts))
    assert len(heads) == 6
    assert all(torch.equal(heads[name], others[name]) for name in heads)
    trainer(plain, balls, epochs=2).run()
    assert "heads" not in load_state(plain / "models")
    kept, usual = (torch.load(f / "models" / "model.pt", weights_only=True) for f in (whole, plain))
    assert kept.keys() == usual.keys()
    assert any(not torch.equal(kept[name], usual[name]) for name in kept), "the coarser maps have their say"
    for folder, wanted in ((whole, False), (plain, True)):
        with pytest.raises(ConfigError, match="checkpoint is of another network"):
            trainer(folder, balls, epochs=3, deep_supervision=wanted, resume=True).run()


def test_measuring_leaves_no_trace(tmp_path: Path, balls: Cases) -> None:  # noqa: F811
    measured = trainer(tmp_path, balls, deep_supervision=True)
    before = {k: v.clone() for k, v in measured.stepper.trained.state_dict().items()}
    measured.measure(steps=1, cases=1)
    after = measured.stepper.trained.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_is_a_setting_and_the_model_is_an_ordinary_one(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "data", 3)
    folder = train(TASK, data, tmp_path / "run", overrides=SETTINGS | {"deep_supervision": True}, epochs=1)
    assert not any("heads" in name for name in load_model(folder).network.state_dict())
    assert merge_settings(TASK)["deep_supervision"] is False
    with pytest.raises(ConfigError, match="must be true or false"):
        merge_settings(TASK, {"deep_supervision": 2})
    with pytest.raises(ConfigError, match="needs a task that segments, and 'shapes' is classification"):
        merge_settings(load_task("shapes"), {"deep_supervision": True})


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a SegFormer that segments, not Linear"):
        DeeplySupervised(nn.Linear(1, 1), 0)
