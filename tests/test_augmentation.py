"""Augmentation: sizes, labels that stay labels, image and label that stay together, and what is not turned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medseg3d.augmentation import (
    ROTATION_RAD,
    Augmentation,
    Change,
    affine_matrix,
    coarsened,
    rotation_ranges,
    sampling_grid,
)
from medseg3d.training.sampling import random_state


def sample(size: tuple[int, ...], channels: int = 1) -> dict[str, torch.Tensor]:
    """A bright box with a label where it is bright."""
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[(0, *(slice(n // 4, n // 2) for n in size))] = 2
    return {"image": label.float().repeat(channels, *[1] * len(size)), "label": label}


@pytest.mark.parametrize("size", [(16, 13), (12, 15, 10)])
def test_samples_keep_their_size_type_and_values(size: tuple[int, ...]) -> None:
    augmentation = Augmentation(size, mirror_axes=(0, 1), low_resolution=0.5, channel_dropout=0.3)
    sizes = set()
    for i in range(40):
        change = augmentation.draw(random_state(i), 3)
        sizes.add(change.window)
        given = sample(change.window, channels=3)
        before = {key: value.clone() for key, value in given.items()}
        out = augmentation.apply(given, change)
        assert all(torch.equal(given[key], before[key]) for key in given), "the scan itself is not changed"
        assert out["image"].shape == (3, *size)
        assert out["label"].shape == (1, *size)
        assert (out["image"].dtype, out["label"].dtype) == (torch.float32, torch.uint8)
        assert set(out["label"].unique().tolist()) <= {0, 2}
    assert sizes == {size, max(sizes)}, "a larger box where the sample is turned, the patch itself elsewhere"


@pytest.mark.parametrize("size", [(32, 32), (24, 24, 24)])
def test_image_and_label_move_together(size: tuple[int, ...]) -> None:
    augmentation = Augmentation(size, mirror_axes=tuple(range(len(size))))
    for i in range(30):
        change = augmentation.draw(random_state(i))
        moved = Change(change.window, change.matrix, change.flips)
        out = augmentation.apply(sample(change.window), moved)
        bright, labelled = out["image"] > 1, out["label"] == 2
        assert (bright == labelled).float().mean() > 0.99


def test_no_strength_and_no_mirror_changes_nothing() -> None:
    augmentation = Augmentation((8, 8, 8), strength=0)
    given = sample((8, 8, 8))
    for i in range(20):
        change = augmentation.draw(random_state(i))
        assert change.window == (8, 8, 8)
        assert torch.equal(augmentation.apply(given, change)["image"], given["image"])


def test_only_the_axes_named_are_mirrored() -> None:
    augmentation = Augmentation((8, 8, 8), mirror_axes=(2,), strength=0)
    given = sample((8, 8, 8))
    flipped = given["image"].flip(3)
    found = []
    for i in range(20):
        image = augmentation.apply(given, augmentation.draw(random_state(i)))["image"]
        assert torch.equal(image, given["image"]) or torch.equal(image, flipped)
        found.append(torch.equal(image, flipped))
    assert 3 < sum(found) < 17


def test_thick_slices_are_not_turned_into_the_plane() -> None:
    angle = ROTATION_RAD
    assert rotation_ranges((1, 1, 1), angle) == [angle] * 3
    assert rotation_ranges((1.5, 1.5, 10), angle) == [0, 0, angle]
    assert rotation_ranges((1, 1), angle) == [angle]
    assert rotation_ranges((1, 4), angle) == [0]


def test_thick_slices_stay_in_their_slice() -> None:
    spacing = (1.0, 1.0, 6.0)
    matrix = affine_matrix(rotation_ranges(spacing, ROTATION_RAD), (1, 1, 1), spacing)
    assert matrix[2].tolist() == [0, 0, 1]
    assert matrix[:, 2].tolist() == [0, 0, 1]
    assert matrix[0, 0] == pytest.approx(math.cos(ROTATION_RAD))


def test_a_quarter_turn_and_a_doubling_by_hand() -> None:
    turn = affine_matrix([math.pi / 2], (1, 1), (1.0, 1.0))
    assert turn == pytest.approx(np.array([[0, -1], [1, 0]]), abs=1e-12)
    # a voxel of 2 mm along the first axis: one millimetre of it is half a voxel
    assert affine_matrix([math.pi / 2], (1, 1), (2.0, 1.0)) == pytest.approx(np.array([[0, -0.5], [2, 0]]), abs=1e-12)
    image = torch.arange(25.0).reshape(1, 1, 5, 5)
    grid = sampling_grid(turn, (5, 5), (5, 5), image.device)
    out = torch.nn.functional.grid_sample(image, grid, align_corners=True)
    # the patch's voxel (i, j) is the window's voxel (4 - j, i)
    expected = torch.tensor([[image[0, 0, 4 - j, i] for j in range(5)] for i in range(5)])
    assert torch.allclose(out[0, 0], expected, atol=1e-4)
    larger = torch.arange(81.0).reshape(1, 1, 9, 9)
    double = sampling_grid(affine_matrix([0], (2, 2), (1.0, 1.0)), (5, 5), (9, 9), image.device)
    out = torch.nn.functional.grid_sample(larger, double, align_corners=True)
    assert torch.allclose(out[0, 0], larger[0, 0, ::2, ::2], atol=1e-4)


def test_intensity_changes_by_hand() -> None:
    augmentation = Augmentation((2, 2))
    image = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])

    def changed(**values: float) -> list[float]:
        return augmentation.apply({"image": image}, Change((2, 2), **values))["image"].flatten().tolist()  # type: ignore[arg-type]

    assert changed(contrast=2, brightness=1) == [1, 3, 5, 9]
    assert changed(gamma=2) == [0, 0.25, 1, 4]
    assert changed(noise=0.5, noise_seed=3) == changed(noise=0.5, noise_seed=3) != changed(noise=0.5, noise_seed=4)


def test_low_resolution_keeps_size_and_mean_and_loses_detail() -> None:
    fine = torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    coarse = coarsened(fine, 2.0)
    assert coarse.shape == fine.shape
    assert coarse.std() < 0.8 * fine.std()
    flat = torch.full((2, 9, 7), 3.0)
    assert torch.allclose(coarsened(flat, 1.7), flat)


def test_a_channel_may_be_missing_but_never_all() -> None:
    augmentation = Augmentation((4, 4), strength=0, channel_dropout=0.6)
    image = torch.ones(3, 4, 4)
    counts = []
    for i in range(200):
        out = augmentation.apply({"image": image}, augmentation.draw(random_state(i), 3))["image"]
        present = [bool(channel.any()) for channel in out]
        assert any(present)
        counts.append(sum(present))
    # 0.6 of three channels: one left in 3 * 0.4 * 0.36 + 0.216 = 0.648 of the samples, all three in 0.064
    assert 110 < counts.count(1) < 150
    assert 3 < counts.count(3) < 28
    assert not Augmentation((4, 4)).draw(random_state(0), 3).dropped
