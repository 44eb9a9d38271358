"""Reading a CT folder of 300 slices by medseg3d, SimpleITK and dicom2nifti, in a process each, in turns.

    python -m benchmarks.dicom [--json FILE] [--quick]

The slices are 512 x 512 of 16 bits, uncompressed, with about a hundred header elements as scanners write them, under names
whose order is not that of their positions; the folder is made for the run and lies in the page cache. Every side goes from
the path of the folder to the voxels in memory, sorted and in Hounsfield units: medseg3d with all its checks, SimpleITK as
its documentation has it (GetGDCMSeriesFileNames, ImageSeriesReader), dicom2nifti without writing a file. All voxels are
compared with those that were written. Ratios are theirs / ours, so larger is better; read_speedup is that of the faster one.
A peer that is not installed is left out; pip install dicom2nifti brings python-gdcm, which is best kept out of environments
that use SimpleITK.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from benchmarks.measure import arguments, report

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


class Reader:
    """One side in a process of its own: python-gdcm, which dicom2nifti brings along, does not go with SimpleITK's GDCM."""

    def __init__(self, side: str, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.dicom_side", side, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.available = self._answer() == "ready"

    def read(self) -> float:
        """Read the folder once; seconds it took."""
        return float(self._ask("read"))

    def equal(self) -> bool:
        """Whether the voxels are those that were written."""
        return self._ask("compare") == "True"

    def close(self) -> None:
        self.process.communicate()

    def _ask(self, what: str) -> str:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def main() -> None:
    options = arguments(__doc__ or "")
    slices, size = (20, 128) if options.quick else (300, 512)
    repeats = 1 if options.quick else max(options.repeats, 5)
    figures: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "series"
        folder.mkdir()
        np.save(folder.parent / "expected.npy", write_series(folder, slices, size))
        readers = {side: Reader(side, folder) for side in ("ours", "SimpleITK", "dicom2nifti")}
        for side in [s for s, reader in readers.items() if not reader.available]:
            print(f"{side} is not installed, so its figures are left out: pip install {side}")
            readers.pop(side).close()
        for side, reader in readers.items():
            figures[f"{side.lower()}_equal"] = reader.equal()  # also the reading that does not count
        for _ in range(repeats):
            for side, reader in readers.items():
                seconds.setdefault(side, []).append(reader.read())
        for reader in readers.values():
            reader.close()
    rows = {side: statistics.median(values) for side, values in seconds.items()}
    peers = {f"vs_{side.lower()}": value / rows["ours"] for side, value in rows.items() if side != "ours"}
    figures |= peers
    figures["read_speedup"] = min(peers.values(), default=None)
    report(f"CT folder of {slices} slices, {size} x {size}", rows, figures, options.json)


if __name__ == "__main__":
    main()
