"""Reading a CT folder of 300 slices by medseg3d, SimpleITK and dicom2nifti, in one process, interleaved.

    python -m benchmarks.dicom [--json FILE] [--quick]

The slices are 512 x 512 of 16 bits, uncompressed, with about a hundred header elements as scanners write them, under names
whose order is not that of their positions; the folder is made for the run and lies in the page cache. Every side goes from
the path of the folder to the voxels in memory, sorted and in Hounsfield units: medseg3d with all its checks, SimpleITK as
its documentation has it (GetGDCMSeriesFileNames, ImageSeriesReader), dicom2nifti without writing a file. All voxels are
compared with those that were written. Ratios are theirs / ours, so larger is better; read_speedup is that of the faster one.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.measure import arguments, interleaved, report
from medseg3d.io.dicom import read_dicom

PIXEL_MM, SLICE_MM = 0.7, 1.0
PRIVATE_ELEMENTS = 60
"""Scanners add as many of their own."""


def write_series(folder: Path, slices: int, size: int) -> NDArray[np.int16]:
    """Write a CT series; returns its values in HU, ``(slices, rows, columns)``."""
    rng = np.random.default_rng(0)
    plane = rng.normal(0, 300, (size, size)).clip(-1024, 3000).astype(np.int16)
    values = np.stack([np.roll(plane, k, axis=0) for k in range(slices)])
    uids = {what: generate_uid(entropy_srcs=["benchmark", what]) for what in ("study", "series", "frame")}
    for k in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["benchmark", str(k)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uids.values()
        ds.Modality, ds.ImageType, ds.SeriesDescription = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "benchmark"
        ds.PatientName, ds.PatientID, ds.PatientPosition = "Phantom^Benchmark", "PHANTOM", "HFS"
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
        ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
        ds.Manufacturer, ds.ManufacturerModelName, ds.KVP, ds.XRayTubeCurrent = "medseg3d", "benchmark", 120, 200
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber, ds.SliceThickness = 1, 1, k + 1, SLICE_MM
        ds.add_new((0x0019, 0x0010), "LO", "MEDSEG3D BENCHMARK")
        for i in range(PRIVATE_ELEMENTS):
            ds.add_new((0x0019, 0x1000 + i), "LO", f"private value {i}")
        ds.ImagePositionPatient = [-size * PIXEL_MM / 2, -size * PIXEL_MM / 2, k * SLICE_MM]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [PIXEL_MM, PIXEL_MM]
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        ds.PixelData = (values[k] + 1024).astype("<u2").tobytes()
        ds.save_as(folder / f"IM{k * 7 % slices if slices % 7 else k:04d}.dcm", enforce_file_format=True)
    return values


def sides(folder: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    """What each reads, as ``(slices, rows, columns)``; a peer that is not installed is left out."""
    found: dict[str, Callable[[], NDArray[Any]]] = {"ours": lambda: read_dicom(folder).data[0].T}
    try:
        import SimpleITK as sitk

        def simpleitk() -> NDArray[Any]:
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
            return sitk.GetArrayFromImage(reader.Execute())

        found["SimpleITK"] = simpleitk
    except ImportError:
        print("SimpleITK is not installed, so its figures are left out: pip install SimpleITK")
    try:
        import dicom2nifti as peer

        logging.getLogger("dicom2nifti").setLevel(logging.ERROR)

        def dicom2nifti() -> NDArray[Any]:
            image = peer.dicom_series_to_nifti(str(folder), None, reorient_nifti=False)["NII"]
            return np.asarray(image.dataobj).T

        found["dicom2nifti"] = dicom2nifti
    except ImportError:
        print("dicom2nifti is not installed, so its figures are left out: pip install -c constraints.txt -e '.[peers]'")
    return found


def equal(values: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether all voxels are those that were written; the axes may run either way."""
    turns = product((slice(None), slice(None, None, -1)), repeat=3)
    return any(np.array_equal(values[turn], expected) for turn in turns)


def main() -> None:
    options = arguments(__doc__ or "")
    slices, size = (20, 128) if options.quick else (300, 512)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        expected = write_series(Path(name), slices, size)
        readers = sides(Path(name))
        for side, read in readers.items():
            figures[f"{side.lower()}_equal"] = equal(read(), expected)
        seconds = interleaved(readers, 1 if options.quick else max(options.repeats, 5))
    peers = {f"vs_{side.lower()}": value / seconds["ours"] for side, value in seconds.items() if side != "ours"}
    figures |= peers
    figures["read_speedup"] = min(peers.values(), default=None)
    report(f"CT folder of {slices} slices, {size} x {size}", seconds, figures, options.json)


if __name__ == "__main__":
    main()
