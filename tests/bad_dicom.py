"""Folders of synthetic DICOM, good and bad: every case says what a reader must make of it. No patient's data.

Most are made from the series of ``dicom_series``.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    HTJ2K,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
)

from medseg3d.volume import Volume
from tests.bad_input import BadInput, Made
from tests.dicom_multiframe import enhanced
from tests.dicom_series import (
    AXIAL,
    COLUMN_MM,
    COLUMNS,
    OBLIQUE,
    ORIGIN,
    ROW_MM,
    ROWS,
    SAGITTAL,
    SLICES,
    instance,
    noise,
    patient,
    places,
    save,
    save_all,
    slices,
    truth,
    uid,
)

CANARY = "ZZCANARY"
"""Stands for a patient's name in the text tags that readers like to build file names from."""
UPWARDS = f"../../{CANARY}/evil"
"""Would leave the output folder, were a name built from it."""
NAMED = {"SeriesDescription": f"{CANARY} 1950-01-01", "PatientName": f"{CANARY}^Jo"}
JPEG_XL_LOSSLESS = "1.2.840.10008.1.2.4.110"
"""A transfer syntax that no decoder in Python knows."""


# Good series that others stumble over ---------------------------------------------------------------------------------


def series(syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Callable[[Path], Made]:
    """A case that reads right: the series with some tags changed, in some transfer syntax."""

    def make(folder: Path) -> Made:
        orientation = tags.get("ImageOrientationPatient", AXIAL)
        return Made(save_all(slices(**tags), folder, syntax), truth(noise(), orientation))

    return make


def short(number: int) -> Callable[[Path], Made]:
    """A series of so few slices; of one, how far the next would be is known from SliceThickness alone."""

    def make(folder: Path) -> Made:
        return Made(save_all(slices(noise(number)), folder), truth(noise(number)))

    return make


def negated_column(folder: Path) -> Made:
    """Rows run to the patient's right, slices are numbered from the head down."""
    orientation = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    at = places(orientation=orientation)
    return Made(save_all(slices(at=at, ImageOrientationPatient=list(orientation)), folder), truth(noise(), orientation))


def numbered_backwards(folder: Path) -> Made:
    datasets = slices()
    for number, dataset in enumerate(reversed(datasets), start=1):
        dataset.InstanceNumber = number
    return Made(save_all(datasets, folder), truth(noise()))


def slope_per_slice(folder: Path) -> Made:
    """PET: every slice has its own slope, its values being multiples of it."""
    raw = np.random.default_rng(1).integers(0, 30000, (SLICES, ROWS, COLUMNS))
    values, datasets = np.empty(raw.shape, np.float32), []
    for k, place in enumerate(places()):
        slope = 0.25 * (k + 1)
        values[k] = raw[k] * slope
        tags = {"SOPClassUID": PositronEmissionTomographyImageStorage, "RescaleType": None, "Units": "BQML"}
        datasets.append(instance(values[k], k + 1, place, RescaleSlope=slope, RescaleIntercept=0, **tags))
    return Made(save_all(datasets, folder), truth(values))


def jitter(folder: Path) -> Made:
    """Positions off by up to 0.02 mm, as tables that are rounded have them; the ends are exact."""
    off = np.array([0, 0.02, -0.02, 0.01, -0.01, 0.02, -0.02, 0])
    at = [place + np.array([0, 0, d]) for place, d in zip(places(), off, strict=True)]
    return Made(save_all(slices(at=at), folder), truth(noise()))


def enhanced_shared(folder: Path) -> Made:
    return enhanced(folder, shared=True)


def enhanced_per_frame(folder: Path) -> Made:
    return enhanced(folder, shared=False)


# Read right, with a word about it -------------------------------------------------------------------------------------


def duplicate_same(folder: Path) -> Made:
    """One slice is there twice, as two instances with equal pixels."""
    datasets = slices()
    again = instance(noise()[3], 99, places()[3])
    return Made(save_all([*datasets, again], folder), truth(noise()))


def localizer(folder: Path) -> Made:
    """A scout image, across the slices, in the same series."""
    values = noise(1, seed=5)[0]
    scout = instance(
        values,
        99,
        (-10, -20, 60),
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    return Made(save_all([*slices(), scout], folder), truth(noise()))


def no_rescale(folder: Path) -> Made:
    """CT without slope and intercept: the values are no HU as far as the file says."""
    values = noise() + 1024
    tags = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    return Made(save_all(slices(values, **tags), folder), truth(values))


def junk(folder: Path) -> Made:
    """A note, a hidden file, an empty file, a picture and a subfolder beside the slices."""
    save_all(slices(), folder)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "empty.dcm").touch()
    (folder / "preview.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    (folder / "export").mkdir()
    (folder / "export" / "log.txt").write_text("exported")
    return Made(folder, truth(noise()))


def structure_set(folder: Path) -> Made:
    """Contours (RTSTRUCT) and a report (SR) lie beside the slices."""
    save_all(slices(), folder)
    for name, sop_class, modality in (
        ("RS.dcm", RTStructureSetStorage, "RTSTRUCT"),
        ("SR.dcm", "1.2.840.10008.5.1.4.1.1.88.11", "SR"),
    ):
        dataset = patient(uid(modality), sop_class)
        dataset.Modality, dataset.SOPInstanceUID = modality, uid(modality, 1)
        if modality == "RTSTRUCT":
            dataset.StructureSetROISequence, dataset.ROIContourSequence = Items([]), Items([])
        save(dataset, folder / name)
    return Made(folder, truth(noise()))


def dicomdir(folder: Path) -> Made:
    """A disc: the index DICOMDIR beside the slices it lists."""
    save_all(slices(), folder)
    dataset = Dataset()
    dataset.FileSetID, dataset.SOPClassUID = "DISC", "1.2.840.10008.1.3.10"
    dataset.SOPInstanceUID = uid("disc")
    dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    dataset.FileSetConsistencyFlag, dataset.DirectoryRecordSequence = 0, Items([])
    save(dataset, folder / "DICOMDIR")
    return Made(folder, truth(noise()))


# Refused --------------------------------------------------------------------------------------------------------------


def spoilt(change: Callable[[list[Dataset]], object]) -> Callable[[Path], Made]:
    """A case that no volume can be made of: the slices of the series, one of which is changed."""

    def make(folder: Path) -> Made:
        datasets = slices()
        change(datasets)
        return Made(save_all(datasets, folder), None)

    return make


def fewer_rows(datasets: list[Dataset]) -> None:
    datasets[3] = instance(noise()[3][:-2], 4, places()[3])


def wider_pixels(datasets: list[Dataset]) -> None:
    datasets[3].PixelSpacing = [ROW_MM, 2 * COLUMN_MM]


def turned(datasets: list[Dataset]) -> None:
    """By 0.25 degrees in the slice's plane."""
    turn = np.radians(0.25)
    directions = (np.cos(turn), np.sin(turn), 0, -np.sin(turn), np.cos(turn), 0)
    datasets[3].ImageOrientationPatient = [f"{v:.8g}" for v in directions]


def two_series(folder: Path) -> Made:
    second = slices(noise(seed=7), SeriesInstanceUID=uid("second"), SeriesNumber=2)
    save_all(slices(), folder)
    return Made(save_all(second, folder, name="B"), None)


def duplicate_other(folder: Path) -> Made:
    """Two instances at one place with different pixels: time points, echoes, b-values?"""
    again = instance(noise(1, seed=3)[0], 99, places()[3])
    return Made(save_all([*slices(), again], folder), None)


def gantry_tilt(folder: Path) -> Made:
    """The slices slide by 0.5 mm each: their stack is no box."""
    at = [place + np.array([0, 0.5 * k, 0]) for k, place in enumerate(places())]
    upright = truth(noise())
    affine = upright.affine.copy()
    affine[1, 2] -= 0.5
    return Made(save_all(slices(at=at), folder), Volume(upright.data, affine))


def variable_spacing(folder: Path) -> Made:
    """Gaps of 3 mm, then of 5."""
    off = np.array([0, 3, 6, 9, 14, 19, 24, 29])
    at = [np.add(ORIGIN, (0, 0, d)) for d in off]
    return Made(save_all(slices(at=at), folder), None)


def no_geometry(folder: Path) -> Made:
    tags = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    return Made(save_all([instance(v, k, (0, 0, 0), **tags) for k, v in enumerate(noise(), 1)], folder), None)


def truncated_pixels(folder: Path) -> Made:
    save_all(slices(), folder)
    file = sorted(folder.iterdir())[4]
    file.write_bytes(file.read_bytes()[:-300])
    return Made(folder, truth(noise()))


def time_points(folder: Path) -> Made:
    """Two volumes of a dynamic study in one series, one at half the trigger time of the other."""
    datasets = slices(TemporalPositionIdentifier=1, AcquisitionTime="120000")
    second = slices(noise(seed=9), TemporalPositionIdentifier=2, AcquisitionTime="120030")
    for dataset in second:
        dataset.InstanceNumber += SLICES
        dataset.SOPInstanceUID = uid("second time", dataset.InstanceNumber)
    return Made(save_all([*datasets, *second], folder), None)


def no_decoder(folder: Path) -> Made:
    """Compressed in a way (JPEG XL) that nothing installed can unpack."""
    for dataset in slices():
        path = save(dataset, folder / f"IM{dataset.InstanceNumber:04d}.dcm")
        dataset.PixelData = encapsulate([b"\xff\x0a" + bytes(200)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = HTJ2K  # which pydicom agrees to write; the two are of one length
        dataset.save_as(path, enforce_file_format=True)
        path.write_bytes(path.read_bytes().replace(HTJ2K.encode(), JPEG_XL_LOSSLESS.encode(), 1))
    return Made(folder, None)


def corrupt_frame(folder: Path) -> Made:
    """JPEG 2000, one frame of which is overwritten in the middle."""
    save_all(slices(), folder, JPEG2000Lossless)
    file = sorted(folder.iterdir())[4]
    content = bytearray(file.read_bytes())
    start = content.rindex(b"\xff\x4f\xff\x51")
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)
    return Made(folder, truth(noise()))


def no_preamble(folder: Path) -> Made:
    """The bare data sets, without the 128 bytes and the four letters that say DICOM."""
    for dataset in slices():
        path = folder / f"IM{dataset.InstanceNumber:04d}.dcm"
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return Made(folder, truth(noise()))


def mosaic(folder: Path) -> Made:
    """A Siemens mosaic: the slices of a volume as tiles of one picture."""
    values = np.zeros((4 * ROWS, 2 * COLUMNS), np.int16)
    tags = {"SOPClassUID": MRImageStorage, "RescaleType": None, "ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}
    for k, part in enumerate(noise()):
        values[k // 2 * ROWS :][:ROWS, k % 2 * COLUMNS :][:, :COLUMNS] = part
    return Made(save(instance(values, 1, ORIGIN, **tags), folder / "mosaic.dcm").parent, None)


def archive(folder: Path) -> Made:
    """A ZIP of the series."""
    save_all(slices(), folder / "series")
    shutil.make_archive(str(folder / "series"), "zip", folder / "series")
    shutil.rmtree(folder / "series")
    return Made(folder / "series.zip", None)


def empty_folder(folder: Path) -> Made:
    (folder / "notes.txt").write_text(f"nothing here on {datetime.date(2026, 1, 1)}")
    return Made(folder, None)


CASES = (
    BadInput("two series", "two series in one folder", two_series, "E-SERIES"),
    BadInput(
        "missing slice", "one slice of eight is missing", spoilt(lambda datasets: datasets.pop(3)), "E-MISSING-SLICE"
    ),
    BadInput("duplicate, same", "a slice twice, same pixels", duplicate_same, "W-DUPLICATE"),
    BadInput("duplicate, other", "two slices at one place, other pixels", duplicate_other, "E-DUPLICATE"),
    BadInput("gantry tilt", "slices slide by 0.5 mm each", gantry_tilt, "E-TILT"),
    BadInput("variable spacing", "gaps of 3 mm, then of 5 mm", variable_spacing, "E-SPACING"),
    BadInput("jitter", "positions off by 0.02 mm", jitter, None),
    BadInput(
        "one without position",
        "one slice has no position",
        spoilt(lambda datasets: delattr(datasets[3], "ImagePositionPatient")),
        "E-NO-GEOMETRY",
    ),
    BadInput("no geometry", "no position, no orientation at all", no_geometry, "E-NO-GEOMETRY"),
    BadInput("localizer", "a localizer inside the series", localizer, "W-LOCALIZER"),
    BadInput("matrix", "one slice of another matrix", spoilt(fewer_rows), "E-MATRIX"),
    BadInput("pixel spacing", "one slice of another pixel spacing", spoilt(wider_pixels), "E-SPACING"),
    BadInput("slope per slice", "another slope in every slice (PET)", slope_per_slice, None),
    BadInput("signed", "signed pixels", series(PixelRepresentation=1, RescaleIntercept=0), None),
    BadInput("implicit VR", "implicit VR little endian", series(ImplicitVRLittleEndian), None),
    BadInput("sagittal", "sagittal", series(ImageOrientationPatient=list(SAGITTAL)), None),
    BadInput("oblique", "oblique", series(ImageOrientationPatient=list(OBLIQUE)), None),
    BadInput("negated column", "rows run to the right of the patient", negated_column, None),
    BadInput("numbered backwards", "instance numbers against the positions", numbered_backwards, None),
    BadInput(
        "MONOCHROME1",
        "MONOCHROME1",
        series(PhotometricInterpretation="MONOCHROME1"),
        "W-MONOCHROME1",
    ),
    BadInput("no rescale", "CT without rescale", no_rescale, "W-NOT-HU"),
    BadInput("junk", "other files beside the slices", junk, "I-SKIPPED"),
    BadInput("RTSTRUCT, SR", "RTSTRUCT and SR beside the slices", structure_set, "I-SKIPPED"),
    BadInput("DICOMDIR", "DICOMDIR beside the slices", dicomdir, "I-SKIPPED"),
    BadInput("truncated pixels", "pixel data of one slice cut short", truncated_pixels, "E-TRUNCATED"),
    BadInput("path in a tag", "SeriesDescription is a path upwards", series(SeriesDescription=UPWARDS), None),
    BadInput("patient in a tag", "SeriesDescription holds a name", series(**NAMED), None),
    BadInput("time points", "two time points in one series", time_points, "E-TIMEPOINTS"),
    BadInput("enhanced, shared", "enhanced CT, shared rescale", enhanced_shared, None),
    BadInput("enhanced, per frame", "enhanced CT, rescale per frame", enhanced_per_frame, "W-RESCALE"),
    BadInput("single slice", "a single slice", short(1), "W-SINGLE-SLICE"),
    BadInput("three slices", "three slices", short(3), None),
    BadInput("RLE", "RLE", series(RLELossless), None),
    BadInput("JPEG-LS", "JPEG-LS", series(JPEGLSLossless), None),
    BadInput("JPEG 2000", "JPEG 2000", series(JPEG2000Lossless), None),
    BadInput("no decoder", "compression without a decoder (JPEG XL)", no_decoder, "E-DECODER"),
    BadInput("corrupt frame", "one JPEG 2000 frame overwritten", corrupt_frame, "E-CORRUPT"),
    BadInput("no preamble", "data sets without the DICOM preamble", no_preamble, "E-NO-PREAMBLE"),
    BadInput("turned slice", "one slice turned by 0.25 degrees", spoilt(turned), "E-ORIENTATION"),
    BadInput("mosaic", "Siemens mosaic", mosaic, "E-MOSAIC"),
    BadInput("ZIP", "the series as a ZIP", archive, "E-FORMAT"),
    BadInput("no DICOM", "a folder without DICOM", empty_folder, "E-NOT-DICOM"),
)
"""Every row of the catalogue of DICOM, and what it must give."""
