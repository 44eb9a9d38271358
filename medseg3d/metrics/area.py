"""The area of a mask's surface in a neighbourhood of 2 x 2 x 2 voxels (2D: its length in 2 x 2), from a table."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Corner = tuple[int, ...]


def area_of_codes(spacing_mm: Floats) -> Floats:
    """Area (2D: length) of the surface within each kind of 2 x 2 x 2 (2 x 2) neighbourhood, mm2 (mm).

    Bit ``i0 + 2 i1 + 4 i2`` of a code says whether the voxel at ``(i0, i1, i2)`` is foreground.
    """
    normals = _normals_of_codes(spacing_mm.size)
    return np.linalg.norm(normals * (spacing_mm.prod() / spacing_mm), axis=-1).sum(axis=-1)


@cache
def _normals_of_codes(spatial_dims: int) -> Floats:
    """Area vectors of the flat pieces of surface in a neighbourhood of unit voxels, ``(codes, pieces, spatial_dims)``.

    The surface cuts each edge between foreground and background in its middle, and goes round every group of
    edge-connected voxels of whichever kind, foreground or background, there is less of (marching cubes).
    """
    corners: list[Corner] = [c[::-1] for c in product((0, 1), repeat=spatial_dims)]
    table = np.zeros((2 ** len(corners), 4, spatial_dims))
    for code in range(len(table)):
        inside = {c for bit, c in enumerate(corners) if code >> bit & 1}
        if 2 * len(inside) > len(corners):
            inside = set(corners) - inside
        pieces = [normal for group in _groups(inside) for normal in _pieces(_cut(group))]
        table[code, : len(pieces)] = np.reshape(pieces, (-1, spatial_dims))
    return table


def _neighbours(corner: Corner) -> list[Corner]:
    return [(*corner[:a], 1 - corner[a], *corner[a + 1 :]) for a in range(len(corner))]


def _groups(inside: set[Corner]) -> list[set[Corner]]:
    """Corners that edges of the cube connect."""
    groups = []
    left = set(inside)
    while left:
        group, front = set(), {min(left)}
        while front:
            group |= front
            front = {n for c in front for n in _neighbours(c) if n in inside} - group
        groups.append(group)
        left -= group
    return groups


def _cut(group: set[Corner]) -> Floats:
    """The polygon (2D: the two ends) in which the surface around a group cuts the edges, in order."""
    left = [
        tuple((i + j) / 2 for i, j in zip(c, n, strict=True)) for c in group for n in _neighbours(c) if n not in group
    ]
    loop = [left.pop()] if left else []
    while left:
        last = loop[-1]  # on each face of the cube the surface joins two cuts; groups of up to four allow no other way
        same_face = (p for p in left if len(p) == 2 or any(i == j != 0.5 for i, j in zip(p, last, strict=True)))
        loop.append(next(same_face))
        left.remove(loop[-1])
    return np.array(loop)


def _pieces(loop: Floats) -> list[Floats]:
    """The area vectors of a polygon's triangles: of all triangulations one with the largest area.

    That one has the fewest distinct planes; others of the same area have the same area in each plane.
    """
    if len(loop) == 0:
        return []
    if loop.shape[1] == 2:
        along = loop[1] - loop[0]
        return [np.array([along[1], -along[0]])]
    ways = (
        [np.cross(loop[j] - loop[i], loop[k] - loop[i]) / 2 for i, j, k in way]
        for way in _triangulations(tuple(range(len(loop))))
    )
    return max(ways, key=lambda normals: round(sum(float(np.linalg.norm(n)) for n in normals), 9))


def _triangulations(polygon: tuple[int, ...]) -> list[tuple[tuple[int, int, int], ...]]:
    """Every way to cut a polygon into triangles of its corners."""
    if len(polygon) < 3:
        return [()]
    first, last = polygon[0], polygon[-1]
    return [
        (*left, (first, polygon[k], last), *right)
        for k in range(1, len(polygon) - 1)
        for left in _triangulations(polygon[: k + 1])
        for right in _triangulations(polygon[k:])
    ]
