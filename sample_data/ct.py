"""CT phantoms: torsos with five organs in Hounsfield units, as NIfTI and one of them as a DICOM series too.

The anatomy tells left from right, front from back and top from bottom: the liver lies right, the left kidney higher than
the right one, the aorta left of the midline in front of the spine, the patient on a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from .shapes import (
    Array,
    centred_affine,
    coverage,
    ellipsoid_mm,
    grid_points,
    paint,
    rotation,
    shape_covering,
    tube_mm,
    waves,
)
from .write import write_msd_index, write_nifti

LABELS = {1: "liver", 2: "spleen", 3: "kidney_left", 4: "kidney_right", 5: "aorta"}
LIVER, SPLEEN, KIDNEY_LEFT, KIDNEY_RIGHT, AORTA = LABELS
CASES = 6
DICOM_CASE = 2
SEED = 31400
EXTENT_MM = (320, 260, 216)
"""Field of view along left-right, posterior-anterior and inferior-superior."""

AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, BOWEL_HU, STOMACH_HU = -1000, -820, -95, 52, 35, 20
CAVA_HU, MARROW_HU, CORTEX_HU, RIB_HU, TABLE_HU = 115, 230, 650, 520, -350
ORGAN_HU = {LIVER: 108, SPLEEN: 122, KIDNEY_LEFT: 178, KIDNEY_RIGHT: 178, AORTA: 160}
PELVIS_HU = 30
NOISE_HU = 14
DENSITY_DEVIATION_HU = 12
"""Deviation of an organ's density between patients."""
VERTEBRA_MM = 32.0
"""Height of a vertebra with its disc."""

LPS = np.diag([-1.0, -1.0, 1.0])
"""DICOM's x and y point to the left and to the back, NIfTI's to the right and to the front."""
HU_OFFSET = 1024


@dataclass(frozen=True)
class Look:
    """How one scan lays its grid over the torso: axis directions, spacing along each array axis, turn about x, y and z."""

    axcodes: str = "RAS"
    spacing_mm: tuple[float, float, float] = (5.0, 5.0, 5.0)
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)


LOOKS = {
    1: Look("LAS", (4.6, 4.6, 6.0)),
    DICOM_CASE: Look("LPS", (4.8, 5.2, 4.5), (8.0, 0.0, 0.0)),
    4: Look("LPS", (4.4, 4.4, 5.0)),
    5: Look("SAR", (4.5, 5.0, 5.0), (0.0, 6.0, 10.0)),
}


def organs_mm(rng: np.random.Generator, p: Array) -> dict[int, Array]:
    """Depth below the surface of each organ, mm, at ``p`` (N, 3) in mm from the middle of the torso."""

    def place(x: float, y: float, z: float) -> Array:
        return np.array([x, y, z]) + rng.normal(0, 4, size=3)

    def kidney(side: int, height: float) -> Array:
        turned = (p - place(58 * side, -48, height)) @ rotation((0, -14 * side, 0))
        hilum = ellipsoid_mm(turned, (-22 * side, 6, 0), (14, 16, 14))
        return np.minimum(ellipsoid_mm(turned, (0, 0, 0), rng.uniform(0.9, 1.1) * np.array([22, 20, 42])), -hilum)

    liver = ellipsoid_mm(
        (p - place(62, 12, 34)) @ rotation((0, 18, 0)), (0, 0, 0), rng.uniform(0.92, 1.06, 3) * (62, 66, 56)
    )
    lobe = ellipsoid_mm((p - place(4, 42, 44)) @ rotation((0, 12, 0)), (0, 0, 0), (50, 30, 26))
    depths = {
        LIVER: np.maximum(liver, lobe) + 2 * waves(rng, p, 50),
        SPLEEN: ellipsoid_mm(p @ rotation((0, 0, 20)), place(-86, -4, 42), rng.uniform(0.95, 1.1, 3) * (26, 43, 42)),
        KIDNEY_LEFT: kidney(-1, 2),
        KIDNEY_RIGHT: kidney(1, -26),
        AORTA: tube_mm(p, [place(-14, -34, 140), place(-10, -30, 0), place(-8, -28, -60), place(-4, -24, -140)], 13),
    }
    taken = np.maximum(depths[KIDNEY_LEFT], depths[KIDNEY_RIGHT])
    depths[SPLEEN] = np.minimum(depths[SPLEEN], -4 - taken)
    depths[LIVER] = np.minimum(depths[LIVER], -4 - np.maximum(taken, np.maximum(depths[SPLEEN], depths[AORTA])))
    return depths


