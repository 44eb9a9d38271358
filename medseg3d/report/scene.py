"""A scan as it is shown: closest RAS+ order, three planes, radiological convention.

Every picture has the patient's right on its left side and anterior or superior at its top; the sagittal one has anterior
on its left side. In the closest RAS+ order that is one rule for all planes: both axes run backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from medseg3d.report.intensity import Intensity
from medseg3d.volume import Volume

OBLIQUE_DEGREES = 3
"""Tilt of the voxel axes against the body's above which a picture says that it is oblique."""


@dataclass(frozen=True)
class Plane:
    """How one of the three planes is drawn.

    Args:
        name: ``axial``, ``coronal`` or ``sagittal``.
        normal: RAS axis that slices are counted along, from left, posterior or inferior.
        across: RAS axis that runs from the picture's right to its left.
        down: RAS axis that runs from the picture's bottom to its top.
        letters: what lies at the picture's left, right, top and bottom.
    """

    name: str
    normal: int
    across: int
    down: int
    letters: str


PLANES = (
    Plane("axial", 2, 0, 1, "RLAP"),
    Plane("coronal", 1, 0, 2, "RLSI"),
    Plane("sagittal", 0, 1, 2, "APSI"),
)


def cut(data: NDArray, plane: Plane, index: int) -> NDArray:
    """One slice of ``(x, y, z)`` data in RAS+ order, as the rows and columns of a picture."""
    return np.take(data, index, axis=plane.normal)[::-1, ::-1].T


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that is shown of one case, in closest RAS+ order.

    Args:
        channels: name -> intensities ``(x, y, z)``; for a colour picture red, green and blue.
        spacing_mm: along x, y and z.
        shown: how each channel's intensities become grey values.
        reference: label values ``(x, y, z)``, or None.
        prediction: label values ``(x, y, z)``, or None.
        colour: the channels are red, green and blue of one picture.
        letters: whether the axes mean directions of a body; not so in 2D pictures.
        oblique: tilt of the voxel axes against the body's, in degrees.
    """

    channels: Mapping[str, NDArray]
    spacing_mm: tuple[float, float, float]
    shown: Mapping[str, Intensity] = field(default_factory=dict)
    reference: NDArray | None = None
    prediction: NDArray | None = None
    colour: bool = False
    letters: bool = True
    oblique: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.channels.values())).shape

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes that are pictures: those with more than one voxel each way, else the axial one."""
        found = tuple(p for p in PLANES if self.shape[p.across] > 1 and self.shape[p.down] > 1)
        return found or PLANES[:1]

    def with_channels(self, names: Sequence[str]) -> Scene:
        """Only these channels, in this order."""
        return replace(self, channels={n: self.channels[n] for n in names}, shown={n: self.shown[n] for n in names})


def make_scene(
    image: Volume,
    names: Sequence[str],
    *,
    reference: Volume | None = None,
    prediction: Volume | None = None,
    ct: bool | None = None,
) -> Scene:
    """Bring a scan and its label maps into the order they are shown in.

    Args:
        image: the scan, 2D or 3D.
        names: of its channels.
        reference: label map on the scan's grid.
        prediction: label map on the scan's grid.
        ct: whether intensities are Hounsfield units; None looks at the values.
    """
    data = _upright(image)
    colour = len(image.shape) == 2 and image.channels == 3
    channels = dict(zip(names, data, strict=True))
    flat = len(image.shape) == 2
    spacing = image.spacing_mm[::-1] if flat else image.canonical().spacing_mm
    return Scene(
        channels,
        (*spacing, 1.0)[:3],  # type: ignore[arg-type]
        {name: Intensity.of(values, ct=False if colour else ct) for name, values in channels.items()},
        None if reference is None else _upright(reference)[0],
        None if prediction is None else _upright(prediction)[0],
        colour,
        letters=not flat,
        oblique=0.0 if flat else _tilt(image),
    )


def _upright(volume: Volume) -> NDArray:
    """``(C, x, y, z)`` in closest RAS+ order; a 2D picture is laid so that its axial plane is the picture itself."""
    if len(volume.shape) == 2:
        return volume.data.transpose(0, 2, 1)[:, ::-1, ::-1, None]
    return volume.canonical().data


def _tilt(volume: Volume) -> float:
    axes = volume.canonical().affine[:3, :3]
    cosines = np.diagonal(axes / np.linalg.norm(axes, axis=0))
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))
