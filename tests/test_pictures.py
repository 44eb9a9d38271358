import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medseg3d.checks import InputError, collected
from medseg3d.io import find_cases, read_image, read_volume, write_volume
from medseg3d.io.colours import label_colour
from medseg3d.io.images import write_labels
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.shared import real_data

GREY = Task("grey", channels={"xray": ()}, labels={"lung": [1]}, patch_size=[32, 32])
RGB = Task("rgb", channels={"red": (), "green": (), "blue": ()}, labels={"cell": [1]}, patch_size=[32, 32])
COLOURS = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)


def refused(path, code, *words, **options):
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    assert caught.value.finding.code == code, str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def image_of(folder, task):
    data_set = find_cases(folder, task, labels=False)
    return read_image(data_set.cases[0], task)


# Reading and writing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    "data",
    [
        np.arange(12, dtype=np.uint8).reshape(1, 3, 4),
        np.arange(12, dtype=np.uint16).reshape(1, 3, 4) * 5000,
        np.arange(36, dtype=np.uint8).reshape(3, 3, 4),
    ],
    ids=["grey", "16-bit", "rgb"],
)
def test_pictures_round_trip(tmp_path, suffix, data):
    write_volume(Volume(data, np.eye(3)), tmp_path / f"a{suffix}")
    volume = read_volume(tmp_path / f"a{suffix}")
    assert volume.data.dtype == data.dtype
    assert np.array_equal(volume.data, data)  # (C, rows, columns)
    assert np.array_equal(volume.affine, np.eye(3))


def test_alpha_is_dropped_and_palettes_are_colours_or_labels(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., :3] = (10, 20, 30)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert read_volume(tmp_path / "rgba.png").data[:, 0, 0].tolist() == [10, 20, 30]
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indexed.save(tmp_path / "indexed.png")
    assert read_volume(tmp_path / "indexed.png", labels=True).data.tolist() == [[[0, 1], [2, 1]]]
    assert read_volume(tmp_path / "indexed.png").data[:, 0, 1].tolist() == [255, 0, 0]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_volume(tmp_path / "bits.png", labels=True).data.tolist() == [[[1, 0]]]


def test_labels_in_colours(tmp_path):
    rgb = np.full((2, 2, 3), 3, np.uint8)
    Image.fromarray(rgb).save(tmp_path / "grey.png")
    assert read_volume(tmp_path / "grey.png", labels=True).data.tolist() == [[[3, 3], [3, 3]]]
    rgb[0, 0] = (255, 0, 0)
    Image.fromarray(rgb).save(tmp_path / "red.png")
    refused(tmp_path / "red.png", "E-DTYPE", "colours", labels=True)
    Image.fromarray(rgb).save(tmp_path / "lossy.jpg")
    assert read_volume(tmp_path / "lossy.jpg").channels == 3
    refused(tmp_path / "lossy.jpg", "E-LABEL-LOSSY", labels=True)


def test_damaged_pictures(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1, 50, 50)).astype(np.uint8)
    write_volume(Volume(noise, np.eye(3)), tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "a.png", "E-TRUNCATED")
    (tmp_path / "b.png").write_bytes(b"hello")
    refused(tmp_path / "b.png", "E-CORRUPT")
    pages = [Image.fromarray(noise[0]) for _ in range(2)]
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=pages[1:])
    refused(tmp_path / "c.tif", "E-DTYPE", "2 pages")


def test_real_nuclei():
    folder = real_data("dsb2018_nuclei_2d")
    image, label = (read_volume(folder / f"{kind}/00ae65c1c6631ae6.png") for kind in ("images", "labels"))
    assert image.data.shape == (3, 256, 320)  # stored as RGBA
    assert label.data.shape == (1, 256, 320)
    assert set(np.unique(label.data)) == {0, 1}


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_per_colour_are_kept(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(COLOURS, isVector=True), str(tmp_path / name))
    volume = read_volume(tmp_path / name)
    assert volume.data.dtype == np.uint16
    assert np.array_equal(volume.data, np.moveaxis(COLOURS, -1, 0))
    refused(tmp_path / name, "E-DTYPE", "label map in colours", labels=True)


def test_sixteen_bits_with_alpha(tmp_path):
    opaque = np.concatenate([COLOURS, np.full((5, 7, 1), 65535, np.uint16)], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(opaque, isVector=True), str(tmp_path / "a.png"))
    with collected() as findings:
        assert np.array_equal(read_volume(tmp_path / "a.png").data, np.moveaxis(COLOURS, -1, 0))
    assert findings == []
    grey = np.stack([COLOURS[..., 0], np.full((5, 7), 65535, np.uint16)], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(tmp_path / "grey.png"))
    refused(tmp_path / "grey.png", "E-DTYPE", "store it without transparency")


def test_transparency_is_said(tmp_path):
    rgba = np.full((2, 3, 4), 255, np.uint8)
    rgba[0, 0] = (9, 8, 7, 0)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with collected() as findings:
        assert read_volume(tmp_path / "a.png").data[:, 0, 0].tolist() == [9, 8, 7]
    assert [f.code for f in findings] == ["W-ALPHA"]
    assert "1 of 6 pixels" in findings[0].message


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_other_colours_are_refused(tmp_path, mode):
    Image.fromarray((COLOURS >> 8).astype(np.uint8)).convert(mode).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "E-DTYPE", mode, "convert it to RGB")


def test_a_picture_that_viewers_turn_is_read_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    with collected() as findings:
        assert read_volume(tmp_path / "a.jpg").shape == (4, 6)
    assert [f.code for f in findings] == ["W-EXIF"]


def test_label_maps_are_indexed_and_keep_their_values(tmp_path):
    data = np.array([[[0, 1, 2], [255, 7, 0]]], np.uint8)
    write_labels(Volume(data, np.eye(3)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), data[0])  # what OpenCV, ImageJ and others see of the indices
        shown = np.asarray(picture.convert("RGB"))
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert tuple(shown[0, 1]) == label_colour(1)
    assert tuple(shown[1, 0]) == label_colour(255)
    assert np.array_equal(read_volume(tmp_path / "a.png", labels=True).data, data)


def test_more_values_than_a_palette_holds(tmp_path):
    data = np.array([[[0, 300]]], np.uint16)
    write_labels(Volume(data, np.eye(3)), tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png", labels=True)
    assert volume.data.dtype == np.uint16
    assert volume.data.tolist() == [[[0, 300]]]


# Grey and colours -----------------------------------------------------------------------------------------------------


def test_colours_for_a_grey_task(tmp_path):
    Image.fromarray((COLOURS >> 8).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"colours, and task 'grey' takes grey: xray.*E-CHANNEL-COUNT"):
        image_of(tmp_path, GREY)


def test_grey_in_three_channels_is_grey(tmp_path):
    grey = (COLOURS[..., 0] >> 8).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "a.png")
    assert np.array_equal(image_of(tmp_path, GREY).data, grey[None])


def test_grey_for_a_task_of_colours(tmp_path):
    grey = (COLOURS[..., 0] >> 8).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(image_of(tmp_path, RGB).data, np.stack([grey] * 3))


def test_a_volume_for_a_task_of_pictures(tmp_path):
    write_volume(Volume(np.zeros((1, 4, 4, 4), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="E-DIMENSIONS"):
        image_of(tmp_path, GREY)
