"""DICOM: every series that is found, its pixels read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from medseg3d.checks import Finding, InputError, collected
from medseg3d.inspection.case import Facts, content_of, in_threads, tell_if_constant
from medseg3d.inspection.result import Inspection
from medseg3d.inspection.together import copies
from medseg3d.io.dataset import Case, ChannelFile
from medseg3d.io.description import segment_lines
from medseg3d.io.dicom import Listing, Series, read_series
from medseg3d.io.dicom_label_objects import LabelObject, describe_labels
from medseg3d.io.dicom_seg_reading import read_seg


def inspect_series(listing: Listing) -> Inspection:
    """Every DICOM series, SEG and RTSTRUCT of a folder, or of one file."""
    path = listing.root
    facts = in_threads(_examine, listing.series, "checking")
    findings = [*listing.remarks, *(f for one in facts for f in one.findings)]
    for folder, number in Counter(s.where for s in listing.series if not s.localizer).items():
        if number > 1:
            message = f"{number} series in one folder; whoever reads it must say which"
            findings.append(Finding("W-SERIES", "warning", str(folder), message, "choose one with --series NUMBER"))
    findings += copies({"series": facts})
    lines = [f"{len(listing.series) or 'no'} DICOM series in {path}"] if listing.series or not listing.labels else []
    for series in listing.series:
        size, spacing = (" x ".join(f"{v:g}" for v in values) for values in (series.shape, series.spacing_mm))
        lines.append(f"  {series.number}: {series.modality} {size}, {spacing or '?'} mm ({series.identifier})")
    for labels in in_threads(_labels, listing.labels, "checking labels"):
        findings += labels.findings
        lines += segment_lines(labels, path)
    return Inspection(path, "\n".join(lines), tuple(findings), len(listing.series) + len(listing.labels))


def _labels(path: Path) -> LabelObject:
    """What a SEG or RTSTRUCT holds, and whether it could be used as labels."""
    found = describe_labels(path)
    if found.findings or found.kind == "RTSTRUCT":
        return found
    if found.voxels is not None and not any(found.voxels.get(s.value) for s in found.segments):
        empty = Finding("I-EMPTY-LABEL", "info", str(path), "the label holds nothing but background")
        found = replace(found, findings=(empty,))
    try:
        read_seg(path)
    except InputError as error:
        if error.finding.code != "E-OVERLAP":  # regions of a task may overlap
            found = replace(found, findings=(*found.findings, error.finding))
    return found


def _examine(series: Series) -> Facts:
    case = Case(f"series {series.number}", (ChannelFile(series.where),))
    if series.errors:
        return Facts(case, series.findings)
    with collected() as findings:
        try:
            volume = read_series(series)
        except InputError as error:
            return Facts(case, (*findings, error.finding))
        tell_if_constant(volume.data[0], f"series {series.number}", series.where)
    return Facts(case, tuple(findings), volume.grid, content_of(volume.data))
