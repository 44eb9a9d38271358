"""Two masks on one padded lattice of flat memory, where a neighbour is a constant step away, and what lies on their surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REACH = 8
"""Steps of the next-finest axis within which neighbours are looked up; the lattice has as many empty ones behind each row."""
SLAB = 2**17
"""Places whose neighbourhoods are coded at a time."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]
Flat = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Lattice:
    """A box of voxels with background around it, as flat memory.

    The axis of the finest spacing comes first. A step beyond the end of a row lands in the empty places behind the row,
    and one before its start in those behind the row before, so no step needs a check for borders.

    Args:
        shape: places along each axis.
        steps: what one place along each axis is in flat memory.
        reach: empty places behind each row; 1 on the first axis.
        spacing_mm: of the voxels, along the lattice's axes.
    """

    shape: tuple[int, ...]
    steps: tuple[int, ...]
    reach: tuple[int, ...]
    spacing_mm: Floats

    @classmethod
    def around(cls, size: Sequence[int], spacing_mm: Floats) -> Lattice:
        """The lattice of a box of ``size`` voxels, of which the first axis is to be the finest."""
        limit = REACH * spacing_mm[1:].min() * (1 + 1e-9)
        reach = (1, *(int(max(1, min(limit / s, n + 1))) for s, n in zip(spacing_mm[1:], size[1:], strict=True)))
        shape = tuple(1 + n + r for n, r in zip(size, reach, strict=True))
        steps = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        return cls(shape, steps, reach, spacing_mm)

    def places(self, flat: Indices) -> Indices:
        """Flat places as places along the axes, ``(n, spatial_dims)``."""
        return np.stack(np.unravel_index(flat, self.shape), axis=-1)


def lay_out(a: Mask, b: Mask, spacing_mm: Floats) -> tuple[Lattice, Flat, Flat]:
    """Crop two masks to the box around both, and lay each out on the lattice of that box."""
    boxes = [box for box in (bounding_box(a), bounding_box(b)) if box]
    box = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))
    box = box or (slice(0, 0),) * a.ndim
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    finest = min(order, key=lambda axis: round(spacing_mm[axis] / spacing_mm.min(), 3))
    order = [finest, *(axis for axis in order if axis != finest)]
    size = [box[axis].stop - box[axis].start for axis in order]
    lattice = Lattice.around(size, spacing_mm[order])
    flats = []
    for mask in (a, b):
        flat = np.zeros(lattice.shape, np.uint8)
        flat[tuple(slice(1, 1 + n) for n in size)] = mask[box].transpose(order)
        flats.append(flat.reshape(-1))
    return lattice, flats[0], flats[1]


def bounding_box(mask: NDArray[Any]) -> tuple[slice, ...]:
    """The smallest box around what is not zero; ``()`` where all is."""
    box = [slice(None)] * mask.ndim
    axes = sorted(range(mask.ndim), key=lambda axis: -mask.strides[axis])  # whole planes of memory are left out first
    for axis in axes:
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hit = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not hit.size:
            return ()
        box[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
    return tuple(box)


def corners(flat: Flat, lattice: Lattice) -> tuple[Indices, Flat]:
    """The voxel corners that the surface of a mask passes, ascending, and the code of each one's neighbourhood.

    The corner between a place and the next on every axis is counted at the former.
    """
    found, kinds = [], []
    for start in range(0, len(flat) - sum(lattice.steps), SLAB):  # short enough for the processor's cache
        codes = flat[start : start + SLAB + sum(lattice.steps)]
        for bit, step in enumerate(lattice.steps):
            codes = codes[:-step] | codes[step:] << np.uint8(2**bit)
        here = np.flatnonzero(codes - np.uint8(1) < np.uint8(2**2 ** len(lattice.steps) - 2))  # 0 - 1 wraps to 255
        found.append(here + start)
        kinds.append(codes[here])
    return np.concatenate(found), np.concatenate(kinds)


def inner_edge(flat: Flat, lattice: Lattice) -> Indices:
    """The voxels of a mask that have a background voxel beside them, ascending."""
    margin = lattice.steps[0]
    inside = flat[margin:-margin].copy()
    for step in lattice.steps:
        inside &= flat[margin - step : len(flat) - margin - step]
        inside &= flat[margin + step : len(flat) - margin + step]
    return np.flatnonzero(flat[margin:-margin] > inside) + margin
