"""NIfTI files: nibabel reads the header, and everything that others pass over in silence is an error with a code.

Geometry goes by the book (nifti1.h): the sform where its code is set, else the qform; neither is an error, because
readers differ in what they make of it. The voxels come through isal, whole and with their checksum.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from medseg3d.checks import InputError, tell
from medseg3d.io.nifti_geometry import fields_of, tell_about_geometry, voxel_to_mm
from medseg3d.io.values import NonFinite, image_values, label_values
from medseg3d.volume import Grid, Volume

DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
REFUSED_DTYPES = {1: "binary", 32: "complex64", 128: "RGB24", 1536: "float128", 1792: "complex128", 2304: "RGBA32"}
PADDING_BYTES = 512
"""Zeros that may follow the voxels: some tools fill a block."""
HEAD_BYTES = 65536
"""Enough of a packed file to read its header."""
PIECE_BYTES = 2**20
UNPACKED_PIECES = 256
"""How far a file that is refused is unpacked to find its checksum: not to the end of a bomb."""
MAX_GZIP_RATIO = 1032
"""Deflate cannot pack tighter, so a larger claim is known to be wrong before anything is unpacked."""


def read_nifti(
    path: str | Path, *, labels: bool = False, nonfinite: NonFinite = "error", assume_orientation: str | None = None
) -> Volume:
    """Read a ``.nii`` or ``.nii.gz`` file.

    Args:
        path: the file.
        labels: integer values, exactly; ``scl_slope`` other than 1 is refused.
        nonfinite: what NaN and infinity in an image are: ``"error"`` or ``"zero"``.
        assume_orientation: where the axes point (such as ``RAS``) in a file that does not say so; default: refuse it.

    Returns:
        A volume ``(C, x, y, z)``, or ``(C, x, y)`` for a file of two axes; a fourth axis becomes C. Its ``header``
        holds the geometry fields of the file.

    Raises:
        InputError: for what the catalogue of bad inputs lists; the code says which.
    """
    path = Path(path)
    stream = _Bytes(path)
    with stream.blamed():
        header = _header(stream, path)
        dtype, shape = _type_and_shape(header, path)
        offset = int(header["vox_offset"])
        expected = offset + math.prod(shape) * dtype.itemsize
        raw = _voxel_bytes(stream, expected, path)
    data = np.frombuffer(raw, dtype, math.prod(shape), offset).reshape(shape, order="F")
    data = data.astype(dtype.newbyteorder("="), order="K", copy=False)
    data = _scaled(data, header, path, labels)
    data = label_values(data, path) if labels else image_values(data, path, nonfinite)
    spatial = min(len(shape), 3)
    data = np.moveaxis(data, -1, 0) if len(shape) == 4 else data[None]
    fields = fields_of(header)
    affine = voxel_to_mm(fields, shape[:spatial], path, assume_orientation=assume_orientation)
    tell_about_geometry(fields, affine, shape[:spatial], path)
    if int(header["dim"][0]) > len(shape):
        sizes = tuple(int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1])
        tell("I-SQUEEZED", f"axes of size {sizes} are read as {shape}: the last ones hold one value", file=path)
    return Volume(data, affine, fields)


def nifti_channels(path: str | Path) -> int:
    """Size of the fourth axis, from the header alone."""
    path = Path(path)
    try:
        shape = _type_and_shape(_header(_Bytes(path, HEAD_BYTES), path), path)[1]
    except InputError:
        read_nifti(path)  # what is wrong with the file as a whole says more
        raise
    return shape[3] if len(shape) == 4 else 1


def nifti_grid(path: str | Path) -> tuple[Grid, int, np.dtype[Any]]:
    """Grid, channels and stored type of the voxels, from the header alone.

    Raises:
        InputError: for a header that ``read_nifti`` would refuse.
    """
    path = Path(path)
    header = _header(_Bytes(path, HEAD_BYTES), path)
    dtype, shape = _type_and_shape(header, path)
    fields = fields_of(header)
    spatial = min(len(shape), 3)
    affine = voxel_to_mm(fields, shape[:spatial], path)
    tell_about_geometry(fields, affine, shape[:spatial], path)
    return Grid(shape[:spatial], affine), shape[3] if len(shape) == 4 else 1, dtype


class _Bytes:
    """The content of a file, unpacked as far as it is asked for."""

    def __init__(self, path: Path, at_most: int = -1) -> None:
        try:
            with path.open("rb") as file:
                self.packed = file.read(at_most)
        except OSError as error:
            raise InputError("E-NOT-READABLE", f"cannot be read ({error.strerror})", file=path) from None
        self.size = len(self.packed)
        self.path = path
        self.gzipped = path.name.lower().endswith(".gz")
        self.ended = not self.gzipped
        self.content = bytearray() if self.gzipped else bytearray(self.packed)
        if not self.packed:
            raise InputError("E-NOT-NIFTI", "an empty file", file=path, fix="copy or download it again")
        if self.gzipped and self.packed[:2] != b"\x1f\x8b":
            hint = "rename it to .nii" if _looks_like_nifti(self.packed) else "check where it came from"
            raise InputError("E-NOT-NIFTI", "named .gz, but it is not gzip", file=path, fix=hint)
        if not self.gzipped and self.packed[:2] == b"\x1f\x8b":
            raise InputError("E-NOT-NIFTI", "named .nii, but it is gzip", file=path, fix="rename it to .nii.gz")
        self._decompressor = isal_zlib.decompressobj(wbits=31)

    def up_to(self, size: int) -> bytearray:
        """At least ``size`` bytes of the content, or all there are; the checksum is verified where the end is met."""
        while not self.ended and len(self.content) < size:
            try:
                part = self._decompressor.decompress(self.packed, size - len(self.content))
            except IsalError as error:  # type: ignore[misc]  # isal's stub says Any
                raise InputError(
                    "E-CORRUPT",
                    f"the gzip stream is damaged ({error})",
                    file=self.path,
                    fix="copy or download it again",
                ) from None
            self.content += part
            self.packed = self._decompressor.unconsumed_tail
            if self._decompressor.eof:
                self.packed = self._decompressor.unused_data.lstrip(b"\0")
                self._decompressor = isal_zlib.decompressobj(wbits=31)
                self.ended = not self.packed
            elif not part and not self.packed:
                break
        return self.content

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """While entered, what is refused in a file whose gzip stream is damaged is refused for that."""
        try:
            yield
        except InputError as error:
            if error.finding.code not in ("E-CORRUPT", "E-TRUNCATED"):
                for _ in range(UNPACKED_PIECES):
                    self.content.clear()
                    if not self.up_to(PIECE_BYTES):
                        break
            raise


def _looks_like_nifti(raw: bytes) -> bool:
    return raw[344:348] in (b"n+1\0", b"ni1\0") or raw[4:7] == b"n+2"


def _header(stream: _Bytes, path: Path) -> Any:
    raw = bytes(stream.up_to(540)[:540])
    if raw[344:348] == b"n+1\0" and len(raw) >= 348:
        kind, size = nib.Nifti1Header, 348
    elif raw[4:12] == b"n+2\0\r\n\x1a\n" and len(raw) == 540:
        kind, size = nib.Nifti2Header, 540
    elif raw[344:348] == b"ni1\0":
        fix = "convert the .hdr/.img pair to one .nii.gz"
        raise InputError("E-NOT-NIFTI", "the header of a .hdr/.img pair, without voxels", file=path, fix=fix)
    elif 4 <= len(raw) < 348 and raw[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        raise InputError(
            "E-TRUNCATED", f"the header has 348 bytes, the file {len(raw)}", file=path, fix="copy it again"
        )
    else:
        what = "an empty file" if not raw else "no NIfTI magic in the header"
        raise InputError("E-NOT-NIFTI", what, file=path, fix="NIfTI, NRRD, MetaImage, PNG, JPEG and TIFF are read")
    endianness = "<" if int.from_bytes(raw[:4], "little") == size else ">"
    header = kind(raw[:size], endianness, check=False)
    if int(header["sizeof_hdr"]) != size:
        raise InputError("E-HEADER", f"header size {int(header['sizeof_hdr'])}; the rule is {size}", file=path)
    return header


def _type_and_shape(header: Any, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What the header says of the voxels, where it can be true."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or any(n < 1 for n in dim[1 : dim[0] + 1]):
        rule = "dim[0] is the number of axes, 1 to 7, and every axis has at least one voxel"
        raise InputError("E-HEADER", f"dim is {dim}; {rule}", file=path, fix="export the file again")
    code = int(header["datatype"])
    if code not in DTYPES:
        name = REFUSED_DTYPES.get(code)
        message = f"voxels of type {name or code}; real numbers, one per voxel, are read"
        raise InputError("E-DTYPE" if name else "E-HEADER", message, file=path, fix="convert it to a scalar image")
    dtype = np.dtype(DTYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        message = f"bitpix is {int(header['bitpix'])}, but the type has {8 * dtype.itemsize} bits"
        raise InputError("E-HEADER", message, file=path, fix="export the file again")
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 4 or len(shape) < 2:
        message = f"{len(shape)} axes of size {tuple(shape)}; 2 to 4 are read, the fourth as channels"
        raise InputError("E-DTYPE", message, file=path, fix="split it into scalar images")
    offset = float(header["vox_offset"])
    if not (offset >= int(header["sizeof_hdr"]) and offset == int(offset)):
        message = (
            f"vox_offset is {offset:g}; the voxels start behind the {int(header['sizeof_hdr'])} bytes of the header"
        )
        raise InputError("E-HEADER", message, file=path, fix="export the file again")
    needed, memory = math.prod(shape) * dtype.itemsize + int(offset), _memory_bytes()
    if needed > memory:
        message = (
            f"the header claims {needed / 2**30:,.1f} GiB of voxels {tuple(shape)}; {memory / 2**30:.1f} GiB are free"
        )
        raise InputError(
            "E-HEADER", message, file=path, fix="is the header right? otherwise use a machine with more memory"
        )
    return dtype, tuple(shape)


def _memory_bytes() -> int:
    """Memory that can be had now, or all there is where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return 64 * 2**30


