import gzip
import logging
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.checks import InputError
from medseg3d.io import read_volume, write_volume
from medseg3d.io.nifti import nifti_channels
from medseg3d.volume import Volume
from tests.shared import real_data

AFFINE = np.array([[0, 0, -3, 40], [1.5, 0, 0, -20], [0, 2, 0, 7], [0, 0, 0, 1.0]])
SHAPE = (5, 6, 7)
DATA = np.arange(210, dtype=np.int16).reshape(SHAPE)


def save(path: Path, data=DATA, affine=AFFINE, *, sform=1, qform=1, **fields) -> Path:
    """A file as nibabel writes it, with header fields set afterwards."""
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    for name, (offset, form, value) in fields.items():
        del name
        struct.pack_into(form, raw, offset, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(gzip.compress(bytes(raw), 1) if path.suffix == ".gz" else bytes(raw))
    return path


def refused(path: Path, code: str, *words: str, **options) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    finding = caught.value.finding
    assert finding.code == code, str(finding)
    assert finding.file == str(path)
    assert all(word in str(finding) for word in words), str(finding)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
def test_values_and_geometry_as_nibabel_reads_them(tmp_path, suffix, dtype):
    path = save(tmp_path / f"a{suffix}", (DATA % 100).astype(dtype))
    volume = read_volume(path)
    assert volume.data.dtype == dtype
    assert volume.data.flags.writeable
    assert np.array_equal(volume.data[0], DATA % 100)
    assert np.array_equal(volume.affine, nib.load(path).affine)
    assert volume.axcodes == ("A", "S", "L")
    assert volume.spacing_mm == pytest.approx((1.5, 2, 3))


def test_big_endian_and_nifti_2(tmp_path):
    big = nib.Nifti1Image(DATA, AFFINE, nib.Nifti1Header(endianness=">"))
    big.set_data_dtype(np.int16)
    big.set_sform(AFFINE, 1)
    (tmp_path / "big.nii").write_bytes(big.to_bytes())
    second = nib.Nifti2Image(DATA, AFFINE)
    (tmp_path / "second.nii").write_bytes(second.to_bytes())
    for name in ("big.nii", "second.nii"):
        volume = read_volume(tmp_path / name)
        assert volume.data.dtype.str == np.dtype("int16").str  # the machine's own byte order
        assert np.array_equal(volume.data[0], DATA)
        assert np.allclose(volume.affine, AFFINE)


def test_fourth_axis_becomes_channels(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    path = save(tmp_path / "a.nii.gz", data)
    assert np.array_equal(read_volume(path).data, np.moveaxis(data, -1, 0))
    assert nifti_channels(path) == 2
    assert read_volume(save(tmp_path / "b.nii", data[..., :1])).channels == 1
    assert read_volume(save(tmp_path / "c.nii", data[..., None])).channels == 2


def test_two_axes_are_2d(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((4, 5), np.uint8), np.diag([0.2, 0.3, 1, 1]))
    volume = read_volume(path)
    assert volume.data.shape == (1, 4, 5)
    assert np.allclose(volume.affine, np.diag([0.2, 0.3, 1]))
    write_volume(volume, tmp_path / "b.nii.gz")
    again = read_volume(tmp_path / "b.nii.gz")
    assert again.header == volume.header
    assert np.array_equal(again.data, volume.data)


def test_sform_counts_first_then_qform(tmp_path, caplog):
    other = AFFINE.copy()
    other[0, 3] += 5
    image = nib.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, 4)
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "both.nii")
    with caplog.at_level(logging.WARNING):
        assert np.allclose(read_volume(tmp_path / "both.nii").affine, AFFINE)
    assert "5.00 mm apart" in caplog.text
    image.set_sform(AFFINE, 0)
    nib.save(image, tmp_path / "qform.nii")
    assert np.allclose(read_volume(tmp_path / "qform.nii").affine, other, atol=1e-5)


def test_oblique_left_handed_qform(tmp_path):
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, -1, 3], [0, 0, 0, 1.0]]) @ np.diag([1, 2, 3, 1])
    path = save(tmp_path / "a.nii", affine=turn, sform=0)
    assert np.allclose(read_volume(path).affine, turn, atol=1e-5)
    assert np.linalg.det(read_volume(path).affine) < 0


