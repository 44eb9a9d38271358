"""First tokens shared between windows: what each window would compute by itself."""

from __future__ import annotations

import itertools

import pytest
import torch

from medseg3d.inference import stem as module
from medseg3d.inference.computing import Computing
from medseg3d.inference.stem import Stem, shares_stem
from medseg3d.inference.windows import WindowPlan, blended_rows, joined
from medseg3d.networks import SegFormer
from medseg3d.networks.folding import folded

SMALL = {"widths": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 2, 3, 4), "decoder_width": 24}


def network(dims: int) -> SegFormer:
    torch.manual_seed(0)
    out = folded(SegFormer(dims, 2, 3, **SMALL))
    assert isinstance(out, SegFormer)
    return out


@pytest.mark.parametrize(
    ("shape", "roi", "axis"),
    [
        ((80, 64, 50), (32, 48, 32), 0),
        ((80, 64, 50), (32, 48, 32), 1),
        ((37, 70, 96), (32, 32, 48), 2),
        ((200, 150), (64, 96), 0),
        ((200, 150), (64, 96), 1),
    ],
)
@pytest.mark.parametrize("chunk_rows", [1, 5, 16])
@torch.no_grad()
def test_a_window_gets_the_tokens_it_would_compute(shape, roi, axis, chunk_rows, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    net = network(len(shape))
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    plan = WindowPlan.of(net, shape, roi, 0.5, axis)
    stem = Stem(Computing.of(net, torch.device("cpu"), 1, None), plan, image)
    padded = torch.zeros(2, *(s[-1] + r for s, r in zip(plan.starts, plan.roi, strict=True)))
    padded[(slice(None), *map(slice, shape))] = image
    embed = net.encoder.stages[0].embed
    seen = 0
    for corner in itertools.chain.from_iterable(plan.corners(start) for start in plan.starts[axis]):
        window = padded[(slice(None), *(slice(c, c + r) for c, r in zip(corner, plan.roi, strict=True)))]
        torch.testing.assert_close(stem.window(corner)(), embed(window[None])[0], atol=2e-5, rtol=1e-4)
        seen += 1
    assert seen == plan.count > 4


@torch.no_grad()
def test_tokens_do_not_depend_on_what_memory_held_before() -> None:
    """In bfloat16, with memory full of NaN before each window: a convolution that reads too far shows."""
    torch.manual_seed(0)
    net = folded(SegFormer(3, 2, 3, **SMALL), torch.bfloat16)
    image = torch.randn(2, 32, 48, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    plan = WindowPlan.of(net, image.shape[1:], (32, 32, 32), 0.5)
    stem = Stem(Computing.of(net, torch.device("cpu"), 1, None), plan, image)
    for corner in itertools.chain.from_iterable(plan.corners(start) for start in plan.starts[plan.axis]):
        for size in (2**k for k in range(8, 20)):
            torch.full((size,), torch.nan, dtype=torch.bfloat16)
        assert torch.isfinite(stem.window(corner)()).all()


@torch.no_grad()
def test_blended_logits_are_those_of_windows_by_themselves(monkeypatch) -> None:
    net = network(3)
    image = torch.randn(2, 70, 48, 64, generator=torch.Generator().manual_seed(1))
    plan = WindowPlan.of(net, image.shape[1:], (32, 32, 32), 0.5)
    computing = Computing.of(net, torch.device("cpu"), 1, None)
    shared = joined(plan, blended_rows(plan, image, computing))
    monkeypatch.setattr("medseg3d.inference.windows.shares_stem", lambda *_: False)
    alone = joined(plan, blended_rows(plan, image, computing))
    assert not torch.equal(shared, torch.zeros_like(shared))
    torch.testing.assert_close(shared, alone, atol=1e-4, rtol=1e-4)


def test_when_tokens_are_shared() -> None:
    net, cpu = network(3), torch.device("cpu")
    overlapping = WindowPlan.of(net, (64, 64, 64), (32, 32, 32), 0.5)
    assert shares_stem(net, overlapping, 1, cpu)
    assert not shares_stem(net, overlapping, 2, cpu)
    assert not shares_stem(net, WindowPlan.of(net, (64, 64, 64), (32, 32, 32), 0.0), 1, cpu)
    assert not shares_stem(net, WindowPlan.of(net, (64, 64, 64), (20, 32, 32), 0.5), 1, cpu)
    assert not shares_stem(SegFormer(3, 2, 3, **SMALL), overlapping, 1, cpu)
