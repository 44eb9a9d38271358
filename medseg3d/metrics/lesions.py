"""Scores lesion by lesion, where one large lesion must not hide many small ones that were missed.

As BraTS 2023 does (github.com/rachitsaluja/BraTS-2023-Metrics), whose numbers for gliomas are the defaults:

1. A lesion of the prediction is a connected component, voxels touching by a face, an edge or a corner (26 neighbours; 8 in 2D).
2. So is one of the reference; but those that join when the mask is dilated ``dilation_voxels`` times by 18 neighbours (8 in
   2D) are one lesion.
3. All lesions of the prediction that touch a lesion of the reference dilated in the same way are its match, all of each.
   One of the prediction may match several.
4. Each lesion of the reference gets the Dice and the Hausdorff percentile of itself and its match; without one 0 and inf.
5. Lesions of the reference of at most ``smallest_mm3`` are not counted. Their matches are not counted as false either.
6. Lesions of the prediction that match none are false.
7. The case's score is the mean over counted and false lesions; false ones count as Dice 0 and ``penalty_mm``, as does inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d.metrics.lattice import bounding_box
from medseg3d.metrics.overlap import Empty, as_mask, overlap
from medseg3d.metrics.surface import Definition, surface_distances

Box = tuple[slice, ...]


@dataclass(frozen=True)
class LesionRule:
    """What makes a lesion, and what a missed one costs.

    Args:
        dilation_voxels: how far apart parts of one lesion may lie, and a prediction from the lesion it finds.
        smallest_mm3: lesions of the reference up to this volume (in 2D area, mm2) are not counted.
        penalty_mm: distance that a missed or a false lesion counts as; BraTS takes 374, the diagonal of its images.
        percentile: of the Hausdorff distance.

    Raises:
        ValueError: a negative number.
    """

    dilation_voxels: int = 3
    smallest_mm3: float = 50
    penalty_mm: float = 374
    percentile: float = 95

    def __post_init__(self) -> None:
        for name in ("dilation_voxels", "smallest_mm3", "penalty_mm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 or more")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile {self.percentile} must lie in (0, 100]")


@dataclass(frozen=True)
class Lesion:
    """A lesion of the reference: its size, how many lesions of the prediction match it, and how well they do."""

    volume_mm3: float
    matches: int
    dice: float
    hausdorff_mm: float


@dataclass(frozen=True)
class LesionScores:
    """What was found of the lesions of a case.

    Args:
        lesions: those of the reference that are large enough to count.
        true: how many lesions of the prediction match any of the reference, counted or not.
        false: how many match none.
        rule: how lesions were told apart.
        empty: what Dice, F1, sensitivity and precision are where there is no lesion to count and none is false.
    """

    lesions: tuple[Lesion, ...]
    true: int
    false: int
    rule: LesionRule
    empty: Empty = "nan"

    @property
    def found(self) -> int:
        """Lesions of the reference with a match."""
        return sum(lesion.matches > 0 for lesion in self.lesions)

    @property
    def missed(self) -> int:
        return len(self.lesions) - self.found

    @property
    def nothing(self) -> float:
        """What a ratio is where nothing was to be found and nothing was."""
        return 1.0 if self.empty == "one" else float("nan")

    @property
    def dice(self) -> float:
        """Mean Dice over counted and false lesions."""
        number = len(self.lesions) + self.false
        return sum(lesion.dice for lesion in self.lesions) / number if number else self.nothing

    @property
    def hausdorff_mm(self) -> float:
        """Mean Hausdorff percentile over counted and false lesions, with the penalty for missed and false ones; 0 without any."""
        distances = [x.hausdorff_mm if x.matches else self.rule.penalty_mm for x in self.lesions]
        distances += [self.rule.penalty_mm] * self.false
        return sum(distances) / len(distances) if distances else 0.0

    @property
    def sensitivity(self) -> float:
        """Part of the counted lesions that were found; NaN without one, but for ``empty="one"`` where none is false."""
        if self.lesions:
            return self.found / len(self.lesions)
        return float("nan") if self.false else self.nothing

    @property
    def precision(self) -> float:
        """Part of the prediction's lesions that match one; NaN without one, but for ``empty="one"`` where none is missed."""
        if self.true + self.false:
            return self.true / (self.true + self.false)
        return float("nan") if self.lesions else self.nothing

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false)."""
        total = 2 * self.found + self.missed + self.false
        return 2 * self.found / total if total else self.nothing


def lesion_scores(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    rule: LesionRule | None = None,
    definition: Definition = "surface",
    empty: Empty = "nan",
) -> LesionScores:
    """Match the lesions of two masks and score each.

    Args:
        reference: mask ``(*spatial)``, 2D or 3D.
        prediction: mask of the same shape.
        spacing_mm: distance of neighbouring voxel centres along each array axis.
        rule: what makes a lesion; None takes that of BraTS for gliomas.
        definition: of the Hausdorff distance, one of ``medseg3d.metrics.DEFINITIONS``.
        empty: what ratios of nothing are: ``nan`` or ``one`` (as in BraTS).

    Raises:
        ValueError: arrays that are no masks or differ in shape, a spacing that does not fit.
    """
    a, b = as_mask(reference, "reference"), as_mask(prediction, "prediction")
    if a.shape != b.shape:
        raise ValueError(f"reference of shape {a.shape}, prediction of shape {b.shape}; bring both to one grid first")
    if len(spacing_mm) != a.ndim:
        raise ValueError(f"spacing_mm {spacing_mm} must be {a.ndim} numbers, one for each array axis")
    rule = rule or LesionRule()
    box = _grown(bounding_box(a | b) or (slice(0, 0),) * a.ndim, rule.dilation_voxels, a.shape)
    a, b = a[box], b[box]
    touching = ndimage.generate_binary_structure(a.ndim, a.ndim)
    parts = ndimage.label(_dilated(a, rule.dilation_voxels), touching)[0] * a
    predicted, number = ndimage.label(b, touching)
    boxes = ndimage.find_objects(predicted)
    lesions, matched = [], set()
    for label, inside in enumerate(ndimage.find_objects(parts), start=1):
        around = _grown(inside, rule.dilation_voxels, a.shape)
        lesion = parts[around] == label
        matches = [int(i) for i in np.unique(predicted[around][_dilated(lesion, rule.dilation_voxels)]) if i]
        matched.update(matches)
        volume = float(np.count_nonzero(lesion) * np.prod(spacing_mm))
        if volume <= rule.smallest_mm3:
            continue
        whole = _around_all([around, *(boxes[i - 1] for i in matches)])
        first, second = parts[whole] == label, np.isin(predicted[whole], matches)
        distances = surface_distances(first, second, spacing_mm, definition=definition)
        lesions.append(Lesion(volume, len(matches), overlap(first, second).dice, distances.hausdorff(rule.percentile)))
    return LesionScores(tuple(lesions), len(matched), number - len(matched), rule, empty)


def _dilated(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    return ndimage.binary_dilation(mask, ndimage.generate_binary_structure(mask.ndim, 2), times) if times else mask


def _grown(box: Box, by: int, shape: Sequence[int]) -> Box:
    return tuple(slice(max(s.start - by, 0), min(s.stop + by, n)) for s, n in zip(box, shape, strict=True))


def _around_all(boxes: Sequence[Box]) -> Box:
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))
