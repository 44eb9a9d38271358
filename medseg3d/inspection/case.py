"""One case: read as training and prediction read it, with all that is odd about it and what others compare it by."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from medseg3d.checks import Finding, InputError, collected, tell
from medseg3d.inspection.outline import edge_ratio
from medseg3d.io.case_reading import read_image, read_label, stack_channels
from medseg3d.io.dataset import Case, DataSet
from medseg3d.io.images import read_volume
from medseg3d.preprocessing import slice_axis
from medseg3d.task import Task
from medseg3d.volume import Grid, Volume

READERS = min(4, os.cpu_count() or 1)
T = TypeVar("T")
U = TypeVar("U")
OUTSIDE = 0.2
"""So much of a label on its image's empty voxels is odd: the skull's zeros, or a label of another image."""
EMPTY = 0.05
"""An image has an empty background where so much of it holds its least value."""


@dataclass(frozen=True)
class Facts:
    """What a case is compared with others by.

    Args:
        case: the case.
        findings: of its own.
        grid: where its image lies; None where it cannot be read.
        content: ``content_of`` its image; None where it cannot be read.
        label_content: ``content_of`` its label; None where there is none.
        voxels: of each value of the task in its label, 0 included; empty without a label.
        covered: part of the task's patch that its image fills.
        outline: how strong the image's edges are along the label's outline (``edge_ratio``); NaN without a label.
    """

    case: Case
    findings: tuple[Finding, ...]
    grid: Grid | None = None
    content: str | None = None
    label_content: str | None = None
    voxels: Mapping[int, int] = field(default_factory=dict)
    covered: float = 1.0
    outline: float = math.nan

    @property
    def file(self) -> str:
        return str(self.case.images[0].path)


def examine(case: Case, dataset: DataSet, task: Task) -> Facts:
    """Read a case, and say everything that is wrong or odd about it; nothing is raised.

    Args:
        case: from ``find_cases``.
        dataset: where it comes from.
        task: what it is for.
    """
    with collected() as findings:
        image, label = _image(case, task, findings), None
        if case.label is not None:
            try:
                label = read_label(case, dataset, task, None if image is None else image.grid)
            except InputError as error:
                findings.append(error.finding)
        if image is not None:
            _tell_about_image(image, case, task)
        if label is not None:
            _tell_about_label(label, image, case)
    voxels: dict[int, int] = {}
    if label is not None:
        voxels = {value: int(n) for value, n in enumerate(np.bincount(label.data.ravel(order="K"))) if n}
    return Facts(
        case,
        tuple(findings),
        None if image is None else image.grid,
        None if image is None else content_of(image.data),
        None if label is None else content_of(label.data),
        voxels,
        1.0 if image is None else _covered(image, task),
        math.nan if image is None or label is None else edge_ratio(image.data, label.data[0], ignore=task.ignore),
    )


def content_of(data: NDArray[Any]) -> str | None:
    """Hash of values and size, whatever the file's place; None where each channel is of one value: such are no copies."""
    if all(values.min() == values.max() for values in data):
        return None
    digest = hashlib.sha256(str(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def tell_if_constant(values: NDArray[Any], channel: str, file: Path) -> None:
    """Say where a channel shows nothing."""
    if values.size and values.min() == values.max():
        message = f"every voxel of {channel} is {values.flat[0]:g}"
        fix = "is the export right? leave a channel that some cases lack out of the task, or train with channel_dropout"
        tell("W-CONSTANT", message, file=file, fix=fix)


def tell_if_empty(label: Volume, file: Path | None) -> bool:
    """Say where a label map holds nothing, and whether it does."""
    empty = not label.data.any()
    if empty:
        tell("I-EMPTY-LABEL", "the label holds nothing but background", file=file)
    return empty


def in_threads(work: Callable[[U], T], items: Sequence[U], what: str) -> list[T]:
    """The results in order, several at a time, with a bar on a terminal."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(tqdm(pool.map(work, items), total=len(items), desc=what, unit="case", disable=None, leave=False))


def _image(case: Case, task: Task, findings: list[Finding]) -> Volume | None:
    if any(file.series is not None for file in case.images):
        try:
            return read_image(case, task)
        except InputError as error:
            findings.append(error.finding)
            return None
    volumes: dict[Path, Volume] = {}
    paths = dict.fromkeys(file.path for file in case.images)
    for path in paths:
        try:
            volumes[path] = read_volume(path)
        except InputError as error:
            findings.append(error.finding)
    if len(volumes) < len(paths):
        return None
    try:
        return stack_channels(case, task, volumes)
    except InputError as error:
        findings.append(error.finding)
        return None


def _tell_about_image(image: Volume, case: Case, task: Task) -> None:
    for channel, its, values in zip(task.channels, case.images, image.data, strict=True):
        tell_if_constant(values, channel, its.path)


def _covered(image: Volume, task: Task) -> float:
    """How much of the task's patch the image fills, on the task's grid."""
    axes = list(image.grid.to_canonical().axes)
    if task.slices:
        del axes[slice_axis(image.grid, task.slices)]
    shape, spacing = ([values[a] for a in axes] for values in (image.shape, image.spacing_mm))
    wanted = task.spacing_mm or spacing
    size = [max(1, round(n * s / w)) for n, s, w in zip(shape, spacing, wanted, strict=True)]
    return float(np.prod(np.minimum(size, task.patch_size) / task.patch_size))


def _tell_about_label(label: Volume, image: Volume | None, case: Case) -> None:
    if tell_if_empty(label, case.label) or image is None:
        return
    foreground = label.data[0] > 0
    empty = np.all([values == values.min() for values in image.data], axis=0)
    share = float((foreground & empty).sum() / foreground.sum())
    if EMPTY < empty.mean() < 1 and share > OUTSIDE:
        message = f"{share:.0%} of the label lies where its image is empty (all channels at their least value)"
        tell("W-LABEL-OUTSIDE", message, file=case.label, fix="does the label belong to this image? look at the two")
