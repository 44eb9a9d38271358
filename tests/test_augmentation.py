"""Augmentation: sizes, labels that stay labels, image and label that stay together, and what is not turned."""

from __future__ import annotations

import math

import pytest
import torch

from medseg3d.augmentation import ROTATION_RAD, Augmentation, rotation_ranges
from medseg3d.training.sampling import random_state


def sample(size: tuple[int, ...], channels: int = 1) -> dict[str, torch.Tensor]:
    """A bright box with a label where it is bright."""
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[(0, *(slice(n // 4, n // 2) for n in size))] = 2
    return {"image": label.float().repeat(channels, *[1] * len(size)), "label": label}


@pytest.mark.parametrize("size", [(16, 13), (12, 15, 10)])
def test_samples_keep_their_size_type_and_values(size: tuple[int, ...]) -> None:
    augmentation = Augmentation(size, mirror_axes=(0, 1))
    sizes = set()
    for i in range(40):
        random = random_state(i)
        window = augmentation.window(random)
        sizes.add(window)
        out = augmentation(sample(window, channels=3), random)
        assert out["image"].shape == (3, *size)
        assert out["label"].shape == (1, *size)
        assert type(out["image"]) is type(out["label"]) is torch.Tensor
        assert (out["image"].dtype, out["label"].dtype) == (torch.float32, torch.uint8)
        assert set(out["label"].unique().tolist()) <= {0, 2}
    assert sizes == {size, max(sizes)}, "a larger box where the sample is turned, the patch itself elsewhere"


@pytest.mark.parametrize("size", [(32, 32), (24, 24, 24)])
def test_image_and_label_move_together(size: tuple[int, ...]) -> None:
    augmentation = Augmentation(size, mirror_axes=tuple(range(len(size))))
    augmentation.rest.transforms = augmentation.rest.transforms[: len(size)]  # the mirroring alone: values stay
    for i in range(20):
        random = random_state(i)
        out = augmentation(sample(augmentation.window(random)), random)
        bright, labelled = out["image"] > 1, out["label"] == 2
        assert (bright == labelled).float().mean() > 0.99


def test_no_strength_and_no_mirror_changes_nothing() -> None:
    augmentation = Augmentation((8, 8, 8), strength=0)
    for i in range(10):
        random = random_state(i)
        assert augmentation.window(random) == (8, 8, 8)
        given = sample((8, 8, 8))
        out = augmentation(dict(given), random)
        assert torch.equal(out["image"], given["image"])


def test_only_the_axes_named_are_mirrored() -> None:
    augmentation = Augmentation((8, 8, 8), mirror_axes=(2,), strength=0)
    given = sample((8, 8, 8))
    flipped = given["image"].flip(3)
    found = []
    for i in range(20):
        image = augmentation(dict(given), random_state(i))["image"]
        assert torch.equal(image, given["image"]) or torch.equal(image, flipped)
        found.append(torch.equal(image, flipped))
    assert 3 < sum(found) < 17


def test_thick_slices_are_not_turned_into_the_plane() -> None:
    angle = ROTATION_RAD
    assert rotation_ranges(3, (1, 1, 1), angle) == [angle] * 3
    assert rotation_ranges(3, (1.5, 1.5, 10), angle) == [0, 0, angle]
    assert rotation_ranges(3, None, angle) == [angle] * 3
    assert rotation_ranges(2, (1, 1), angle) == [angle]
    assert rotation_ranges(2, (1, 4), angle) == [0]


def test_thick_slices_stay_in_their_slice() -> None:
    augmentation = Augmentation((16, 16, 16), spacing_mm=(1, 1, 6))
    augmentation.affine.rand_affine.rand_affine_grid.scale_range = (0.0, 0.0, 0.0)
    window = (math.ceil(16 * augmentation.margin / 2) * 2,) * 3
    depth = torch.arange(window[2], dtype=torch.float32).expand(1, *window)
    random = random_state(1)
    augmentation.affine.set_random_state(state=random)
    turned = augmentation.affine({"image": depth, "label": torch.zeros(1, *window, dtype=torch.uint8)})["image"]
    first = (window[2] - 16) // 2
    assert torch.allclose(torch.as_tensor(turned[0, 4:12, 4:12]), torch.arange(first, first + 16).float(), atol=1e-3)
