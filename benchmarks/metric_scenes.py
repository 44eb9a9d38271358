"""Pairs of masks of the size of a tumour, a liver and a whole body, made of formulas; the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def organ(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    centre: Sequence[float],
    radii_mm: Sequence[float],
    *,
    error_mm: float,
    seed: int = 0,
) -> tuple[Pair, tuple[slice, ...]]:
    """A bumpy ellipsoid, and a prediction of it.

    Args:
        shape: of the volume.
        spacing_mm: of its voxels.
        centre: as fractions of the shape.
        radii_mm: of the ellipsoid along each axis.
        error_mm: how far the prediction's surface lies from the reference's where it lies far (two deviations).
        seed: of the bumps, and of the errors.

    Returns:
        Both masks in a box, and where in the volume the box lies.
    """
    rng = np.random.default_rng(seed)
    radii, spacing = np.array(radii_mm, float), np.array(spacing_mm, float)
    middle = np.array(centre) * np.array(shape) * spacing
    margin = 0.4 * radii.min() + 2 * error_mm
    low = np.maximum(np.floor((middle - radii - margin) / spacing), 0).astype(int)
    high = np.minimum(np.ceil((middle + radii + margin) / spacing) + 1, shape).astype(int)
    axes = [np.arange(a, b) * s - m for a, b, s, m in zip(low, high, spacing, middle, strict=True)]
    grid = [x.astype(np.float32) for x in np.meshgrid(*axes, indexing="ij", sparse=True)]

    def waves(height_mm: float, lengths: tuple[float, float]) -> NDArray[np.float32]:
        """Eight sine waves in random directions, in mm; ``height_mm`` is two of their deviations."""
        total = np.float32(0)
        for _ in range(8):
            direction = rng.normal(size=len(radii))
            k = 2 * np.pi / (radii.max() * rng.uniform(*lengths)) * direction / np.linalg.norm(direction)
            phase = sum((x * np.float32(w) for x, w in zip(grid, k, strict=True)), np.float32(rng.uniform(0, 6.28)))
            total = total + np.float32(height_mm / 4) * np.sin(phase)
        return total

    height_mm = (np.sqrt(sum((x / np.float32(r)) ** 2 for x, r in zip(grid, radii, strict=True))) - 1) * radii.mean()
    height_mm = height_mm + waves(0.25 * float(radii.min()), (0.7, 2))
    return (height_mm < 0, height_mm + waves(error_mm, (0.2, 1)) < 0), tuple(map(slice, low, high))


def in_volume(shape: Sequence[int], pair: Pair, box: tuple[slice, ...]) -> Pair:
    """Both masks in volumes of their own."""
    volumes = np.zeros((2, *shape), bool)
    for volume, mask in zip(volumes, pair, strict=True):
        volume[box] = mask
    return volumes[0], volumes[1]


def tumour(quick: bool = False) -> tuple[Pair, tuple[float, ...]]:
    """A tumour of about 100 ml in a head at 1 mm, 240 x 240 x 155, off by up to 4 mm; and the spacing."""
    scale = 3 if quick else 1
    shape, spacing = tuple(n // scale for n in (240, 240, 155)), (1.0 * scale,) * 3
    found = organ(shape, spacing, (0.36, 0.58, 0.55), (34, 28, 25), error_mm=4, seed=1)
    return in_volume(shape, *found), spacing


def liver(quick: bool = False) -> tuple[Pair, tuple[float, ...]]:
    """A liver of about 1.6 l in a CT at 0.8 x 0.8 x 1.5 mm, 512 x 512 x 200, off by up to 5 mm; and the spacing."""
    scale = 4 if quick else 1
    shape, spacing = tuple(n // scale for n in (512, 512, 200)), tuple(s * scale for s in (0.8, 0.8, 1.5))
    found = organ(shape, spacing, (0.33, 0.45, 0.55), (88, 72, 60), error_mm=5, seed=2)
    return in_volume(shape, *found), spacing


def body(quick: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, ...], int]:
    """Label maps of 104 organs of 1 to 900 ml in a CT at 1.5 mm x 0.8 mm x 0.8 mm; reference, prediction, spacing, number."""
    scale, number = (6, 8) if quick else (1, 104)
    shape, spacing = tuple(n // scale for n in (512, 512, 300)), tuple(s * scale for s in (0.8, 0.8, 1.5))
    rng = np.random.default_rng(3)
    maps = np.zeros((2, *shape), np.uint8)
    radii_mm = sorted(70 * rng.uniform(0.1, 1, number) ** 2 + 6, reverse=True)  # the small ones last, so that all stay
    for label, radius in enumerate(radii_mm, start=1):
        radii = radius * rng.uniform(0.6, 1.2, 3)
        masks, box = organ(shape, spacing, rng.uniform(0.2, 0.8, 3), radii, error_mm=3, seed=label)
        for volume, mask in zip(maps, masks, strict=True):
            volume[box][mask] = label
    return maps[0], maps[1], spacing, number
