"""One side of ``benchmarks.dicom``: reads the folder each time it is told to, and answers with the seconds it took."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ours(folder: Path) -> Callable[[], NDArray[Any]]:
    from medseg3d.io.dicom import read_dicom

    return lambda: read_dicom(folder).data[0].T


def simpleitk(folder: Path) -> Callable[[], NDArray[Any]]:
    import SimpleITK as sitk

    def read() -> NDArray[Any]:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        return sitk.GetArrayViewFromImage(reader.Execute())

    return read


def dicom2nifti(folder: Path) -> Callable[[], NDArray[Any]]:
    import dicom2nifti

    logging.disable(logging.ERROR)

    def read() -> NDArray[Any]:
        image = dicom2nifti.dicom_series_to_nifti(str(folder), None, reorient_nifti=False)["NII"]
        return np.asarray(image.dataobj).T

    return read


def main() -> None:
    """Answers ``ready`` (or ``absent``), then a line for each of ``read`` and ``compare`` on standard input."""
    side, folder = sys.argv[1], Path(sys.argv[2])
    try:
        read = {"ours": ours, "SimpleITK": simpleitk, "dicom2nifti": dicom2nifti}[side](folder)
    except ImportError:
        print("absent", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "compare":
            values, expected = read(), np.load(folder.parent / "expected.npy")
            turned = (
                values,
                values[::-1],
                values[:, ::-1],
                values[:, :, ::-1],
                values[:, ::-1, ::-1],
                values[::-1, ::-1],
            )
            print(any(np.array_equal(v, expected) for v in turned), flush=True)
        else:
            start = time.perf_counter()
            read()
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
