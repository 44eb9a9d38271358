"""What comes of a folder's cases: files, and findings for those that cannot be predicted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from medseg3d.checks import Finding, InputError, MedSegError
from medseg3d.io.dataset import Case
from medseg3d.io.images import PICTURE_SUFFIXES, image_suffix


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
    """

    output: Path
    done: list[str] = field(default_factory=list)
    failed: dict[str, Finding] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    redone: dict[str, str] = field(default_factory=dict)


def output_files(case: Case, output: Path) -> dict[str, Path]:
    """Where a case's labels and its probabilities go."""
    if image_suffix(case.images[0].path) in PICTURE_SUFFIXES:
        return {"labels": output / f"{case.name}.png", "probabilities": output / f"{case.name}_probabilities.npy"}
    return {
        "labels": output / f"{case.name}.nii.gz",
        "probabilities": output / f"{case.name}_probabilities.nii.gz",
    }


def finding_of(case: Case, error: Exception) -> Finding:
    """What an error means for a case."""
    scan = str(case.images[0].path)
    if isinstance(error, InputError):
        return error.finding if error.finding.file else replace(error.finding, file=scan)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        reason = f"not enough memory ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        return Finding("E-MEMORY", "error", scan, reason, "close other programs, or give a smaller budget (max_ram)")
    code = "E-CASE" if isinstance(error, MedSegError) else "E-UNEXPECTED"
    reason = str(error) or type(error).__name__
    return Finding(code, "error", scan, reason, "check this case; the others are not affected")
