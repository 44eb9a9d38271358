"""What must hold between volumes that belong together, in one wording for every verb."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import InputError, some_names
from medseg3d.task import Task
from medseg3d.volume import Grid, Volume


def require_grid(grid: Grid, wanted: Grid, *, what: str, than: str, file: str | Path | None = None) -> None:
    """Refuse what does not lie where it should, voxel for voxel.

    Args:
        grid: of what is looked at.
        wanted: of what it belongs to.
        what, than: the two in words, such as "the label map" and "its image".
        file: of what is looked at.

    Raises:
        InputError: ``E-DIMENSIONS`` for 2D against 3D, else ``E-GRID``.
    """
    if grid.spatial_dims != wanted.spatial_dims:
        message = f"{what} is {grid.spatial_dims}D, {than} {wanted.spatial_dims}D"
        fix = "slices go with slices, volumes with volumes"
        raise InputError("E-DIMENSIONS", message, file=file, fix=fix)
    if difference := grid.differs_from(wanted):
        fix = f"resample {what} to the grid of {than} (label maps with the nearest voxel), or register the two"
        raise InputError("E-GRID", f"{what} lies on another grid than {than}: {difference}", file=file, fix=fix)


def require_one_channel(volume: Volume, *, what: str, file: str | Path | None = None) -> None:
    """Refuse a label map of several channels.

    Raises:
        InputError: ``E-CHANNEL-COUNT``.
    """
    if volume.channels != 1:
        message = f"{what} has {volume.channels} channels; a label map has one"
        raise InputError("E-CHANNEL-COUNT", message, file=file, fix="merge the channels into one label map")


def foreign_values(
    data: NDArray[Any], known: Collection[int], task: Task, *, what: str, file: str | Path | None = None
) -> InputError | None:
    """The refusal of label values that are not among those known; None where all are.

    Args:
        data: label values.
        known: the values that may be there.
        task: for the message.
        what: the label map in words.
        file: of the label map.
    """
    outside = np.isin(data, list(known), invert=True)
    if not outside.any():
        return None
    values, counts = np.unique(data[outside], return_counts=True)
    wrong = [f"{v} ({n} voxels)" for v, n in zip(values, counts, strict=True)]
    there = some_names([str(v) for v in sorted(known)], 20)
    message = f"{what} holds values {some_names(wrong)} outside task {task.name!r}; known are {there}"
    fix = "correct the label, name the value in dataset.json, or use the task that the labels were made for"
    return InputError("E-LABEL-VALUE", message, file=file, fix=fix)
