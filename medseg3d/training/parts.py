"""What train.yaml makes from plain data before the training: the task with the run's settings, the network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.checks import ConfigError
from medseg3d.inference.model import load_model
from medseg3d.networks import build_network
from medseg3d.task import Task

logger = logging.getLogger(__name__)

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
        "spatial_dims": task.spatial_dims,
        "in_channels": task.in_channels,
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
        fine_tune: run directory to take weights from. The last layer stays random where its labels are not the task's, the
            first where its channels are not; the log says so.
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
        model = load_model(fine_tune)
        others: list[tuple[str, str, str, Iterable[str], Iterable[str]]] = []
        if task is not None and dict(task.labels) != dict(model.task.labels):
            others.append(("last layer", "labels", "out_channels", model.task.labels, task.labels))
        if task is not None and list(task.channels) != list(model.task.channels):
            others.append(("first layer", "channels", "in_channels", model.task.channels, task.channels))
        anew: set[str] = set()
        for layer, what, key, theirs, ours in others:
            anew |= _depending_on(key, config, network)
            logger.info(
                "the %s is made anew: %s has the %s %s, this task %s",
                layer,
                Path(fine_tune).name,
                what,
                ", ".join(theirs),
                ", ".join(ours),
            )
        _take_weights(network, model.network, anew, Path(fine_tune))
    return network


def _depending_on(key: str, config: Mapping[str, Any], network: nn.Module) -> set[str]:
    """The weights whose shape depends on one number of the config."""
    other = new_network({**config, key: config[key] + 1}, 0).state_dict()
    return {name for name, value in network.state_dict().items() if other[name].shape != value.shape}


def _take_weights(network: nn.Module, trained: nn.Module, anew: set[str], folder: Path) -> None:
    own, theirs = network.state_dict(), trained.state_dict()
    wanted = {name for name in own if name not in anew}
    if wrong := [n for n in own if n in wanted and (n not in theirs or theirs[n].shape != own[n].shape)]:
        raise ConfigError(
            f"{folder} holds another network: {len(wrong)} of {len(own)} weights do not fit, {wrong[0]!r} for one; drop the "
            "settings network.* so that its own sizes are taken"
        )
    network.load_state_dict({name: theirs[name] for name in wanted}, strict=False)
    logger.info("%d of %d weights are those of %s", len(wanted), len(own), folder.name)


def fine_tune_config(folder: str | Path) -> dict[str, Any]:
    """The network options of a trained model that a new task keeps: all but its channels and classes.

    Raises:
        ModelError: for a directory that holds no model.
    """
    config = dict(load_model(folder).network.config)  # type: ignore[arg-type]
    return {k: v for k, v in config.items() if k not in ("spatial_dims", "in_channels", "out_channels")}
