"""The planes of the DICOM images that a segmentation belongs to: their headers, in order, and where each lies.

DICOM counts in LPS mm; the grid that leaves this module is RAS+ mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from medseg3d.checks import InputError
from medseg3d.io.dicom_identity import file_of, references_of
from medseg3d.io.dicom_warnings import without_warnings
from medseg3d.volume import Grid, Volume, placed

Source = str | Path | Dataset
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""LPS to RAS, and back."""
SAME_PLACE_MM = 1e-3
"""Frames of a multi-frame image nearer to each other than this lie at one place: other time points, or echoes."""
EVEN = 0.1
"""How far a plane may lie from its place in an even stack, in parts of the spacing."""


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes of one series of images, in order along their normal.

    Args:
        header: of the first image, without its pixels.
        references: what the image of each plane is referred to by; the same for all planes of a multi-frame image.
        frames: of each plane in its instance, from 1.
        positions: centre of the first pixel of each plane, LPS mm, ``(n, 3)``.
        orientation: directions of rows and of columns, LPS, 6 numbers.
        spacing_mm: between rows, and between columns.
        shape: rows and columns.
    """

    header: Dataset
    references: tuple[Dataset, ...]
    frames: tuple[int, ...]
    positions: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]

    @property
    def multiframe(self) -> bool:
        return "PerFrameFunctionalGroupsSequence" in self.header

    @property
    def step(self) -> NDArray[np.float64]:
        """From one plane to the next, LPS mm."""
        if len(self.positions) > 1:
            return (self.positions[-1] - self.positions[0]) / (len(self.positions) - 1)
        return np.cross(self.orientation[:3], self.orientation[3:]) * (self.thickness_mm or 1.0)

    @property
    def thickness_mm(self) -> float | None:
        """SliceThickness, where it is a length."""
        places = [self.header, *_shared(self.header, "PixelMeasuresSequence")]
        try:
            found = [float(place.SliceThickness) for place in places if place.get("SliceThickness")]
        except (ValueError, TypeError):
            return None
        return found[0] if found and found[0] > 0 else None

    @property
    def grid(self) -> Grid:
        """``(planes, rows, columns)`` in RAS+ mm."""
        affine = np.eye(4)
        affine[:3, 0] = self.step
        affine[:3, 1] = self.orientation[3:] * self.spacing_mm[0]
        affine[:3, 2] = self.orientation[:3] * self.spacing_mm[1]
        affine[:3, 3] = self.positions[0]
        return Grid((len(self.positions), *self.shape), LPS @ affine)

    def of(self, labels: Volume) -> NDArray[np.integer]:
        """The labels of each plane, ``(planes, rows, columns)``.

        Raises:
            InputError: ``E-GRID`` where the labels do not lie on the voxels of these images.
        """
        try:
            return placed(labels, self.grid).data[0]
        except ValueError as error:
            raise InputError(
                "E-GRID",
                f"the labels do not lie on the voxels of the source images: {error}",
                fix="give their own series",
            ) from None

    def volume(self, values: NDArray[np.integer]) -> Volume:
        """Values ``(planes, rows, columns)`` as ``(1, columns, rows, planes)``, as images of the series are read."""
        affine = self.grid.affine[:, [2, 1, 0, 3]]
        return Volume(np.ascontiguousarray(values.transpose(2, 1, 0))[None], affine)

    def points_mm(self, plane: int, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places ``(row, column)`` in a plane, ``(n, 2)``, as LPS mm, ``(n, 3)``."""
        rows, columns = self.orientation[3:] * self.spacing_mm[0], self.orientation[:3] * self.spacing_mm[1]
        return self.positions[plane] + pixels[:, :1] * rows + pixels[:, 1:] * columns

    def pixels(self, points_mm: NDArray[np.float64], off_plane: float) -> tuple[int, NDArray[np.float64]]:
        """The plane that points in LPS mm lie in, and their places ``(row, column)`` in it.

        Raises:
            ValueError: where they lie further beside it than ``off_plane``, in parts of the distance between planes.
        """
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        heights, places = points_mm @ normal, self.positions @ normal
        plane = int(np.abs(places - heights.mean()).argmin())
        apart = float(np.abs(heights - places[plane]).max())
        if apart > off_plane * float(np.linalg.norm(self.step)):
            raise ValueError(f"a contour lies {apart:.3g} mm beside the nearest image")
        inside = points_mm - self.positions[plane]
        rows, columns = (
            inside @ self.orientation[3:] / self.spacing_mm[0],
            inside @ self.orientation[:3] / self.spacing_mm[1],
        )
        return plane, np.stack([rows, columns], axis=1)


