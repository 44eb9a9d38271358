"""Where a prediction is most wrong: the point that the three planes go through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BLOCK_VOXELS = 2_000_000
"""Boxes with more voxels are searched in blocks: the point is found to a voxel or two, in a second at most."""


@dataclass(frozen=True)
class Focus:
    """The largest error of a case.

    Args:
        label: the label that has it.
        point: voxel ``(x, y, z)``.
        status: ``ok``, ``miss``, ``fp``, ``tn`` as in the table; ``equal`` where there is no error.
        box: around reference and prediction of the label, first and behind the last voxel of each axis.
    """

    label: str
    point: tuple[int, ...]
    status: str
    box: tuple[tuple[int, int], ...]


def find_focus(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    labels: Mapping[str, Sequence[int]],
    spacing_mm: Sequence[float],
    rows: Sequence[Mapping[str, Any]] = (),
) -> Focus:
    """Find the error voxel that lies farthest from the other mask, in the label with the largest distance.

    Args:
        reference: label values ``(x, y, z)``.
        prediction: label values on the same grid.
        labels: ``name: values``.
        spacing_mm: of the voxels.
        rows: this case's rows of the table, which say which label is worst; without them the one with most wrong voxels.
    """
    label = _worst_label(rows, labels) or max(labels, key=lambda name: _wrong(reference, prediction, labels[name]))
    masks = [np.isin(data, labels[label]) for data in (reference, prediction)]
    boxes = [ndimage.find_objects(mask.view(np.uint8))[0] for mask in masks if mask.any()]
    if not boxes:
        middle = tuple(n // 2 for n in reference.shape)
        return Focus(label, middle, "tn", tuple((0, n) for n in reference.shape))
    box = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))
    first, second = (mask[box] for mask in masks)
    status = "ok" if len(boxes) == 2 else "miss" if first.any() else "fp"
    if status == "ok" and (first == second).all():
        status = "equal"
    point = _farthest(first, second, spacing_mm)
    return Focus(
        label,
        tuple(int(p) + s.start for p, s in zip(point, box, strict=True)),
        status,
        tuple((s.start, s.stop) for s in box),
    )


def _worst_label(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, Sequence[int]]) -> str | None:
    def badness(row: Mapping[str, Any]) -> tuple[float, float]:
        distance, dice = distance_of(row), row.get("dice", math.nan)
        distance = math.inf if row.get("status") in ("miss", "fp") else distance
        return (-1.0 if math.isnan(distance) else distance, -1.0 if math.isnan(dice) else 1 - dice)

    known = [row for row in rows if row.get("label") in labels and row.get("status") != "tn"]
    return str(max(known, key=badness)["label"]) if known else None


def distance_of(row: Mapping[str, Any]) -> float:
    """The row's full Hausdorff distance, else any percentile of it, in mm; NaN without one."""
    keys = [k for k in row if k.startswith("hd") and k.endswith("_mm")]
    for key in sorted(keys, key=lambda k: k != "hd_mm"):
        if isinstance(row[key], (int, float)):
            return float(row[key])
    return math.nan


def _wrong(reference: NDArray[Any], prediction: NDArray[Any], values: Sequence[int]) -> int:
    return int((np.isin(reference, values) != np.isin(prediction, values)).sum())


def _farthest(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """The voxel of one mask farthest from the other; of a lone mask (or of equal ones) its deepest voxel."""
    step = [1] * first.ndim
    while math.prod(n / s for n, s in zip(first.shape, step, strict=True)) > BLOCK_VOXELS:
        axis = int(
            np.argmin([s * w if n > s else math.inf for n, s, w in zip(first.shape, step, spacing_mm, strict=True)])
        )
        step[axis] *= 2
    a, b = (_blocks(mask, step) for mask in (first, second))
    size = [s * w for s, w in zip(step, spacing_mm, strict=True)]
    if not a.any() or not b.any() or (first == second).all():
        depth = ndimage.distance_transform_edt(np.pad(a | b, 1), sampling=size)[(slice(1, -1),) * a.ndim]
        wanted = first | second
    else:
        depth = np.maximum(
            np.where(a, ndimage.distance_transform_edt(~b, sampling=size), 0),
            np.where(b, ndimage.distance_transform_edt(~a, sampling=size), 0),
        )
        wanted = first != second
    order = np.argsort(-depth, axis=None, kind="stable")
    for flat in order:  # the first block that holds a wanted voxel; nearly always the very first
        block = np.unravel_index(int(flat), depth.shape)
        cells = tuple(slice(int(i) * s, (int(i) + 1) * s) for i, s in zip(block, step, strict=True))
        found = np.argwhere(wanted[cells])
        if len(found):
            return tuple(int(f + c.start) for f, c in zip(found[len(found) // 2], cells, strict=True))
    return tuple(n // 2 for n in first.shape)


def _blocks(mask: NDArray[np.bool_], step: Sequence[int]) -> NDArray[np.bool_]:
    """Whether any voxel of each block is set."""
    for axis, s in enumerate(step):
        if s > 1:
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], s), axis=axis)
    return mask
