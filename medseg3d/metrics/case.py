"""All metrics of all labels of one case, from two label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.metrics.lattice import bounding_box
from medseg3d.metrics.lesions import LesionRule, lesion_scores
from medseg3d.metrics.overlap import Empty, Overlap
from medseg3d.metrics.surface import DEFINITION_VERSION, Definition, surface_distances

SLAB_VOXELS = 2**22
"""Voxels whose pairs of values are counted at a time; keeps the memory small on large volumes."""


def percentile_name(percentile: float) -> str:
    """The name of a Hausdorff percentile's column, with its unit: ``hd95_mm``."""
    return f"hd{percentile:g}_mm"


def measure_case(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    labels: Mapping[str, Sequence[int]],
    spacing_mm: Sequence[float],
    *,
    definition: Definition = "surface",
    percentile: float = 95,
    tolerance_mm: float | None = None,
    empty: Empty = "nan",
    lesions: LesionRule | None = None,
) -> list[dict[str, Any]]:
    """Score every label of a case; the volume is read once, then each label only in the box around it.

    Args:
        reference: label map ``(*spatial)`` of integers, 2D or 3D; values that no label names are background.
        prediction: label map on the same grid.
        labels: ``name: values``; labels may share values (regions).
        spacing_mm: distance of neighbouring voxel centres along each array axis.
        definition: of the surface metrics, one of ``medseg3d.metrics.DEFINITIONS``.
        percentile: of the Hausdorff distance; names its column.
        tolerance_mm: of the normalised surface Dice, which is NaN without it.
        empty: ``nan`` or ``one``: what Dice, IoU and NSD are where both masks are empty.
        lesions: score lesion by lesion, too, by this rule, with ``percentile``; images and single slices by their area.

    Returns:
        One row per label: ``label``, ``status``, ``dice``, ``iou``, ``sensitivity``, ``specificity``, ``precision``,
        ``hd95_mm``, ``hd_mm``, ``assd_mm``, ``masd_mm``, ``nsd``, ``tolerance_mm``, ``volume_reference_ml`` and
        ``volume_prediction_ml`` (NaN in 2D), ``relative_volume_difference``, ``definition``, ``definition_version`` and
        ``surface_dims``: 2 for images and for volumes of a single slice, whose contour is measured instead of its two faces;
        ``tp``, ``fp``, ``fn``, ``tn``: voxels in both, in the prediction alone, in the reference alone, in neither.
        With ``lesions`` also ``n_lesions``, ``n_lesions_found``, ``n_lesions_false``, ``lesion_dice``, ``lesion_hd95_mm`` and
        ``lesion_f1`` (``medseg3d.metrics.LesionScores``).

    Raises:
        ValueError: arrays that are no label maps or differ in shape, and as ``surface_distances`` does.
    """
    reference, prediction = _label_map(reference, "reference"), _label_map(prediction, "prediction")
    if reference.shape != prediction.shape:
        raise ValueError(
            f"reference of shape {reference.shape}, prediction of shape {prediction.shape}; bring both to one grid first"
        )
    if len(spacing_mm) != reference.ndim:
        raise ValueError(f"spacing_mm {spacing_mm} must be {reference.ndim} numbers, one for each array axis")
    values = sorted({value for ids in labels.values() for value in ids})
    index_of = {value: i for i, value in enumerate(values, start=1)}
    if reference.strides[0] < reference.strides[-1]:  # first axis fastest, as NIfTI lies in memory; no metric minds
        reference, prediction, spacing_mm = reference.T, prediction.T, tuple(spacing_mm)[::-1]
    box = _union(found for found in (bounding_box(reference), bounding_box(prediction)) if found)
    a, b = _indices(reference[box], index_of), _indices(prediction[box], index_of)
    pairs = _count_pairs(a, b, len(values) + 1)
    pairs[0, 0] += reference.size - a.size
    boxes = [ndimage.find_objects(x, max_label=len(values)) for x in (a, b)]
    axes = _surface_axes(reference.shape)
    rows = []
    for name, ids in labels.items():
        member = np.zeros(len(values) + 1, dtype=bool)
        member[[index_of[value] for value in ids]] = True
        tp, fn, fp, tn = (int(pairs[r][:, p].sum()) for r in (member, ~member) for p in (member, ~member))
        counts = Overlap(tp, fp, fn, tn, empty)
        volumes = counts.volumes_ml(spacing_mm) if reference.ndim == 3 else (float("nan"), float("nan"))
        box = _union(box for these in boxes for box, inside in zip(these, member[1:], strict=True) if inside and box)
        masks = [_members(x[box], member) if box else np.zeros((1,) * a.ndim, dtype=bool) for x in (a, b)]
        flat = [mask.reshape([mask.shape[i] for i in axes]) for mask in masks]
        flat_spacing = [spacing_mm[i] for i in axes]
        surfaces = surface_distances(flat[0], flat[1], flat_spacing, definition=definition)
        nsd = float("nan")
        if tolerance_mm is not None:
            nsd = 1.0 if counts.status == "tn" and empty == "one" else surfaces.nsd(tolerance_mm)
        row = {
            "label": name,
            "status": counts.status,
            "dice": counts.dice,
            "iou": counts.iou,
            "sensitivity": counts.sensitivity,
            "specificity": counts.specificity,
            "precision": counts.precision,
            percentile_name(percentile): surfaces.hausdorff(percentile),
            "hd_mm": surfaces.hausdorff(),
            "assd_mm": surfaces.assd(),
            "masd_mm": surfaces.masd(),
            "nsd": nsd,
            "tolerance_mm": tolerance_mm,
            "volume_reference_ml": volumes[0],
            "volume_prediction_ml": volumes[1],
            "relative_volume_difference": counts.relative_volume_difference,
            "definition": definition,
            "definition_version": DEFINITION_VERSION,
            "surface_dims": len(axes),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "tn": tn,
        }
        if lesions is not None:
            rule = replace(lesions, percentile=percentile)
            found = lesion_scores(flat[0], flat[1], flat_spacing, rule=rule, definition=definition, empty=empty)
            row |= {
                "n_lesions": len(found.lesions),
                "n_lesions_found": found.found,
                "n_lesions_false": found.false,
                "lesion_dice": found.dice,
                f"lesion_{percentile_name(percentile)}": found.hausdorff_mm,
                "lesion_f1": found.f1,
            }
        rows.append(row)
    return rows


