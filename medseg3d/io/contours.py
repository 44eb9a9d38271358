"""Masks as polygons along the borders of their pixels, and back.

Coordinates are (row, column), pixel centres at integers, so that borders lie at halves. A polygon of a mask encloses exactly
its pixels: same area, and filling it by pixel centres gives the mask again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
"""East, south, west, north: the directions along a border, the mask always on the right hand."""


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """One closed polygon per connected part of a mask.

    Pixels are connected through their sides. Holes are joined to the outline by a keyhole: a channel of no width that is
    walked in both directions, as DICOM's closed planar contours want it (PS3.3 C.8.8.6.3).

    Args:
        mask: ``(rows, columns)``.

    Returns:
        Corners ``(n, 2)`` of each polygon, the last one not repeating the first.
    """
    if not mask.any():
        return []
    top, left = (int(np.flatnonzero(mask.any(axis=a))[0]) for a in (1, 0))
    bottom, right = (int(np.flatnonzero(mask.any(axis=a))[-1]) + 1 for a in (1, 0))
    part = mask[top:bottom, left:right]
    width = part.shape[1] + 1
    loops = _loops(part)
    corners = [np.stack(np.divmod(loop, width), axis=1) for loop in loops]
    joined = _with_keyholes(loops, [_is_hole(c) for c in corners], width)
    offset = np.array([top - 0.5, left - 0.5])
    return [_without_straight(np.stack(np.divmod(np.array(loop), width), axis=1)) + offset for loop in joined]


def _loops(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The borders of a mask as closed walks over pixel corners, numbered along rows; clockwise, around holes the other way."""
    width = mask.shape[1] + 1
    around = np.pad(mask, 1)
    inside = around[1:-1, 1:-1]
    starts, directions = [], []
    for facing, (neighbour, shift) in enumerate(
        (
            (around[:-2, 1:-1], 0),  # the border above begins at the pixel's first corner
            (around[1:-1, 2:], 1),
            (around[2:, 1:-1], width + 1),
            (around[1:-1, :-2], width),
        )
    ):
        rows, columns = np.nonzero(inside & ~neighbour)
        starts.append(rows * width + columns + shift)
        directions.append(np.full(len(rows), facing))
    start, direction = np.concatenate(starts), np.concatenate(directions)
    edge_at = np.full((4, (mask.shape[0] + 1) * width), -1, np.int64)
    edge_at[direction, start] = np.arange(len(start))
    end = start + STEPS[direction] @ (width, 1)
    follower = edge_at[(direction + 1) % 4, end]  # right where two pixels touch at a corner, which keeps them apart
    for turn in (0, 3):
        follower = np.where(follower < 0, edge_at[(direction + turn) % 4, end], follower)
    follow, corner, seen = follower.tolist(), start.tolist(), bytearray(len(start))
    loops = []
    for first in range(len(follow)):
        if seen[first]:
            continue
        loop, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            loop.append(corner[edge])
            edge = follow[edge]
        loops.append(np.array(loop))
    return loops


def _is_hole(corners: NDArray[np.int64]) -> bool:
    rows, columns = corners.T
    return bool(np.sum(columns * np.roll(rows, -1) - np.roll(columns, -1) * rows) < 0)


def _with_keyholes(loops: list[NDArray[np.int64]], hole: list[bool], width: int) -> list[list[int]]:
    """Join each hole to what lies left of it: the outline, or a hole further left, which is joined already."""
    owner = {corner: index for index, loop in enumerate(loops) for corner in loop.tolist()}
    joined = [loop.tolist() for loop in loops]
    into = list(range(len(loops)))
    holes = [index for index, is_hole in enumerate(hole) if is_hole]
    firsts = {index: min(loops[index].tolist(), key=lambda corner: (corner % width, corner)) for index in holes}
    for index in sorted(holes, key=lambda i: firsts[i] % width):
        begin = firsts[index]
        anchor = begin - 1
        while anchor not in owner:
            anchor -= 1
        target = into[owner[anchor]]
        at, turn = joined[target].index(anchor), joined[index].index(begin)
        around = joined[index][turn:] + joined[index][:turn]
        joined[target][at : at + 1] = [anchor, *around, begin, anchor]
        into = [target if root == index else root for root in into]
    return [walk for index, walk in enumerate(joined) if into[index] == index]


def _without_straight(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Only the corners where the direction changes."""
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(axis=1) > 0)
    return corners[~straight]


def filled(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies inside an odd number of polygons: holes may be keyholes or polygons of their own.

    Args:
        polygons: corners ``(n, 2)`` of each, closed without repeating the first.
        shape: rows and columns.
    """
    rows, columns = shape
    crossed = np.zeros((rows, columns + 1), np.int64)
    for corners in polygons:
        a, b = corners, np.roll(corners, -1, axis=0)
        sloped = a[:, 0] != b[:, 0]
        a, b = a[sloped], b[sloped]
        first = np.clip(np.ceil(np.minimum(a[:, 0], b[:, 0])), 0, rows).astype(int)
        last = np.clip(np.ceil(np.maximum(a[:, 0], b[:, 0])), 0, rows).astype(int)
        count = last - first
        edge = np.repeat(np.arange(len(a)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        slope = (b[:, 1] - a[:, 1]) / (b[:, 0] - a[:, 0])
        column = a[edge, 1] + (row - a[edge, 0]) * slope[edge]
        np.add.at(crossed, (row, np.clip(np.ceil(column), 0, columns).astype(int)), 1)
    return np.cumsum(crossed[:, :-1], axis=1) % 2 == 1


def area(corners: NDArray[np.float64]) -> float:
    """What a polygon encloses, in pixels."""
    rows, columns = corners.T
    return float(abs(np.sum(columns * np.roll(rows, -1) - np.roll(columns, -1) * rows)) / 2)
