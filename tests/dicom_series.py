"""A synthetic DICOM series to build on, and where its voxels lie. No patient's data.

CT, 8 axial slices of 36 rows and 40 columns, 0.8 x 0.7 mm pixels (down, across), 3 mm apart, noise from -1000 to 1500 HU, stored
as value + 1024 in 16 bits without sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from medseg3d.volume import Volume

ROWS, COLUMNS, SLICES = 36, 40, 8
ROW_MM, COLUMN_MM, SLICE_MM = 0.8, 0.7, 3.0
ORIGIN = (-10.0, -20.0, 30.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def uid(*words: Any) -> str:
    return generate_uid(entropy_srcs=[repr(words)])


def noise(slices: int = SLICES, seed: int = 0) -> NDArray[np.int16]:
    """Values ``(slices, rows, columns)``, -1000 to 1500."""
    values = np.random.default_rng(seed).integers(-1000, 1500, (slices, ROWS, COLUMNS))
    return values.astype(np.int16)


def normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    return np.cross(orientation[:3], orientation[3:])


def truth(
    values: NDArray[Any], orientation: Sequence[float] = AXIAL, slice_mm: float = SLICE_MM, origin: Any = ORIGIN
) -> Volume:
    """Values ``(slices, rows, columns)`` at their place in RAS+ mm."""
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(orientation[:3], COLUMN_MM)
    affine[:3, 1] = np.multiply(orientation[3:], ROW_MM)
    affine[:3, 2] = normal(orientation) * slice_mm
    affine[:3, 3] = origin
    affine[:2] *= -1  # LPS to RAS
    return Volume(np.ascontiguousarray(values.transpose(2, 1, 0))[None].astype(np.float32), affine)


def places(number: int = SLICES, orientation: Sequence[float] = AXIAL) -> list[NDArray[np.float64]]:
    """Where the first pixel of each slice lies, LPS mm."""
    return [np.array(ORIGIN) + k * SLICE_MM * normal(orientation) for k in range(number)]


def instance(pixels: NDArray[Any], number: int, place: Any, **tags: Any) -> Dataset:
    """One slice of the series that the module describes; ``tags`` change it, None takes a tag away.

    Args:
        pixels: ``(rows, columns)``, in HU; stored with the slope and intercept of ``tags``, 1 and -1024 by default.
        number: of the instance, from 1.
        place: of the first pixel, LPS mm.
    """
    dataset = patient(tags.get("SeriesInstanceUID", uid("series")), tags.get("SOPClassUID", CTImageStorage))
    dataset.SOPInstanceUID = uid(dataset.SeriesInstanceUID, number)
    dataset.InstanceNumber = number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [f"{v:.6g}" for v in place]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = [ROW_MM, COLUMN_MM]
    dataset.SliceThickness = SLICE_MM
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.RescaleType = "HU"
    dataset.PixelRepresentation = 0
    for keyword, value in tags.items():
        if keyword in ("PatientName", "SOPInstanceUID") or value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    stored = (pixels - float(dataset.get("RescaleIntercept", 0))) / float(dataset.get("RescaleSlope", 1))
    return with_pixels(dataset, np.rint(stored))


def patient(series: str, sop_class: str) -> Dataset:
    """What every instance of the study says of patient, study and series."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = sop_class
    modality = {MRImageStorage: "MR", PositronEmissionTomographyImageStorage: "PT"}
    dataset.Modality = modality.get(sop_class, "CT")  # type: ignore[call-overload]
    dataset.PatientName, dataset.PatientID = "Phantom^Synthetic", "PHANTOM"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
    dataset.SeriesDate, dataset.SeriesTime, dataset.ContentDate, dataset.ContentTime = (
        "20260101",
        "120000",
        "20260101",
        "120000",
    )
    dataset.Manufacturer = "medseg3d tests"
    dataset.SeriesDescription = "noise"
    dataset.SeriesNumber, dataset.AcquisitionNumber = 1, 1
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), series
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid("frame"), ""
    return dataset


def with_pixels(dataset: Dataset, stored: NDArray[Any]) -> Dataset:
    """The data set with stored values ``([frames,] rows, columns)``."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = stored.astype("<i2" if dataset.PixelRepresentation else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a DICOM file; a compressed syntax compresses it first."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    uncompressed = syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    meta.TransferSyntaxUID = syntax if uncompressed else ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    dataset.file_meta = meta
    if not uncompressed:
        dataset.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def slices(values: NDArray[Any] | None = None, *, at: Sequence[Any] | None = None, **tags: Any) -> list[Dataset]:
    """The instances of a series, one per slice."""
    values = noise() if values is None else values
    orientation = tags.get("ImageOrientationPatient") or AXIAL
    at = places(len(values), orientation) if at is None else at
    return [instance(v, k, place, **tags) for k, (v, place) in enumerate(zip(values, at, strict=True), start=1)]


def save_all(datasets: Sequence[Dataset], folder: Path, syntax: str = ExplicitVRLittleEndian, name: str = "IM") -> Path:
    """Write the instances, under names whose order is not that of the slices."""
    for index, dataset in enumerate(datasets):
        save(dataset, folder / f"{name}{(index * 5 + 3) % 8 + index // 8 * 8:04d}.dcm", syntax)
    return folder
