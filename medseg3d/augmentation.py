"""The random part of training's data: MONAI's transforms, cheap ones, driven by one random stream per sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

ROTATION_RAD = math.radians(15)
SCALE = 0.15
AFFINE_SHARE = 0.2
"""Part of the samples that are turned and scaled; interpolation is the dearest step of the data path."""
INTENSITY_SHARE = 0.25
ISOTROPIC = 1.5
"""Axes whose spacings differ by more than this factor are not turned into one another: their voxels are other tissue."""


class Augmentation:
    """Turns, scales, mirrors and changes the contrast of samples.

    Args:
        patch_size: voxels per axis of the samples that come out.
        mirror_axes: axes along which flipped anatomy is plausible; none by default, since left is not right.
        spacing_mm: of the voxels, so that no axis is turned into one of other spacing; None takes them as equal.
        strength: factor on the ranges of all but mirroring; 0 leaves mirroring alone.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        *,
        mirror_axes: Sequence[int] = (),
        spacing_mm: Sequence[float] | None = None,
        strength: float = 1.0,
    ) -> None:
        self.patch_size = tuple(patch_size)
        spatial_dims = len(self.patch_size)
        self.affine_share = AFFINE_SHARE if strength > 0 else 0.0
        self.margin = 1 + strength * (SCALE + math.sin(ROTATION_RAD) / 2)
        self.affine = RandAffined(
            ["image", "label"],
            prob=1.0,
            rotate_range=rotation_ranges(spatial_dims, spacing_mm, strength * ROTATION_RAD),
            scale_range=[strength * SCALE] * spatial_dims,
            spatial_size=self.patch_size,
            mode=["bilinear", "nearest"],
            padding_mode="zeros",
            allow_missing_keys=True,
        )
        self.affine.rand_affine.resampler.dtype = np.float32  # MONAI's default is float64, at twice the time
        flips = [RandFlipd(["image", "label"], prob=0.5, spatial_axis=a, allow_missing_keys=True) for a in mirror_axes]
        intensity = [
            RandScaleIntensityd("image", factors=0.2 * strength, prob=INTENSITY_SHARE),
            RandShiftIntensityd("image", offsets=0.2 * strength, prob=INTENSITY_SHARE),
            RandAdjustContrastd(
                "image", gamma=(1 / (1 + 0.4 * strength), 1 + 0.4 * strength), prob=INTENSITY_SHARE / 2
            ),
            RandGaussianNoised("image", std=0.1 * strength, prob=INTENSITY_SHARE / 2),
        ]
        self.rest = Compose([*flips, *(intensity if strength > 0 else [])])

    def window(self, random: np.random.RandomState) -> tuple[int, ...]:
        """Size of the box to cut out: larger than the patch where the sample will be turned, so that its corners are image."""
        if random.rand() < self.affine_share:
            return tuple(math.ceil(n * self.margin / 2) * 2 + n % 2 for n in self.patch_size)
        return self.patch_size

    def __call__(self, sample: dict[str, Any], random: np.random.RandomState) -> dict[str, Any]:
        """Change a sample ``{"image": (C, *window), "label": (1, *window)}`` (or without label) to one of ``(C, *patch_size)``.

        All randomness comes from ``random``: the same state, the same result, in any process.
        """
        keys = {key: value.dtype for key, value in sample.items()}
        if tuple(sample["image"].shape[1:]) != self.patch_size:
            self.affine.set_random_state(state=random)
            sample = dict(self.affine(sample))  # type: ignore[arg-type]
        self.rest.set_random_state(seed=int(random.randint(2**31)))
        sample = self.rest(sample)
        return {key: torch.as_tensor(sample[key]).as_subclass(torch.Tensor).to(dtype) for key, dtype in keys.items()}


def rotation_ranges(spatial_dims: int, spacing_mm: Sequence[float] | None, angle: float) -> list[float]:
    """Largest angle around each axis (2D: one), 0 where the two axes it turns differ too much in spacing."""
    spacing = (1.0,) * spatial_dims if spacing_mm is None else tuple(spacing_mm)
    if spatial_dims == 2:
        return [angle if max(spacing) <= ISOTROPIC * min(spacing) else 0.0]
    ranges = []
    for axis in range(3):
        a, b = (s for i, s in enumerate(spacing) if i != axis)
        ranges.append(angle if max(a, b) <= ISOTROPIC * min(a, b) else 0.0)
    return ranges