def bones_mm(p: Array, body: Array) -> tuple[Array, Array, Array]:
    """Depth below the surface of the vertebrae, of their spinous processes and of the ribs, mm."""
    x, y, z = p.T
    from_vertebra = (z % VERTEBRA_MM) - VERTEBRA_MM / 2
    spine = np.minimum(19 - np.hypot(x, y + 62), 13 - np.abs(from_vertebra))
    process = np.minimum(5 - np.abs(x), 16 - np.hypot(y + 90, from_vertebra))
    slope = 0.35 * y + 0.1 * np.abs(x)  # ribs fall towards the front
    ribs = np.minimum(5 - np.abs(body - 20), 6 - np.abs((z - slope) % 30 - 15))
    return spine, process, np.where(z > -50 - 0.4 * y, ribs, -99)


def torso(rng: np.random.Generator, p: Array, width_mm: float) -> tuple[Array, NDArray[np.uint8]]:
    """Hounsfield units and labels, both ``(N,)``, of one random patient at ``p`` (N, 3), mm from the middle of the grid."""
    table = np.minimum(5 - np.abs(p[:, 1] + 117 - 0.0006 * p[:, 0] ** 2), 130 - np.abs(p[:, 0]))
    hu = paint(np.full((1, len(p)), float(AIR_HU)), coverage(table, width_mm), [TABLE_HU])
    p = p / rng.uniform(0.94, 1.03, size=3)
    x, y, z = p.T
    level = (np.abs(x / (142 - 0.05 * z)) ** 2.4 + np.abs(y / np.where(y > 0, 100, 108)) ** 2.4) ** (1 / 2.4)
    body = (1 - level) * 105
    hu = paint(hu, coverage(body, width_mm), [FAT_HU])
    hu = paint(hu, coverage(body - 12 - 3 * waves(rng, p, 60), width_mm), [MUSCLE_HU])
    cavity = np.minimum(body - 30, np.hypot(x, y + 70) - 36)
    hu = paint(hu, coverage(cavity, width_mm), [FAT_HU])
    bowel = np.minimum(np.minimum(8 * waves(rng, p, 45), cavity - 4), -z + 10 + 0.5 * y)
    hu = paint(hu, coverage(bowel, width_mm), [BOWEL_HU])
    stomach = ellipsoid_mm(p, rng.normal((-50, 38, 36), 4), (30, 32, 30))
    hu = paint(hu, coverage(stomach, width_mm), [STOMACH_HU])
    hu = paint(hu, coverage(np.minimum(stomach - 4, y - 48), width_mm), [AIR_HU])
    hu = paint(hu, coverage(tube_mm(p, [(16, -20, 140), (18, -22, -140)], 13), width_mm), [CAVA_HU])

    dome = 62 + 0.12 * x - 0.004 * (np.abs(x) - 62) ** 2 - 0.004 * (y - 5) ** 2
    lung = np.minimum(np.minimum(body - 26, z - dome - 8), np.abs(x + 8) - 24 + 0.1 * y)
    depths = organs_mm(rng, p)
    labels = np.zeros(len(p), np.uint8)
    for label, depth in depths.items():
        if label != AORTA:
            depth = np.minimum(np.minimum(depth, body - 24), dome - z + 6)
        density = ORGAN_HU[label] + rng.normal(0, DENSITY_DEVIATION_HU)
        hu = paint(hu, coverage(depth, width_mm), [density])
        if label in (KIDNEY_LEFT, KIDNEY_RIGHT):
            hu = paint(hu, coverage(depth - 11, width_mm), [PELVIS_HU])
        labels[depth > 0] = label
    hu = paint(hu, coverage(lung, width_mm), [LUNG_HU])
    spine, process, ribs = bones_mm(p, body)
    hu = paint(hu, coverage(spine, width_mm), [CORTEX_HU])
    hu = paint(hu, coverage(spine - 4, width_mm), [MARROW_HU])
    hu = paint(hu, coverage(process, width_mm), [CORTEX_HU])
    hu = paint(hu, coverage(ribs, width_mm), [RIB_HU])
    noisy = hu[0] + rng.normal(0, NOISE_HU, size=len(p))
    return np.maximum(noisy, -HU_OFFSET), labels


