"""A DICOM series as its headers describe it, and the list of those in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.checks import Finding, InputError, some_names
from medseg3d.io.dicom_slices import Slice
from medseg3d.volume import Grid


@dataclass(frozen=True, eq=False)
class Series:
    """One series as its headers describe it.

    Args:
        where: the folder or file it was found in.
        files: in the order of their position.
        series_uid, study_uid, frame_of_reference_uid: its identifiers.
        modality: ``CT``, ``MR``, ``PT`` ...
        description: SeriesDescription, for display alone: it may name the patient.
        shape: voxels along a row, down a column, and slices: the axes of the volume.
        spacing_mm: along the same axes; ``()`` where the series is no stack.
        orientation: anatomical direction of each axis, such as ``LPS``; ``""`` where the series is no stack.
        findings: what was left out or should be known, and the errors that make it unreadable.
        number: counted from 1 in its listing.
        protocol, sequence_name, acquisition_time, units, image_type, syntax: as the headers have them.
        contrast: whether a contrast agent is named.
        slices: the image planes in the order of their position.
        grid: where the voxels lie, RAS+ mm; None where the series is no stack.
    """

    where: Path
    files: tuple[Path, ...]
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    findings: tuple[Finding, ...]
    number: int = 0
    protocol: str = ""
    sequence_name: str = ""
    acquisition_time: str = ""
    units: str = ""
    image_type: tuple[str, ...] = ()
    syntax: str = ""
    contrast: bool = False
    localizer: bool = False
    slices: tuple[Slice, ...] = field(default=(), repr=False)
    grid: Grid | None = field(default=None, repr=False)

    @property
    def identifier(self) -> str:
        """Eight characters that stand for the series and tell nothing about the patient."""
        return short_hash(self.series_uid)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:g}" for s in self.spacing_mm) or "no stack"
        return f"Series({self.number}: {self.modality} {self.identifier}, {size}, {spacing} mm, {self.orientation})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, none of which names the patient."""
        return {
            "number": self.number,
            "id": self.identifier,
            "study": short_hash(self.study_uid),
            "modality": self.modality,
            "shape": list(self.shape),
            "spacing_mm": [round(s, 6) for s in self.spacing_mm],
            "orientation": self.orientation,
            "files": len(self.files),
            "units": self.units,
            "contrast": self.contrast,
            "localizer": self.localizer,
            "transfer_syntax": self.syntax,
            "affine": None if self.grid is None else (np.round(self.grid.affine, 9) + 0.0).tolist(),
            "findings": [_without_folder(f) for f in self.findings],
        }


@dataclass(frozen=True, eq=False)
class Listing:
    """What was found in a folder or file.

    Args:
        root: the folder or file.
        series: by study, series number and time.
        findings: about files that belong to no series.
        labels: DICOM SEG and RTSTRUCT files, which are no series of images.
    """

    root: Path
    series: tuple[Series, ...]
    findings: tuple[Finding, ...]
    labels: tuple[Path, ...] = ()

    @property
    def remarks(self) -> tuple[Finding, ...]:
        """The findings for one who looks at labels, too: that there is nothing but these is no fault."""
        return tuple(
            f for f in self.findings if not (self.labels and f.code == "E-FORMAT" and f.file == str(self.root))
        )

    @property
    def empty(self) -> bool:
        """Whether no file is DICOM of any kind."""
        return not self.series and all(
            f.code in ("E-NOT-DICOM", "I-SKIPPED") and f.file == str(self.root) for f in self.findings
        )

    def choose(self, wanted: str | int | None = None) -> Series:
        """One series: the one that is asked for, or the only one that is no localizer.

        Args:
            wanted: a number of the listing, the identifier shown there, or the SeriesInstanceUID.

        Raises:
            InputError: ``E-SERIES`` where several could be meant or none is; the reason where nothing can be read.
        """
        if not self.series:
            first = next((f for f in self.findings if f.severity == "error"), None)
            first = first or Finding("E-NOT-DICOM", "error", str(self.root), "no DICOM images", "check the folder")
            raise InputError(first.code, first.message, file=first.file, fix=first.fix)
        if wanted is not None:
            word = str(wanted).strip()
            found = [s for s in self.series if word in (str(s.number), s.identifier, s.series_uid)]
            if len(found) == 1:
                return found[0]
            message = f"no series {word!r}; there are {self._words(self.series)}"
            raise InputError("E-SERIES", message, file=self.root, fix="choose one with --series NUMBER")
        candidates = [s for s in self.series if not s.localizer] or list(self.series)
        if len(candidates) > 1:
            message = f"{len(candidates)} series: {self._words(candidates)}"
            raise InputError("E-SERIES", message, file=self.root, fix="choose one with --series NUMBER")
        return candidates[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, none of which names the patient."""
        findings = [_without_folder(f) for f in self.findings]
        return {"kind": "DICOM", "series": [s.as_dict() for s in self.series], "findings": findings}

    @staticmethod
    def _words(series: Sequence[Series]) -> str:
        words = [f"{s.number}: {s.modality} {' x '.join(map(str, s.shape))} ({s.identifier})" for s in series]
        return some_names(words, 8)


def short_hash(uid: str) -> str:
    """Eight characters for an identifier that is not to be told."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _without_folder(finding: Finding) -> dict[str, str | None]:
    return finding.as_dict() | {"file": finding.file and Path(finding.file).name}
