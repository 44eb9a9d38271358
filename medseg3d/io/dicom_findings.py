"""What speaks against the images of a DICOM series besides their geometry, and what a reader of it should know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from medseg3d.checks import Finding, InputError, some_names
from medseg3d.io.dicom_geometry import by_place
from medseg3d.io.dicom_headers import MULTIFRAME, Header
from medseg3d.io.dicom_pixels import NATIVE, check_pixels
from medseg3d.io.dicom_slices import Slice


def image_errors(slices: Sequence[Slice], where: Path) -> list[Finding]:
    """What makes the pixels of a series unreadable, one finding of a kind."""
    found: dict[str, Finding] = {}
    for header in {id(s.header): s.header for s in slices}.values():
        try:
            _check_kind(header)
            check_pixels(header)
        except InputError as error:
            found.setdefault(error.finding.code, error.finding)
    return [*found.values(), *_rescale_errors(slices, where)]


def _check_kind(header: Header) -> None:
    if "MOSAIC" in header.words("ImageType"):
        message = "a mosaic (Siemens): the slices of a volume as tiles of one picture"
        fix = "export it as enhanced multi-frame DICOM, or convert it with dcm2niix"
        raise InputError("E-MOSAIC", message, file=header.path, fix=fix)
    frames = int(header.number("NumberOfFrames") or 1)
    if frames > 1 and header.sop_class not in MULTIFRAME:
        message = f"{frames} frames in a file of a kind that has one; nothing says where the frames lie"
        raise InputError("E-FORMAT", message, file=header.path, fix="export it as enhanced multi-frame DICOM")
    if header.has("ModalityLUTSequence"):
        message = "values are mapped by a table (Modality LUT), which is not supported"
        raise InputError("E-RESCALE", message, file=header.path, fix="export it with RescaleSlope and RescaleIntercept")


def _rescale_errors(slices: Sequence[Slice], where: Path) -> list[Finding]:
    without = [s for s in slices if s.slope is None and s.intercept is None]
    fix = "export the series again"
    if without and len(without) < len(slices):
        message = f"{len(without)} of {len(slices)} slices have no rescale, the others have, so their values differ"
        return [Finding("E-RESCALE", "error", str(where), message, fix)]
    wrong = [s for s in slices if s.slope is not None and not (math.isfinite(s.slope) and s.slope != 0)]
    wrong += [s for s in slices if s.intercept is not None and not math.isfinite(s.intercept)]
    if wrong:
        message = f"the rescale of {wrong[0].name} is {wrong[0].slope:g} x + {wrong[0].intercept or 0:g}"
        return [Finding("E-RESCALE", "error", str(where), message, fix)]
    return []


def about_values(slices: Sequence[Slice], where: Path) -> list[Finding]:
    """Warnings about what the values mean."""
    first = slices[0].header
    found = []
    if any(s.header.text("PhotometricInterpretation") == "MONOCHROME1" for s in slices):
        message = "MONOCHROME1: viewers show it inverted; the values are read as they are stored"
        found.append(Finding("W-MONOCHROME1", "warning", str(where), message, "nothing to do where values count"))
    if any(s.header.text("LossyImageCompression") == "01" for s in slices):
        message = "the images were compressed with loss: values are not those of the scanner"
        found.append(Finding("W-LOSSY", "warning", str(where), message, "ask for the original images"))
    if first.text("Modality") == "CT":
        kind = first.text("RescaleType")
        if slices[0].slope is None and slices[0].intercept is None:
            message = "CT without RescaleSlope and RescaleIntercept: the values are as stored, not HU"
        elif kind not in ("", "HU"):
            message = f"CT whose values are {kind!r}, not HU"
        else:
            message = ""
        if message:
            fix = "export the series again from the scanner"
            found.append(Finding("W-NOT-HU", "warning", str(where), message, fix))
        if len({(s.slope, s.intercept) for s in slices}) > 1:
            message = "slices of a CT with different rescale; it is applied slice by slice"
            found.append(Finding("W-RESCALE", "warning", str(where), message, "look whether the slices agree"))
    odd = [name for header in {id(s.header): s.header for s in slices}.values() if (name := _name_if_longer(header))]
    if odd:
        message = f"pixel data longer than the images take, or cut at an odd byte: {some_names(odd, 3)}"
        found.append(Finding("W-PIXEL-LENGTH", "warning", str(where), message, "look whether the images are whole"))
    frames = {s.header.text("FrameOfReferenceUID") for s in slices}
    if len(frames) > 1:
        message = f"{len(frames)} frames of reference in one series: positions may not belong together"
        found.append(Finding("W-FRAME-OF-REFERENCE", "warning", str(where), message, "check that the stack is right"))
    return found


def _name_if_longer(header: Header) -> str:
    """The name of an uncompressed file that holds more bytes than its pixels take."""
    if header.syntax not in NATIVE or header.pixels_at is None:
        return ""
    frames = int(header.number("NumberOfFrames") or 1)
    expected = frames * header.integer("Rows") * header.integer("Columns") * header.integer("BitsAllocated") // 8
    behind = header.size - header.pixels_at - header.pixel_bytes
    return header.path.name if header.pixel_bytes > expected + 1 or 0 < behind < 8 else ""


def timepoint_of(slices: Sequence[Slice], timepoint: int, where: Path) -> tuple[list[Slice], Finding | None]:
    """The slices of one of several volumes in a series.

    Args:
        slices: of the series.
        timepoint: which volume, from 1.
        where: for messages.

    Returns:
        Its slices, and what was chosen; all slices and None where the series is one volume.

    Raises:
        InputError: ``E-TIMEPOINTS`` where nothing tells the volumes apart, or there are fewer.
    """
    places = by_place(slices)
    number = len(places[0])
    if number == 1 or {len(place) for place in places} != {number}:
        return list(slices), None
    if not 1 <= timepoint <= number:
        message = f"volume {timepoint} is asked for; there are {number} in the series"
        raise InputError("E-TIMEPOINTS", message, file=where, fix=f"choose 1 to {number}")
    for key in slices[0].keys:
        values = sorted({s.keys[key] for s in slices}, key=_as_number)
        if len(values) == number and all(len({s.keys[key] for s in place}) == number for place in places):
            message = f"volume {timepoint} of {number} is read; they differ in {key}"
            chosen = [s for s in slices if s.keys[key] == values[timepoint - 1]]
            return chosen, Finding("I-TIMEPOINT", "info", str(where), message)
    ordered = [sorted(place, key=lambda s: s.instance) for place in places]
    volumes = [[place[i] for place in ordered] for i in range(number)]
    ranges = [(min(s.instance for s in v), max(s.instance for s in v)) for v in volumes]
    if all(earlier[1] < later[0] for earlier, later in pairwise(ranges)):
        message = f"volume {timepoint} of {number} is read; they are told apart by their instance numbers"
        return volumes[timepoint - 1], Finding("I-TIMEPOINT", "info", str(where), message)
    message = f"{number} images at each position, and nothing in the headers tells the volumes apart"
    raise InputError("E-TIMEPOINTS", message, file=where, fix="part the series into folders of one volume each")


def _as_number(value: str) -> tuple[float, str]:
    """Sort key: by the first number, then as text."""
    try:
        return float(value.split("\\", maxsplit=1)[0]), value
    except ValueError:
        return math.inf, value
