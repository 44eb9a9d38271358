"""From a folder of DICOM files to its series, each checked, and one line about what is no image.

A folder is read by itself; only where it holds no DICOM file its subfolders count (a disc, an export by series).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medseg3d.checks import Finding, InputError, some_names
from medseg3d.io.dicom_findings import about_values, image_errors, timepoint_of
from medseg3d.io.dicom_geometry import Stack, stacked, without_lone
from medseg3d.io.dicom_headers import (
    CLASSIC,
    LABEL_OBJECTS,
    MULTIFRAME,
    Damaged,
    Header,
    NotDicom,
    files_of,
    is_directory,
    read_header,
)
from medseg3d.io.dicom_pixels import syntax_name
from medseg3d.io.dicom_rescale import read_values
from medseg3d.io.dicom_series import Listing, Series
from medseg3d.io.dicom_slices import Slice, slices_of
from medseg3d.io.dicom_warnings import without_warnings
from medseg3d.volume import Grid

DEPTH = 6
"""How deep subfolders are searched: a disc has DICOM/PATIENT/STUDY/SERIES."""
OTHER = "not DICOM"


def find_series(path: str | Path, *, timepoint: int | None = None, force: bool = False) -> Listing:
    """List the series of a folder, or of one file, from headers alone.

    Args:
        path: a folder with any number of series, studies and other files, or one DICOM file.
        timepoint: of series that hold several volumes, take this one, counted from 1.
        force: read data sets without the DICOM preamble, too.

    Returns:
        Every series of CT, MR or PET with what speaks against it; nothing is raised about single files or series.

    Raises:
        InputError: ``E-NOT-READABLE`` where there is no such path.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("E-NOT-READABLE", "does not exist", file=path, fix="check the path")
    with without_warnings():
        found = _Files(path, force)
        groups: dict[tuple[str, str], list[Header]] = {}
        for header in found.headers:
            groups.setdefault((header.text("StudyInstanceUID"), header.text("SeriesInstanceUID")), []).append(header)
        listed = sorted(groups.values(), key=lambda headers: _order(headers[0]))
        series = [
            replace(_series(headers, path, found, timepoint), number=number)
            for number, headers in enumerate(listed, start=1)
        ]
        return Listing(path, tuple(series), tuple(found.findings()), tuple(found.labels))


def _order(header: Header) -> tuple[Any, ...]:
    study = (header.text("StudyDate"), header.text("StudyInstanceUID"))
    return (*study, header.number("SeriesNumber") or 0, header.text("SeriesTime"), header.text("SeriesInstanceUID"))


