"""NIfTI files, good and bad: every case says what a reader must make of it. No patient's data.

The file most are made from: 12 x 10 x 8 voxels of 1.5 x 2 x 3 mm of int16 noise, sform and qform equal, in mm, its axes
turned so that none lies where a reader that ignores the header would put it.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medseg3d.volume import Volume
from tests.bad_input import BadInput, Made

SHAPE = (12, 10, 8)
DATA = np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)
AFFINE = np.array([[0, 0, -3, 40], [1.5, 0, 0, -20], [0, 2, 0, 7], [0, 0, 0, 1.0]])
NAN = float("nan")
FIELDS = {
    "dim": (40, "h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"),
    "quatern_b": (256, "f"),
    "srow_x": (280, "f"),
    "srow_y": (296, "f"),
    "magic": (344, "s"),
}
"""Offset and type of the header fields of NIfTI-1 that cases overwrite."""


def nifti(
    data: NDArray[Any] = DATA, affine: NDArray[np.float64] = AFFINE, *, sform: int = 1, qform: int = 1, **fields: Any
) -> bytearray:
    """The bytes of a file; ``fields`` overwrite the header afterwards, without a look at what they do to it.

    Args:
        data: as nibabel stores it, a fourth axis last.
        affine: of both forms.
        sform, qform: their codes.
        fields: value or values of a field of ``FIELDS``; ``pixdim2`` starts at the third of its values.
    """
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    for field, value in fields.items():
        offset, kind = FIELDS[field.rstrip("0123456789")]
        values = value if isinstance(value, tuple) else (value,)
        form = f"<{len(value)}s" if kind == "s" else f"<{len(values)}{kind}"
        skipped = int(field[len(field.rstrip("0123456789")) :] or 0) * struct.calcsize(f"<{kind}")
        struct.pack_into(form, raw, offset + skipped, *values)
    return raw


def put(folder: Path, raw: bytes, truth: Volume | None = None, name: str = "scan.nii.gz") -> Made:
    """Write the bytes, packed where the name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(raw, 1, mtime=0) if name.endswith(".gz") else raw)
    return Made(path, truth)


def volume(data: NDArray[Any] = DATA, affine: NDArray[np.float64] = AFFINE) -> Volume:
    """What a right reading gives."""
    channels = np.moveaxis(data, -1, 0) if data.ndim == 4 else data[None]
    return Volume(channels, affine)


def simple(*, name: str = "scan.nii.gz", right: Volume | None = None, **header: Any) -> Callable[[Path], Made]:
    """A case that is the standard file with other values in its header."""

    def make(folder: Path) -> Made:
        return put(folder, nifti(**header), right, name)

    return make


# Damaged and dishonest files ------------------------------------------------------------------------------------------


def cut(folder: Path, *, name: str, share: float) -> Made:
    made = put(folder, nifti(), volume(), name)
    content = made.path.read_bytes()
    made.path.write_bytes(content[: int(share * len(content))])
    return made


def flipped_bit(folder: Path, *, at: int) -> Made:
    """One bit of a packed file is wrong; ``at`` below 0 counts from the end."""
    made = put(folder, nifti(), volume())
    content = bytearray(made.path.read_bytes())
    content[at] ^= 4
    made.path.write_bytes(content)
    return made


def header_bit(folder: Path) -> Made:
    """A bit is wrong where the header's magic lies, in a block that is stored unpacked, so that nothing but the CRC tells."""
    raw = bytes(nifti())
    packed = gzip.compress(raw, 0, mtime=0)
    content = bytearray(packed)
    content[packed.index(b"n+1\0")] ^= 4
    (folder / "scan.nii.gz").write_bytes(content)
    return Made(folder / "scan.nii.gz", volume())


def bytes_of(folder: Path, *, name: str, content: bytes) -> Made:
    (folder / name).write_bytes(content)
    return Made(folder / name, None)