@pytest.mark.parametrize(("unit", "factor", "word"), [(1, 1000, "metre"), (3, 0.001, "micrometre")])
def test_other_units_become_mm_and_return(tmp_path, caplog, unit, factor, word):
    path = save(tmp_path / "a.nii", units=(123, "<B", unit))
    with caplog.at_level(logging.WARNING):
        volume = read_volume(path)
    assert np.allclose(volume.affine[:3], AFFINE[:3] * factor)
    assert f"unit is {word}" in caplog.text
    write_volume(volume, tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").header["xyzt_units"] == unit
    assert np.allclose(read_volume(tmp_path / "b.nii.gz").affine, volume.affine)


def test_slope_and_intercept(tmp_path):
    path = save(tmp_path / "a.nii", slope=(112, "<ff", (2.5, -10)))
    assert np.allclose(read_volume(path).data[0], DATA * 2.5 - 10)
    refused(path, "E-LABEL-SCALED", "2.5", labels=True)
    for off in (0.0, float("nan")):  # both mean: not scaled
        path = save(tmp_path / "b.nii", slope=(112, "<ff", (off, 7)))
        assert np.array_equal(read_volume(path, labels=True).data[0], DATA)


def test_labels_stay_integers_beyond_float32(tmp_path):
    data = np.full(SHAPE, 2**24 + 1, np.int32)  # float32 would make 2**24 of it
    assert read_volume(save(tmp_path / "a.nii", data), labels=True).data.max() == 2**24 + 1


def test_float_labels_within_tolerance(tmp_path):
    data = np.where(DATA % 2, 2.0005, 0).astype(np.float32)
    labels = read_volume(save(tmp_path / "a.nii", data), labels=True).data
    assert labels.dtype == np.uint8
    assert np.array_equal(labels[0], np.where(DATA % 2, 2, 0))
    refused(save(tmp_path / "b.nii", data + np.float32(0.9)), "E-LABEL-FRACTION", "0.9", labels=True)
    data[0, 0, 0] = np.nan
    refused(save(tmp_path / "c.nii", data), "E-LABEL-FRACTION", "1 label voxels", labels=True)


def test_nan_and_infinity(tmp_path):
    data = DATA.astype(np.float32)
    data[0, 0, :2] = np.nan, np.inf
    path = save(tmp_path / "a.nii", data)
    refused(path, "E-NONFINITE", "2 of 210")
    assert read_volume(path, nonfinite="zero").data[0, 0, 0, :3].tolist() == [0, 0, 2]


# Damaged and dishonest files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_truncated(tmp_path, share):
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    for name in ("a.nii", "a.nii.gz"):
        path = save(tmp_path / name, noise)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        refused(path, "E-TRUNCATED", "promises 16352 bytes, got")


def test_gzip_without_its_checksum_is_truncated(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-4])
    refused(path, "E-TRUNCATED", "without the gzip checksum")


@pytest.mark.parametrize("place", [-6, -1, 200, 20])
def test_one_wrong_bit_in_gzip(tmp_path, place):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, SHAPE).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.finding.code in ("E-CORRUPT", "E-NOT-NIFTI", "E-HEADER", "E-TRUNCATED")
    if place in (-6, -1, 200):
        assert caught.value.finding.code == "E-CORRUPT"


def test_two_gzip_members_are_one_file(tmp_path):
    raw = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").data[0], DATA)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.nii", b"", "empty"),
        ("a.nii", b"hello" * 100, "magic"),
        ("a.nii.gz", gzip.compress(b"hello" * 100), "magic"),
        ("a.nii.gz", b"hello" * 100, "not gzip"),
        ("a.nii", gzip.compress(b"x"), "rename it to .nii.gz"),
    ],
)
def test_not_nifti(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "E-NOT-NIFTI", word)


