"""What an object of the patient's record repeats of the images that it was made from: the patient, the study, the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.multival import MultiValue
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, validate_value

from medseg3d.checks import InputError, tell

REQUIRED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""What every DICOM object carries; empty where the images do not say it."""
OPTIONAL = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyDescription", "PositionReferenceIndicator", "Modality", "SeriesNumber"),
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
TEXTS = ("LO", "SH", "PN", "LT", "ST", "UT")
"""Kinds of values that are written as they are, too long or not: the archive has filed the images by them."""
KEYS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""What an image is referred to by. Anonymisers empty some of them."""
SEXES = ("M", "F", "O", "")
FIRST_SERIES = 9000
"""Added to the images' series number, so that what is made from them is listed behind them."""


def references_of(headers: Sequence[Dataset]) -> list[Dataset]:
    """What each of the images of a series is referred to by: ``KEYS``, rows and columns.

    Where no image has an identifier of the study, the series or the frame of reference, one is derived from those that
    there are, so that objects made from the same images agree; it is said.

    Raises:
        InputError: ``E-SOURCE`` for an image without an identifier of its own, or images of different series.
    """
    references = [_reference(header) for header in headers]
    file = file_of(headers[0])
    missing = [key for key in KEYS[2:] if not any(reference.get(key) for reference in references)]
    known = min(str(reference.SOPInstanceUID) for reference in references)
    for key in missing:
        for reference in references:
            setattr(reference, key, generate_uid(entropy_srcs=[key, known]))
    if missing:
        message = f"the images have no {' and no '.join(missing)}; made up for them, other programs cannot know it"
        tell("W-SOURCE", message, file=file, fix="use images that were not stripped of it")
    for key in (*KEYS[2:], "Rows", "Columns"):
        if len(values := {str(reference.get(key)) for reference in references}) > 1:
            message = f"{len(values)} different values of {key} among the source images"
            raise InputError("E-SOURCE", message, file=file, fix="give the images of one series")
    return references


def _reference(header: Dataset) -> Dataset:
    reference = Dataset()
    meta = getattr(header, "file_meta", None) or {}
    for key in (*KEYS, "Rows", "Columns"):
        value = header.get(key) or meta.get(f"MediaStorage{key}")
        if not value and key not in KEYS[2:]:
            message = f"the source image has no {key}, so that nothing can refer to it"
            raise InputError("E-SOURCE", message, file=file_of(header), fix="export the series again")
        setattr(reference, key, value)
    return reference


def file_of(header: Dataset) -> str | None:
    """The file that a data set was read from, for messages."""
    name = getattr(header, "filename", None)
    return None if name is None else str(name)


def identity_of(header: Dataset) -> Dataset:
    """The elements of ``REQUIRED`` and ``OPTIONAL``, as far as they are valid.

    Scanners and anonymisers write values that the standard does not allow, such as a date of birth of ``unknown``, and
    objects with such values are turned away; these are left empty, which the standard allows, and it is said.
    """
    identity, left = Dataset(), []
    for keyword in (*REQUIRED, *OPTIONAL):
        value = _valid(header, keyword)
        if value is not None:
            setattr(identity, keyword, value)
        elif header.get_item(keyword) is not None and header.get_item(keyword).value:
            left.append(keyword)
        if keyword in REQUIRED and keyword not in identity:
            setattr(identity, keyword, "")
    if left:
        message = f"values of the images that the standard does not allow are left away: {', '.join(left)}"
        tell("W-DICOM-VALUE", message, file=file_of(header))
    return identity


def _valid(header: Dataset, keyword: str) -> Any:
    """A value that may be written, or None."""
    if keyword not in header:
        return None
    try:
        element = header[keyword]
        value = element.value
        if element.VR in TEXTS:
            return value
        for one in value if isinstance(value, MultiValue) else [value]:
            validate_value(element.VR, one if one is None else str(one), RAISE)
            if one and element.VR in ("DA", "TM"):
                {"DA": DA, "TM": TM}[element.VR](str(one))
    except (ValueError, TypeError, KeyError, OverflowError, UnicodeError, NotImplementedError):
        return None
    return None if keyword == "PatientSex" and str(value or "") not in SEXES else value


def series_number(identity: Dataset, nth: int) -> int:
    """For the n-th kind of object that is made from a series."""
    number = int(identity.get("SeriesNumber") or 0)
    return FIRST_SERIES + nth + (number if 0 <= number < 10**6 else 0)
