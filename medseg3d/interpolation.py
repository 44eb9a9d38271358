"""Linear interpolation between grids whose axes run along each other: the only one of the package."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SNAP = 1e-4
"""Coordinates this close to an integer (in voxels) are that integer: float32 headers are no more exact than that."""
TIE = 1e-5
"""Shares this close are equal, so that rounding, which depends on the order of the axes, decides nothing."""
GATHER_COST = 8


@torch.no_grad()
def interpolate(data: Tensor, coordinates: Sequence[Tensor | NDArray[np.float64]]) -> Tensor:
    """Linear interpolation on a separable grid: the one interpolation of the package.

    Coordinates beyond the border take the border's value. Those within ``SNAP`` of an integer give the voxel's value
    exactly, and an axis whose coordinates are 0, 1, 2, .. is not touched (the result may share memory with ``data``).

    Args:
        data: ``(C, *source)``, floating point.
        coordinates: for each source axis, where to sample it, in voxels.

    Shape: ``(C, *[len(c) for c in coordinates])``, in the memory order of ``data``.
    """
    if len(coordinates) != data.ndim - 1:
        raise ValueError(f"{len(coordinates)} lists of coordinates for {data.ndim - 1} axes; give one per axis")
    spatial = range(1, data.ndim)
    # Working in memory order keeps the rows that are combined contiguous, whatever order the file had.
    order = [0, *sorted(spatial, key=data.stride, reverse=True)]
    wanted = {order.index(a): positions(_as_array(coordinates[a - 1]), data.shape[a]) for a in spatial}
    data = data.permute(order)
    sizes = {a: len(low) for a, (low, _) in wanted.items()}
    for axis in min(itertools.permutations(wanted), key=lambda axes: _cost(data.shape, axes, sizes)):
        low, weight = wanted[axis]
        first, last = int(low.min()), min(int(low.max()) + 1, data.shape[axis] - 1)
        data = _interpolate_axis(data.narrow(axis, first, last - first + 1), axis, low - first, weight)
    return data.permute([order.index(a) for a in range(data.ndim)])


def _cost(shape: Sequence[int], axes: Sequence[int], sizes: Mapping[int, int]) -> int:
    """Relative time of interpolating ``axes`` in this order; neighbours along the last axis are gathered one by one."""
    shape, cost = list(shape), 0
    for axis in axes:
        shape[axis] = sizes[axis]
        cost += math.prod(shape) * (GATHER_COST if axis == len(shape) - 1 else 1)
    return cost


def _as_array(values: Tensor | NDArray[np.float64]) -> NDArray[np.float64]:
    return values.detach().cpu().numpy().astype(np.float64) if isinstance(values, Tensor) else values


def positions(coordinates: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lower neighbour of each coordinate, and the weight of the one above it."""
    c = np.clip(coordinates, 0, size - 1)
    nearest = np.rint(c)
    c = np.where(np.abs(c - nearest) <= SNAP, nearest, c)
    low = np.minimum(np.floor(c), max(size - 2, 0)).astype(np.int64)
    return low, c - low


def _interpolate_axis(data: Tensor, axis: int, low: NDArray[np.int64], weight: NDArray[np.float64]) -> Tensor:
    last = data.shape[axis] - 1
    if np.isin(weight, (0.0, 1.0)).all():
        index = low + weight.astype(np.int64)
        if np.array_equal(index, np.arange(index[0], index[0] + len(index))):
            return data.narrow(axis, int(index[0]), len(index))
        if np.array_equal(index, np.arange(index[0], index[0] - len(index), -1)):
            return data.narrow(axis, int(index[-1]), len(index)).flip(axis)
        return data.index_select(axis, torch.from_numpy(index).to(data.device))
    if axis == data.ndim - 1 or data.is_cuda:
        below = torch.from_numpy(low).to(data.device)
        w = torch.from_numpy(weight).to(data).reshape([-1 if a == axis else 1 for a in range(data.ndim)])
        return torch.lerp(data.index_select(axis, below), data.index_select(axis, (below + 1).clamp_(max=last)), w)
    out = data.new_empty([*data.shape[:axis], len(low), *data.shape[axis + 1 :]])
    # Slice by slice: no gathered copies, four times faster than index_select over the whole axis.
    for i, (below, w) in enumerate(zip(low.tolist(), weight.tolist(), strict=True)):
        torch.lerp(data.select(axis, below), data.select(axis, min(below + 1, last)), w, out=out.select(axis, i))
    return out


def largest_mask(data: NDArray[Any], coordinates: Sequence[NDArray[np.float64]]) -> NDArray[Any]:
    """The argmax of the linearly interpolated masks of all values.

    One value's mask is held at a time, and only where that value can be. Of equal masks 0 wins, then the lowest value.

    Args:
        data: label map of unsigned integers.
        coordinates: as for ``interpolate``.
    """
    from scipy import ndimage  # half a second that prediction does not need

    shape = tuple(len(c) for c in coordinates)
    out = np.zeros(shape, dtype=data.dtype)
    best = torch.zeros(shape)
    total = torch.zeros(shape)
    result = torch.from_numpy(out.view(f"i{data.dtype.itemsize}"))
    for value, box in enumerate(ndimage.find_objects(data), start=1):
        if box is None:
            continue
        near = [(s.start - 1 < c) & (c < s.stop) for c, s in zip(_clamped(coordinates, data.shape), box, strict=True)]
        if not all(n.any() for n in near):
            continue
        target = tuple(slice(int(i[0]), int(i[-1]) + 1) for i in map(np.flatnonzero, near))
        around = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        mask = torch.from_numpy((data[around] == value).astype(np.float32))
        local = [c[t] - s.start for c, t, s in zip(coordinates, target, around, strict=True)]
        share = interpolate(mask[None], local)[0]
        larger = share > best[target] + TIE
        best[target] = torch.maximum(best[target], share)
        total[target] += share
        stored = int(np.array(value, dtype=data.dtype).view(f"i{data.dtype.itemsize}"))
        result[target].masked_fill_(larger, stored)
    # What no value claims is background's share.
    result.masked_fill_(1 - total >= best - TIE, 0)
    return out


def _clamped(coordinates: Sequence[NDArray[np.float64]], shape: Sequence[int]) -> list[NDArray[np.float64]]:
    return [np.clip(c, 0, n - 1) for c, n in zip(coordinates, shape, strict=True)]
