"""From a volume to the network's grid: the same for training and for prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg3d.checks import ConfigError, InputError
from medseg3d.intensity import STATISTICS, full_scale, normalise
from medseg3d.interpolation import SNAP, interpolate, largest_mask, positions
from medseg3d.task import Task
from medseg3d.task_rules import INTENSITIES, SLICES
from medseg3d.volume import AxisMap, Grid, Volume

EQUALLY_THICK = 0.99
"""Voxel sizes that differ by less are equal."""


@dataclass(frozen=True, eq=False)
class NetworkGrid:
    """The grid the network sees a volume on.

    Args:
        source: the volume's own grid.
        axis_map: network index to source index.
        shape: size of the network grid.
    """

    source: Grid
    axis_map: AxisMap
    shape: tuple[int, ...]

    @property
    def grid(self) -> Grid:
        """The network grid in the world."""
        return self.source.mapped(self.axis_map, self.shape)

    def source_coordinates(self) -> list[NDArray[np.float64]]:
        """For each source axis, where the network's voxels lie on it."""
        back = self.axis_map.inverse().axes
        return [self.axis_map.coordinates(a, self.shape[a]) for a in back]

    def network_coordinates(self) -> list[NDArray[np.float64]]:
        """For each source axis, where its voxels lie on the network axis that runs along it."""
        inverse = self.axis_map.inverse()
        return [inverse.coordinates(axis, n) for axis, n in enumerate(self.source.shape)]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a volume before the network sees it. No step is random.

    The axes are put into the order closest to RAS (an oblique rotation is kept), the surroundings of the non-zero part
    are cut off where ``crop`` is set, and the rest is sampled at ``spacing_mm``, all in one linear interpolation. Nothing
    is smoothed before, however coarse the network's spacing (as in nnU-Net): at more than twice the source's spacing fine
    texture aliases, in training and in prediction alike, while a Gaussian would cost thin structures their contrast.

    Args:
        spatial_dims: 2 or 3.
        spacing_mm: of the network grid per RAS axis; None keeps each volume's own.
        intensity: one of ``medseg3d.task_rules.INTENSITIES``. ``minmax_slices`` scales each slice: of ``slices``, or of the last
            network axis, in RAS order the inferior-superior one, the last stored axis of the published recipe's files. The
            minimum and maximum are those of the scan's whole slice, not of the cropped part; a 2D image is one slice.
            ``range`` divides integers by their type's maximum, and floats, whose type no longer says it, by the
            smallest of 1, 255 and 65535 that holds every value of the volume.
        crop: cut to the bounding box of the voxels that are not zero in every channel.
        slices: one of ``medseg3d.task_rules.SLICES``: the network's first axis runs across slices, which stay as far apart as they
            are; ``spacing_mm`` is then that of a slice's two axes, in RAS order.
        statistics: for ``ct``, per channel ``low`` and ``high`` to clip at, then ``mean`` and ``std`` to scale by.

    Raises:
        ConfigError: unknown intensity, or ``ct`` with missing statistics.
    """

    spatial_dims: int
    spacing_mm: tuple[float, ...] | None
    intensity: str
    crop: bool
    statistics: tuple[Mapping[str, float], ...] | None = None
    slices: str | None = None

    def __post_init__(self) -> None:
        if self.intensity not in INTENSITIES:
            raise ConfigError(f"intensity {self.intensity!r} is none of {', '.join(INTENSITIES)}")
        if self.slices is not None and (self.slices not in SLICES or self.spatial_dims != 3):
            raise ConfigError(f"slices {self.slices!r} must be one of {', '.join(SLICES)}, of volumes")
        if self.intensity == "ct":
            if not self.statistics:
                raise ConfigError("intensity 'ct' needs statistics of the training set; ct_statistics computes them")
            for channel in self.statistics:
                if missing := [k for k in STATISTICS if k not in channel]:
                    raise ConfigError(f"statistics {dict(channel)} lack {missing[0]!r}; give {', '.join(STATISTICS)}")

    @classmethod
    def from_task(cls, task: Task, statistics: Sequence[Mapping[str, float]] | None = None) -> Preprocessing:
        """The preprocessing that a task asks for; ``statistics`` are those of ``ct_statistics``."""
        spacing_mm = None if task.spacing_mm is None else tuple(task.spacing_mm)
        return cls(
            task.spatial_dims,
            spacing_mm,
            task.intensity,
            task.crop,
            None if statistics is None else tuple(statistics),
            task.slices,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` reads them back."""
        return {
            "spatial_dims": self.spatial_dims,
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "intensity": self.intensity,
            "crop": self.crop,
            "statistics": None if self.statistics is None else [dict(s) for s in self.statistics],
            **({} if self.slices is None else {"slices": self.slices}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Raises ConfigError for missing, unknown or malformed values."""
        try:
            spacing_mm = values["spacing_mm"]
            statistics = values.get("statistics")
            return cls(
                spatial_dims=int(values["spatial_dims"]),
                spacing_mm=None if spacing_mm is None else tuple(float(s) for s in spacing_mm),
                intensity=str(values["intensity"]),
                crop=bool(values["crop"]),
                statistics=None
                if statistics is None
                else tuple({str(k): float(v) for k, v in channel.items()} for channel in statistics),
                slices=values.get("slices"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"preprocessing {dict(values)} has the wrong form ({error!r})") from None

    def plan(self, image: Volume) -> NetworkGrid:
        """The network grid of an image.

        Its first voxel centre is that of the (cropped) source's corner, its spacing exactly ``spacing_mm``, and it
        reaches the last source voxel or up to one network voxel further.
        """
        source = image.grid
        if source.spatial_dims != self.spatial_dims:
            raise InputError(
                "E-DIMENSIONS",
                f"an image of {source.spatial_dims} axes, and the task works on {self.spatial_dims}",
                fix=f"give images of {self.spatial_dims} axes, or another task",
            )
        canonical = source.to_canonical()
        box = _content(image.data) if self.crop else [(0, n - 1) for n in source.shape]
        start, step, shape = [], [], []
        wanted: list[float | None] = [None] * len(source.shape) if self.spacing_mm is None else list(self.spacing_mm)
        order = list(range(len(source.shape)))
        if self.slices is not None:
            across = slice_axis(source, self.slices)
            order = [across, *(a for a in order if a != across)]
            wanted = [None, *wanted[-2:]]
        axes = tuple(canonical.axes[a] for a in order)
        for a, axis, spacing in zip(order, axes, wanted, strict=True):
            low, high = box[axis]
            ratio = 1.0 if spacing is None else spacing / source.spacing_mm[axis]
            start.append(float(low if canonical.step[a] > 0 else high))
            step.append(canonical.step[a] * ratio)
            shape.append(int(np.ceil((high - low) / ratio - SNAP)) + 1)
        return NetworkGrid(source, AxisMap(axes, tuple(start), tuple(step)), tuple(shape))

    def image(self, volume: Volume, grid: NetworkGrid) -> NDArray[np.float32]:
        """``tensor`` as a float32 array."""
        return self.tensor(volume, grid).numpy()

    def tensor(self, volume: Volume, grid: NetworkGrid, dtype: torch.dtype = torch.float32) -> Tensor:
        """Sample and normalise an image.

        Args:
            volume: ``(C, *spatial)`` on ``grid.source``.
            grid: from ``plan``.
            dtype: to store; all is computed in float32, channel by channel.

        Shape: ``(C, *grid.shape)``.

        Raises:
            InputError: ``E-NONFINITE`` where voxels are NaN or infinite.
        """
        coordinates = grid.source_coordinates()
        # A slice's range is that of the whole slice; everything else needs no more than what is sampled.
        box: list[slice] = [slice(None)] * self.spatial_dims
        if self.intensity != "minmax_slices":
            box = [slice(max(math.floor(c.min()), 0), math.floor(c.max()) + 2) for c in coordinates]
            coordinates = [c - s.start for c, s in zip(coordinates, box, strict=True)]
        # Axes that run backwards are turned by the copy below, which costs nothing there.
        turn = tuple(slice(None, None, -1 if c[0] > c[-1] else 1) for c in coordinates)
        sizes = volume.data[0][tuple(box)].shape
        coordinates = [n - 1 - c if s.step < 0 else c for c, s, n in zip(coordinates, turn, sizes, strict=True)]
        out = torch.empty((volume.channels, *grid.shape), dtype=dtype)
        statistics = self.statistics if self.intensity == "ct" else None
        if statistics is not None and len(statistics) != volume.channels:
            raise InputError(
                "E-CHANNEL-COUNT",
                f"{volume.channels} channels, and the statistics of the model are those of {len(statistics)}",
                fix="give the channels that the model was trained with",
            )
        scale = full_scale(volume.data) if self.intensity == "range" else 1.0
        for channel in range(volume.channels):
            data = _float_copy(volume.data[channel][tuple(box)][turn])
            _refuse_non_finite(data, channel)
            normalise(
                data,
                self.intensity,
                statistics=None if statistics is None else statistics[channel],
                scale=scale,
                slice_axis=grid.axis_map.axes[2 if self.slices is None else 0] if self.spatial_dims == 3 else None,
            )
            sampled = interpolate(data[None], coordinates)[0]
            _store(out[channel], sampled.to(dtype).permute(grid.axis_map.axes))
        return out

    def labels(self, volume: Volume, grid: NetworkGrid) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Sample a label map: each voxel gets the value whose mask, interpolated linearly, is largest there.

        No value arises that the map does not hold, and where network voxels lie on source voxels the result is exact.

        Args:
            volume: ``(1, *spatial)`` unsigned integers on ``grid.source``.
            grid: the image's, from ``plan``.

        Shape: ``(1, *grid.shape)`` of the volume's type.
        """
        coordinates = grid.source_coordinates()
        data = volume.data[0]
        places = [positions(c, n) for c, n in zip(coordinates, data.shape, strict=True)]
        if all(np.isin(weight, (0.0, 1.0)).all() for _, weight in places):
            index = [low + weight.astype(np.int64) for low, weight in places]
            sampled = data[np.ix_(*index)]
        else:
            sampled = largest_mask(data, coordinates)
        return np.ascontiguousarray(sampled.transpose(grid.axis_map.axes))[None]


def slice_axis(grid: Grid, slices: str) -> int:
    """The RAS axis across slices. Axes of equal voxels are all the thickest, and of them inferior-superior comes first.

    Args:
        grid: of a volume.
        slices: one of ``medseg3d.task_rules.SLICES``.
    """
    if slices != "thickest":
        return SLICES.index(slices)
    sizes = [grid.spacing_mm[axis] for axis in grid.to_canonical().axes]
    return max(a for a, size in enumerate(sizes) if size > EQUALLY_THICK * max(sizes))


def _content(data: NDArray[Any]) -> list[tuple[int, int]]:
    """First and last index along each axis of what is not zero in every channel; everything, where all is zero."""
    occupied = data[0] != 0
    for channel in data[1:]:
        occupied |= channel != 0
    box = []
    for axis in range(occupied.ndim):
        found = np.flatnonzero(occupied.any(axis=tuple(a for a in range(occupied.ndim) if a != axis)))
        box.append((int(found[0]), int(found[-1])) if len(found) else (0, occupied.shape[axis] - 1))
    return box


def _store(out: Tensor, values: Tensor) -> None:
    """``out.copy_(values)`` for a contiguous ``out``, nine times faster where ``values`` lies in another memory order."""
    fastest = min(range(values.ndim), key=values.stride)
    if fastest == values.ndim - 1 or values.ndim > 3:
        out.copy_(values)
    elif values.ndim == 2:
        # Rows first, then a transpose of two contiguous axes, for which torch has a blocked kernel.
        out.copy_(values.t().contiguous().t().contiguous())
    else:
        other = 1 - fastest
        for i in range(values.shape[other]):
            _store(out.select(other, i), values.select(other, i))


def _float_copy(data: NDArray[Any]) -> Tensor:
    """A float32 copy in the same memory order; torch knows no negative strides and no foreign byte order."""
    return torch.from_numpy(np.array(data, dtype=np.float32, order="K"))


def _refuse_non_finite(data: Tensor, channel: int) -> None:
    if not torch.isfinite(data.sum()) and (count := int((~torch.isfinite(data)).sum())):
        raise InputError(
            "E-NONFINITE",
            f"{count} voxels of channel {channel} are NaN or infinite; every voxel must be a number",
            fix="replace them, for example with 0",
        )
