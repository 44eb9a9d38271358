"""Masks as polygons along the borders of their pixels, and back.

Coordinates are (row, column), pixel centres at integers, so that borders lie at halves. A polygon of a mask encloses exactly
its pixels: same area, and filling it by pixel centres gives the mask again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SOUTH = 1
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
    offset = np.array([top - 0.5, left - 0.5])
    walks = _walks(*_edges(part), width)
    return [_without_straight(np.stack(np.divmod(np.array(walk), width), axis=1)) + offset for walk in walks]


def _edges(mask: NDArray[np.bool_]) -> tuple[list[int], list[int], list[int]]:
    """The borders between the pixels of a mask and others: first corner (numbered along rows), direction, next border."""
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
    return start.tolist(), direction.tolist(), follower.tolist()


def _walks(start: list[int], direction: list[int], follow: list[int], width: int) -> list[list[int]]:
    """The corners of each closed walk along borders, after each hole was joined to what lies left of it.

    That is the outline, or another hole, which in turn is joined to what lies left of it.
    """
    outer: list[int] = []
    holes: list[int] = []
    seen = bytearray(len(follow))
    for first in range(len(follow)):
        if seen[first]:
            continue
        edge = leftmost = first
        while not seen[edge]:
            seen[edge] = 1
            if (start[edge] % width, start[edge]) < (start[leftmost] % width, start[leftmost]):
                leftmost = edge
            edge = follow[edge]
        (holes if direction[leftmost] == SOUTH else outer).append(leftmost)
    before = [0] * len(follow)
    for edge, following in enumerate(follow):
        before[following] = edge
    at = {corner: edge for edge, corner in enumerate(start)}
    for hole in holes:
        corner = start[hole] - 1
        while corner not in at:
            corner -= 1
        behind = at[corner]  # between it and the hole lie pixels of the mask alone, so that no other walk is here
        there, back = len(follow), len(follow) + 1
        start += [corner, start[hole]]
        follow += [hole, behind]
        follow[before[behind]], follow[before[hole]] = there, back
    return [list(_corners(first, start, follow)) for first in outer]


def _corners(first: int, start: list[int], follow: list[int]) -> Iterator[int]:
    edge = first
    while True:
        yield start[edge]
        edge = follow[edge]
        if edge == first:
            return


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
    if polygons:
        a = np.concatenate(polygons)
        ends = np.cumsum([len(corners) for corners in polygons])
        after = np.arange(1, len(a) + 1)
        after[ends - 1] = [0, *ends[:-1]]
        b = a[after]
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
