"""From each of many places of a lattice to the nearest of others, exactly: looked up nearby, searched for farther off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.metrics.lattice import REACH, Floats, Indices, Lattice

Steps = NDArray[Any]
LOOKUPS = 8
"""Offsets looked up before points that are done are put aside."""
BLOCK = 4
"""Edge of the blocks of lines that a point far from all others looks at, in steps of the finest axis across."""
VOXEL_WORK = 2
"""What a voxel costs a distance transform (70 ns), in such looks (some 35 ns; measured)."""


def distances_mm(points: Indices, others: Indices, lattice: Lattice) -> Floats:
    """For each of the ``points`` its distance to the nearest of the ``others``, both flat places, ascending.

    With the distance along the first axis known at every place, the nearest neighbour is found by looking at offsets
    in the other axes, near ones first, until the offset alone is farther than what was found (in 3D a spiral in the plane
    across the first axis; for surfaces a few voxels apart some tens of look-ups). What lies beyond the lattice's
    reach is looked up in blocks, or where that were more work, left to a distance transform.
    """
    if not others.size:
        return np.full(points.size, np.inf)
    margin = sum(step * reach for step, reach in zip(lattice.steps[1:], lattice.reach[1:], strict=True))
    along = _steps_along_first_axis(others, lattice, margin)
    squares = (np.arange(_nowhere(along.dtype) + 1) * lattice.spacing_mm[0]) ** 2
    squares[-1] = np.inf
    limit_mm = REACH * lattice.spacing_mm[1:].min()
    offsets, beyond = _offsets(lattice.reach[1:], limit_mm, lattice.spacing_mm[1:])
    found = np.empty(points.size)
    place, left = points + margin, np.arange(points.size)
    best = squares.take(along.take(place))
    steps = (offsets @ lattice.steps[1:]).tolist()
    for i, (offset, square) in enumerate(zip(steps[1:], beyond.tolist()[1:], strict=True)):
        if i % LOOKUPS == 0:
            going_on = np.flatnonzero(best > square)
            if going_on.size < left.size:
                found[left] = best
                place, left, best = place[going_on], left[going_on], best[going_on]
            if not left.size:
                break
        rival = squares.take(along.take(place + offset))
        rival += square
        np.minimum(best, rival, out=best)
    found[left] = best
    distance = np.sqrt(found)
    far = np.flatnonzero(distance > limit_mm)
    if far.size:
        places = lattice.places(points[far])
        if _looks(distance[far], lattice) < VOXEL_WORK * np.prod(lattice.shape):
            inside = along[margin : len(along) - margin]
            distance[far] = np.sqrt(_look_far(places, found[far], inside, squares, lattice))
        else:
            distance[far] = _transform_mm(places, lattice.places(others), lattice)
    return distance


def _nowhere(dtype: np.dtype[Any]) -> int:
    """The number of steps that stands for no neighbour; one more must not be 0."""
    return int(np.iinfo(dtype).max) - 1


def _steps_along_first_axis(others: Indices, lattice: Lattice, margin: int) -> Steps:
    """How many steps the nearest of ``others`` on the same line along the first axis is away, with a margin at both ends."""
    dtype = np.dtype(np.uint8 if lattice.shape[0] < 250 else np.uint16)
    steps = np.full(int(np.prod(lattice.shape)) + 2 * margin, _nowhere(dtype), dtype)
    steps[others + margin] = 0
    planes = steps[margin : len(steps) - margin].reshape(lattice.shape[0], -1)
    one_more = np.empty_like(planes[0])
    for this, before in [*zip(planes[1:], planes, strict=False), *zip(planes[-2::-1], planes[:0:-1], strict=True)]:
        np.add(before, dtype.type(1), out=one_more)
        np.minimum(this, one_more, out=this)
    return steps


def _offsets(reach: Sequence[int], within_mm: float, spacing_mm: Floats) -> tuple[Indices, Floats]:
    """Offsets of up to ``reach`` and ``within_mm``, and their squared lengths in mm2, ascending; the first is none."""
    grid = np.indices(tuple(2 * r + 1 for r in reach)).reshape(len(reach), -1).T - np.array(reach)
    squares = ((grid * spacing_mm) ** 2).sum(axis=1)
    order = np.argsort(squares, kind="stable")
    order = order[squares[order] <= within_mm**2 * (1 + 1e-9)]
    return grid[order], squares[order]


def _block(lattice: Lattice) -> Indices:
    """Edges of a block across the first axis, so that it is about as wide as high."""
    spacing = lattice.spacing_mm[1:]
    return np.maximum(1, np.rint(BLOCK * spacing.min() / spacing)).astype(np.intp)


def _looks(distance_mm: Floats, lattice: Lattice) -> float:
    """About how many blocks ``_look_far`` will look at for points of such distances."""
    blocks = 2 * distance_mm[:, None] / (lattice.spacing_mm[1:] * _block(lattice)) + 1
    return float(np.minimum(blocks, np.array(lattice.shape[1:]) / _block(lattice)).prod(axis=1).sum())


def _look_far(places: Indices, best: Floats, along: Steps, squares: Floats, lattice: Lattice) -> Floats:
    """Squared distances of some points, each at most ``best``, by looking at blocks of lines, and into few of them.

    Args:
        places: of the points, ``(n, spatial_dims)``.
        best: squared distance of a neighbour that each is known to have, or inf.
        along: steps along the first axis, of every place of the lattice.
        squares: of so many steps, mm2.
        lattice: that they lie on.
    """
    spacing, edges, last = lattice.spacing_mm[1:], _block(lattice), np.array(lattice.shape[1:]) - 1
    least = along.reshape(lattice.shape)
    for axis, edge in enumerate(edges, start=1):
        least = np.minimum.reduceat(least, np.arange(0, lattice.shape[axis], edge), axis=axis)
    reach = np.minimum(np.sqrt(best.max()) / (spacing * edges) + 1, last // edges).astype(np.intp)
    least = np.pad(least, [(0, 0), *((n, n) for n in reach)], constant_values=_nowhere(along.dtype))
    steps = np.cumprod([1, *least.shape[:0:-1]])[::-1]
    ways = np.indices(tuple(2 * reach + 1)).reshape(len(reach), -1).T - reach
    gaps = (np.where(ways, ((np.abs(ways) - 1) * edges + 1) * spacing, 0) ** 2).sum(
        axis=1
    )  # the least from block to block
    order = np.argsort(gaps, kind="stable")
    inner = np.indices(tuple(edges)).reshape(len(edges), -1).T
    best, left, blocks = best.copy(), np.arange(len(places)), places[:, 1:] // edges
    own = np.column_stack((places[:, 0], blocks + reach)) @ steps
    flat, now, least = own, best, least.reshape(-1)
    for i, (step, gap) in enumerate(zip((ways @ steps[1:])[order].tolist(), gaps[order].tolist(), strict=True)):
        if i % LOOKUPS == 0:
            left = np.flatnonzero(best > gap) if i == 0 else left[best[left] > gap]
            flat, now = own[left], best[left]
            if not left.size:
                break
        worth = np.flatnonzero(squares.take(least.take(flat + step)) < now - gap)
        if worth.size:
            point = left[worth]
            lines = (blocks[point, None] + ways[order[i]]) * edges + inner
            np.minimum(lines, last, out=lines)
            rival = squares.take(along.take(places[point, :1] * lattice.steps[0] + lines @ lattice.steps[1:]))
            rival += (np.square(lines - places[point, None, 1:]) * spacing**2).sum(axis=-1)
            now[worth] = best[point] = np.minimum(now[worth], rival.min(axis=1))
    return best


def _transform_mm(places: Indices, others: Indices, lattice: Lattice) -> Floats:
    """Distances by a transform of the whole lattice; both ``(n, spatial_dims)``."""
    nothing = np.ones(np.subtract(lattice.shape, lattice.reach), dtype=bool)
    nothing[tuple(others.T)] = False
    nearest = ndimage.distance_transform_edt(
        nothing, sampling=lattice.spacing_mm, return_distances=False, return_indices=True
    )
    return np.linalg.norm((places - nearest[(slice(None), *places.T)].T) * lattice.spacing_mm, axis=1)