def _voxel_bytes(stream: _Bytes, expected: int, path: Path) -> bytearray:
    """All bytes of the file, where they are as many as the header says."""
    if stream.gzipped and expected > MAX_GZIP_RATIO * stream.size:
        raise _truncated(expected, f"a gzip file of {stream.size}, which cannot hold them", path)
    raw = stream.up_to(expected + PADDING_BYTES + 1)
    if len(raw) < expected:
        raise _truncated(expected, str(len(raw)), path)
    if not stream.ended:
        if len(raw) <= expected + PADDING_BYTES:
            raise _truncated(expected, f"{len(raw)}, without the gzip checksum", path)
        raise _too_long(expected, f"at least {len(raw)}", path)
    if len(raw) > expected + PADDING_BYTES or any(raw[expected:]):
        raise _too_long(expected, str(len(raw)), path)
    return raw


def _truncated(expected: int, got: str, path: Path) -> InputError:
    message = f"the file is cut short: the header promises {expected} bytes, got {got}"
    return InputError("E-TRUNCATED", message, file=path, fix="copy or download it again")


def _too_long(expected: int, got: str, path: Path) -> InputError:
    message = f"the file is longer than its header says: {expected} bytes expected, got {got}"
    return InputError("E-HEADER", message, file=path, fix="export it again; the header's size or type is wrong")


def _scaled(data: NDArray[Any], header: Any, path: Path, labels: bool) -> NDArray[Any]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):  # nifti1.h: 0 means no scaling
        if slope != 0 or inter != 0:  # both 0 is how most files say so
            message = f"scl_slope {slope:g} and scl_inter {inter:g} are no scaling; the values count as they are stored"
            tell("W-SCALING", message, file=path, fix="set scl_slope to 1 and scl_inter to 0, or to what is meant")
        return data
    inter = inter if math.isfinite(inter) else 0.0
    if slope == 1 and inter == 0:
        return data
    if labels:
        message = f"label values are scaled (scl_slope {slope:g}, scl_inter {inter:g}); the rule is 1 and 0"
        raise InputError("E-LABEL-SCALED", message, file=path, fix="store the label values themselves")
    data = data.astype(np.float32 if data.dtype.itemsize <= 2 or data.dtype == np.float32 else np.float64)
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        data *= slope
        data += inter
    return data