def test_plain_file_named_gz(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(save(tmp_path / "a.nii").read_bytes())
    refused(tmp_path / "a.nii.gz", "E-NOT-NIFTI", "rename it to .nii")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"dim": (42, "<h", -5)}, "dim is"),
        ({"dim0": (40, "<h", 9)}, "dim is"),
        ({"datatype": (70, "<h", 0)}, "type 0"),
        ({"bitpix": (72, "<h", 8)}, "bitpix is 8"),
        ({"offset": (108, "<f", 100.0)}, "vox_offset is 100"),
        ({"huge": (42, "<hhh", (30000, 30000, 30000))}, "GiB"),
        ({"smaller": (42, "<h", 4)}, "longer than its header"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_bad_headers(tmp_path, fields, word, suffix):
    refused(save(tmp_path / f"a{suffix}", **fields), "E-HEADER", word)


def test_header_claims_more_than_there_is(tmp_path):
    refused(save(tmp_path / "a.nii", more=(42, "<h", 50)), "E-TRUNCATED", "4552 bytes, got 772")
    # a small gzip file that claims more than gzip can pack is refused before anything is unpacked
    refused(save(tmp_path / "a.nii.gz", more=(42, "<hhh", (3000, 300, 300))), "E-TRUNCATED", "cannot hold them")


def test_zeros_that_fill_a_block_are_accepted(tmp_path):
    path = save(tmp_path / "a.nii")
    content = path.read_bytes()
    path.write_bytes(content + bytes(252))
    assert np.array_equal(read_volume(path).data[0], DATA)
    path.write_bytes(content + bytes(251) + b"x")
    refused(path, "E-HEADER", "longer")


@pytest.mark.parametrize("code, bits, name", [(128, 24, "RGB24"), (32, 64, "complex64"), (2304, 32, "RGBA32")])
def test_voxels_that_are_no_numbers(tmp_path, code, bits, name):
    refused(save(tmp_path / "a.nii", type=(70, "<hh", (code, bits))), "E-DTYPE", name)


def test_five_axes(tmp_path):
    refused(save(tmp_path / "a.nii", np.zeros((2, 2, 2, 2, 3), np.uint8)), "E-DTYPE", "5 axes")


def test_no_orientation(tmp_path):
    refused(save(tmp_path / "a.nii", sform=0, qform=0), "E-NO-ORIENTATION", "neither sform nor qform")


@pytest.mark.parametrize(
    ("row", "word"), [((0.0,) * 4, "singular"), ((0, 2, 0, 0), "singular"), ((float("nan"), 0, 0, 0), "NaN")]
)
def test_unusable_sform(tmp_path, row, word):
    """srow_y of the file becomes zero, parallel to srow_z, or NaN."""
    refused(save(tmp_path / "a.nii", srow_y=(296, "<ffff", row)), "E-AFFINE", word)


def test_bad_quaternion(tmp_path):
    path = save(tmp_path / "a.nii", sform=0, quatern=(256, "<fff", (1.0, 1.0, 1.0)))
    refused(path, "E-AFFINE", "quaternion")


def test_shear(tmp_path):
    sheared = AFFINE.copy()
    sheared[:3, 1] += AFFINE[:3, 0] / 2  # cosine 0.75 / |(0.75, 2)|
    path = save(tmp_path / "a.nii", affine=sheared, qform=0)
    refused(path, "E-SHEAR", "69.44 degrees")


@pytest.mark.parametrize("size", [0.0, float("nan")])
def test_voxel_size_zero_or_nan(tmp_path, size):
    refused(save(tmp_path / "a.nii", pixdim=(84, "<f", size)), "E-SPACING", "pixdim")


def test_negative_voxel_size_is_taken_without_sign(tmp_path, caplog):
    path = save(tmp_path / "a.nii", sform=0, pixdim=(84, "<f", -2.5))
    with caplog.at_level(logging.WARNING):
        assert read_volume(path).spacing_mm == pytest.approx((1.5, 2.5, 3))
    assert "without their sign" in caplog.text


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "int64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_written_files_are_what_nibabel_reads(tmp_path, dtype, suffix):
    path = tmp_path / f"new folder/a{suffix}"
    write_volume(Volume((DATA % 200).astype(dtype)[None], AFFINE), path)
    image = nib.load(path)
    assert image.get_data_dtype() == dtype
    assert image.shape == SHAPE
    assert np.array_equal(np.asanyarray(image.dataobj), DATA % 200)
    assert np.allclose(image.affine, AFFINE)
    assert np.allclose(image.header.get_qform(), AFFINE, atol=1e-5)
    assert (image.header["sform_code"], image.header["qform_code"], image.header["xyzt_units"]) == (1, 1, 2)


def test_channels_become_the_fourth_axis(tmp_path):
    data = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    write_volume(Volume(data, AFFINE), tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").shape == (*SHAPE, 3)
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").data, data)


@pytest.mark.parametrize(("sform", "qform"), [(4, 1), (0, 2), (2, 0), (3, 3)])
def test_codes_come_back_and_text_does_not(tmp_path, sform, qform):
    image = nib.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, qform)
    for key in ("descrip", "intent_name", "aux_file", "db_name"):
        image.header[key] = b"ZZPHI"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"ZZPHI in a comment"))
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    write_volume(volume.with_data((volume.data > 50).astype(np.uint8)), tmp_path / "b.nii.gz")
    assert b"ZZPHI" not in gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert "ZZPHI" not in repr(volume.header)
    a, b = nib.load(tmp_path / "a.nii.gz").header, nib.load(tmp_path / "b.nii.gz").header
    for key in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(a[key], b[key])
    for key in ("qoffset_x", "pixdim", "xyzt_units"):
        assert np.array_equal(a[key], b[key])


