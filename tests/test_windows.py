"""Sliding windows: where they lie, how they weigh, and what they blend to."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.inference.windows import gaussian_weights, sliding_logits, window_size, window_starts
from medseg3d.networks import SegFormer


class Mean(nn.Module):
    """Logits are the mean of each coarse voxel's 4 x 4 (x 4) block: independent of the window they are seen in."""

    stride = 4
    size_multiple = 8

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward_coarse(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
        return torch.cat([pool(x[:, :1], 4), pool(x[:, :1], 4) * -1], 1)


class Counter(nn.Module):
    """The logits of every window are the number of windows before it."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward_coarse(self, x: Tensor) -> Tensor:
        out = torch.stack(
            [torch.full([1, *(n // 4 for n in x.shape[2:])], float(self.calls + i)) for i in range(len(x))]
        )
        self.calls += len(x)
        return out


def test_starts_are_multiples_of_the_stride_and_cover_the_end() -> None:
    assert window_starts(240, 128, 0.5, 4) == [0, 64, 112]
    assert window_starts(155, 128, 0.5, 4) == [0, 28]  # 28 + 128 = 156: one voxel of padding
    assert window_starts(128, 128, 0.5, 4) == [0]
    assert window_starts(20, 32, 0.5, 4) == [0]
    assert window_starts(256, 128, 0, 4) == [0, 128]
    assert window_starts(100, 32, 0.3, 4) == [0, 20, 40, 60, 68]  # 32 * 0.7 = 22, down to 20
    assert window_starts(16, 8, 0.99, 4) == [0, 4, 8]
    for size in range(1, 90):
        starts = window_starts(size, 24, 0.5, 4)
        assert all(b - a in range(4, 13, 4) for a, b in itertools.pairwise(starts))
        assert starts[-1] + 24 >= size
        assert size <= 24 or starts[-1] + 24 - size < 4
    for overlap in (-0.1, 1, 1.5):
        with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
            window_starts(100, 32, overlap, 4)


def test_windows_shrink_to_small_images_and_fit_the_stride() -> None:
    assert window_size((240, 100, 3), (128, 128, 128), 16, 4) == (128, 112, 16)
    assert window_size((240, 240), (30, 64), 32, 4) == (32, 64)
    with pytest.raises(ConfigError, match="3 positive sizes"):
        window_size((10, 10, 10), (4, 4), 16, 4)


def test_weights_are_gaussian_with_an_eighth_of_the_window_as_deviation() -> None:
    weights = gaussian_weights([9])
    assert weights[4] == 1
    assert weights[5].item() == pytest.approx(math.exp(-0.5 * (1 / (9 / 8)) ** 2))
    assert weights[0] == pytest.approx(max(math.exp(-0.5 * (4 / (9 / 8)) ** 2), 1e-3))
    both = gaussian_weights([8, 6])
    assert both.shape == (8, 6)
    assert both.min() == pytest.approx(1e-3)
    torch.testing.assert_close(both, both.flip(0, 1))


def test_weights_are_those_of_monai() -> None:
    monai = pytest.importorskip("monai.data.utils")
    theirs = monai.compute_importance_map((32, 24, 8), mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(gaussian_weights([32, 24, 8]), theirs)


@pytest.mark.parametrize("shape", [(32, 24, 40), (17, 33, 5), (1, 30, 29), (45, 31), (7, 64)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_does_not_depend_on_the_window_is_not_changed_by_blending(shape: tuple[int, ...], batch_size: int) -> None:
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    network = Mean()
    roi_size = (16, 24, 8)[: len(shape)]
    got = sliding_logits(network, image, roi_size=roi_size, overlap=0.5, batch_size=batch_size)
    padded = F.pad(image, [p for n in reversed(shape) for p in (0, -n % 4)])
    expected = network.forward_coarse(padded[None])[0]
    assert got.shape == (2, *(math.ceil(n / 4) for n in shape))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    windows = network.seen[:-1]
    assert all(s[2:] == window_size(shape, roi_size, 8, 4) for s in windows)
    assert max(s[0] for s in windows) <= batch_size
    count = math.prod(
        len(window_starts(n, r, 0.5, 4)) for n, r in zip(shape, window_size(shape, roi_size, 8, 4), strict=True)
    )
    assert sum(s[0] for s in windows) == count


def test_overlapping_windows_are_weighted_by_hand() -> None:
    # Windows of 16 voxels, 4 logits, at 0, 8 and 16 of 32: logit 2 lies at 2 in window 0 and at 0 in window 1.
    got = sliding_logits(Counter(), torch.zeros(1, 32, 16), roi_size=(16, 16), overlap=0.5)
    line = [math.exp(-0.5 * (x / 0.5) ** 2) for x in (-1.5, -0.5, 0.5, 1.5)]

    def weight(along: int, across: int) -> float:
        return max(line[along] * line[across], 1e-3)

    assert got.shape == (1, 8, 4)
    assert got[0, :2].tolist() == [[0.0] * 4] * 2
    for across in range(4):
        outer, inner = weight(0, across), weight(2, across)
        assert got[0, 2, across].item() == pytest.approx(outer / (outer + inner), rel=1e-5)
        assert got[0, 4, across].item() == pytest.approx((1 * inner + 2 * outer) / (outer + inner), rel=1e-5)
    assert got[0, 6:].tolist() == [[2.0] * 4] * 2


@pytest.mark.parametrize(("dims", "shape", "roi"), [(3, (40, 33, 30), (32, 32, 32)), (2, (70, 50), (64, 64))])
def test_one_window_is_the_network_itself_and_bf16_is_near_it(
    dims: int, shape: tuple[int, ...], roi: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = SegFormer(
        dims, 2, 3, widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), decoder_width=16
    ).eval()
    image = torch.randn(2, *shape)
    whole = sliding_logits(network, image, roi_size=[2 * n for n in shape])
    with torch.no_grad():
        torch.testing.assert_close(whole, network.forward_coarse(image[None])[0], atol=1e-5, rtol=1e-5)
    blended = sliding_logits(network, image, roi_size=roi)
    assert blended.shape == whole.shape
    assert blended.isfinite().all()
    half = sliding_logits(network, image, roi_size=roi, autocast=torch.bfloat16)
    assert half.dtype == torch.float32
    error = (half - blended).norm() / blended.norm()
    assert 0 < error < 0.05
