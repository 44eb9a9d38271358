"""From logits at the network's stride to labels or probabilities on the scan's own grid, in one step.

Along an axis, logits of stride s lie at network voxels ``s * c + (s - 1) / 2``; the scan's voxels lie on the network grid
through an ``AxisMap``. Both maps act on each axis alone, so one linear interpolation per axis leads from one to the other, slab
by slab, and logits at full resolution never exist as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg3d.inference.cells import AxisCells, decode_slab
from medseg3d.interpolation import SNAP, interpolate
from medseg3d.io.scratch import let_go
from medseg3d.networks.strides import per_axis
from medseg3d.preprocessing import NetworkGrid
from medseg3d.task import Task

SLAB_BYTES = 16 * 2**20
"""About how many bytes of logits are worked on at a time."""
EDGE = 0.5 + 1e-6
"""How far from the outermost network voxel a scan voxel may lie and still belong to the network grid."""


@dataclass(frozen=True)
class SourceSlab:
    """Logits around some slices of a scan.

    Args:
        axis: of the scan, along which the slices follow each other.
        place: of the slab in the scan's array.
        logits: ``(K, *n)``, axes along the scan's.
        coordinates: for each axis, where the slab's voxels lie on ``logits``.
    """

    axis: int
    place: tuple[slice, ...]
    logits: Tensor
    coordinates: tuple[NDArray[np.float64], ...]


def slab_axis(grid: NetworkGrid, axis: int) -> int:
    """The axis of the scan that runs along an axis of the network grid."""
    return grid.axis_map.axes[axis]


def source_slabs(
    rows: Iterable[Tensor], grid: NetworkGrid, stride: int | Sequence[int], axis: int = 0
) -> Iterator[SourceSlab]:
    """The slices of a scan, as soon as the logits around them are known.

    Args:
        rows: logits ``(K, n, *others)`` along an axis of the network grid, from its start to its end; ``axis`` first.
        grid: from ``Preprocessing.plan``.
        stride: of the logits, one or one per axis of the network grid; 1 for logits on the network grid.
        axis: of the network grid.
    """
    inverse = grid.axis_map.inverse()
    stride = per_axis(stride, len(grid.shape))
    along = slab_axis(grid, axis)
    others = [a for a in range(len(grid.shape)) if a != axis]
    # Rows have the network's axes with `axis` first; slabs have the scan's, each where its network axis is.
    order = [0, *(1 + [axis, *others].index(a) for a in inverse.axes)]
    coordinates, inside = _places(grid, stride)
    size = math.ceil(grid.shape[axis] / stride[axis])
    wanted = np.clip(coordinates[along], 0, size - 1)
    nearest = np.rint(wanted)
    wanted = np.where(np.abs(wanted - nearest) <= SNAP, nearest, wanted)
    falling = len(wanted) > 1 and wanted[0] > wanted[-1]
    held: Tensor | None = None
    behind = known = done = 0
    for part in rows:
        held = part if held is None else torch.cat([held, part], dim=1)
        known += part.shape[1]
        # In the network's order, slices that reach no further than the logits known.
        ready = int((np.ceil(wanted) <= known - 1).sum())
        if ready == done:
            continue
        slices = slice(len(wanted) - ready, len(wanted) - done) if falling else slice(done, ready)
        lowest = int(np.floor(wanted[slices]).min())
        held = held[:, lowest - behind :]
        behind = lowest
        place = list(inside)
        place[along] = slice(inside[along].start + slices.start, inside[along].start + slices.stop)
        local = list(coordinates)
        local[along] = wanted[slices] - behind
        yield SourceSlab(along, tuple(place), held.permute(order), tuple(local))
        done = ready


def label_array(grid: NetworkGrid, task: Task) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Background everywhere; ``paint_labels`` fills it slab by slab."""
    return np.zeros(grid.source.shape, dtype=written_values(task).dtype)


