"""The surface of a mask in thick slices without their terraces: an elastic net, whose nodes may move within their cells.

After Gibson, Constrained elastic surface nets, MICCAI 1998. One node lies in each cell of 2 x 2 x 2 voxels that the surface
passes, tied to those in the cells beside it that share a face the surface cuts. Along each axis on which voxels are long, each
node is drawn to the mean of its neighbours but kept in its cell: no voxel centre changes sides, and a terrace becomes the
slope that it stands for. Where the nodes come to rest is then rounded to parts of a voxel at most twice as long as the finest.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from medseg3d.metrics.lattice import Flat, Floats, Indices, Lattice

RELAXATION = (8, 0.55, 0.6, 3, 0.6)
"""How far, in each step, a node goes towards the mean of its neighbours. Long steps carry far across a wide terrace, the short
ones after them take out what they leave rough; together they do the work of some 20 steps of 1."""


def refined(lattice: Lattice) -> Lattice | None:
    """The lattice whose voxels are at most twice as long as the finest; None where they already are."""
    parts = _parts(lattice)
    if max(parts) == 1:
        return None
    size = [(n - r) * p + 2 for n, r, p in zip(lattice.shape, lattice.reach, parts, strict=True)]
    return Lattice.around(size, lattice.spacing_mm / parts)


def nodes(found: Indices, codes: Flat, lattice: Lattice, fine: Lattice) -> Indices:
    """Where the nodes of a mask's net come to rest: flat places of the refined lattice, in the order of ``found``.

    Args:
        found: flat places of the cells that the surface passes, ascending (``lattice.corners``).
        codes: of their neighbourhoods.
        lattice: that they lie on.
        fine: ``refined(lattice)``.
    """
    tables = _tables(len(lattice.shape))
    mean_of = _means(found, codes, lattice, tables)
    places = lattice.places(found)
    flat = np.zeros(found.size, dtype=np.intp)
    for axis, parts in enumerate(_parts(lattice)):
        moved = places[:, axis] * parts + parts // 2
        if parts > 1:
            offset = tables.start[axis].take(codes)  # from the cell's middle, in voxels
            drift = tables.drift[axis].take(codes)
            for step in RELAXATION:
                way = mean_of @ offset
                way += drift
                way -= offset
                way *= step
                offset += way
                np.clip(offset, -0.5, 0.5, out=offset)
            moved += np.rint(offset * parts * (1 - 1e-9)).astype(np.intp)  # halves go inwards, whatever the last bit
        flat += moved * fine.steps[axis]
    return flat


def _parts(lattice: Lattice) -> list[int]:
    """Into how many parts a voxel is cut along each axis, so that none is longer than twice the finest spacing."""
    return [max(1, math.ceil(s / (2 * lattice.spacing_mm.min()) - 1e-6)) for s in lattice.spacing_mm]


def _means(found: Indices, codes: Flat, lattice: Lattice, tables: _Tables) -> csr_matrix:
    """The matrix that takes the mean over each node's neighbours."""
    index = np.empty(int(np.prod(lattice.shape)), dtype=np.int32)  # read only where it is written
    index[found] = np.arange(found.size, dtype=np.int32)
    starts = np.zeros(found.size + 1, dtype=np.int32)
    number = tables.number.take(codes)
    np.cumsum(number, out=starts[1:])
    neighbours = np.empty(starts[-1], dtype=np.int32)
    for axis, step in enumerate(lattice.steps):
        here = np.flatnonzero(tables.cut[axis].take(codes)).astype(np.int32)
        there = index[found[here] + step]
        neighbours[starts[here] + tables.rank[axis, 1].take(codes[here])] = there
        neighbours[starts[there] + tables.rank[axis, 0].take(codes[there])] = here
    return csr_matrix((np.repeat(1 / number, number), neighbours, starts), (found.size, found.size))


class _Tables(NamedTuple):
    """What a code says about its cell's node.

    Args:
        start: mean of the cuts on the cell's edges, from the cell's middle, ``(axes, codes)``.
        cut: whether the face at the far end of an axis is cut, so that the node is tied to the next cell's, ``(axes, codes)``.
        number: of the faces that are cut.
        drift: mean of the steps to the cells that the node is tied to, ``(axes, codes)``.
        rank: of a face among those that are cut, ``(axes, near or far, codes)``.
    """

    start: Floats
    cut: NDArray[np.bool_]
    number: NDArray[np.int32]
    drift: Floats
    rank: NDArray[np.int32]


@cache
def _tables(spatial_dims: int) -> _Tables:
    corners = [c[::-1] for c in product((0, 1), repeat=spatial_dims)]
    codes = np.arange(2 ** len(corners))
    inside = np.array([codes >> bit & 1 for bit in range(len(corners))])
    start = np.zeros((spatial_dims, len(codes)))
    edges = [
        (i, j) for i, c in enumerate(corners) for j, d in enumerate(corners[:i]) if np.abs(np.subtract(c, d)).sum() == 1
    ]
    for code in codes[1:-1]:
        middles = [np.add(corners[i], corners[j]) / 2 - 0.5 for i, j in edges if inside[i, code] != inside[j, code]]
        start[:, code] = np.mean(middles, axis=0)
    on_face = np.array([[[c[a] == side for c in corners] for side in (0, 1)] for a in range(spatial_dims)])
    within = on_face.astype(int) @ inside
    cut = (within > 0) & (within < on_face.sum(axis=2, keepdims=True))
    flat = cut.reshape(-1, len(codes))
    number = np.maximum(flat.sum(axis=0), 1).astype(np.int32)
    rank = (np.cumsum(flat, axis=0) - flat).reshape(cut.shape).astype(np.int32)
    return _Tables(start, cut[:, 1].copy(), number, (cut[:, 1].astype(float) - cut[:, 0]) / number, rank)
