"""``predictions.json``: what one output folder holds, put together from the sidecars in it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg3d.checks import Finding
from medseg3d.inference.claims import Claims
from medseg3d.inference.extras import STATISTICS
from medseg3d.inference.provenance import finding_without_paths, versions
from medseg3d.inference.sidecar import DONE, FAILED, read_sidecar
from medseg3d.io.atomic import atomic_write
from medseg3d.task import Task

SUMMARY_FILE = "predictions.json"
CLASSES_FILE = "predictions.csv"
STATISTICS_FILE = "statistics.csv"
FORMAT = "medseg3d.predictions/1"
PENDING, REFUSED = "pending", "refused"
CALIBRATED = "expected Dice, calibrated on the model's validation cases; null: nothing was found"
UNCALIBRATED = (
    "what the predictions themselves expect, not calibrated on cases with a reference: the order counts, the values do "
    "not; null: nothing was found"
)


def write_summary(
    output: Path, claims: Claims, task: Task, names: Iterable[str], refused: Mapping[str, Finding], root: Path
) -> dict[str, Any]:
    """Write ``predictions.json``, for classification ``predictions.csv``, and where labels were measured ``statistics.csv``.

    Several processes may call this at the same time: each reads the sidecars and writes while it holds a lock, so the
    last one has seen what all have done.

    Args:
        output: the folder.
        claims: of the calling process in that folder.
        task: of the model.
        names: the cases of the data set; those without a result or a failure are pending.
        refused: the cases of the data set that were never tried.
        root: folder of the inputs.

    Returns:
        What was written.
    """
    with claims.waiting_for(SUMMARY_FILE):
        sidecars = {s["case"]: s for path in sorted(output.glob("*.json")) if (s := read_sidecar(path))}
        cases: dict[str, dict[str, Any]] = {name: {"status": PENDING} for name in names}
        cases |= {name: entry for name, s in sidecars.items() if (entry := _entry(s, output, name in cases))}
        cases |= {name: _failure(REFUSED, finding_without_paths(why, root)) for name, why in refused.items()}
        counts = Counter(entry["status"] for entry in cases.values())
        summary = {
            "format": FORMAT,
            "task": task.name,
            "counts": {status: counts.get(status, 0) for status in (DONE, FAILED, REFUSED, PENDING)},
            "failures": {n: e.pop("finding") for n, e in sorted(cases.items()) if "finding" in e},
            "triage": _triage(cases),
            "cases": dict(sorted(cases.items())),
            "versions": versions(),
        }
        atomic_write(output / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        measured = [{"case": n, **row} for n, s in sorted(sidecars.items()) for row in s.get(STATISTICS, ())]
        if measured:
            from medseg3d.statistics import write_statistics  # which takes scipy along

            write_statistics(measured, output / STATISTICS_FILE)
        rows = {n: s["classes"] for n, s in sorted(sidecars.items()) if isinstance(s.get("classes"), Mapping)}
        if rows:
            atomic_write(output / CLASSES_FILE, _as_csv(rows, list(task.labels)))
    return summary


def _triage(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The cases that are done, those to look at first on top: where nothing was found, then by the Dice to expect."""
    known = {name: entry for name, entry in cases.items() if "raw_dice" in entry}
    by = "raw_dice"
    if known and all(e["expected_dice"] is not None for e in known.values() if e["raw_dice"] is not None):
        by = "expected_dice"
    # A calibration keeps the order, but a flat one makes all equal.
    ordered = sorted(known, key=lambda name: (known[name]["raw_dice"] is not None, known[name]["raw_dice"] or 0, name))
    return {
        "calibrated": by == "expected_dice",
        "note": CALIBRATED if by == "expected_dice" else UNCALIBRATED,
        "cases": [{"case": name, "expected_dice": known[name][by]} for name in ordered],
    }


def _entry(sidecar: Mapping[str, Any], output: Path, wanted: bool) -> dict[str, Any] | None:
    """A case as the summary tells it; None where its files are gone, or it failed and is not among the inputs any more."""
    if sidecar["status"] == FAILED:
        return _failure(FAILED, sidecar["finding"]) if wanted else None
    files = {kind: entry["file"] for kind, entry in sidecar["outputs"].items()}
    if not all((output / file).is_file() for file in files.values()):
        return None
    entry: dict[str, Any] = {"status": DONE, **files}
    if "labels" in sidecar:
        entry["sizes"] = sidecar["labels"]
    confidence = sidecar.get("confidence")
    if isinstance(confidence, Mapping):
        entry |= {key: confidence.get(key) for key in ("expected_dice", "raw_dice")}
    entry["seconds"] = round(sum(sidecar["seconds"].values()), 3)
    return entry


def _failure(status: str, finding: Any) -> dict[str, Any]:
    return {"status": status, "finding": finding}


def _as_csv(rows: Mapping[str, Mapping[str, float]], labels: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "predicted", *labels])
    for name, shares in rows.items():
        values = [float(shares.get(label, float("nan"))) for label in labels]
        writer.writerow([name, max(shares, key=shares.__getitem__), *(f"{v:.6f}" for v in values)])
    return text.getvalue()
