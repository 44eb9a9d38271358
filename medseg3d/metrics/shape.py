"""Size and shape of one mask in mm: surface area and longest diameters, all from one surface.

The surface is that of ``medseg3d.metrics.surface``: it cuts each edge between a voxel inside and one outside in its middle. So a
box of 10 voxels of 1 mm is 10 mm long, and its corners are cut off by half a voxel.

- Surface area (2D: length of the outline): sum of its pieces in all 2 x 2 x 2 (2 x 2) neighbourhoods.
- Longest axial diameter, as RECIST 1.1 takes the longest in-plane one (Eisenhauer et al., doi:10.1016/j.ejca.2008.10.026):
  the largest distance of two points of the surface in one axial slice, over all slices. Unlike a reader's it may leave the
  mask in between.
- Across it: how wide the mask is in that slice, at right angles to that diameter; for lymph nodes near the short axis of RECIST.
- Longest 3D diameter: the largest distance of any two points of the surface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.metrics.area import area_of_codes
from medseg3d.metrics.lattice import Floats, bounding_box, corners, lay_out
from medseg3d.metrics.overlap import as_mask

PAIRS = 2**22
"""Pairs of points whose distances are held at a time."""


@dataclass(frozen=True)
class Diameters:
    """Longest diameters of a mask, mm; NaN where there is none.

    Args:
        longest_axial_mm: in one slice.
        across_mm: width of that slice's part at right angles to it.
        longest_3d_mm: of all; NaN for 2D.
        slice_index: of the longest axial one; None for 2D and for an empty mask.
    """

    longest_axial_mm: float
    across_mm: float
    longest_3d_mm: float
    slice_index: int | None


def surface_area(mask: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Area of a mask's surface, mm2; in 2D the length of its outline, mm.

    Args:
        mask: ``(*spatial)``, 2D or 3D; outside the array is background.
        spacing_mm: distance of neighbouring voxel centres along each array axis.

    Raises:
        ValueError: no mask, or a spacing that does not fit.
    """
    mask = as_mask(mask, "mask")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (mask.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm {spacing_mm} must be {mask.ndim} positive numbers, one for each array axis")
    if not mask.any():
        return 0.0
    lattice, flat, _ = lay_out(mask, mask, spacing)
    _, codes = corners(flat, lattice)
    counts = np.bincount(codes, minlength=2 ** (2**mask.ndim))
    return float(counts @ area_of_codes(lattice.spacing_mm))


def diameters(mask: NDArray[Any], axes_mm: NDArray[np.float64], *, slice_axis: int | None = None) -> Diameters:
    """The longest diameters of a mask.

    Args:
        mask: ``(*spatial)``, 2D or 3D.
        axes_mm: ``(d, d)``, in its columns the step from a voxel to the next along each array axis, mm: the affine without its
            last row and column, or ``np.diag(spacing_mm)``.
        slice_axis: of a 3D mask, the array axis across which its axial slices lie.

    Raises:
        ValueError: no mask, or axes that do not fit.
    """
    mask = as_mask(mask, "mask")
    steps = np.asarray(axes_mm, dtype=np.float64)
    if steps.shape != (mask.ndim, mask.ndim):
        raise ValueError(f"axes_mm of shape {steps.shape} does not fit a mask of {mask.ndim} axes")
    if (mask.ndim == 3) != (slice_axis is not None):
        raise ValueError(f"slice_axis {slice_axis} does not fit a mask of {mask.ndim} axes; 3D masks have one")
    nan = float("nan")
    box = bounding_box(mask)
    if not box:
        return Diameters(nan, nan, nan, None)
    if slice_axis is None:
        ends = _hull(_outline(mask[box])) @ steps.T
        first, last = _farthest(ends)
        return Diameters(_distance(first, last), _width(ends, last - first), nan, None)
    order = [slice_axis, *(axis for axis in range(3) if axis != slice_axis)]
    slices, steps = mask[box].transpose(order), steps[:, order]
    best, across, at, everything = -1.0, nan, 0, []
    for index, points in _slice_hulls(slices):
        ends = np.insert(points, 0, index, axis=1) @ steps.T
        everything.append(ends)
        first, last = _farthest(ends)
        if _distance(first, last) > best:
            best, across, at = _distance(first, last), _width(ends, last - first), index
    everything += [points @ steps.T for points in _faces(slices)]
    first, last = _farthest(_hull(np.concatenate(everything)))
    return Diameters(best, across, _distance(first, last), at + box[slice_axis].start)


def _outline(mask: NDArray[np.bool_]) -> Floats:
    """Of a 2D mask, the cuts of its surface that are first or last in a row or column: all others lie between."""
    points = []
    for axis in range(2):
        lines = mask if axis == 1 else mask.T
        used = np.flatnonzero(lines.any(axis=1))
        first = lines[used].argmax(axis=1) - 0.5
        last = lines.shape[1] - 0.5 - lines[used, ::-1].argmax(axis=1)
        points += [np.stack((used, along) if axis == 1 else (along, used), axis=-1) for along in (first, last)]
    return np.concatenate(points).astype(np.float64)


def _slice_hulls(slices: NDArray[np.bool_]) -> Iterator[tuple[int, Floats]]:
    """The corners of each slice's outline, by its index."""
    for index, mask in enumerate(slices):
        if mask.any():
            yield index, _hull(_outline(mask))


def _faces(slices: NDArray[np.bool_]) -> Iterator[Floats]:
    """The cuts of the surface between slices that are first or last in their column."""
    rows, columns = np.nonzero(slices.any(axis=0))
    lines = slices[:, rows, columns]
    for heights in (lines.argmax(axis=0) - 0.5, len(lines) - 0.5 - lines[::-1].argmax(axis=0)):
        for height in np.unique(heights):
            here = heights == height
            flat = _hull(np.stack((rows[here], columns[here]), axis=-1).astype(np.float64))
            yield np.insert(flat, 0, height, axis=1)


def _hull(points: Floats) -> Floats:
    """The corners of the smallest convex body around points, of which the farthest two are among them."""
    from scipy.spatial import ConvexHull, QhullError

    if len(points) <= 2 * points.shape[1]:
        return points
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:  # all on one line, where the first and the last by their coordinates are its ends
        order = np.lexsort(points.T)
        return points[order[[0, -1]]]


def _farthest(points: Floats) -> tuple[Floats, Floats]:
    best, pair = -1.0, (points[0], points[0])
    step = max(1, PAIRS // len(points))
    for start in range(0, len(points), step):
        squares = ((points[start : start + step, None] - points[None]) ** 2).sum(axis=-1)
        i, j = np.unravel_index(int(squares.argmax()), squares.shape)
        if squares[i, j] > best:
            best, pair = float(squares[i, j]), (points[start + i], points[j])
    return pair


def _distance(first: Floats, last: Floats) -> float:
    return float(np.linalg.norm(last - first))


def _width(points: Floats, along: Floats) -> float:
    """How far the points of one plane reach at right angles to a direction in it."""
    rest = points - points[0]
    rest = rest - np.outer(rest @ along, along) / float(along @ along)
    ends = _farthest(rest)
    return _distance(*ends)
