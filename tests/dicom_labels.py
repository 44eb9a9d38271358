"""Label maps on synthetic DICOM series of every kind of acquisition, for the tests that write them as DICOM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg3d.volume import Volume
from tests import bad_dicom, dicom_series
from tests.bad_input import Made

ACQUISITIONS: dict[str, Callable[[Path], Made]] = {
    "axial": bad_dicom.series(),
    "rows to the right, slices downwards": bad_dicom.negated_column,
    "numbered backwards": bad_dicom.numbered_backwards,
    "sagittal": bad_dicom.series(ImageOrientationPatient=list(dicom_series.SAGITTAL)),
    "oblique": bad_dicom.series(ImageOrientationPatient=list(dicom_series.OBLIQUE)),
    "jitter": bad_dicom.jitter,
    "one slice": bad_dicom.short(1),
    "multi-frame": bad_dicom.enhanced_shared,
}
"""All with pixels of 0.8 x 0.7 mm and 3 mm between slices."""


@dataclass(frozen=True)
class Scan:
    """A series on disk, and labels on its voxels.

    Args:
        files: of the series, in no order.
        labels: ``(1, columns, rows, slices)`` with the values 0, 1, 3 and 5 in shapes that no flip or turn leaves alike.
    """

    files: Sequence[Path]
    labels: Volume


def scan(folder: Path, acquisition: str = "axial") -> Scan:
    """Write a series into ``folder``."""
    made = ACQUISITIONS[acquisition](folder)
    assert made.truth is not None
    data = np.zeros((40, 36, 8), np.uint8)
    data[4:20, 5:29, 1:6] = 1
    data[8:12, 9:15, 0:4] = 0  # a hole
    data[24:37, 2:11, :5] = 3
    data[30:37, 2:5, 1:7] = 0
    data[26:31, 20:22, 2] = 5
    data[31:34, 22:30, 2] = 5  # touches the other part at a corner
    if acquisition == "one slice":
        data = data[:, :, 2:3]
    return Scan(sorted(p for p in folder.iterdir() if p.is_file()), made.truth.with_data(data[None]))
