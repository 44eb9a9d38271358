"""What an object of the patient's record repeats of the images that it was made from: the patient, the study, the device."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, validate_value

from medseg3d.checks import tell

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
SEXES = ("M", "F", "O", "")
FIRST_SERIES = 9000
"""Added to the images' series number, so that what is made from them is listed behind them."""


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
        elif keyword in header:
            left.append(keyword)
        if keyword in REQUIRED and keyword not in identity:
            setattr(identity, keyword, "")
    if left:
        message = f"values of the images that the standard does not allow are left away: {', '.join(left)}"
        tell("W-DICOM-VALUE", message, file=getattr(header, "filename", None))
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


logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings repeat values, and go there, too


@contextmanager
def without_warnings() -> Iterator[None]:
    """pydicom's warnings repeat the values that they are about, which may be the patient's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
