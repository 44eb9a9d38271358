import errno
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medseg3d.checks import InputError
from medseg3d.io import read_volume, write_volume
from medseg3d.io.atomic import atomic_write
from medseg3d.io.images import image_stem, image_suffix
from medseg3d.volume import Volume
from tests.shared import real_data

AFFINE = np.array([[0, 0, -3, 40], [1.5, 0, 0, -20], [0, 2, 0, 7], [0, 0, 0, 1.0]])
DATA = np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4)


def refused(path: Path, code: str, *words: str, **options) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    assert caught.value.finding.code == code, str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


# NRRD and MetaImage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_on_an_oblique_left_handed_grid(tmp_path, suffix, channels):
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, -1, 3], [0, 0, 0, 1.0]]) @ np.diag([1, 2, 3, 1])
    data = np.arange(24 * channels, dtype=np.int16).reshape(channels, 2, 3, 4)
    write_volume(Volume(data, turn), tmp_path / f"a{suffix}")
    volume = read_volume(tmp_path / f"a{suffix}")
    assert volume.data.dtype == np.int16
    assert np.array_equal(volume.data, data)
    assert np.allclose(volume.affine, turn)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nhdr"])
def test_lps_of_simpleitk_becomes_ras(tmp_path, suffix):
    image = sitk.GetImageFromArray(DATA[0].T)
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((10, 20, 30))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(volume.data, DATA)
    assert volume.affine.tolist() == [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_the_same_place_as_in_nifti(tmp_path, suffix):
    for name in (f"a{suffix}", "a.nii.gz"):
        write_volume(Volume(DATA, AFFINE), tmp_path / name)
    one, other = sitk.ReadImage(str(tmp_path / f"a{suffix}")), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.allclose(
        one.TransformIndexToPhysicalPoint((1, 2, 3)), other.TransformIndexToPhysicalPoint((1, 2, 3)), atol=1e-4
    )


def test_nrrd_of_four_axes_has_channels(tmp_path):
    head = b"NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 2 2 3\n"
    head += b"space directions: (1,0,0) (0,1,0) (0,0,2) none\nkinds: domain domain domain list\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head + bytes(range(24)))
    volume = read_volume(tmp_path / "a.nrrd")
    assert volume.data.shape == (3, 2, 2, 2)
    assert volume.data[:, 0, 0, 0].tolist() == [0, 8, 16]
    assert volume.data[0, :, 0, 0].tolist() == [0, 1]


def test_no_orientation(tmp_path):
    nrrd = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 2\nencoding: raw\n\n" + bytes(8)
    meta = (
        b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + bytes(8)
    )
    for name, content in (("a.nrrd", nrrd), ("a.mha", meta)):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "E-NO-ORIENTATION")


def test_shear(tmp_path):
    head = b"NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
    head += b"space directions: (1,0,0) (0,1,0) (0,0.5,2)\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head + bytes(8))
    refused(tmp_path / "a.nrrd", "E-SHEAR", "0.243")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("damage", ["truncated", "bit", "text"])
def test_damaged(tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 1000, (1, 20, 20, 20)).astype(np.int16)
    write_volume(Volume(noise, AFFINE), path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "bit":
        content[len(content) // 2] ^= 8
    else:
        content = bytearray(b"hello")
    path.write_bytes(content)
    refused(path, "E-CORRUPT")


def test_labels_and_nan(tmp_path):
    data = DATA.astype(np.float32)
    write_volume(Volume(data, AFFINE), tmp_path / "a.nrrd")
    assert read_volume(tmp_path / "a.nrrd", labels=True).data.dtype == np.uint8
    data[0, 0, 0, 0] = np.nan
    write_volume(Volume(data, AFFINE), tmp_path / "a.nrrd")
    refused(tmp_path / "a.nrrd", "E-NONFINITE", "1 of 24")
    assert read_volume(tmp_path / "a.nrrd", nonfinite="zero").data[0, 0, 0, 0] == 0


def test_real_nrrd():
    image = read_volume(real_data("pyradiomics_nrrd/brain1_image.nrrd"))
    label = read_volume(real_data("pyradiomics_nrrd/brain1_label.nrrd"), labels=True)
    assert image.grid.differs_from(label.grid) is None
    assert image.axcodes == ("L", "A", "S")
    assert image.spacing_mm == pytest.approx((0.78125, 0.78125, 6.5))
    assert set(np.unique(label.data)) == {0, 1}


# Which file is what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [("a.b.nii.gz", "a.b", ".nii.gz"), ("A.NII.GZ", "A", ".nii.gz"), ("x.PNG", "x", ".png"), ("x.txt", "x.txt", None)],
)
def test_stem_and_suffix(name, stem, suffix):
    assert (image_stem(name), image_suffix(name)) == (stem, suffix)


def test_unknown_formats_and_missing_files(tmp_path):
    refused(tmp_path / "a.dcm", "E-FORMAT", "known are")
    refused(tmp_path / "a.nii", "E-NOT-READABLE", "does not exist")
    (tmp_path / "b.nii").mkdir()
    refused(tmp_path / "b.nii", "E-NOT-READABLE", "is a folder")
    for name in ("a.jpg", "a.mhd", "a.txt"):
        with pytest.raises(InputError, match="E-FORMAT"):
            write_volume(Volume(DATA, AFFINE), tmp_path / name)
    with pytest.raises(InputError, match="does not fit into a picture"):
        write_volume(Volume(DATA, AFFINE), tmp_path / "a.png")


# Atomic writing -------------------------------------------------------------------------------------------------------


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = atomic_write(tmp_path / "deep/a.txt", "old")
    assert path.read_text() == "old"

    def fail(file):
        file.write(b"half of the n")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        atomic_write(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_full_disk_is_said(tmp_path):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"the disk is full:.*MiB are free.*E-DISK-FULL"):
        atomic_write(tmp_path / "a.txt", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(InputError, match="E-NOT-WRITABLE"):
        atomic_write(tmp_path / "a/b.txt", b"x")


def test_readers_never_see_a_part(tmp_path):
    path, stop, seen = tmp_path / "a.bin", threading.Event(), set()
    atomic_write(path, b"a" * 100_000)

    def read():
        while not stop.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    thread = threading.Thread(target=read)
    thread.start()
    for letter in b"bcdefghij":
        atomic_write(path, lambda file, letter=letter: [file.write(bytes([letter]) * 1000) for _ in range(100)])
    stop.set()
    thread.join()
    assert seen == {(100_000, 1)}
