"""DICOM series as volumes: CT, MR and PET, classic and multi-frame, in any transfer syntax that is decoded.

``find_series`` lists what is in a folder from headers alone, with findings; ``read_series`` reads one. Slices are put in
order by their position, never by number. What is no regular stack of slices is refused with a code: nothing is averaged,
merged, mirrored or guessed (compare docs/bad_inputs.md).

Codes: E-SERIES several series; E-MISSING-SLICE; E-DUPLICATE images with different pixels at one position; E-TIMEPOINTS
several volumes in one series; E-TILT; E-SPACING gaps or pixels of different size; E-NO-GEOMETRY; E-ORIENTATION;
E-MATRIX; E-MOSAIC; E-LOCALIZER; E-RESCALE; E-DTYPE colours, odd bits; E-DECODER; E-TRUNCATED; E-CORRUPT; E-FORMAT;
E-NOT-DICOM; E-NO-PREAMBLE; E-NOT-READABLE; E-MEMORY. W-DUPLICATE, W-LOCALIZER, W-SINGLE-SLICE, W-MONOCHROME1, W-NOT-HU,
W-FRAME-OF-REFERENCE, W-PIXEL-LENGTH, W-RESCALE, W-OTHER-KIND, W-LOSSY; I-SKIPPED, I-SUBFOLDERS, I-TIMEPOINT.
"""

from __future__ import annotations

from pathlib import Path

from medseg3d.checks import InputError, pass_on
from medseg3d.io.dicom_folder import find_series
from medseg3d.io.dicom_rescale import read_values
from medseg3d.io.dicom_series import Listing, Series
from medseg3d.volume import Volume

__all__ = ["Listing", "Series", "find_series", "read_dicom", "read_series"]


def read_series(series: Series) -> Volume:
    """Read the voxels of a series.

    Args:
        series: from ``find_series``.

    Returns:
        Data ``(1, columns, rows, slices)`` with the modality rescale of each slice applied (HU for CT), of type int16
        or int32 where all values are whole, else float32; the affine to RAS+ mm.

    Raises:
        InputError: for the first error among its findings, or where pixels are damaged.
    """
    if series.errors:
        first = series.errors[0]
        raise InputError(first.code, first.message, file=first.file, fix=first.fix)
    for finding in series.findings:
        pass_on(finding)
    assert series.grid is not None  # a series without errors is a stack
    try:
        values = read_values(series.slices)
    except MemoryError:
        message = f"{' x '.join(map(str, series.shape))} voxels do not fit into the memory that is free"
        raise InputError("E-MEMORY", message, file=series.where, fix="close other programs") from None
    return Volume(values.transpose(2, 1, 0)[None], series.grid.affine)


def read_dicom(path: str | Path, *, series: str | int | None = None, timepoint: int | None = None) -> Volume:
    """Read the only series of a folder or file, or the one that is named.

    Args:
        path: a folder, or a file.
        series: number or identifier of ``find_series``, or a SeriesInstanceUID.
        timepoint: of a series of several volumes, counted from 1.

    Raises:
        InputError: where there are several series, none, or it cannot be read.
    """
    return read_series(find_series(path, timepoint=timepoint).choose(series))
