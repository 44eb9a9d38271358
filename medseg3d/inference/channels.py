"""Scans that lack a channel, for networks that learned to do without: what is absent is zero, as nothing is after normalising."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medseg3d.checks import ConfigError, InputError
from medseg3d.io.dataset import DataSet
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import Volume


def numbering_of(tasks: Sequence[Task]) -> tuple[str, ...]:
    """What numbered channels are called, by the tasks of one or several models; nothing, where two of them contradict."""
    known = [task for task in tasks if task.numbered]
    meant = {tuple(task.channel_named(name) for name in task.numbered) for task in known}
    return tuple(known[0].numbered) if len(meant) == 1 else ()


def numbered_as(task: Task, channels: Mapping[int, str], *, missing: Sequence[str] = ()) -> Task:
    """A task with the numbers of channels that a user gives.

    Args:
        task: of the model.
        channels: names by number.
        missing: channels of the task that the scans lack, which need no number.

    Raises:
        ConfigError: names that the task does not know, or not one number for each channel.
    """
    names = {number: task.channel_named(name) for number, name in channels.items()}
    words = ", ".join(f"{number:04d}={name}" for number, name in channels.items())
    wrong = [channels[number] for number, name in names.items() if name is None]
    left = [channel for channel in missing if channel not in names.values()]
    given = [*names.values(), *left]
    if wrong or any(given.count(channel) != 1 for channel in task.channels):
        what = f"{wrong[0]!r} is no channel" if wrong else "each channel must have one number"
        raise ConfigError(f"channels {words}: {what}; task {task.name!r} has {', '.join(task.channels)}")
    numbered = [str(names.get(number) or f"number {number}") for number in range(max(names) + 1)]
    return replace(task, numbered=[*numbered, *left])


def require_numbering(data: DataSet, task: Task) -> None:
    """Refuse scans that are not numbered as a user says.

    Args:
        data: that was found.
        task: from ``numbered_as``.

    Raises:
        ConfigError: files without numbers, or a ``dataset.json`` that names them otherwise.
    """
    said, found = ([task.channel_named(n) for n in names] for names in (task.numbered, data.numbering))
    if not found:
        raise ConfigError(
            f"channels are given by number, but the scans in {data.root} are not numbered (NAME_0000, ...)"
        )
    if any((found.index(c) if c in found else None) != said.index(c) for c in task.channels):
        there = ", ".join(f"{i:04d}={name}" for i, name in enumerate(data.numbering))
        raise ConfigError(
            f"the dataset.json of {data.root} says {there}, and other channels are given; correct one of them"
        )


class GivenChannels:
    """The channels that scans have, of those that a network takes.

    Args:
        task: of the network.
        preprocessing: of the network.
        missing: channels that the scans lack, by any name the task knows.
        channel_dropout: part of the training samples that each channel was missing from.

    Raises:
        ConfigError: for channels that do not exist, for all of them, or where the network never learned to do without.
    """

    def __init__(
        self, task: Task, preprocessing: Preprocessing, missing: Sequence[str], channel_dropout: float
    ) -> None:
        named = {name: task.channel_named(name) for name in missing}
        if unknown := [name for name, channel in named.items() if channel is None]:
            raise ConfigError(
                f"missing channel {unknown[0]!r} is none of task {task.name!r}; its channels are {', '.join(task.channels)}"
            )
        if missing and not channel_dropout:
            raise ConfigError(
                f"this model cannot predict without {', '.join(missing)}: it was trained with every channel always there; train "
                "one with --set channel_dropout=0.2, or give the channel"
            )
        self.missing = tuple(channel for channel in task.channels if channel in named.values())
        if len(self.missing) == task.in_channels:
            raise ConfigError(f"all channels are missing ({', '.join(missing)}); at least one must be there")
        self.places = [i for i, channel in enumerate(task.channels) if channel not in self.missing]
        self.task = self.without_missing(task)
        statistics = preprocessing.statistics
        chosen = None if statistics is None else tuple(statistics[i] for i in self.places)
        self.preprocessing = replace(preprocessing, statistics=chosen)
        self._count = task.in_channels

    def without_missing(self, task: Task) -> Task:
        """A task with the channels alone that scans have."""
        return replace(task, channels={k: v for k, v in task.channels.items() if k not in self.missing})

    def plan(self, volume: Volume) -> NetworkGrid:
        """The network's grid of a volume with the given channels.

        Raises:
            InputError: for another number of channels or axes.
        """
        wanted = self.task
        if volume.channels != wanted.in_channels:
            raise InputError(
                "E-CHANNEL-COUNT",
                f"{volume.channels} channels, and task {wanted.name!r} needs {wanted.in_channels} "
                f"({', '.join(wanted.channels)})",
                fix="give the channels that the model was trained with, in this order",
            )
        return self.preprocessing.plan(volume)

    def tensor(self, volume: Volume, grid: NetworkGrid, dtype: torch.dtype = torch.float32) -> Tensor:
        """The network's image ``(C, *grid.shape)`` of a volume with the given channels."""
        image = self.preprocessing.tensor(volume, grid, dtype)
        if not self.missing:
            return image
        out = image.new_zeros(self._count, *image.shape[1:])
        out[self.places] = image
        return out
