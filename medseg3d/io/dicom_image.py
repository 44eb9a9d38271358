"""One DICOM file as a picture: ultrasound, radiographs, secondary captures, in grey or in colours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, pixel_array

from medseg3d.checks import InputError, tell
from medseg3d.io.dicom_headers import Damaged, Header, NotDicom, read_header
from medseg3d.io.dicom_pixels import COPY_AGAIN, can_decode, check_pixels, read_stored, stored_type, syntax_name
from medseg3d.io.dicom_warnings import without_warnings
from medseg3d.volume import Volume

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Rows, then columns, mm: in the patient, at the detector, on the film."""
CENTIMETRES = 3
"""Unit of an ultrasound region: PS3.3 C.8.5.5."""


def read_dicom_image(path: str | Path) -> Volume:
    """Read the one image of a DICOM file.

    Grey values come with their modality rescale, without any window, and always so that larger is brighter; colours as red,
    green and blue, whatever model they are stored in.

    Args:
        path: the file, of any name.

    Returns:
        Data ``(1, rows, columns)``, or ``(3, rows, columns)`` of uint8 for colours; pixels as large as the file says, else 1 mm.

    Raises:
        InputError: ``E-FORMAT`` no DICOM; ``E-FRAMES`` a clip; ``E-RESCALE``, ``E-DTYPE``, ``E-DECODER``, ``E-TRUNCATED`` or
            ``E-CORRUPT``.
    """
    path = Path(path)
    try:
        header = read_header(path)
    except NotDicom:
        raise InputError("E-FORMAT", "no DICOM file", file=path, fix="check where it came from") from None
    except Damaged as error:
        raise InputError("E-CORRUPT", str(error), file=path, fix=COPY_AGAIN) from None
    except OSError as error:
        raise InputError("E-NOT-READABLE", f"cannot be read ({error.strerror})", file=path) from None
    if not header.integer("Rows") or not header.integer("Columns"):
        raise InputError("E-DTYPE", "holds no image", file=path, fix="take it out")
    if (frames := int(header.number("NumberOfFrames") or 1)) > 1:
        message = f"a clip of {frames} frames; a picture has one"
        raise InputError("E-FRAMES", message, file=path, fix="export the frame that is meant as a file of its own")
    if header.has("ModalityLUTSequence"):
        message = "values are mapped by a table (Modality LUT), which is not supported"
        raise InputError("E-RESCALE", message, file=path, fix="export it with RescaleSlope and RescaleIntercept")
    grey = "MONOCHROME" in header.text("PhotometricInterpretation")
    data = _grey(header) if grey else _colours(header)
    if header.text("LossyImageCompression") == "01":
        tell("I-LOSSY", "compressed with loss, as pictures of this kind often are", file=path)
    rows, columns = _spacing_mm(path)
    return Volume(data, np.diag([rows, columns, 1.0]))


def _grey(header: Header) -> NDArray[Any]:
    check_pixels(header)
    stored = np.empty((header.integer("Rows"), header.integer("Columns")), stored_type(header))
    read_stored(header, stored)
    if header.text("PhotometricInterpretation") == "MONOCHROME1":
        signed = stored.dtype.kind == "i"
        stored = stored.dtype.type(-1 if signed else (1 << header.integer("BitsStored")) - 1) - stored
        tell("I-MONOCHROME1", "stored with dark for large values; turned, so that larger is brighter", file=header.path)
    slope, intercept = (header.number(key) for key in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and (slope == 0 or not np.isfinite(slope)):
        message = f"the rescale is {slope:g} x + {intercept or 0:g}"
        raise InputError("E-RESCALE", message, file=header.path, fix="export it again")
    if slope not in (None, 1.0) or intercept:
        stored = (stored * np.float64(slope or 1.0) + (intercept or 0.0)).astype(np.float32)
    return stored[None]


def _colours(header: Header) -> NDArray[np.uint8]:
    path, kind = header.path, header.text("PhotometricInterpretation")
    if not can_decode(header.syntax):
        message = f"compressed as {syntax_name(header.syntax)}, which no installed decoder unpacks"
        fix = "pip install pylibjpeg pylibjpeg-openjpeg pyjpegls, or export the image uncompressed"
        raise InputError("E-DECODER", message, file=path, fix=fix)
    if header.integer("BitsAllocated") != 8 and kind != "PALETTE COLOR":
        message = f"colours of {header.integer('BitsAllocated')} bits; 8 are read"
        raise InputError("E-DTYPE", message, file=path, fix="export it with 8 bits per colour")
    try:
        with without_warnings():
            dataset = dcmread(path)
            values = np.asarray(pixel_array(dataset, raw=False))
            if kind == "PALETTE COLOR":
                values = np.asarray(apply_color_lut(values, dataset))
    except MemoryError:
        raise
    except Exception as error:  # whatever damaged bytes make a decoder raise
        logging.getLogger(__name__).debug("decoding failed", exc_info=True)
        message = f"its pixels ({kind or 'of no known kind'}) cannot be decoded ({type(error).__name__})"
        raise InputError("E-CORRUPT", message, file=path, fix=COPY_AGAIN) from None
    if values.ndim != 3 or values.shape[-1] not in (3, 4):
        message = f"pixels are {kind or 'of no known kind'} of shape {values.shape}; grey or three colours are read"
        raise InputError("E-DTYPE", message, file=path, fix="export it in grey or RGB")
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8)  # tables of colours hold 16 bits
    return np.ascontiguousarray(np.moveaxis(values[..., :3], -1, 0))


def _spacing_mm(path: Path) -> tuple[float, float]:
    """The size of a pixel along rows' and columns' order: what the file says, or 1 mm."""
    with without_warnings():
        dataset = dcmread(path, stop_before_pixels=True)
        for keyword in SPACINGS:
            found = _numbers(dataset, keyword)
            if len(found) == 2 and min(found) > 0 and np.isfinite(found).all():
                return found[0], found[1]
        return _ultrasound_mm(dataset) or (1.0, 1.0)


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    try:
        return [float(v) for v in dataset.get(keyword) or ()]
    except (TypeError, ValueError):
        return []


def _ultrasound_mm(dataset: Dataset) -> tuple[float, float] | None:
    """The size of a pixel that all calibrated regions of an ultrasound image share."""
    sizes = set()
    try:
        for region in dataset.get("SequenceOfUltrasoundRegions") or ():
            units = {int(region.PhysicalUnitsXDirection), int(region.PhysicalUnitsYDirection)}
            if units == {CENTIMETRES}:
                sizes.add((abs(10 * float(region.PhysicalDeltaY)), abs(10 * float(region.PhysicalDeltaX))))
    except (AttributeError, TypeError, ValueError):
        return None
    size = sizes.pop() if len(sizes) == 1 else (0.0, 0.0)
    return size if min(size) > 0 and np.isfinite(size).all() else None