def scan(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8], Array]:
    """Image (HU), label and affine of case ``number``; each has a seed of its own."""
    rng = np.random.default_rng((SEED, number))
    look = LOOKS.get(number, Look())
    shape = shape_covering(look.axcodes, look.spacing_mm, EXTENT_MM)
    centre = rng.uniform(-40, 40, size=3)
    affine = centred_affine(look.axcodes, look.spacing_mm, shape, centre, look.degrees)
    hu, labels = torso(rng, grid_points(shape, affine) - centre, float(np.mean(look.spacing_mm)))
    return np.rint(hu).astype(np.int16).reshape(shape), labels.reshape(shape), affine


def write_dicom_series(folder: Path, hu: NDArray[np.int16], affine: Array, name: str) -> None:
    """Write slices along the last array axis as a classic CT series; instance 1 is the last slice (top to bottom).

    The first array axis runs along the image's columns and the second down its rows, so world positions are those of the
    affine. Identifiers are derived from ``name``, so that a second run gives the same files.
    """
    axes = LPS @ affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    direction = axes / spacing
    uids = {what: generate_uid(entropy_srcs=["medseg3d", name, what]) for what in ("study", "series", "frame")}
    folder.mkdir(parents=True, exist_ok=True)
    count = hu.shape[2]
    for instance in range(1, count + 1):
        k = count - instance
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["medseg3d", name, f"slice {k}"])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{instance:04d}.dcm"
        ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uids["study"], uids["series"], uids["frame"]
        ds.PatientName, ds.PatientID = "Phantom^CT", name
        ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260101"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
        ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", 1, instance
        ds.Modality, ds.Manufacturer, ds.SeriesDescription = "CT", "medseg3d", "CT phantom"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientPosition, ds.PositionReferenceIndicator, ds.KVP = "HFS", "", 120
        ds.ImageOrientationPatient = [_decimal(v) for v in direction[:, :2].T.ravel()]
        ds.ImagePositionPatient = [_decimal(v) for v in LPS @ (affine @ (0, 0, k, 1))[:3]]
        ds.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
        ds.SliceThickness = _decimal(spacing[2])
        ds.Columns, ds.Rows = hu.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -HU_OFFSET, 1, "HU"
        ds.WindowCenter, ds.WindowWidth = 50, 400
        ds.PixelData = (hu[:, :, k].T.astype(np.int32) + HU_OFFSET).astype("<u2").tobytes()
        ds.save_as(path, enforce_file_format=True)


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    return f"{value + 0.0:.9f}"[:16]


def write_ct(folder: Path) -> None:
    """Write all torsos into ``folder`` in MSD layout, and one of them into ``folder/dicom`` as a series."""
    names = [f"torso_{number:02d}" for number in range(CASES)]
    for number, name in enumerate(names):
        hu, label, affine = scan(number)
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", hu, affine)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label, affine)
        if number == DICOM_CASE:
            write_dicom_series(folder / "dicom" / name, hu, affine, name)
    write_msd_index(folder, "CT torso phantoms", modality=["CT"], labels=LABELS, cases=names, size="3D")