def plain_named_gz(folder: Path) -> Made:
    (folder / "scan.nii.gz").write_bytes(nifti())
    return Made(folder / "scan.nii.gz", volume())


def gz_named_plain(folder: Path) -> Made:
    (folder / "scan.nii").write_bytes(gzip.compress(nifti(), 1))
    return Made(folder / "scan.nii", volume())


def bomb(folder: Path) -> Made:
    """A file of 70 kB that unpacks to 64 MB, of which the header needs 2 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with (folder / "scan.nii.gz").open("wb") as file:
        file.write(packer.compress(bytes(nifti())))
        for _ in range(64):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())
    return Made(folder / "scan.nii.gz", volume())


# Values ---------------------------------------------------------------------------------------------------------------


def nonfinite(folder: Path, *, value: float) -> Made:
    data = DATA.astype(np.float32)
    data[3, 4, :2] = value
    return put(folder, nifti(data), volume(data))


def typed(folder: Path, *, dtype: str, number: float = 0) -> Made:
    """Values of a type, one of which is ``number``."""
    data = np.abs(DATA).astype(dtype)
    data[0, 0, 0] = number
    return put(folder, nifti(data), volume(data))


def big_endian(folder: Path) -> Made:
    image = nib.Nifti1Image(DATA, AFFINE, nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.int16)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("mm")
    return put(folder, image.to_bytes(), volume())


def nifti_2(folder: Path) -> Made:
    image = nib.Nifti2Image(DATA, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("mm")
    return put(folder, image.to_bytes(), volume())


def scaled_label(folder: Path) -> Made:
    """A label map whose values 0 and 1 read as 0 and 2.5."""
    data = (DATA > 0).astype(np.uint8)
    return put(folder, nifti(data, scl_slope=2.5), volume(data * 2.5))


def axes(folder: Path, *, shape: tuple[int, ...], right: tuple[int, ...]) -> Made:
    """A file of another number of axes; ``right`` is the shape a reader should see."""
    data = np.random.default_rng(1).integers(0, 1000, shape).astype(np.int16)
    affine = AFFINE if len(shape) > 2 else np.diag([0.7, 0.8, 1.0, 1.0])
    truth = volume(data.reshape(right), affine if len(right) > 2 else np.diag([0.7, 0.8, 1.0]))
    return put(folder, nifti(data, affine), truth)


def vectors(folder: Path) -> Made:
    """Three values per voxel along a fifth axis, as displacement fields have them."""
    data = np.random.default_rng(1).integers(0, 1000, (6, 5, 4, 1, 3)).astype(np.int16)
    return put(folder, nifti(data), volume(data[..., 0, :]))


def colours(folder: Path) -> Made:
    """RGB24: three bytes per voxel."""
    data = np.random.default_rng(2).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    voxels = data.transpose(2, 1, 0, 3).tobytes()
    return put(folder, bytes(nifti(datatype=128, bitpix=24)[:352]) + voxels, volume(data))


def complex_numbers(folder: Path) -> Made:
    data = (DATA + 1j * DATA[::-1]).astype(np.complex64)
    return put(folder, nifti(data), volume(data))


# Geometry -------------------------------------------------------------------------------------------------------------


def two_forms(folder: Path, *, sform: int, qform: int) -> Made:
    """The forms lie 50 mm apart; the sform counts."""
    other = AFFINE.copy()
    other[0, 3] += 50
    image = nib.Nifti1Image(DATA, AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_sform(AFFINE, sform)
    image.set_qform(other, qform)
    return put(folder, image.to_bytes(), volume())


def sheared(folder: Path) -> Made:
    affine = AFFINE.copy()
    affine[:3, 1] += AFFINE[:3, 0] / 2
    return put(folder, nifti(DATA, affine, qform=0), volume(DATA, affine))


def placed(folder: Path, *, affine: NDArray[np.float64]) -> Made:
    return put(folder, nifti(DATA, affine), volume(DATA, affine))


def turned() -> NDArray[np.float64]:
    """Oblique: 30 degrees about the first axis, then 20 about the last."""
    a, b = np.radians([30, 20])
    first = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    last = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = last @ first * (1.5, 2, 3)
    affine[:3, 3] = (40, -20, 7)
    return affine


def scaled_units(folder: Path, *, unit: int, factor: float) -> Made:
    """The same box, written in another unit."""
    affine = AFFINE.copy()
    affine[:3] /= factor
    return put(folder, nifti(DATA, affine, xyzt_units=unit), volume())


OBLIQUE = turned()
LEFT_HANDED = AFFINE @ np.diag([-1.0, 1, 1, 1])
SINGULAR = (0.0, 2.0, 0.0, 0.0)

CASES = (
    BadInput("gz cut in half", "gz cut to 50 %", partial(cut, name="scan.nii.gz", share=0.5), "E-TRUNCATED"),
    BadInput("nii cut in half", ".nii cut to 50 %", partial(cut, name="scan.nii", share=0.5), "E-TRUNCATED"),
    BadInput("bit in gz", "one bit wrong in gz", partial(flipped_bit, at=800), "E-CORRUPT"),
    BadInput("bit in gz header", "one bit wrong in gz, in the header", header_bit, "E-CORRUPT"),
    BadInput("gz CRC", "the CRC of gz wrong", partial(flipped_bit, at=-6), "E-CORRUPT"),
    BadInput("empty file", "0 bytes", partial(bytes_of, name="scan.nii.gz", content=b""), "E-NOT-NIFTI"),
    BadInput("text", "a text", partial(bytes_of, name="scan.nii", content=b"no image here\n" * 40), "E-NOT-NIFTI"),
    BadInput("nii named gz", ".nii named .nii.gz", plain_named_gz, "E-NOT-NIFTI"),
    BadInput("gz named nii", ".nii.gz named .nii", gz_named_plain, "E-NOT-NIFTI"),
    BadInput("dims above data", "header claims 4 times the voxels", simple(dim3=32), "E-TRUNCATED"),
    BadInput("dims below data", "header claims half the voxels", simple(dim3=4), "E-HEADER"),
    BadInput("negative dim", "a negative size", simple(dim2=-10), "E-HEADER"),
    BadInput("nine axes", "dim[0] is 9", simple(dim=9), "E-HEADER"),
    BadInput("type 0", "datatype 0", simple(datatype=0), "E-HEADER"),
    BadInput("108 TB", "header claims 30000 ^ 3 voxels", simple(dim1=(30000, 30000, 30000)), "E-HEADER"),
    BadInput("gzip bomb", "64 MB of zeros behind the voxels", bomb, "E-HEADER"),
    BadInput("NaN", "NaN voxels", partial(nonfinite, value=NAN), "E-NONFINITE"),
    BadInput("infinity", "infinite voxels", partial(nonfinite, value=float("inf")), "E-NONFINITE"),
    BadInput("forms differ", "sform and qform 50 mm apart", partial(two_forms, sform=1, qform=1), "W-FORMS"),
    BadInput("forms differ, MNI", "the same, sform code 4", partial(two_forms, sform=4, qform=1), "W-FORMS"),
    BadInput("no form", "neither sform nor qform", simple(sform=0, qform=0), "E-NO-ORIENTATION"),
    BadInput("zero sform", "sform of zeros", simple(qform=0, srow_x=(0.0,) * 12), "E-AFFINE"),
    BadInput("singular sform", "singular sform", simple(qform=0, srow_y=SINGULAR), "E-AFFINE"),
    BadInput("NaN sform", "NaN in the sform", simple(qform=0, srow_x3=NAN), "E-AFFINE"),
    BadInput("zero pixdim", "voxel size 0", simple(sform=0, pixdim2=0.0), "E-SPACING"),
    BadInput("negative pixdim", "negative voxel size", simple(sform=0, pixdim2=-2.0, right=volume()), "W-PIXDIM"),
    BadInput("NaN pixdim", "NaN voxel size", simple(sform=0, pixdim2=NAN), "E-SPACING"),
    BadInput(
        "pixdim against sform",
        "pixdim 7 mm, sform 1.5 mm",
        simple(qform=0, pixdim1=(7.0, 7.0, 7.0), right=volume()),
        "W-PIXDIM",
    ),
    BadInput("sheared", "sheared sform", sheared, "E-SHEAR"),
    BadInput("quaternion", "quaternion longer than 1", simple(sform=0, quatern_b=(1.0, 1.0, 1.0)), "E-AFFINE"),
    BadInput(
        "quaternion beside sform",
        "the same beside a valid sform",
        simple(quatern_b=(1.0, 1.0, 1.0), right=volume()),
        "W-FORMS",
    ),
    BadInput("metres", "unit is metre", partial(scaled_units, unit=1, factor=1000), "W-UNITS"),
    BadInput("micrometres", "unit is micrometre", partial(scaled_units, unit=3, factor=0.001), "W-UNITS"),
    BadInput(
        "huge voxels", "voxels of 30 mm", partial(placed, affine=AFFINE * [[20], [20], [20], [1]]), "W-VOXEL-SIZE"
    ),
    BadInput("oblique", "oblique affine", partial(placed, affine=OBLIQUE), None),
    BadInput("left-handed", "left-handed affine", partial(placed, affine=LEFT_HANDED), None),
    BadInput("fourth axis of 1", "4-D with one volume", partial(axes, shape=(*SHAPE, 1), right=SHAPE), "I-SQUEEZED"),
    BadInput("three volumes", "4-D with 3 volumes", partial(axes, shape=(*SHAPE, 3), right=(*SHAPE, 3)), None),
    BadInput("five axes", "5-D vectors", vectors, "E-DTYPE"),
    BadInput("RGB24", "colours (RGB24)", colours, "E-DTYPE"),
    BadInput("complex", "complex numbers", complex_numbers, "E-DTYPE"),
    BadInput("two axes", "2-D", partial(axes, shape=(12, 10), right=(12, 10)), None),
    BadInput("single slice", "one slice", partial(axes, shape=(12, 10, 1), right=(12, 10, 1)), "W-SINGLE-SLICE"),
    BadInput("uint16", "uint16", partial(typed, dtype="uint16", number=65535), None),
    BadInput("int64", "int64 above 2 ^ 24", partial(typed, dtype="int64", number=2**24 + 1), None),
    BadInput("float64", "float64", partial(typed, dtype="float64", number=0.1), None),
    BadInput("big endian", "big endian", big_endian, None),
    BadInput(
        "slope", "scl_slope 2.5, scl_inter -10", simple(scl_slope=(2.5, -10.0), right=volume(DATA * 2.5 - 10)), None
    ),
    BadInput("NaN slope", "scl_slope NaN", simple(scl_slope=NAN, right=volume()), "W-SCALING"),
    BadInput("slope 0", "scl_slope 0, scl_inter 7", simple(scl_slope=(0.0, 7.0), right=volume()), "W-SCALING"),
    BadInput("magic", "wrong magic", simple(magic=b"abc\0"), "E-NOT-NIFTI"),
    BadInput("vox_offset", "voxels start inside the header", simple(vox_offset=100.0), "E-HEADER"),
    BadInput("NIfTI-2", "NIfTI-2", nifti_2, None),
)
"""Every row of the catalogue of NIfTI as an image, and what it must give."""

LABEL_CASES = (
    BadInput("scaled label", "label values with scl_slope 2.5", scaled_label, "E-LABEL-SCALED"),
    BadInput("int64 label", "int64 labels above 2 ^ 24", partial(typed, dtype="int64", number=2**24 + 1), None),
)
"""The rows of the same catalogue that are about label maps."""
