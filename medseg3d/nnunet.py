"""The ``summary.json`` of nnU-Net (version 2), for tools and people that read that one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.io import atomic_write

COUNTS = ("FN", "FP", "TN", "TP")


def nnunet_summary(
    rows: Sequence[Mapping[str, Any]], ids: Mapping[str, Sequence[int]], files: Mapping[str, tuple[Path, Path]]
) -> dict[str, Any]:
    """The scores of an evaluation as nnU-Net's ``nnUNetv2_evaluate_folder`` lays them out.

    Args:
        rows: of ``medseg3d.evaluation.Evaluation``, one per case and label.
        ids: label values by name: a label of one value is called ``"1"`` there, a region ``"(1, 2, 3)"``.
        files: reference and prediction of each case.

    Returns:
        ``metric_per_case`` (``metrics`` by label, ``prediction_file``, ``reference_file``), ``mean`` by label over the cases where
        a number is defined, ``foreground_mean`` over the labels. Dice and IoU of two empty masks are NaN there, whatever
        ``evaluate`` was told.
    """
    keys = {name: str(values[0]) if len(values) == 1 else str(tuple(values)) for name, values in ids.items()}
    cases: list[dict[str, Any]] = [
        {
            "metrics": {keys[row["label"]]: _metrics(row) for row in rows if row["case"] == case},
            "prediction_file": str(prediction),
            "reference_file": str(reference),
        }
        for case, (reference, prediction) in files.items()
        if any(row["case"] == case for row in rows)
    ]
    metrics = ("Dice", *COUNTS[:2], "IoU", *COUNTS[2:], "n_pred", "n_ref")
    means = {
        key: {m: _mean([v for case in cases if not math.isnan(v := case["metrics"][key][m])]) for m in metrics}
        for key in keys.values()
    }
    return {
        "foreground_mean": {m: _mean([mean[m] for mean in means.values()]) for m in metrics},
        "mean": means,
        "metric_per_case": cases,
    }


def write_nnunet_summary(summary: Mapping[str, Any], file: str | Path) -> Path:
    """Write what ``nnunet_summary`` made. What is undefined is the bare word NaN, as nnU-Net writes and expects it."""
    return atomic_write(file, json.dumps(summary, indent=4, sort_keys=True) + "\n")


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    tp, fp, fn = row["tp"], row["fp"], row["fn"]
    found = tp + fp + fn
    return {
        "Dice": 2 * tp / (found + tp) if found else math.nan,
        "IoU": tp / found if found else math.nan,
        **{name: row[name.lower()] for name in COUNTS},
        "n_pred": tp + fp,
        "n_ref": tp + fn,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
