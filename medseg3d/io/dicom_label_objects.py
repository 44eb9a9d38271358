"""What a DICOM SEG or RTSTRUCT says that it holds: its segments, without the images that it was drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import iter_pixels

from medseg3d.checks import Finding, InputError
from medseg3d.io.dicom_rt import is_rtstruct, regions_in
from medseg3d.io.dicom_seg_reading import refusing, segment_of
from medseg3d.io.segments import Segment


@dataclass(frozen=True)
class LabelObject:
    """A DICOM SEG or RTSTRUCT as it describes itself.

    Args:
        path: the file.
        kind: ``SEG``, ``SEG, label map``, ``SEG, fractional`` or ``RTSTRUCT``.
        segments: what it holds, by number.
        voxels: of each segment, by its number; None where there are none: contours, and fractions.
        findings: why it cannot be read.
    """

    path: Path
    kind: str
    segments: tuple[Segment, ...] = ()
    voxels: Mapping[int, int] | None = None
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; the names of the segments are the only texts of the file."""
        return {
            "kind": self.kind,
            "segments": [
                {
                    "number": s.value,
                    "name": _printable(s.name),
                    "code": {"scheme": s.type.scheme, "value": s.type.value, "meaning": _printable(s.type.meaning)},
                    "modifier": _printable(s.modifier.meaning) if s.modifier else None,
                    "voxels": None if self.voxels is None else self.voxels.get(s.value, 0),
                }
                for s in self.segments
            ],
            "findings": [f.as_dict() for f in self.findings],
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The segments to read on a screen, under a head: number, name, code, voxels."""
        rows = [("#", "name", "code", "voxels")]
        for s in self.segments:
            meaning = s.type.meaning + (f", {s.modifier.meaning}" if s.modifier else "")
            code = f"{s.type.scheme} {s.type.value} ({meaning})" if s.coded else "-"
            voxels = "-" if self.voxels is None else f"{self.voxels.get(s.value, 0):,}"
            rows.append((str(s.value), _printable(s.name), _printable(code), voxels))
        width = max(len(row[-1]) for row in rows)
        return [(*row[:3], f"{row[3]:>{width}}") for row in rows]


def describe_labels(path: Path) -> LabelObject:
    """Look into a DICOM SEG or RTSTRUCT; what is wrong with it becomes a finding."""
    kind = "RTSTRUCT" if is_rtstruct(path) else "SEG"
    try:
        with refusing(path):
            dataset = dcmread(path)
            if kind == "RTSTRUCT":
                return LabelObject(path, kind, tuple(regions_in(dataset)))
            segments = tuple(segment_of(item) for item in dataset.SegmentSequence if int(item.SegmentNumber))
            kind = {"LABELMAP": "SEG, label map", "FRACTIONAL": "SEG, fractional"}.get(dataset.SegmentationType, "SEG")
            voxels = None if kind == "SEG, fractional" else _voxels(dataset)
            return LabelObject(path, kind, segments, voxels)
    except InputError as error:
        return LabelObject(path, kind, findings=(error.finding,))


def _voxels(dataset: Dataset) -> dict[int, int]:
    """How many voxels each segment has, frame by frame; segments may overlap."""
    counts: dict[int, int] = {}
    for number, frame in zip(_numbers(dataset), iter_pixels(dataset, raw=True), strict=True):
        if number is None:
            values, numbers = np.unique(frame, return_counts=True)
            found = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        else:
            found = {number: int(np.count_nonzero(frame))}
        for value, count in found.items():
            counts[value] = counts.get(value, 0) + count
    return counts


def _numbers(dataset: Dataset) -> Iterator[int | None]:
    """The segment of each frame; None where a frame holds several."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        if dataset.SegmentationType == "LABELMAP":
            yield None
        else:
            items = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
            yield int(items[0].ReferencedSegmentNumber)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()
