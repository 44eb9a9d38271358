"""Deciding cell by cell: interpolation only where the corners of a cell of logits disagree.

Linear interpolation along every axis is a convex combination of a cell's corners. Where one class is largest at all of
them it is largest everywhere between, so that cell needs no interpolation; and in the others most classes can be ruled out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg3d.interpolation import SNAP

BLOCK_VOXELS = 2**21
"""Voxels interpolated at a time."""
FEW = (2, 3, 4, 8, 16)
"""Cells are sorted by how many classes can win in them; so many at most share a pass."""


class AxisCells:
    """How the voxels along one axis of the scan fall into the cells between neighbouring logits.

    Cell ``j`` lies between logits ``j - 1`` and ``j``; the outermost logits count twice, which clamps. Every cell is laid out
    with room for ``width`` voxels.

    Args:
        coordinates: of the voxels on the axis of logits, evenly spaced, within half a logit of its ends.
        size: number of logits.

    Attributes:
        corners: 2, or 1 where every voxel lies on a logit.
        cells: number of cells.
        sources: index of the logit at each corner position, ``cells + corners - 1`` of them.
        width: the most voxels of one cell.
        weights: of the upper corner for each voxel of each cell, ``(cells, width)``.
        places: position of each voxel in the layout.
        voxels: which voxels these are.
    """

    def __init__(self, coordinates: NDArray[np.float64], size: int) -> None:
        falling = len(coordinates) > 1 and coordinates[0] > coordinates[-1]
        logits = np.arange(size)
        if falling:
            coordinates, logits = size - 1 - coordinates, logits[::-1]
        nearest = np.rint(coordinates)
        coordinates = np.clip(np.where(np.abs(coordinates - nearest) <= SNAP, nearest, coordinates), -1, size - 1)
        low = np.floor(coordinates).astype(np.int64)
        first = int(low.min())
        self.corners = 1 if (coordinates == low).all() else 2
        self.cells = int(low.max()) - first + 1
        self.sources = logits[np.clip(np.arange(first, first + self.cells + self.corners - 1), 0, size - 1)]
        cell = low - first
        begins = np.searchsorted(cell, np.arange(self.cells + 1))
        self._begins = begins
        self.width = int(np.diff(begins).max())
        rank = np.arange(len(cell)) - begins[cell]
        self.weights = np.zeros((self.cells, self.width), dtype=np.float32)
        self.weights[cell, rank] = coordinates - low
        self.places = cell * self.width + rank
        self.voxels = slice(0, len(cell))

    def part(self, first: int, last: int) -> AxisCells:
        """Cells ``first`` to ``last - 1`` alone."""
        out = object.__new__(AxisCells)
        out.corners, out.width, out.cells = self.corners, self.width, last - first
        out.sources = self.sources[first : last + self.corners - 1]
        out.weights = self.weights[first:last]
        out.voxels = slice(int(self._begins[first]), int(self._begins[last]))
        out.places = self.places[out.voxels] - first * self.width
        out._begins = self._begins[first : last + 1]
        return out

    def taken(self, laid_out: Tensor, axis: int) -> Tensor:
        """The voxels of an array of all places; a view where they follow one another."""
        first = int(self.places[0]) if len(self.places) else 0
        if not len(self.places) or int(self.places[-1]) - first + 1 == len(self.places):
            return laid_out.narrow(axis, first, len(self.places))
        return laid_out.index_select(axis, torch.from_numpy(self.places).to(laid_out.device))


def decode_slab(logits: Tensor, axes: Sequence[AxisCells], *, regions: bool) -> NDArray[np.integer]:
    """Classes of the voxels in a slab of cells.

    Args:
        logits: ``(K, n0, n1, n2)``, axes along the scan's.
        axes: the cells along each axis.
        regions: whether each logit above 0 is painted (as 1 + its index, later over earlier) or the largest decides.

    Shape: voxels of the slab, ``(v0, v1, v2)``; uint8, or int16 for more than 255 classes.
    """
    corner_logits = logits
    for axis, cells in enumerate(axes, start=1):
        corner_logits = corner_logits.index_select(axis, torch.from_numpy(cells.sources.copy()).to(logits.device))
    decided = _paint(corner_logits) if regions else _largest(corner_logits)
    low = high = decided
    for axis, cells in enumerate(axes):
        if cells.corners == 2:
            below, above = slice(None, -1), slice(1, None)
            at = (slice(None),) * axis
            low = torch.minimum(low[(*at, below)], low[(*at, above)])
            high = torch.maximum(high[(*at, below)], high[(*at, above)])
    cell_shape = tuple(cells.cells for cells in axes)
    width = tuple(cells.width for cells in axes)
    blocks = low.reshape(*cell_shape, 1, 1, 1).expand(*cell_shape, *width).contiguous().view(-1, *width)
    mixed = torch.nonzero(low != high)
    if len(mixed):
        _interpolate_cells(blocks, mixed, corner_logits.permute(1, 2, 3, 0).contiguous(), decided, axes, regions)
    laid_out = blocks.view(*cell_shape, *width).permute(0, 3, 1, 4, 2, 5)
    out = laid_out.reshape([c * w for c, w in zip(cell_shape, width, strict=True)])
    for axis, cells in enumerate(axes):
        out = cells.taken(out, axis)
    return out.cpu().numpy()


def _class_type(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 255 else torch.int16


def _largest(logits: Tensor) -> Tensor:
    """Index of the largest along axis 0, the first of equals. A running maximum: several times faster than ``argmax``."""
    best = logits[0].clone()
    out = torch.zeros(best.shape, dtype=_class_type(len(logits)), device=logits.device)
    for k in range(1, len(logits)):
        out.masked_fill_(logits[k] > best, k)
        torch.maximum(best, logits[k], out=best)
    return out


def _paint(logits: Tensor) -> Tensor:
    """1 + the last index along axis 0 whose logit is above 0, or 0."""
    out = torch.zeros(logits.shape[1:], dtype=_class_type(len(logits)), device=logits.device)
    for k in range(len(logits)):
        out.masked_fill_(logits[k] > 0, k + 1)
    return out


def _interpolate_cells(
    blocks: Tensor, mixed: Tensor, logits: Tensor, decided: Tensor, axes: Sequence[AxisCells], regions: bool
) -> None:
    """Decide the voxels of the ``mixed`` cells (their indices, ``(M, 3)``) and put them into ``blocks``.

    Args:
        blocks: ``(cells, *width)``.
        mixed: indices of the cells whose corners disagree.
        logits: at the corner positions, ``(*positions, K)``.
        decided: class at the corner positions.
    """
    positions, device = logits.shape[:3], logits.device
    steps = torch.tensor([positions[1] * positions[2], positions[2], 1], device=device)
    around = torch.tensor(list(itertools.product(*(range(a.corners) for a in axes))), device=device)
    cell_steps = torch.tensor([axes[1].cells * axes[2].cells, axes[2].cells, 1], device=device)
    weights = [torch.from_numpy(a.weights).to(device) for a in axes]
    corner_shape = [a.corners for a in axes]
    per_block = max(1, BLOCK_VOXELS // (blocks[0].numel() * 2))
    flat_logits, flat_decided = logits.view(-1, logits.shape[-1]), decided.reshape(-1)
    for cells in mixed.split(per_block):
        corner = (cells @ steps)[:, None] + around @ steps
        values = flat_logits[corner]
        place = cells @ cell_steps
        axis_weights = [w[cells[:, a]] for a, w in enumerate(weights)]
        if regions:
            decide_regions(blocks, place, values, corner_shape, axis_weights)
        else:
            decide_classes(blocks, place, values, flat_decided[corner].long(), corner_shape, axis_weights)


def decide_regions(
    blocks: Tensor, place: Tensor, values: Tensor, corner_shape: Sequence[int], weights: Sequence[Tensor]
) -> None:
    """Paint the regions whose interpolated logits, ``values`` ``(M, corners, K)``, are above 0."""
    out = torch.zeros((len(place), *blocks.shape[1:]), dtype=blocks.dtype, device=blocks.device)
    for k in range(values.shape[2]):
        out.masked_fill_(_spread(values[:, :, k], corner_shape, weights) > 0, k + 1)
    blocks[place] = out


def decide_classes(
    blocks: Tensor,
    place: Tensor,
    values: Tensor,
    winners: Tensor,
    corner_shape: Sequence[int],
    weights: Sequence[Tensor],
) -> None:
    """Decide between the classes that can win somewhere in each cell.

    A class below the mean of the corners' winners at every corner is below that mean everywhere in the cell (both
    are interpolated linearly), hence below the best of them: it cannot win.
    """
    won = torch.zeros((len(place), values.shape[2]), device=values.device).scatter_(1, winners, 1.0)
    mean = torch.bmm(values, won[:, :, None]) / won.sum(1)[:, None, None]
    possible = ((values >= mean).any(1)) | (won > 0)
    count = possible.sum(1)
    # Possible classes first, in their own order, so that of equals the first wins as in argmax.
    order = torch.argsort(possible.to(torch.uint8), dim=1, descending=True, stable=True)
    least = 0
    for most in sorted({min(f, values.shape[2]) for f in (*FEW, values.shape[2])}):
        chosen = torch.nonzero((count > least) & (count <= most))[:, 0]
        least = most
        if not len(chosen):
            continue
        classes = order[chosen, :most]
        few = values[chosen].gather(2, classes[:, None].expand(-1, values.shape[1], -1))
        w = [a[chosen] for a in weights]
        best = _spread(few[:, :, 0], corner_shape, w)
        out = classes[:, 0].to(blocks.dtype)[:, None, None, None].expand(best.shape).contiguous()
        for k in range(1, most):
            other = _spread(few[:, :, k], corner_shape, w)
            named = classes[:, k].to(blocks.dtype)[:, None, None, None]
            out = torch.where(other > best, named, out)
            best = torch.maximum(best, other)
        blocks[place[chosen]] = out


def _spread(values: Tensor, corner_shape: Sequence[int], weights: Sequence[Tensor]) -> Tensor:
    """Interpolate corner values ``(M, corners)`` to the voxels of their cells, ``(M, w0, w1, w2)``."""
    out = values.reshape(-1, *corner_shape)
    for axis in (3, 2, 1):
        if corner_shape[axis - 1] == 2:
            low, high = out.split(1, dim=axis)
            shape = [len(values), 1, 1, 1]
            shape[axis] = -1
            out = torch.lerp(low, high, weights[axis - 1].reshape(shape))
    return out
