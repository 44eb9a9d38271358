"""What train.yaml makes from plain data before the training: the task with the run's settings, the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.checks import ConfigError
from medseg3d.networks import build_network
from medseg3d.task import Task
from medseg3d.training.initial import begin_with

TASK_SETTINGS = ("patch_size", "spacing_mm", "mirror_axes", "intensity")
"""Settings of a run whose defaults the task gives."""
DEFAULT_NETWORKS = {"segmentation": "segformer", "classification": "segformer_classifier"}


def task_with(task: Mapping[str, Any] | Task, **settings: Any) -> Task:
    """A task with other values for some of ``TASK_SETTINGS``.

    Raises:
        ConfigError: where they contradict the task.
    """
    return replace(task if isinstance(task, Task) else Task.from_dict(task), **settings)


def network_config(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a task's network: its preset, its sizes, and ``options`` over them.

    Raises:
        ConfigError: for a network or option that does not exist.
    """
    name = DEFAULT_NETWORKS[task.kind] if task.network == "default" else task.network
    config = {
        "name": name,
        "spatial_dims": task.network_dims,
        "in_channels": len(task.inputs),
        "out_channels": task.out_channels,
        **options,
    }
    new_network(config, 0)
    return config


def new_network(
    config: Mapping[str, Any], seed: int, fine_tune: str | Path | None = None, task: Task | None = None
) -> nn.Module:
    """A network with random weights that depend on the seed alone, or with those of a trained model.

    Args:
        config: of the network.
        seed: of the random weights.
        fine_tune: run directory or published weights to begin with, as for ``begin_with``.
        task: whose labels and channels those are.

    Raises:
        ConfigError: for a network or option that does not exist, or a model of another architecture.
        ModelError: for a model that cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = build_network(config)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if fine_tune is not None:
        begin_with(network, fine_tune, task)
    return network
