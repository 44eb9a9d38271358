"""How thin a structure is: the local thickness of a mask, below which a given part of its volume lies.

The local thickness at a point is the diameter of the largest ball inside the structure that holds the point (Hildebrand and
Rüegsegger, doi:10.1046/j.1365-2818.1997.1340694.x). The part of the volume that is thinner than d is what an opening with a
ball of diameter d takes away; openings come from Euclidean distance transforms. A voxel within one voxel's size of a ball counts as
in it: the steps that a grid makes of every slanted surface are not thin structures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW = {2: 128, 3: 32}
"""Voxels per axis of the windows that are looked at, by the number of axes; larger structures are looked at in parts."""
WINDOWS = 2
THICKEST = {2: 64.0, 3: 24.0}
"""Thickness in (finest) voxels that is not told apart from more."""


def thickness_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float], share: float = 0.1) -> float:
    """The local thickness below which ``share`` of a mask's volume lies, in mm; 0 for an empty mask.

    A plate of n voxels has the thickness n. What is thicker than ``THICKEST`` voxels has that.

    Args:
        mask: ``(*spatial)``.
        spacing_mm: of its voxels.
        share: of the volume; 0.1 is the 10th percentile.
    """
    windows = [_Openings(part, spacing_mm) for part in _windows(mask)]
    total = sum(w.total for w in windows)
    if not total:
        return 0.0
    step = min(spacing_mm) / 2
    low, high = 0, round(THICKEST[mask.ndim] * min(spacing_mm) / step)
    # The largest diameter whose opening leaves more than 1 - share; what it takes away grows with the diameter.
    while low < high:
        middle = (low + high + 1) // 2
        if sum(w.removed(middle * step) for w in windows) <= share * total:
            low = middle
        else:
            high = middle - 1
    return float(low * step)


class _Openings:
    """A mask on a grid of half its voxel size, where every plate is an even number of voxels thick, and its depth."""

    def __init__(self, mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> None:
        from scipy import ndimage

        for axis in range(mask.ndim):
            mask = mask.repeat(2, axis)
        self.mask, self.sampling = mask, [s / 2 for s in spacing_mm]
        self.voxel = float(np.median(spacing_mm))
        self.total = int(mask.sum())
        self.filled = bool(mask.all())
        self.depth = None if self.filled else ndimage.distance_transform_edt(mask, sampling=self.sampling)

    def removed(self, diameter_mm: float) -> int:
        """Voxels that an opening with a ball takes away."""
        from scipy import ndimage

        if self.depth is None or diameter_mm <= 0:
            return 0
        radius = diameter_mm / 2
        outside = self.depth < radius * (1 - 1e-6)
        if outside.all():
            return self.total
        distance = ndimage.distance_transform_edt(outside, sampling=self.sampling)
        return int((self.mask & (distance >= radius + self.voxel)).sum())


def _windows(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The mask's box with a margin of background, or parts of it about voxels spread evenly over it."""
    occupied = [np.flatnonzero(mask.any(axis=tuple(b for b in range(mask.ndim) if b != a))) for a in range(mask.ndim)]
    if not len(occupied[0]):
        return []
    box = [(max(int(o[0]) - 1, 0), min(int(o[-1]) + 2, n)) for o, n in zip(occupied, mask.shape, strict=True)]
    cropped = mask[tuple(slice(a, b) for a, b in box)]
    width = WINDOW[mask.ndim]
    if max(cropped.shape) <= width:
        return [cropped]
    voxels = np.flatnonzero(cropped)
    found = {}
    for i in range(WINDOWS):
        centre = np.unravel_index(voxels[(2 * i + 1) * len(voxels) // (2 * WINDOWS)], cropped.shape)
        start = tuple(max(0, min(int(c) - width // 2, n - width)) for c, n in zip(centre, cropped.shape, strict=True))
        found[start] = cropped[tuple(slice(s, s + width) for s in start)]
    return list(found.values())
