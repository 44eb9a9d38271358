"""The random part of training's data: what happens to a sample is drawn first, from its own stream, then applied.

Drawing costs nothing and never depends on a branch or a device; applying is plain torch, on whatever device the sample lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ROTATION_RAD = math.radians(15)
SCALE = 0.15
AFFINE_SHARE = 0.2
"""Part of the samples that are turned and scaled; interpolation is the dearest step of the data path."""
INTENSITY_SHARE = 0.25
BRIGHTNESS = CONTRAST = 0.2
GAMMA = 0.4
NOISE = 0.1
COARSEST = 2.0
"""Samples of low resolution have up to this many times the voxel size."""
ISOTROPIC = 1.5
"""Axes whose spacings differ by more than this factor are not turned into one another: their voxels are other tissue."""


@dataclass(frozen=True)
class Change:
    """What is done to one sample, in this order.

    Args:
        window: size of the box to cut out of the scan; larger than the patch where the sample is turned.
        matrix: patch to window, in voxels from the centre, ``(d, d)``; None turns nothing.
        flips: axes to mirror.
        low_resolution: times the voxel size; 1 leaves it.
        contrast, brightness: factor and summand.
        gamma: exponent over the sample's own range; 1 leaves it.
        noise: standard deviation; 0 adds none.
        noise_seed: of the noise.
        dropped: channels set to 0, what a normalised channel without content is.
    """

    window: tuple[int, ...]
    matrix: NDArray[np.float64] | None = None
    flips: tuple[int, ...] = ()
    low_resolution: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0
    dropped: tuple[int, ...] = ()


class Augmentation:
    """Turns, scales, mirrors and changes the contrast of samples.

    Args:
        patch_size: voxels per axis of the samples that come out.
        mirror_axes: axes along which flipped anatomy is plausible; none by default, since left is not right.
        spacing_mm: of the voxels, so that no axis is turned into one of other spacing; None takes them as equal.
        strength: factor on the ranges of all but mirroring; 0 leaves mirroring alone.
        low_resolution: part of the samples whose image is made coarser and interpolated back.
        channel_dropout: probability of each channel to be missing from a sample; one always stays. A network that was
            trained so predicts without a channel (``predict --missing``).
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        *,
        mirror_axes: Sequence[int] = (),
        spacing_mm: Sequence[float] | None = None,
        strength: float = 1.0,
        low_resolution: float = 0.0,
        channel_dropout: float = 0.0,
    ) -> None:
        self.patch_size = tuple(patch_size)
        self.mirror_axes = tuple(mirror_axes)
        self.spacing_mm = (1.0,) * len(self.patch_size) if spacing_mm is None else tuple(spacing_mm)
        self.strength, self.low_resolution, self.channel_dropout = strength, low_resolution, channel_dropout
        self.angles = rotation_ranges(self.spacing_mm, strength * ROTATION_RAD)
        margin = 1 + strength * (SCALE + math.sin(ROTATION_RAD) / 2)
        self.larger = tuple(math.ceil(n * margin / 2) * 2 + n % 2 for n in self.patch_size)

    def draw(self, random: np.random.RandomState, channels: int = 1) -> Change:
        """What is done to a sample: the same state, the same change, in any process and on any device."""
        dims, strength = len(self.patch_size), self.strength
        turn = random.rand() < AFFINE_SHARE
        angles = random.uniform(-1, 1, len(self.angles)) * self.angles
        scales = 1 + strength * SCALE * random.uniform(-1, 1, dims)
        flips = tuple(a for a, u in zip(self.mirror_axes, random.rand(len(self.mirror_axes)), strict=True) if u < 0.5)
        chosen = random.rand(4) < INTENSITY_SHARE * np.array([1, 1, 0.5, 0.5])
        contrast, brightness, gamma = random.uniform(-1, 1, 3)
        noise, noise_seed = random.rand(), int(random.randint(2**31))
        coarse, voxel = random.rand(2)
        missing = random.rand(channels) < self.channel_dropout
        if missing.all():
            missing[random.randint(channels)] = False
        turn &= strength > 0
        base = 1 + GAMMA * strength
        return Change(
            window=self.larger if turn else self.patch_size,
            matrix=affine_matrix(angles, scales, self.spacing_mm) if turn else None,
            flips=flips,
            low_resolution=1 + (COARSEST - 1) * voxel if coarse < self.low_resolution else 1.0,
            contrast=1 + CONTRAST * strength * contrast if chosen[0] else 1.0,
            brightness=BRIGHTNESS * strength * brightness if chosen[1] else 0.0,
            gamma=base**gamma if chosen[2] and strength > 0 else 1.0,
            noise=NOISE * strength * noise if chosen[3] else 0.0,
            noise_seed=noise_seed,
            dropped=tuple(np.flatnonzero(missing).tolist()),
        )

    def apply(self, sample: dict[str, Any], change: Change) -> dict[str, Any]:
        """Change ``{"image": (C, *change.window), "label": (1, *change.window)}`` (or without label) to one of ``patch_size``.

        The tensors given stay as they are.
        """
        image: Tensor = sample["image"]
        label: Tensor | None = sample.get("label")
        if change.matrix is not None:
            grid = sampling_grid(change.matrix, self.patch_size, change.window, image.device)
            image = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
            if label is not None:
                moved = F.grid_sample(
                    label[None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=True
                )
                label = moved[0].to(label.dtype)
        if change.flips:
            axes = [a + 1 for a in change.flips]
            image = image.flip(axes)
            label = None if label is None else label.flip(axes)
        if change.low_resolution > 1:
            image = coarsened(image, change.low_resolution)
        if change.contrast != 1 or change.brightness != 0:
            image = image.mul(change.contrast).add_(change.brightness)
        if change.gamma != 1:
            low, high = image.amin(), image.amax()
            width = (high - low).clamp_min(1e-7)
            image = image.sub(low).div_(width).pow_(change.gamma).mul_(width).add_(low)
        if change.noise > 0:
            generator = torch.Generator(image.device).manual_seed(change.noise_seed)
            image = torch.randn(image.shape, generator=generator, device=image.device).mul_(change.noise).add_(image)
        if change.dropped:
            image = image.clone()
            image[list(change.dropped)] = 0
        return {**sample, "image": image, **({} if label is None else {"label": label})}


def rotation_ranges(spacing_mm: Sequence[float], angle: float) -> list[float]:
    """Largest angle around each axis (2D: one), 0 where the two axes it turns differ too much in spacing."""
    planes = [(0, 1)] if len(spacing_mm) == 2 else [(1, 2), (0, 2), (0, 1)]
    pairs = [(spacing_mm[a], spacing_mm[b]) for a, b in planes]
    return [angle if max(pair) <= ISOTROPIC * min(pair) else 0.0 for pair in pairs]


def affine_matrix(
    angles: Sequence[float] | NDArray[np.float64],
    scales: Sequence[float] | NDArray[np.float64],
    spacing_mm: Sequence[float],
) -> NDArray[np.float64]:
    """Turns about each axis (2D: one) after scalings, in millimetres, as a matrix of voxel offsets ``(d, d)``."""
    dims = len(spacing_mm)
    planes = [(0, 1)] if dims == 2 else [(1, 2), (0, 2), (0, 1)]
    matrix = np.diag(np.asarray(scales, np.float64))
    for (a, b), angle in zip(planes, angles, strict=True):
        turn = np.eye(dims)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[b, a] = math.sin(angle)
        turn[a, b] = -turn[b, a]
        matrix = turn @ matrix
    spacing = np.asarray(spacing_mm, np.float64)
    return matrix * spacing / spacing[:, None]


def sampling_grid(
    matrix: NDArray[np.float64], patch: Sequence[int], window: Sequence[int], device: torch.device
) -> Tensor:
    """Where ``grid_sample`` reads each voxel of a patch from its window, ``(1, *patch, d)``; their centres coincide.

    What ``affine_grid`` gives, as a sum over axes of which the last alone is of full size, which takes less time.
    """
    source = np.array([max(n - 1, 1) for n in window]) / 2
    target = np.array([n - 1 for n in patch]) / 2
    rows = (matrix * target / source[:, None])[::-1]  # torch counts x, y, z: the last axis first
    grid = torch.zeros(len(patch), device=device)
    for axis in reversed(range(len(patch))):
        column = torch.tensor(np.ascontiguousarray(rows[:, axis]), dtype=torch.float32, device=device)
        line = torch.linspace(-1, 1, patch[axis], device=device) if patch[axis] > 1 else torch.zeros(1, device=device)
        grid = grid + line.view(-1, *[1] * (len(patch) - axis)) * column
    return grid[None]


def coarsened(image: Tensor, factor: float) -> Tensor:
    """``(C, *s)`` as a scan of ``factor`` times the voxel size shows it, interpolated back."""
    size = image.shape[1:]
    small = [max(1, round(n / factor)) for n in size]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(F.interpolate(image[None], size=small, mode="nearest-exact"), size=size, mode=mode)[0]
