"""The stored values of DICOM images, and the modality rescale: PS3.5 section 8, PS3.3 C.11.1.

Uncompressed pixels are read straight from the file into the volume; the decoders of pydicom unpack the others, and GDCM
(inside SimpleITK) what they cannot: JPEG lossless, whose other decoder in Python is under the GPL.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    SecondaryCaptureImageStorage,
)

from medseg3d.checks import InputError
from medseg3d.io.dicom_headers import Header
from medseg3d.io.dicom_slices import Slice
from medseg3d.io.dicom_warnings import without_warnings

COPY_AGAIN = "copy or export the file again"
NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}
GDCM = {JPEGLossless, JPEGLosslessSV1, JPEGExtended12Bit}
"""What the GDCM inside SimpleITK decodes, where pydicom has no decoder of ``PLUGINS``."""
PLUGINS = ("pylibjpeg", "pyjpegls", "pydicom", "pillow")
"""Decoders in the order of preference, so that what else is installed does not change what is read."""
PIXEL_KEYWORDS = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    "PixelData",
)
FRAMES_AT_ONCE = 16
"""highdicom holds frames in 8 bytes a pixel."""


@cache
def can_decode(syntax: str) -> bool:
    """Whether pixels of a transfer syntax can be unpacked with what is installed."""
    if syntax in NATIVE or syntax in GDCM:
        return True
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def syntax_name(syntax: str) -> str:
    """A transfer syntax in words."""
    return UID(syntax).name.split(" (")[0]


def check_pixels(header: Header) -> None:
    """Refuse, from the header and the file's length alone, pixels that cannot be read.

    Raises:
        InputError: ``E-DTYPE``, ``E-DECODER`` or ``E-TRUNCATED``.
    """
    bits, stored, high = (header.integer(k) for k in ("BitsAllocated", "BitsStored", "HighBit"))
    if header.integer("SamplesPerPixel", 1) != 1 or "MONOCHROME" not in header.text("PhotometricInterpretation"):
        kind = header.text("PhotometricInterpretation") or "of several samples"
        message = f"pixels are {kind} with {header.integer('SamplesPerPixel', 1)} values each; grey values are read"
        raise InputError("E-DTYPE", message, file=header.path, fix="a picture in colours is no scan; take it out")
    if bits not in (8, 16, 32) or not 1 <= stored <= bits or not stored - 1 <= high < bits:
        message = f"pixels of {stored} in {bits} bits (high bit {high}); 8, 16 or 32 bits hold a value"
        raise InputError("E-DTYPE", message, file=header.path, fix=COPY_AGAIN)
    if not can_decode(header.syntax):
        message = f"compressed as {syntax_name(header.syntax)}, which no installed decoder unpacks"
        fix = "pip install pylibjpeg pylibjpeg-openjpeg pyjpegls, or export the series uncompressed"
        raise InputError("E-DECODER", message, file=header.path, fix=fix)
    if header.syntax in NATIVE:
        _check_length(header)


def _check_length(header: Header) -> None:
    """An uncompressed file must hold all the pixels it says."""
    rows, columns = header.integer("Rows"), header.integer("Columns")
    if rows * columns == 0:
        message = f"an image of {rows} rows and {columns} columns"
        raise InputError("E-DTYPE", message, file=header.path, fix=COPY_AGAIN)
    expected = int(header.number("NumberOfFrames") or 1) * rows * columns * header.integer("BitsAllocated") // 8
    got = 0 if header.pixels_at is None else min(header.size - header.pixels_at, header.pixel_bytes)
    if got < expected:
        message = f"the file is cut short: {expected} bytes of pixels expected, got {max(got, 0)}"
        raise InputError("E-TRUNCATED", message, file=header.path, fix=COPY_AGAIN)


def stored_type(header: Header) -> np.dtype[Any]:
    """The type that stored values are kept in."""
    kind = "i" if header.integer("PixelRepresentation") else "u"
    return np.dtype(f"{kind}{header.integer('BitsAllocated') // 8}")


def read_stored(header: Header, out: NDArray[Any]) -> tuple[int, int]:
    """Read the stored values of a classic file.

    Args:
        header: of the file.
        out: ``(rows, columns)`` of ``stored_type``, contiguous; filled.

    Returns:
        The least and the largest value.

    Raises:
        InputError: ``E-TRUNCATED``, ``E-CORRUPT`` or ``E-DECODER``.
    """
    if header.syntax in NATIVE:
        _read_native(header, out)
        low, high = int(out.min()), int(out.max())
        stored, shift = header.integer("BitsStored"), header.integer("HighBit") + 1 - header.integer("BitsStored")
        signed = out.dtype.kind == "i"
        if shift or low < (-(1 << stored - 1) if signed else 0) or high >= 1 << stored - signed:
            _without_other_bits(out, stored, shift)  # overlays, or no sign extension
            low, high = int(out.min()), int(out.max())
        return low, high
    values = _unpacked(header)
    if values.shape != out.shape:
        message = f"the compressed image has size {values.shape}, the header says {out.shape}"
        raise InputError("E-CORRUPT", message, file=header.path, fix=COPY_AGAIN)
    out[:] = values
    return int(out.min()), int(out.max())


def _read_native(header: Header, out: NDArray[Any]) -> None:
    view = memoryview(out.data).cast("B")
    done = 0
    try:
        with header.path.open("rb", buffering=0) as file:
            file.seek(header.pixels_at or 0)
            while done < len(view) and (got := file.readinto(view[done:])):
                done += got
    except OSError as error:
        raise InputError("E-NOT-READABLE", f"cannot be read ({error.strerror})", file=header.path) from None
    if done < len(view):
        message = f"the file is cut short: {len(view)} bytes of pixels expected, got {done}"
        raise InputError("E-TRUNCATED", message, file=header.path, fix=COPY_AGAIN)
    if not header.little_endian:
        out.byteswap(inplace=True)


def _without_other_bits(out: NDArray[Any], stored: int, shift: int) -> None:
    """Keep the stored bits alone, with their sign."""
    left = 8 * out.itemsize - stored - shift
    np.left_shift(out, left, out=out)
    np.right_shift(out, left + shift, out=out)


def _unpacked(header: Header) -> NDArray[Any]:
    """The values of a compressed file, by the first decoder that can."""
    there = list(get_decoder(UID(header.syntax)).available_plugins)
    if header.syntax == JPEGExtended12Bit and header.integer("BitsStored") > 8 and "pillow" in there:
        there.remove("pillow")
    try:
        with without_warnings():
            plugin = next((p for p in PLUGINS if p in there), "")
            if not plugin and header.syntax in GDCM:
                return _by_gdcm(header)
            source = header.path if header.pixels_at is not None else dcmread(header.path)  # deflated as a whole
            return np.asarray(pixel_array(source, raw=True, decoding_plugin=plugin))
    except OSError as error:
        raise InputError("E-NOT-READABLE", f"cannot be read ({error.strerror})", file=header.path) from None
    except Exception as error:  # whatever damaged bytes make a decoder raise
        if "missing dependencies" in str(error):
            message = f"compressed as {syntax_name(header.syntax)}, which no installed decoder unpacks"
            fix = "pip install pylibjpeg pylibjpeg-openjpeg pyjpegls"
            raise InputError("E-DECODER", message, file=header.path, fix=fix) from None
        logging.getLogger(__name__).debug("decoding failed", exc_info=True)
        message = f"the compressed pixels ({syntax_name(header.syntax)}) are damaged or cut short"
        raise InputError("E-CORRUPT", message, file=header.path, fix=COPY_AGAIN) from None


def _by_gdcm(header: Header) -> NDArray[Any]:
    """Stored values through SimpleITK, from a copy with the pixels alone, so that no rescale is applied on the way."""
    import SimpleITK as sitk

    dataset = dcmread(header.path)
    if not bytes(dataset.PixelData).rstrip(b"\0").count(b"\xff\xd9"):
        raise ValueError("no end of image")
    copy = type(dataset)("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    for keyword in PIXEL_KEYWORDS:
        copy[keyword] = dataset[keyword]
    copy.PhotometricInterpretation = "MONOCHROME2"
    copy.SOPClassUID, copy.SOPInstanceUID = SecondaryCaptureImageStorage, UID("1.2.3")
    copy.file_meta.TransferSyntaxUID = UID(header.syntax)
    copy.file_meta.MediaStorageSOPClassUID, copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPClassUID, UID("1.2.3")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        copy.save_as(path, enforce_file_format=True)
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    return values[0] if values.ndim == 3 else values


def read_frames(slices: Sequence[Slice], out: NDArray[Any]) -> None:
    """Read frames of one multi-frame file with their rescale applied, through highdicom.

    Args:
        slices: the frames.
        out: ``(slices, rows, columns)``; filled.

    Raises:
        InputError: ``E-CORRUPT``.
    """
    from highdicom.image import Image

    header = slices[0].header
    try:
        with without_warnings():
            image = Image.from_dataset(dcmread(header.path), copy=False)  # imread prints to stdout what goes wrong
            for start in range(0, len(slices), FRAMES_AT_ONCE):
                frames = [s.frame or 0 for s in slices[start : start + FRAMES_AT_ONCE]]
                out[start : start + len(frames)] = image.get_frames(
                    frames, as_indices=True, apply_real_world_transform=False, apply_presentation_lut=False
                )
    except Exception as error:  # whatever damaged bytes make it raise
        logging.getLogger(__name__).debug("highdicom failed", exc_info=True)
        message = f"the frames cannot be read ({type(error).__name__})"
        raise InputError("E-CORRUPT", message, file=header.path, fix=COPY_AGAIN) from None
