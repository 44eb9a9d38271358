"""What comes of a folder's cases: files, and findings for those that cannot be predicted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.checks import Finding, InputError, MedSegError, out_of_memory, some_names
from medseg3d.inference.dicom_outputs import DICOM_KINDS
from medseg3d.io.atomic import atomic_write
from medseg3d.io.dataset import Case
from medseg3d.io.images import is_picture, write_volume
from medseg3d.volume import Volume


@dataclass
class FolderResult:
    """What became of each case.

    Args:
        output: the folder written to.
        done: names of the cases that this call predicted.
        failed: what is wrong with each that could not be.
        skipped: names of those that were done before, or by another process meanwhile.
        elsewhere: names of those that another process was still working on at the end.
        redone: of those in ``done`` that had a result before, what changed since.
        triage: what ``predictions.json`` says under this key: all cases of the folder, those to look at first on top.
    """

    output: Path
    done: list[str] = field(default_factory=list)
    failed: dict[str, Finding] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    redone: dict[str, str] = field(default_factory=dict)
    triage: dict[str, Any] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """What went wrong, a line for each reason, with the names of the cases."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.failed.items():
            reasons.setdefault(str(replace(why, file=None)), []).append(name)
        return [f"{some_names(names)}: {reason}" for reason, names in reasons.items()]

    def worst(self, most: int = 5) -> str:
        """The cases to look at first, in a line; nothing where there is no choice."""
        cases = self.triage.get("cases", [])
        if len(cases) < 2:
            return ""
        shown = [
            f"{c['case']} ({'nothing found' if (dice := c['expected_dice']) is None else format(dice, '.3f')})"
            for c in cases
        ]
        what = "expected Dice" if self.triage["calibrated"] else "expected Dice, uncalibrated: the order counts alone"
        more = f" and {len(cases) - most} more in predictions.json" if len(cases) > most else ""
        return f"look at first ({what}): {', '.join(shown[:most])}{more}"


def output_files(case: Case, output: Path) -> dict[str, Path]:
    """Where a case's results go: ``labels``, ``probabilities``, ``uncertainty``, and what DICOM there is."""
    picture = case.images[0].series is None and is_picture(case.images[0].path)
    labels, others = (".png", ".npy") if picture else (".nii.gz", ".nii.gz")
    return {
        "labels": output / f"{case.name}{labels}",
        "probabilities": output / f"{case.name}_probabilities{others}",
        "uncertainty": output / f"{case.name}_uncertainty{others}",
        **{kind: output / f"{case.name}.{kind}.dcm" for kind in DICOM_KINDS},
    }


def write_values(values: Volume, path: Path) -> None:
    """Write an array of numbers, piece by piece: NIfTI, or ``.npy`` ``(C, *spatial)`` beside a picture."""
    if path.suffix == ".npy":
        atomic_write(path, lambda file: np.save(file, values.data), needed_bytes=values.data.nbytes)
    else:
        write_volume(values, path)


def finding_of(case: Case, error: Exception) -> Finding:
    """What an error means for a case."""
    scan = str(case.images[0].path)
    if isinstance(error, InputError):
        return error.finding if error.finding.file else replace(error.finding, file=scan)
    if out_of_memory(error):
        reason = f"not enough memory ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        return Finding("E-MEMORY", "error", scan, reason, "close other programs, or give a smaller budget (max_ram)")
    code = "E-CASE" if isinstance(error, MedSegError) else "E-UNEXPECTED"
    reason = str(error) or type(error).__name__
    return Finding(code, "error", scan, reason, "check this case; the others are not affected")
