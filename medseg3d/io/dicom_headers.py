"""What a DICOM file says of itself, without its pixels: read with pydicom, in one read of the file's beginning."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from medseg3d.io.dicom_warnings import without_warnings

HEAD_BYTES = 16384
"""Holds the header of most files; longer ones are read from the file."""
CLASSIC = {CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage}
MULTIFRAME = {
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
}
SEGMENTATION_CLASSES = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and Label Map Segmentation, which pydicom does not know yet."""
LABEL_OBJECTS = {
    **dict.fromkeys(SEGMENTATION_CLASSES, "DICOM SEG"),
    RTStructureSetStorage: "RTSTRUCT",
}
"""What holds labels of a series, by SOP class, in words."""
PIXEL_DATA = (struct.pack("<HH", 0x7FE0, 0x0010), struct.pack(">HH", 0x7FE0, 0x0010))
"""The tag of the pixels, in both byte orders."""
B_VALUES = (0x00189087, 0x0019100C, 0x00431039, 0x20011003)
"""Diffusion b-value: of the standard, of Siemens, of GE, of Philips."""
KEYWORDS = (
    *("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "ImageType"),
    *("SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "ContrastBolusAgent"),
    *("ContrastBolusAgentSequence", "AcquisitionTime", "AcquisitionDateTime", "SeriesTime", "StudyDate", "Units"),
    *("InstanceNumber", "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "EchoTime", "EchoNumbers"),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *(
        "RescaleType",
        "LossyImageCompression",
        "ModalityLUTSequence",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
    ),
)
TAG_OF = {keyword: int(Tag(keyword)) for keyword in KEYWORDS}
TAGS = [*TAG_OF.values(), *B_VALUES]
STANDARD_GROUPS = {0x0002, 0x0008}
"""The groups that a data set without a preamble begins with."""


class NotDicom(Exception):
    """The file is something else: no DICOM magic. ``bare`` where it looks like a data set without its preamble."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        self.bare = bare


class Damaged(Exception):
    """A DICOM file whose header cannot be read; the reason is its text."""


@dataclass(frozen=True)
class Header:
    """The elements of ``KEYWORDS`` of one file, and where its pixels begin.

    Args:
        path: the file.
        dataset: the elements; converted when they are asked for.
        size: bytes of the file.
        pixels_at: offset of the first pixel, None where they are deflated or there are none.
        pixel_bytes: how many bytes of pixels the file says there are.
        little_endian: the byte order.
        values: the elements by tag, as bytes unless they are sequences.
    """

    path: Path
    dataset: Dataset = field(repr=False)
    size: int
    pixels_at: int | None
    pixel_bytes: int
    little_endian: bool
    values: Mapping[int, Any] = field(repr=False)

    @property
    def syntax(self) -> str:
        return self._meta("TransferSyntaxUID") or _guessed_syntax(self.dataset)

    @property
    def sop_class(self) -> str:
        return self.text("SOPClassUID") or self._meta("MediaStorageSOPClassUID")

    def text(self, keyword: str | int) -> str:
        """A value as text, several joined by a backslash; ``""`` where it is absent."""
        raw = self._raw(keyword)
        if isinstance(raw, bytes):
            return raw.decode("latin-1").strip(" \0")
        if raw is None:
            return ""
        return (
            "\\".join(map(str, raw)) if isinstance(raw, (list, tuple)) or _is_multiple(raw) else str(raw).strip(" \0")
        )

    def words(self, keyword: str) -> tuple[str, ...]:
        """Several values as texts."""
        return tuple(word.strip() for word in self.text(keyword).split("\\") if word.strip())

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """A decimal string as numbers; ``()`` where it is absent or not of numbers."""
        try:
            return tuple(float(word) for word in self.text(keyword).split("\\") if word.strip())
        except ValueError:
            return ()

    def number(self, keyword: str) -> float | None:
        """The only or first number, or None."""
        return next(iter(self.numbers(keyword)), None)

    def integer(self, keyword: str, default: int = 0) -> int:
        """An unsigned short."""
        raw = self._raw(keyword)
        if isinstance(raw, bytes) and len(raw) >= 2:
            return int.from_bytes(raw[:2], "little" if self.little_endian else "big")
        return raw if isinstance(raw, int) else default

    def decoded(self, keyword: str) -> str:
        """A text element in its own character set, without control characters: for display alone."""
        value = ""
        with without_warnings(), suppress(Exception):  # damaged text is no reason to refuse a scan
            value = str(self.dataset.get(keyword, "") or "")
        return "".join(c if c.isprintable() else " " for c in value).strip()

    def has(self, keyword: str) -> bool:
        return TAG_OF[keyword] in self.values

    def b_value(self) -> str:
        """The diffusion weighting as the file has it, whoever wrote it."""
        return next((value for tag in B_VALUES if (value := self.text(tag))), "")

    def _meta(self, keyword: str) -> str:
        """An element of the file meta information, ``""`` where it is absent or damaged."""
        with without_warnings(), suppress(Exception):
            return str(self.dataset.file_meta.get(keyword, ""))
        return ""

    def _raw(self, keyword: str | int) -> Any:
        """The bytes of an element, unconverted where they still are: conversion is most of the time a header takes."""
        return self.values.get(keyword if isinstance(keyword, int) else TAG_OF[keyword])


def _is_multiple(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes))


def _guessed_syntax(dataset: Dataset) -> str:
    implicit, little = dataset.original_encoding
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"


def read_header(path: Path, *, force: bool = False) -> Header:
    """Read the header of one file.

    Args:
        path: the file.
        force: take a data set without preamble, too.

    Raises:
        NotDicom: the file is something else.
        Damaged: its header cannot be read.
        OSError: it cannot be opened.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD_BYTES)
    if head[128:132] != b"DICM" and not (force and _looks_bare(head)):
        raise NotDicom(bare=_looks_bare(head))
    with suppress(Damaged):  # a head that ends inside an element may look damaged
        dataset, offset = _parsed(BytesIO(head))
        if size <= len(head) or head[offset : offset + 4] in PIXEL_DATA:
            return _header(path, dataset, size, offset, head[offset : offset + 12])
    with path.open("rb") as whole:
        dataset, offset = _parsed(whole)
        whole.seek(offset)
        return _header(path, dataset, size, offset, whole.read(12))


def _header(path: Path, dataset: Dataset, size: int, offset: int, element: bytes) -> Header:
    """``element``: what begins at ``offset``: tag, representation and length of the pixel data, if there are any."""
    implicit, little_endian = dataset.original_encoding
    values = {int(tag): found.value for tag, found in dataset.items()}
    if element[:4] not in PIXEL_DATA:
        return Header(path, dataset, size, None, 0, bool(little_endian), values)
    begin = 8 if implicit else 12
    length = int.from_bytes(element[begin - 4 : begin], "little" if little_endian else "big")
    return Header(path, dataset, size, offset + begin, length, bool(little_endian), values)


def _parsed(stream: Any) -> tuple[Dataset, int]:
    """The header, and where it ends."""
    try:
        with without_warnings():
            dataset = dcmread(stream, stop_before_pixels=True, specific_tags=TAGS, force=True)
            return dataset, stream.tell()
    except Exception as error:  # whatever damaged bytes make pydicom raise
        raise Damaged(f"the header is damaged ({type(error).__name__})") from None


def _looks_bare(head: bytes) -> bool:
    """Whether a file without the magic begins as a data set does: group 2 or 8, little endian, a short first element."""
    if len(head) < 16:
        return False
    group, element, size = struct.unpack("<HHL", head[:8])
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return group in STANDARD_GROUPS and element < 0x100 and (explicit or size <= 256)


def is_directory(header: Header) -> bool:
    """Whether the file is the index of a disc (DICOMDIR)."""
    return header.sop_class == MediaStorageDirectoryStorage or header.path.name.upper() == "DICOMDIR"


def files_of(folder: Path) -> Iterator[Path]:
    """The files directly inside a folder, by name, hidden ones left out."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if not entry.name.startswith(".") and entry.is_file():
            yield Path(entry.path)
