"""On what grid the network works: fine enough for the thinnest structure, coarse enough to see much of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg3d.planning.fingerprint import Fingerprint
from medseg3d.planning.strides import ACROSS, ANISOTROPIC

Sizes = Sequence[float] | NDArray[np.float64]
STRIDE = 4
"""Of the network's logits."""
FINEST = 0.6
"""Of the scans' voxel size: finer grids cost more than they show."""
NEARLY_EQUAL = 1.1
"""Axes whose voxel sizes differ by no more get one size."""
CONTEXT_FINER, CONTEXT_COARSER = 1 / 2, 1 / 8
"""A grid finer than the scans may not cost the view of half an image; one coarser is taken for an eighth of it."""


def wished_spacing(fingerprint: Fingerprint) -> NDArray[np.float64]:
    """The grid on which the thinnest structure spans ``ACROSS`` logits, as far as that is not too fine; slices stay as they are."""
    median = _median_spacing(fingerprint)
    spacing = np.clip(_target_mm(fingerprint), FINEST * median, median)
    return np.where(median > ANISOTROPIC * median.min(), median, spacing)


def _median_spacing(fingerprint: Fingerprint) -> NDArray[np.float64]:
    """The scans' own, with axes that are nearly equal made equal."""
    median = np.array(fingerprint.spacing_mm)
    if fingerprint.anisotropy <= NEARLY_EQUAL:
        median[:] = np.exp(np.log(median).mean())
    return median


def _target_mm(fingerprint: Fingerprint) -> float:
    """The grid that the thinnest structure wants; without one the scans' own will do."""
    thin = fingerprint.thinnest
    return max(fingerprint.spacing_mm) if thin is None else thin[1] / (STRIDE * ACROSS)


def choose_spacing(fingerprint: Fingerprint, extent_mm: Sizes, most: float) -> tuple[tuple[float, ...] | None, str]:
    """The grid on which the thinnest structure spans ``ACROSS`` coarse voxels, as far as scans, memory and context allow."""
    median, target, thin = _median_spacing(fingerprint), _target_mm(fingerprint), fingerprint.thinnest
    extent = np.asarray(extent_mm)
    unit = "pixels" if fingerprint.task.spatial_dims == 2 and (median == 1).all() else "mm"
    slices = median > ANISOTROPIC * median.min()
    spacing = wished_spacing(fingerprint)

    def seen() -> float:
        return float(most / np.prod(np.maximum(extent / spacing, 1)))

    wish = (
        ""
        if thin is None
        else f"{thin[0]} is {thin[1]:.2g} {unit} thin, and {ACROSS} logits (4x) across want {target:.2g}"
    )
    bound = ""
    if (spacing[~slices] > target * 1.001).any():
        bound = f"{FINEST:g} of the scans' {_sizes(median[~slices])} is the finest that pays"
    elif thin is not None and (spacing == median).all() and target > median.max():
        bound = "the scans' own is finer"
    while seen() < CONTEXT_FINER and (spacing < median).any():
        spacing, bound = np.minimum(spacing * 1.05, median), "this is as fine as lets a patch see half an image"
        if (spacing == median).all():
            bound = "finer than the scans would cost the view"
    while seen() < CONTEXT_COARSER and thin is not None and spacing.min() * 1.05 <= target:
        spacing = np.maximum(spacing, spacing.min() * 1.05)
        bound = f"coarser than the scans' {_sizes(median)}, so that a patch sees more"
    rounded = tuple(float(f"{s:.3g}") for s in spacing)
    sliced = f"slices are {max(median):.3g} mm apart" if slices.any() else ""
    if unit == "pixels" and np.allclose(fingerprint.spacings_mm, rounded, rtol=1e-3):
        return None, "; ".join(filter(None, (wish, "the pictures' own grid is as fine")))
    return rounded, "; ".join(filter(None, (wish or "the scans' own", bound, sliced)))


def _sizes(spacing: Sizes) -> str:
    values = [f"{s:.3g}" for s in spacing]
    return values[0] if len(set(values)) == 1 else " x ".join(values)