def test_a_header_of_another_grid_is_not_believed(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", sform=4))
    moved = volume.affine.copy()
    moved[:3, 3] += 10
    write_volume(Volume(volume.data, moved, volume.header), tmp_path / "b.nii")
    image = nib.load(tmp_path / "b.nii")
    assert np.allclose(image.affine, moved)
    assert image.header["sform_code"] == 1


def test_the_same_volume_gives_the_same_file_however_it_is_packed(tmp_path):
    volume = Volume(DATA[None], AFFINE)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(volume, tmp_path / name)
    mine, theirs = ((tmp_path / name).read_bytes() for name in ("a.nii.gz", "b.nii.gz"))
    assert mine[:10] == theirs[:10], "no time and no name in the header of the stream"
    assert gzip.decompress(mine) == gzip.decompress(theirs)  # isal may pack the same bytes in two ways


def test_bool_and_float16_find_a_type(tmp_path):
    write_volume(Volume(DATA[None] > 100, AFFINE), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").data.dtype == np.uint8
    write_volume(Volume(DATA[None].astype(np.float16), AFFINE), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").data.dtype == np.float32
    with pytest.raises(InputError, match="E-DTYPE"):
        write_volume(Volume(DATA[None].astype(np.complex64), AFFINE), tmp_path / "a.nii")


# Real files -----------------------------------------------------------------------------------------------------------


def test_eight_axis_orders_are_one_image_in_world_space():
    folder = real_data("nifti_48_orientations")
    files = sorted(folder.glob("*.nii.gz"))
    assert len(files) == 8
    first = read_volume(files[0]).canonical()
    for path in files:
        volume = read_volume(path)
        assert "".join(volume.axcodes) == path.name[:3]
        canonical = volume.canonical()
        assert np.array_equal(canonical.data, first.data), path.name
        assert canonical.grid.differs_from(first.grid, tolerance_voxels=1e-3) is None, path.name


def test_eight_axis_orders_come_back_on_their_own_grids(tmp_path):
    paths = sorted(real_data("nifti_48_orientations").glob("*.nii.gz"))
    assert len(paths) == 8
    for path in paths:
        volume = read_volume(path)
        write_volume(volume.with_data((volume.data > 40).astype(np.uint8)), tmp_path / path.name)
        source, written = nib.load(path), nib.load(tmp_path / path.name)
        assert np.array_equal(source.affine, written.affine)
        assert np.array_equal(np.asanyarray(source.dataobj) > 40, np.asanyarray(written.dataobj) == 1)
        assert written.get_data_dtype() == np.uint8


def test_real_gantry_tilt_is_refused():
    path = real_data("dicom_vs_nifti/failing/gantrytilting/001_dcm2niix_001_4_.nii.gz")
    refused(path, "E-SHEAR", "76.00 degrees")
