"""Scans that lack a channel, for networks that learned to do without: what is absent is zero, as nothing is after normalising."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medseg3d.checks import ConfigError, InputError
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import Volume


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