@without_warnings()
def read_planes(sources: Sequence[Source]) -> Planes:
    """Where the images of one series lie.

    Args:
        sources: the files, or data sets, of the images in any order, or one multi-frame image; of frames at the same place
            the first is taken.

    Raises:
        InputError: images without a place, of several series, or unevenly spaced.
    """
    if not sources:
        raise InputError("E-SOURCE", "no source images", fix="give the files that the labels were made from")
    headers = [source if isinstance(source, Dataset) else _header(Path(source)) for source in sources]
    first = headers[0]
    references = references_of(headers)
    if "PerFrameFunctionalGroupsSequence" in first:
        if len(headers) > 1:
            message = f"{len(headers)} multi-frame images; labels belong to one"
            raise InputError(
                "E-SOURCE", message, file=file_of(first), fix="give the one that the labels were made from"
            )
        places = [_place(first, frame) for frame in first.PerFrameFunctionalGroupsSequence]
        return _sorted(first, references * len(places), list(range(1, len(places) + 1)), places)
    return _sorted(first, references, [1] * len(headers), [_place(header, header) for header in headers])


def _header(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        raise InputError("E-NOT-DICOM", "no DICOM file", file=path, fix="give the images of a series") from None
    except OSError as error:
        raise InputError("E-NOT-READABLE", str(error.strerror or error), file=path, fix="check the path") from None


_Place = tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]


def _place(header: Dataset, frame: Dataset) -> _Place:
    """Position, orientation and pixel spacing of an image or of a frame, whose shared group counts where its own is silent."""
    found = {}
    for key, group in (
        ("ImagePositionPatient", "PlanePositionSequence"),
        ("ImageOrientationPatient", "PlaneOrientationSequence"),
        ("PixelSpacing", "PixelMeasuresSequence"),
    ):
        places = [frame, *frame.get(group, ()), *_shared(header, group)]
        value = next((place.get(key) for place in places if place.get(key)), None)
        if value is None:
            message = f"the source image has no {key}, so its place in the patient is unknown"
            raise InputError("E-NO-GEOMETRY", message, file=file_of(header), fix="export the series again")
        found[key] = np.array([float(v) for v in value])
    spacing = (float(found["PixelSpacing"][0]), float(found["PixelSpacing"][1]))
    return found["ImagePositionPatient"], found["ImageOrientationPatient"], spacing


def _shared(header: Dataset, group: str) -> list[Dataset]:
    """Items of a functional group that all frames share."""
    return [item for shared in header.get("SharedFunctionalGroupsSequence", ()) for item in shared.get(group, ())]


def _sorted(header: Dataset, references: list[Dataset], frames: list[int], places: list[_Place]) -> Planes:
    positions = np.array([position for position, _, _ in places])
    orientations = np.array([orientation for _, orientation, _ in places])
    spacings = np.array([spacing for _, _, spacing in places])
    if np.abs(orientations - orientations[0]).max() > 1e-3 or np.abs(spacings / spacings[0] - 1).max() > 1e-3:
        message = "the source images differ in orientation or pixel spacing"
        raise InputError("E-SOURCE", message, file=file_of(header), fix="give the images of one series")
    orientation = orientations.mean(axis=0)
    normal = np.cross(orientation[:3], orientation[3:])
    heights = positions @ normal
    order = [int(i) for i in np.argsort(heights, kind="stable")]
    if "PerFrameFunctionalGroupsSequence" in header:
        order = [i for k, i in enumerate(order) if k == 0 or heights[i] - heights[order[k - 1]] > SAME_PLACE_MM]
    positions = positions[order]
    shape = (int(header.Rows), int(header.Columns))
    planes = Planes(
        header,
        tuple(references[i] for i in order),
        tuple(frames[i] for i in order),
        positions,
        orientation,
        (float(spacings[0][0]), float(spacings[0][1])),
        shape,
    )
    even = positions[0] + np.outer(np.arange(len(positions)), planes.step)
    off = float(np.linalg.norm(positions - even, axis=1).max())
    if len(positions) > 1 and (off > EVEN * float(np.linalg.norm(planes.step)) or np.diff(heights[order]).min() <= 0):
        message = f"the source images are not evenly spaced: one lies {off:.3g} mm beside its place"
        raise InputError("E-SOURCE", message, file=file_of(header), fix="give each plane of the series once")
    return planes