def _label_map(array: NDArray[Any], name: str) -> NDArray[Any]:
    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} of shape {array.shape} must have 2 or 3 axes; take one channel, as in {name}[0]")
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} of type {array.dtype} must hold integers; convert labels with {name}.astype('uint8')")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise ValueError(f"{name} holds the value {array.min()}; label values are 0 or more")
    return array


def _indices(labels: NDArray[Any], index_of: Mapping[int, int]) -> NDArray[Any]:
    """Label values as 1, 2, ... in the order of ``index_of``, and 0 for all others."""
    top = max(max(index_of, default=0), int(labels.max(initial=0)))
    lookup = np.zeros(top + 1, dtype=np.uint8 if len(index_of) < 256 else np.uint16)
    for value, index in index_of.items():
        lookup[value] = index
    same = labels.dtype.kind == "u" and np.array_equal(lookup, np.arange(top + 1))
    return labels if same else lookup[labels]


def _members(indices: NDArray[Any], member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    single = np.flatnonzero(member)
    return indices == single[0] if single.size == 1 else member[indices]


def _count_pairs(a: NDArray[Any], b: NDArray[Any], size: int) -> NDArray[np.int64]:
    """How many voxels have value i in ``a`` and j in ``b``, ``(size, size)``."""
    counts = np.zeros((size, size), dtype=np.int64)
    step = max(1, SLAB_VOXELS // max(1, a[:1].size))
    for start in range(0, a.shape[0], step):
        first, second = a[start : start + step], b[start : start + step]
        unlike = first != second  # few, and the rest needs one count of one map
        pair = first[unlike].astype(np.intp) * size + second[unlike]
        counts += np.bincount(pair, minlength=size * size).reshape(size, size)
        all_of_first = np.bincount(first.reshape(-1), minlength=size)
        np.fill_diagonal(counts, counts.diagonal() + all_of_first - np.bincount(pair // size, minlength=size))
    return counts


def _surface_axes(shape: tuple[int, ...]) -> list[int]:
    """The array axes in which a surface is measured: those of the slice where a volume has only one."""
    thick = [axis for axis, size in enumerate(shape) if size > 1]
    return thick if len(shape) == 3 and len(thick) == 2 else list(range(len(shape)))


def _union(boxes: Any) -> tuple[slice, ...]:
    """The smallest box around all of ``boxes``; ``()`` where there is none."""
    found = list(boxes)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))
