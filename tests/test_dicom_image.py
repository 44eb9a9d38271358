"""Single DICOM images for tasks of two axes: what pydicom wrote is what is read, and nothing is guessed."""

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    generate_uid,
)

from medseg3d.checks import InputError, collected
from medseg3d.io import find_cases, read_image, read_label, read_volume
from medseg3d.task import Task

GREY = Task("xray", channels={"xray": ()}, labels={"lung": [1]}, patch_size=[32, 32])
VALUES = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300


def write_dicom(path, values, kind=DigitalXRayImageStorageForPresentation, **elements):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = values.shape[2] if values.ndim > 2 else 1
    dataset.PhotometricInterpretation = "RGB" if values.ndim > 2 else "MONOCHROME2"
    if values.ndim > 2:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def refused(path, code, *words):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.finding.code == code, str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_rows_columns_and_pixel_size(tmp_path):
    volume = read_volume(write_dicom(tmp_path / "a.dcm", VALUES, PixelSpacing=[0.2, 0.1]))
    assert volume.data.dtype == np.uint16
    assert np.array_equal(volume.data, VALUES[None])
    assert volume.spacing_mm == (0.2, 0.1)
    assert read_volume(write_dicom(tmp_path / "b", VALUES)).spacing_mm == (1, 1)
    detector = write_dicom(tmp_path / "c.dcm", VALUES, ImagerPixelSpacing=[0.3, 0.3])
    assert read_volume(detector).spacing_mm == (0.3, 0.3)


def test_rescale_and_inverted_grey(tmp_path):
    scaled = write_dicom(tmp_path / "a.dcm", VALUES, RescaleSlope=2, RescaleIntercept=-1000)
    assert np.array_equal(read_volume(scaled).data[0], VALUES * 2.0 - 1000)
    inverted = write_dicom(
        tmp_path / "b.dcm", VALUES, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11
    )
    with collected() as findings:
        assert np.array_equal(read_volume(inverted).data[0], 4095 - VALUES)
    assert [f.code for f in findings] == ["I-MONOCHROME1"]


def test_ultrasound_in_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # centimetres
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, -0.05
    path = write_dicom(tmp_path / "a.dcm", colours, UltrasoundImageStorage, SequenceOfUltrasoundRegions=[region])
    volume = read_volume(path)
    assert np.array_equal(volume.data, np.moveaxis(colours, -1, 0))
    assert volume.spacing_mm == pytest.approx((0.5, 0.2))
    with pytest.raises(InputError, match="E-CHANNEL-COUNT"):
        read_image(find_cases(tmp_path, GREY, labels=False).cases[0], GREY)


def test_other_models_of_colour_become_red_green_and_blue(tmp_path):
    rgb = np.array([[[255, 0, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    ycc = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    path = write_dicom(tmp_path / "a.dcm", ycc, UltrasoundImageStorage, PhotometricInterpretation="YBR_FULL")
    assert np.abs(np.moveaxis(read_volume(path).data, 0, -1).astype(int) - rgb).max() <= 2
    index = np.array([[0, 1, 1]], np.uint8)
    tables = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, table in (("Red", [0, 255]), ("Green", [10, 20]), ("Blue", [0, 0]))
        for what, value in (("Descriptor", [2, 0, 16]), ("Data", np.array(table, "<u2").__lshift__(8).tobytes()))
    }
    path = write_dicom(
        tmp_path / "b.dcm", index, UltrasoundImageStorage, PhotometricInterpretation="PALETTE COLOR", **tables
    )
    assert read_volume(path).data[:, 0].tolist() == [[0, 255, 255], [10, 20, 20], [0, 0, 0]]


def test_what_is_refused(tmp_path):
    frames = np.zeros((4, 3, 4), np.uint8)
    clip = write_dicom(tmp_path / "clip.dcm", frames[0], UltrasoundImageStorage, NumberOfFrames=4)
    refused(clip, "E-FRAMES", "a clip of 4 frames")
    table = write_dicom(tmp_path / "lut.dcm", VALUES, ModalityLUTSequence=[Dataset()])
    refused(table, "E-RESCALE", "Modality LUT")
    cut = write_dicom(tmp_path / "cut.dcm", VALUES)
    cut.write_bytes(cut.read_bytes()[:-5])
    refused(cut, "E-TRUNCATED")
    odd = write_dicom(tmp_path / "odd.dcm", VALUES, RescaleSlope=0, RescaleIntercept=0)
    refused(odd, "E-RESCALE")
    deep = np.zeros((3, 4, 3), np.uint16)
    refused(write_dicom(tmp_path / "deep.dcm", deep), "E-DTYPE", "16 bits")
    (tmp_path / "text.dcm").write_text("no DICOM")
    refused(tmp_path / "text.dcm", "E-FORMAT", "known are")
    with pytest.raises(InputError, match="E-FORMAT"):
        read_volume(write_dicom(tmp_path / "label.dcm", VALUES), labels=True)


def test_images_and_masks_of_one_size_belong_together(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    write_dicom(tmp_path / "images/a.dcm", VALUES, PixelSpacing=[0.2, 0.2])
    write_dicom(tmp_path / "images/b.dcm", VALUES, PixelSpacing=[0.3, 0.3])
    mask = (VALUES > 900).astype(np.uint8)
    for name in "ab":
        Image.fromarray(mask).save(tmp_path / f"labels/{name}.png")
    data_set = find_cases(tmp_path, GREY, labels=True)
    assert [c.name for c in data_set.cases] == ["a", "b"]
    image = read_image(data_set.cases[0], GREY)
    label = read_label(data_set.cases[0], data_set, GREY, image.grid)
    assert np.array_equal(label.data[0], mask)
    assert label.spacing_mm == image.spacing_mm == (0.2, 0.2)
    Image.fromarray(mask[:, :2]).save(tmp_path / "labels/a.png")
    with pytest.raises(InputError, match="E-GRID"):
        read_label(data_set.cases[0], data_set, GREY, image.grid)


def test_every_file_is_a_case_wherever_it_lies(tmp_path):
    for place in ("study/one", "study/two"):
        (tmp_path / place).mkdir(parents=True)
        write_dicom(tmp_path / place / f"IM{place[-1]}", VALUES)
    assert [c.name for c in find_cases(tmp_path, GREY, labels=False).cases] == ["IMe", "IMo"]
    assert [c.name for c in find_cases(tmp_path / "study/one/IMe", GREY, labels=False).cases] == ["IMe"]


def test_volumes_are_read_as_series_as_before(tmp_path):
    for z in range(3):
        write_dicom(
            tmp_path / f"{z}.dcm",
            VALUES.astype(np.int16),
            CTImageStorage,
            PixelSpacing=[1, 1],
            ImagePositionPatient=[0, 0, 2 * z],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            StudyInstanceUID="1.2",
            SeriesInstanceUID="1.3",
            Modality="CT",
            RescaleSlope=1,
            RescaleIntercept=0,
            InstanceNumber=z + 1,
        )
    task = Task("ct", channels={"CT": ()}, labels={"organ": [1]}, patch_size=[32, 32, 32])
    (case,) = find_cases(tmp_path, task, labels=False).cases
    assert case.images[0].series is not None
    assert read_image(case, task).shape == (4, 3, 3)
