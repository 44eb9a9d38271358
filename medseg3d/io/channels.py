"""From the files of a case to one entry per channel of the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg3d.checks import InputError
from medseg3d.io.dataset import Case, ChannelFile
from medseg3d.io.images import NIFTI_SUFFIXES, RGB, image_stem, image_suffix, is_picture
from medseg3d.io.matching import Names, channel_missing, match_channels
from medseg3d.io.nifti import nifti_channels
from medseg3d.io.parts import NUMBERED, Parts, split_tail
from medseg3d.task import Task


def is_rgb(task: Task) -> bool:
    return len({task.channel_named(c) for c in RGB} - {None}) == len(RGB) == task.in_channels


def numbering(names: Names | None, task: Task) -> tuple[str, ...]:
    """What numbered channels are called, from 0 on: as the ``dataset.json`` says, or else the task; empty where neither does."""
    return names.channels if names is not None and names.channels else tuple(task.numbered)


def numbered_channels(names: Names | None, task: Task, where: Path) -> list[str]:
    """The task's channel for each number; ``""`` for one that the task does not use."""
    called = numbering(names, task)
    if not called:
        if task.in_channels == 1:
            return list(task.channels)
        message = f"channels are numbered, but no dataset.json names them; task {task.name!r} needs {', '.join(task.channels)}"
        fix = (
            'write a dataset.json with "channel_names": {"0": ...} beside the images, or to predict say which is which with '
            "--channels 0000=NAME,0001=NAME"
        )
        raise InputError("E-CHANNEL-MISSING", message, file=where, fix=fix)
    order = [""] * len(called)
    for channel, index in match_channels(called, task, names.file if names is not None else where).items():
        order[index] = channel
    return order


def resolve(parts: Parts, task: Task, names: Names | None) -> tuple[Case, dict[str, str]]:
    """A case in the task's channel order, and what each channel is called.

    Raises:
        InputError: where a channel is missing or there twice, or a file of several channels does not say what they are.
    """
    where = parts.where or Path(parts.name)
    if parts.doubt is not None:
        raise parts.doubt
    if len(parts.whole) > 1 and len({image_stem(p) for p in parts.whole}) == 1:
        message = f"case {parts.name!r} is there {len(parts.whole)} times: {' and '.join(p.name for p in parts.whole)}"
        raise InputError("E-DUPLICATE-CASE", message, file=where.parent, fix="keep one of these files")
    if parts.channels:
        if missing := [c for c in task.channels if c not in parts.channels]:
            there = [p.name for p in (*parts.channels.values(), *parts.whole)]
            raise channel_missing(missing, there, task, where.parent if where.is_file() else where)
        images = tuple(ChannelFile(parts.channels[c]) for c in task.channels)
        known = numbering(names, task) if parts.numbered else ()
        called = {c: _called(parts.channels[c], known, task, c) for c in task.channels}
    elif len(parts.whole) == 1:
        images, called = _channels_of_file(parts.whole[0], task, names)
    else:
        raise channel_missing(list(task.channels), [p.name for p in parts.whole], task, where)
    return Case(parts.name, images, parts.label, parts.class_index), called


def _called(path: Path, known: Sequence[str], task: Task, channel: str) -> str:
    stem = image_stem(path)
    number = NUMBERED.fullmatch(stem)
    if number and int(number[2]) < len(known):
        return f"{known[int(number[2])]} (_{number[2]})"
    cut = split_tail(stem, lambda tail: task.channel_named(tail) == channel)
    return cut[1] if cut else ("_0000" if number else "the image")


def _channels_of_file(path: Path, task: Task, names: Names | None) -> tuple[tuple[ChannelFile, ...], dict[str, str]]:
    if is_picture(path) and is_rgb(task):
        order = {str(task.channel_named(c)): i for i, c in enumerate(RGB)}
        return tuple(ChannelFile(path, order[c]) for c in task.channels), {c: RGB[order[c]] for c in task.channels}
    there = nifti_channels(path) if image_suffix(path) in NIFTI_SUFFIXES else None
    if names is not None and names.channels:
        found = match_channels(names.channels, task, names.file)
        if there is not None and there != len(names.channels):
            message = (
                f"{there} channels, but {names.file.name} names {len(names.channels)}: {', '.join(names.channels)}"
            )
            raise InputError("E-CHANNEL-COUNT", message, file=path, fix="correct the names or the file")
        indices = {c: None if len(names.channels) == 1 else i for c, i in found.items()}
        images = tuple(ChannelFile(path, indices[c]) for c in task.channels)
        place = "" if len(names.channels) == 1 else " (channel {} of the file)"
        return images, {c: names.channels[i] + place.format(i) for c, i in found.items()}
    if task.in_channels > 1:
        what = "one file" if there is None else f"one file of {there} channel{'s' if there > 1 else ''}"
        message = f"{what}, but task {task.name!r} needs {', '.join(task.channels)} and nothing names them"
        fix = 'write a dataset.json with "channel_names": {"0": ...} beside it, or one file per channel with its name at the end'
        raise InputError("E-CHANNEL-MISSING", message, file=path, fix=fix)
    if there is not None and there > 1:
        message = f"{there} channels or time points where task {task.name!r} has one"
        raise InputError(
            "E-CHANNEL-COUNT", message, file=path, fix="extract the one that is meant, or name them in a dataset.json"
        )
    return (ChannelFile(path),), {next(iter(task.channels)): "the image"}
