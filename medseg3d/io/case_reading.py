"""The image and the label of a case, read: channels in the task's order, labels in the task's values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medseg3d.checks import InputError
from medseg3d.io.dataset import Case, ChannelFile, DataSet
from medseg3d.io.images import PICTURE_SUFFIXES, image_suffix, is_picture, read_volume
from medseg3d.io.rules import foreign_values, require_grid, require_one_channel
from medseg3d.io.values import NonFinite
from medseg3d.task import Task
from medseg3d.volume import Grid, Volume

UNMAPPED = np.iinfo(np.int32).max


def read_image(case: Case, task: Task, *, nonfinite: NonFinite = "error") -> Volume:
    """The channels of a case in the task's order. A grey picture counts as one whose colours are equal.

    Args:
        case: from ``find_cases``.
        task: says how many channels and axes there are.
        nonfinite: what NaN and infinity are: ``"error"`` or ``"zero"``.

    Shape:
        float32 ``(C, *spatial)``, on the grid and with the header fields of the first channel's file.

    Raises:
        InputError: where a file is damaged, has other axes or channels, or lies on another grid than the first.
    """
    if any(f.series is not None for f in case.images):
        from medseg3d.io.dicom_cases import read_dicom_channels

        return stack_channels(case, task, read_dicom_channels(case))
    volumes = {path: read_volume(path, nonfinite=nonfinite) for path in dict.fromkeys(f.path for f in case.images)}
    return stack_channels(case, task, volumes)


def stack_channels(case: Case, task: Task, volumes: Mapping[Path, Volume]) -> Volume:
    """What ``read_image`` returns, of files that have been read.

    Args:
        case: from ``find_cases``.
        task: says how many channels and axes there are.
        volumes: the content of each file of the case.

    Raises:
        InputError: where a file has other axes or channels, or lies on another grid than the first.
    """
    if len(case.images) != task.in_channels:
        message = f"case {case.name!r} has {len(case.images)} channels, task {task.name!r} needs {task.in_channels}"
        raise InputError("E-CHANNEL-COUNT", message, fix="find the cases with this task")
    first = volumes[case.images[0].path]
    for path, volume in volumes.items():
        if len(volume.shape) != task.spatial_dims:
            message = f"{len(volume.shape)} axes of size {volume.shape}, task {task.name!r} has {task.spatial_dims}"
            raise InputError("E-DIMENSIONS", message, file=path, fix="use a task of that many axes")
        require_grid(volume.grid, first.grid, what="the channel", than=case.images[0].path.name, file=path)
    data = np.empty((task.in_channels, *first.shape), np.float32)
    for channel, file in enumerate(case.images):
        volume, index = volumes[file.path], file.index
        if is_picture(file.path):
            index = _index_in_picture(volume, file, task)
        if index is None and volume.channels != 1:
            message = f"{volume.channels} channels where one is expected"
            raise InputError("E-CHANNEL-COUNT", message, file=file.path, fix="extract the one that is meant")
        if index is not None and index >= volume.channels:
            message = f"channel {index} is needed, but there are {volume.channels}"
            raise InputError("E-CHANNEL-COUNT", message, file=file.path, fix="check the names in dataset.json")
        data[channel] = volume.data[index or 0]
    return first.with_data(data)


def _index_in_picture(volume: Volume, file: ChannelFile, task: Task) -> int | None:
    """Which channel of a picture is meant; of grey, where red, green and blue are equal, the first.

    Raises:
        InputError: ``E-CHANNEL-COUNT`` for colours where the task has grey.
    """
    if volume.channels == 1:
        return 0
    if file.index is not None:
        return file.index
    if all(np.array_equal(volume.data[0], other) for other in volume.data[1:]):
        return 0
    message = f"a picture in colours, and task {task.name!r} takes grey: {', '.join(task.channels)}"
    fix = "convert it to grey as the images of the training were, or take a task with the channels red, green and blue"
    raise InputError("E-CHANNEL-COUNT", message, file=file.path, fix=fix)


def read_label(case: Case, dataset: DataSet, task: Task, grid: Grid | None) -> Volume:
    """The label map of a case in the task's values.

    Args:
        case: from ``find_cases`` with labels.
        dataset: where the case comes from; says what its values mean.
        task: says which values there are.
        grid: that of the image, which the label must lie on; None does not compare.

    Shape:
        ``(1, *spatial)`` of uint8, or uint16 where the task has values above 255.

    Raises:
        InputError: where the file is damaged, lies on another grid, or holds values that ``dataset`` does not map.
    """
    if case.label is None:
        raise InputError("E-LABEL-MISSING", f"case {case.name!r} has no label", fix="find the cases with labels=True")
    volume = read_volume(case.label, labels=True)
    require_one_channel(volume, what="the label", file=case.label)
    if grid is not None and image_suffix(case.label) in PICTURE_SUFFIXES and volume.shape == grid.shape:
        volume = Volume(volume.data, grid.affine)  # a picture does not say how large its pixels are
    if grid is not None:
        require_grid(volume.grid, grid, what="the label", than="its image", file=case.label)
    data, known = volume.data, {0: 0, **dataset.label_values}
    low, high = int(data.min()), int(data.max())
    table = np.full(max(known) + 1, UNMAPPED, np.int32)
    table[list(known)] = list(known.values())
    mapped = table[data] if low >= 0 and high <= max(known) else None
    if mapped is None or (mapped == UNMAPPED).any():
        wrong = foreign_values(data, known, task, what="the label", file=case.label)
        assert wrong is not None
        raise wrong
    largest = max((*task.values, task.ignore or 0))
    return volume.with_data(mapped.astype(np.uint8 if largest <= 255 else np.uint16))