@torch.no_grad()
def paint_labels(out: NDArray[np.uint8] | NDArray[np.uint16], slab: SourceSlab, task: Task) -> None:
    """Decide the voxels of a slab: argmax, or for regions each logit above 0, painted in the order of ``task.painting``."""
    values = written_values(task)
    logits, coordinates = slab.logits[: task.out_channels], list(slab.coordinates)
    if task.regions:
        logits = logits[[label for label, _ in task.painting]]
    target = out[slab.place]
    # The slab's own axis first: slabs are cut along it once more, to what a processor's cache holds.
    logits, target = logits.movedim(slab.axis + 1, 1), np.moveaxis(target, slab.axis, 0)
    coordinates.insert(0, coordinates.pop(slab.axis))
    if len(coordinates) == 2:
        # An axis of one voxel in the middle.
        logits, target = logits[:, :, None], target[:, None]
        coordinates.insert(1, np.zeros(1))
    axes = [AxisCells(c, n) for c, n in zip(coordinates, logits.shape[1:], strict=True)]
    row_bytes = 4 * logits.shape[0] * math.prod(axis.cells + axis.corners - 1 for axis in axes[1:])
    rows = max(1, SLAB_BYTES // row_bytes)
    plain = np.array_equal(values, np.arange(len(values)))
    for first in range(0, axes[0].cells, rows):
        part = axes[0].part(first, min(first + rows, axes[0].cells))
        classes = decode_slab(logits, (part, *axes[1:]), regions=task.regions)
        target[part.voxels] = classes if plain else values[classes]


@torch.no_grad()
def interpolated(slab: SourceSlab, channels: slice = slice(None)) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """The logits at a slab's voxels, ``(K, *voxels)``, with their place in the scan, in pieces of a bounded size."""
    logits = slab.logits[channels]
    length = len(slab.coordinates[slab.axis])
    row_bytes = 4 * len(logits) * math.prod(len(c) for c in slab.coordinates) // length
    rows = max(1, SLAB_BYTES // row_bytes)
    for first in range(0, length, rows):
        coordinates, place = list(slab.coordinates), list(slab.place)
        coordinates[slab.axis] = coordinates[slab.axis][first : first + rows]
        start = place[slab.axis].start + first
        place[slab.axis] = slice(start, start + len(coordinates[slab.axis]))
        yield tuple(place), interpolate(logits, coordinates)


def decode_labels(
    coarse: Tensor, grid: NetworkGrid, stride: int | Sequence[int], task: Task
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Labels on the scan's grid.

    Equal to interpolating the logits to every voxel of the scan and deciding there (argmax, or for regions each logit above
    0, painted in the order of ``task.painting``), except for ties in rounding. Voxels outside the network grid are background.

    Args:
        coarse: logits ``(K, *ceil(grid.shape / stride))``, as ``sliding_logits`` gives.
        grid: from ``Preprocessing.plan``.
        stride: of the logits, one or one per axis; 1 for logits on the network grid.
        task: says what the logits mean and what values to write.

    Shape: ``grid.source.shape``; uint8, or uint16 where the task writes values above 255.
    """
    out = label_array(grid, task)
    for slab in _whole(coarse, grid, stride):
        paint_labels(out, slab, task)
    return out


def decode_probabilities(
    coarse: Tensor, grid: NetworkGrid, stride: int | Sequence[int], task: Task
) -> NDArray[np.float32]:
    """Probabilities on the scan's grid: softmax over the channels of ``coarse`` (background first), or a sigmoid each for regions.

    Voxels outside the network grid are background with probability 1.

    Args: as for ``decode_labels``.

    Shape: ``(K, *grid.source.shape)``.
    """
    out = probability_array(grid, task)
    for slab in _whole(coarse, grid, stride):
        paint_probabilities(out, slab, task)
    return out


def probability_array(grid: NetworkGrid, task: Task, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Background for sure wherever no slab comes, in ``out`` where it is given; ``paint_probabilities`` fills the rest."""
    shape = (task.out_channels, *grid.source.shape)
    given = out is not None
    if out is None:
        out = np.zeros(shape, dtype=np.float32)
    elif out.shape != shape:
        raise ValueError(f"an array of shape {out.shape} cannot take probabilities of shape {shape}")
    if all(
        part == slice(0, n) for part, n in zip(_places(grid, (1,) * len(grid.shape))[1], grid.source.shape, strict=True)
    ):
        return out  # slabs will cover all of it
    for k, channel in enumerate(out):
        surely = float(k == 0 and not task.regions)
        if given or surely:
            channel[...] = surely
            let_go(out)
    return out


def paint_probabilities(out: NDArray[np.float32], slab: SourceSlab, task: Task) -> None:
    """Write the probabilities of a slab's voxels into ``(K, *scan)``, which may be a file mapped into memory."""
    for place, logits in interpolated(slab, slice(task.out_channels)):
        values = torch.sigmoid(logits) if task.regions else torch.softmax(logits, dim=0)
        out[(slice(None), *place)] = values.cpu().numpy()
        let_go(out)


@torch.no_grad()
def full_logits(coarse: Tensor, shape: Sequence[int], stride: int | Sequence[int]) -> Tensor:
    """Logits on the whole network grid, ``(K, *shape)``: the same as ``F.interpolate(align_corners=False)``, cut to ``shape``."""
    coordinates = [(np.arange(n) - (s - 1) / 2) / s for n, s in zip(shape, per_axis(stride, len(shape)), strict=True)]
    return interpolate(coarse.float(), coordinates).contiguous()


def restore_labels(dense: Tensor, grid: NetworkGrid, task: Task) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Labels on the scan's grid from logits ``(K, *grid.shape)`` on the whole network grid: the way of ``--dense``."""
    return decode_labels(dense, grid, 1, task)


@torch.no_grad()
def restore_logits(dense: Tensor, grid: NetworkGrid) -> NDArray[np.float32]:
    """Logits ``(K, *grid.source.shape)`` on the scan's grid from those on the network grid, clamped beyond its border."""
    inverse = grid.axis_map.inverse()
    logits = dense.float().permute(0, *(1 + a for a in inverse.axes))
    return interpolate(logits, grid.network_coordinates()).contiguous().cpu().numpy()


def written_values(task: Task) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The value a label map gets for background (first) and each label: in painting order for regions, else in the task's."""
    values = [0, *(task.write.values() if task.regions else (task.write[name] for name in task.labels))]
    return np.array(values, np.uint8) if max(values) <= 255 else np.array(values, np.uint16)


def _whole(coarse: Tensor, grid: NetworkGrid, stride: int | Sequence[int]) -> Iterator[SourceSlab]:
    """All of a map of logits as slabs along the scan's first axis."""
    axis = grid.axis_map.inverse().axes[0]
    return source_slabs([coarse.float().movedim(axis + 1, 1)], grid, stride, axis)


def _places(grid: NetworkGrid, stride: Sequence[int]) -> tuple[list[NDArray[np.float64]], list[slice]]:
    """For each axis of the scan, where its voxels inside the network grid lie on the logits, and which those are."""
    coordinates, inside = [], []
    for axis, network in zip(grid.axis_map.inverse().axes, grid.network_coordinates(), strict=True):
        within = np.flatnonzero((network >= -EDGE) & (network <= grid.shape[axis] - 1 + EDGE))
        part = slice(int(within[0]), int(within[-1]) + 1)
        coordinates.append((network[part] - (stride[axis] - 1) / 2) / stride[axis])
        inside.append(part)
    return coordinates, inside