class _Files:
    """The files of a folder, by what they are."""

    def __init__(self, root: Path, force: bool) -> None:
        self.root = root
        self.force = force
        self.headers: list[Header] = []
        self._doubts: dict[tuple[str, str, str, Path], list[Path]] = {}
        self.others: dict[str, list[str]] = {}
        self.strangers: dict[str, list[str]] = {}
        self.searched: list[Path] = []
        self.unread: list[str] = []
        self.labels: list[Path] = []
        if root.is_dir():
            self._take_folder(root, DEPTH)
        else:
            self._take(root)

    def _take_folder(self, folder: Path, depth: int) -> None:
        known = len(self.headers) + len(self._doubts)
        for path in files_of(folder):
            self._take(path)
        subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
        if len(self.headers) + len(self._doubts) > known:
            self.searched.append(folder)
            self.unread += [p.name for p in subfolders]
        elif depth > 1:
            for subfolder in subfolders:
                self._take_folder(subfolder, depth - 1)

    def _take(self, path: Path) -> None:
        try:
            header = read_header(path, force=self.force)
        except NotDicom as error:
            if error.bare:
                message = "no DICOM preamble before the data set"
                self._doubt("E-NO-PREAMBLE", message, path, "if it is a scan, read it with force (--force)")
            elif zipfile.is_zipfile(path):
                self._other("ZIP archive", path)
            else:
                self._other(OTHER, path)
        except Damaged as error:
            self._doubt("E-CORRUPT", str(error), path, "copy or export the file again, or take it out")
        except OSError as error:
            self._doubt("E-NOT-READABLE", f"cannot be read ({error.strerror})", path, "check its permissions")
        else:
            self._sort(header)

    def _sort(self, header: Header) -> None:
        """Put a DICOM file where it belongs."""
        path, kind = header.path, header.sop_class
        ended = header.pixels_at is None and header.syntax != DeflatedExplicitVRLittleEndian
        if is_directory(header):
            self._other("DICOMDIR", path)
        elif not kind or (kind in CLASSIC | MULTIFRAME and ended and not header.text("SeriesInstanceUID")):
            message = "the file is cut short inside its header, or does not say what it is"
            self._doubt("E-TRUNCATED", message, path, "copy or export the file again, or take it out")
        elif kind in CLASSIC | MULTIFRAME:
            self.headers.append(header)
        elif self._unknown(kind):
            message = "a DICOM file of an unknown kind, which may be an image whose header is damaged"
            self._doubt("E-CORRUPT", message, path, "copy or export the file again, or take it out")
        else:
            self._other(LABEL_OBJECTS.get(kind, UID(kind).name), path)
            if kind in LABEL_OBJECTS:
                self.labels.append(path)
            if header.pixels_at is not None:
                self.strangers.setdefault(header.text("SeriesInstanceUID"), []).append(path.name)

    @staticmethod
    def _unknown(kind: str) -> bool:
        """Whether a SOP class is none of the standard's, and none of a vendor either."""
        named = kind in LABEL_OBJECTS or UID(kind).name != kind
        return not named and (kind.startswith("1.2.8") or not UID(kind).is_valid)

    def _other(self, kind: str, path: Path) -> None:
        self.others.setdefault(kind, []).append(path.name)

    def _doubt(self, code: str, message: str, path: Path, fix: str) -> None:
        self._doubts.setdefault((code, message, fix, path.parent), []).append(path)

    @property
    def doubtful(self) -> list[tuple[Path, Finding]]:
        """Files that are DICOM, but cannot be read: a finding of each kind, and the folder it is about."""
        found = []
        for (code, message, fix, folder), paths in self._doubts.items():
            where = paths[0] if len(paths) == 1 else folder
            what = (
                message
                if len(paths) == 1
                else f"{len(paths)} files: {message} ({some_names([p.name for p in paths], 3)})"
            )
            found.append((folder, Finding(code, "error", str(where), what, fix)))
        return found

    def findings(self) -> list[Finding]:
        """About what is in no series, and where nothing is."""
        found = []
        kinds = [f"{len(names)} {kind} ({some_names(names, 3)})" for kind, names in self.others.items()]
        plural = "s" if len(self.unread) > 1 else ""
        kinds += [f"{len(self.unread)} subfolder{plural} ({some_names(self.unread, 3)})"] if self.unread else []
        if kinds:
            message = f"no part of a series: {', '.join(kinds)}"
            found.append(Finding("I-SKIPPED", "info", str(self.root), message))
        if len(self.searched) > 1 or (self.searched and self.searched[0] != self.root):
            message = f"the files lie in {len(self.searched)} subfolder{'s' if len(self.searched) > 1 else ''}"
            found.append(Finding("I-SUBFOLDERS", "info", str(self.root), message))
        doubtful = [finding for _, finding in self.doubtful]
        return [*doubtful, *found] if self.headers or doubtful else [self._nothing()]

    def _nothing(self) -> Finding:
        """Why there is no series."""
        where = str(self.root)
        if "ZIP archive" in self.others and (self.root.is_file() or set(self.others) == {"ZIP archive"}):
            return Finding(
                "E-FORMAT", "error", where, "a ZIP archive, which is not opened", "unpack it, give the folder"
            )
        if "DICOMDIR" in self.others and self.root.is_file():
            return Finding("E-FORMAT", "error", where, "the index of a disc", "give the folder that it lies in")
        kinds = sorted(set(self.others) - {OTHER, "ZIP archive", "DICOMDIR"})
        if kinds:
            message = f"no image series of CT, MR or PET; there is {some_names(kinds, 3)}"
            return Finding("E-FORMAT", "error", where, message, "give the folder of the scan itself")
        what = "not a file of the DICOM format" if self.root.is_file() else "no file of the DICOM format in the folder"
        return Finding("E-NOT-DICOM", "error", where, what, "check where it came from")


