"""What is in the files of a case, in words and numbers for its sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medseg3d.inference.prediction import Prediction
from medseg3d.inference.predictor import Predictor
from medseg3d.task import Task
from medseg3d.volume import Volume


def describe_labels(labels: Volume, task: Task) -> dict[str, Any]:
    """Geometry of a label map, and size of each label: voxels, and millilitres for a volume.

    Args:
        labels: ``(1, *spatial)`` of the task's values.
        task: says which values make a label; labels may share values.
    """
    counts = np.zeros(int(np.iinfo(labels.data.dtype).max) + 1, np.int64)
    for part in labels.data[0]:
        found = np.bincount(part.ravel())
        counts[: len(found)] += found
    ml = float(abs(np.linalg.det(labels.affine[:-1, :-1]))) / 1000 if len(labels.shape) == 3 else None
    sizes: dict[str, dict[str, float]] = {}
    for name, values in task.labels.items():
        voxels = int(counts[list(values)].sum())
        sizes[name] = {"voxels": voxels} if ml is None else {"voxels": voxels, "volume_ml": round(voxels * ml, 6)}
    geometry = {
        "shape": list(labels.shape),
        "spacing_mm": [round(s, 6) for s in labels.spacing_mm],
        "axcodes": "".join(labels.axcodes),
        "affine": labels.affine.tolist(),
    }
    return {"geometry": geometry, "labels": sizes}


def describe_values(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    """What the channels of the probabilities are, what the uncertainty compares, and the Dice to expect."""
    task = predictor.task
    out: dict[str, Any] = {}
    if prediction.probabilities is not None:
        names = list(task.labels) if task.regions else ["background", *task.labels]
        out["probabilities"] = {"channels": names}
    if prediction.uncertainty is not None:
        of = {"models": len(predictor.networks), "flips": len(predictor.flips)}
        out["uncertainty"] = {"of": of, "range": "0: all agree, to 1: sure and split in half"}
    compared = prediction.compared > 1
    line = predictor.calibration(compared=compared)
    out["confidence"] = {
        "expected_dice": _rounded(prediction.expected_dice),
        "raw_dice": _rounded(prediction.raw_dice),
        "label_dice": {name: _rounded(dice) for name, dice in prediction.label_dice.items()},
        "volume_ratios": {n: [round(r, 6) for r in ratios] for n, ratios in prediction.volume_ratios.items()},
        "compared": prediction.compared,
        "calibrated_on_cases": None if line is None else line.cases,
    }
    return out


def confidence_again(predictor: Predictor, sidecar: Mapping[str, Any]) -> dict[str, Any] | None:
    """The confidence of an earlier result by the calibration that the model has now; None where that is the same."""
    before = sidecar.get("confidence")
    if not isinstance(before, Mapping):
        return None
    compared = before.get("compared", 1) > 1
    line = predictor.calibration(compared=compared)
    raw = before.get("raw_dice")
    now = {
        **before,
        "expected_dice": _rounded(predictor.expected_dice(raw, compared=compared)),
        "calibrated_on_cases": None if line is None else line.cases,
    }
    return None if now == before else now


def dice_in_words(sidecar: Mapping[str, Any]) -> str:
    """``, expected Dice 0.87`` where it is known, for a log line."""
    confidence = sidecar.get("confidence")
    if not isinstance(confidence, Mapping):
        return ""
    if confidence["expected_dice"] is not None:
        return f", expected Dice {confidence['expected_dice']:.3f}"
    if confidence["raw_dice"] is None:
        return ", nothing found"
    return f", expected Dice {confidence['raw_dice']:.3f} (uncalibrated)"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
