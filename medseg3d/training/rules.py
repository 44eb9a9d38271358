"""Which cleaning of label maps helps, measured on cases that the networks did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg3d.postprocessing import Cleaning
from medseg3d.task import Task

SIZES_ML = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Sizes below which pieces are tried to be taken away."""
LEAST_GAIN = 0.001
"""Mean Dice that a rule must bring; less is noise."""
LARGEST_LOSS = 0.0005
"""Mean Dice that a rule may cost in any one fold."""


@dataclass(frozen=True)
class Chosen:
    """What was found for one label.

    Args:
        rule: the cleaning that helps; none where none does.
        before, after: mean Dice over all cases, both masks empty counting as 1.
    """

    rule: Cleaning
    before: float
    after: float


Pair = Callable[[], tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger], float]]


def choose_rules(pairs: Mapping[str, Pair], folds: Mapping[str, int], task: Task) -> dict[str, Chosen]:
    """For each label the cleaning that raises the mean Dice most, if it raises it in earnest and harms no fold.

    Args:
        pairs: by case, a reader of reference and prediction ``(*spatial)`` and the volume of a voxel in ml.
        folds: by case, in which fold it was left out.
        task: what the values mean.
    """
    candidates = [Cleaning(), Cleaning(largest=True), *(Cleaning(min_ml=size) for size in SIZES_ML)]
    holes = Cleaning(fill_holes=True)
    dice: dict[str, dict[Cleaning, list[float]]] = {
        name: {rule: [] for rule in (*candidates, holes)} for name in task.labels
    }
    for read in pairs.values():
        reference, prediction, voxel_ml = read()
        for name in task.labels:
            values = task.labels[name]
            right, mask = np.isin(reference, values), np.isin(prediction, values)
            for rule, found in piece_dice(right, mask, voxel_ml, candidates).items():
                dice[name][rule].append(found)
            dice[name][holes].append(mask_dice(right, holes(mask, voxel_ml)))
    fold_of = np.array([folds[case] for case in pairs])
    return {name: _best({rule: np.array(v) for rule, v in found.items()}, fold_of) for name, found in dice.items()}


def _best(dice: Mapping[Cleaning, NDArray[np.float64]], fold_of: NDArray[np.int_]) -> Chosen:
    plain = dice[Cleaning()]

    def helps(values: NDArray[np.float64]) -> bool:
        gain = values - plain
        by_fold = [gain[fold_of == fold].mean() for fold in np.unique(fold_of)]
        return gain.mean() >= LEAST_GAIN and min(by_fold) >= -LARGEST_LOSS and (gain > 0).sum() > (gain < 0).sum()

    good = {rule: values for rule, values in dice.items() if rule and helps(values)}
    rule, after = Cleaning(), plain
    if pieces := {r: v for r, v in good.items() if not r.fill_holes}:
        rule = max(pieces, key=lambda r: (pieces[r].mean(), r.min_ml))
        after = pieces[rule]
    filled = next((values for r, values in good.items() if r.fill_holes), None)
    if filled is not None:
        rule = replace(rule, fill_holes=True)
        # The two act on different voxels; what they bring together is measured on the cleaned maps afterwards.
        after = np.maximum(after, filled)
    return Chosen(rule, float(plain.mean()), float(after.mean()))


def mask_dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 where both are empty, so that inventing nothing counts."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else 1.0


def piece_dice(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], voxel_ml: float, rules: list[Cleaning]
) -> dict[Cleaning, float]:
    """Dice of a mask after each rule that takes pieces away, from one search for pieces."""
    from scipy import ndimage

    pieces, count = ndimage.label(prediction, ndimage.generate_binary_structure(prediction.ndim, prediction.ndim))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    hits = np.bincount(pieces[reference], minlength=count + 1)
    sizes[0] = hits[0] = 0
    total = int(reference.sum())
    found = {}
    for rule in rules:
        kept = sizes * voxel_ml >= rule.min_ml
        if rule.largest:
            kept &= np.arange(count + 1) == sizes.argmax()
        both, all_of_them = int(hits[kept].sum()), int(sizes[kept].sum()) + total
        found[rule] = 2 * both / all_of_them if all_of_them else 1.0
    return found