def _series(headers: Sequence[Header], root: Path, found: _Files, timepoint: int | None) -> Series:
    """A series of files, checked."""
    folders = {h.path.parent for h in headers}
    where = headers[0].path if root.is_file() else folders.copy().pop() if len(folders) == 1 else root
    near = [finding for folder, finding in found.doubtful if folder in folders]
    findings = [replace(f, message=f"{f.message}, which may belong to this series") for f in near]
    if names := found.strangers.get(headers[0].text("SeriesInstanceUID")):
        message = f"images of another kind in this series are left out: {some_names(names, 3)}"
        findings.append(Finding("W-OTHER-KIND", "warning", str(where), message, "is the series complete without them?"))
    slices: list[Slice] = []
    for header in headers:
        try:
            slices += slices_of(header)
        except InputError as error:
            findings.append(error.finding)
    slices.sort(key=lambda s: (s.instance, s.name))
    stack: Stack | None = None
    rest, lone = without_lone(slices)
    scout = bool(rest) and not lone and all("LOCALIZER" in s.header.words("ImageType") for s in rest)
    if scout:
        message = "localizer images alone, no scan"
        findings.append(Finding("E-LOCALIZER", "error", str(where), message, "choose another series"))
    if lone:
        message = f"{len(lone)} localizer image{'s' if len(lone) > 1 else ''} left out: {some_names([s.name for s in lone], 3)}"
        findings.append(Finding("W-LOCALIZER", "warning", str(where), message))
    findings += image_errors(rest, where)
    if rest and not any(f.code == "E-MOSAIC" for f in findings):
        try:
            if timepoint is not None:
                rest, chosen = timepoint_of(rest, timepoint, where)
                findings += [chosen] if chosen else []
            stack = stacked(rest, where, _same_values)
            findings += stack.findings
        except InputError as error:
            findings.append(error.finding)
    ordered = stack.slices if stack else tuple(rest)
    findings += about_values(ordered, where) if ordered else []
    return _described(headers[0], where, ordered, stack, tuple(findings), scout)


def _same_values(a: Slice, b: Slice) -> bool:
    try:
        return a.size == b.size and np.array_equal(read_values([a]), read_values([b]))
    except InputError:
        return False  # what is wrong with them is said when they are read


def _described(
    header: Header,
    where: Path,
    slices: Sequence[Slice],
    stack: Stack | None,
    findings: tuple[Finding, ...],
    scout: bool,
) -> Series:
    rows, columns = slices[0].size if slices else (0, 0)
    shape = (columns, rows, len(slices))
    grid = None if stack is None else Grid(shape, stack.affine)
    header = slices[0].header if slices else header
    contrast = header.text("ContrastBolusAgent") or ("yes" if header.has("ContrastBolusAgentSequence") else "")
    return Series(
        where,
        tuple(dict.fromkeys(s.header.path for s in slices)),
        header.text("SeriesInstanceUID"),
        header.text("StudyInstanceUID"),
        header.text("FrameOfReferenceUID"),
        header.text("Modality"),
        header.decoded("SeriesDescription"),
        shape,
        () if grid is None else grid.spacing_mm,
        "" if grid is None else "".join(grid.axcodes),
        findings,
        protocol=header.decoded("ProtocolName"),
        sequence_name=header.decoded("SequenceName"),
        acquisition_time=header.text("AcquisitionTime") or header.text("AcquisitionDateTime")[8:],
        units=header.text("Units") or header.text("RescaleType").replace("US", ""),  # unspecified
        image_type=header.words("ImageType"),
        syntax=syntax_name(header.syntax),
        contrast=contrast not in ("", "NO", "NONE"),
        localizer=scout,
        slices=tuple(slices),
        grid=grid,
    )
