"""The weights that a training begins with: those of a trained model, or published ones, made to fit the task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.inference.model import METADATA, load_model, weights_file
from medseg3d.io.digest import sha256_of
from medseg3d.networks.inflation import adapted, reversed_axes
from medseg3d.networks.mit import REDUCTIONS, MixTransformer
from medseg3d.networks.segformer import SegFormer
from medseg3d.task import Task, load_task
from medseg3d.weights import family_in, locate, read_network

logger = logging.getLogger(__name__)

PUBLISHED_TASK = "brats-segformer3d"
"""The task of weights in the naming of SegFormer3D that have its 4 channels and 3 outputs."""
NOT_KEPT = ("name", "spatial_dims", "in_channels", "out_channels", "head_dropout")
"""Parts of a network's config that the new task decides."""


@dataclass(frozen=True, eq=False)
class Source:
    """Weights to begin with.

    Args:
        network: with the weights.
        name: for messages.
        labels, channels: those of its task, where they are known.
        origin: name and hash of the file.
    """

    network: nn.Module
    name: str
    labels: Mapping[str, Sequence[int]] | None
    channels: tuple[str, ...] | None
    origin: Mapping[str, str]


def read_source(place: str | Path) -> Source:
    """Read a run directory, or what ``medseg3d.weights.read_network`` takes.

    Raises:
        ModelError: for what cannot be read.
    """
    if (Path(place) / METADATA).is_file():
        file = weights_file(Path(place))
        return _run_directory(Path(place), file.stat().st_mtime_ns)
    file = locate(place)
    # What a folder or a repository holds always has the same name; its own says more.
    name = Path(place).name if Path(place).exists() else str(place)
    return _published(file, name, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # settings are merged more than once
def _run_directory(folder: Path, changed: int) -> Source:
    model = load_model(folder)
    origin = {"weights": folder.name, "sha256": model.weights_sha256}
    return Source(model.network, folder.name, model.task.labels, model.task.inputs, origin)


@lru_cache(maxsize=1)
def _published(file: Path, name: str, changed: int) -> Source:
    family = family_in(file)
    network: Any = read_network(file, encoder_only=family == "mmseg")
    labels, channels = None, None
    if family == "segformer3d":
        network = reversed_axes(network)
        task = load_task(PUBLISHED_TASK)
        if (network.config["in_channels"], network.config["out_channels"]) == (task.in_channels, task.out_channels):
            labels, channels = task.labels, tuple(task.channels)
    return Source(network, name, labels, channels, {"weights": name, "sha256": sha256_of(file)})


def initial_config(place: str | Path, task: Task) -> dict[str, Any]:
    """The options of the source's network that a training with its weights keeps: its widths, depths and normalisations.

    Raises:
        ModelError: for what cannot be read.
    """
    config: dict[str, Any] = read_source(place).network.config  # type: ignore[assignment]
    kept = {key: value for key, value in config.items() if key not in NOT_KEPT}
    dims = config["spatial_dims"]
    if dims != task.network_dims and tuple(kept.get("reductions") or ()) in ((), REDUCTIONS[dims]):
        kept.pop("reductions", None)
    if dims != task.network_dims and any(not isinstance(stage, int) for stage in kept.get("strides") or ()):
        kept.pop("strides")  # of axes that are others
    return kept


def begin_with(network: nn.Module, place: str | Path, task: Task | None = None) -> None:
    """Give a network the weights of a source.

    The encoder is adapted to the network's axes and channels (``medseg3d.networks.inflation``); channels that both tasks name
    keep their kernels. The decoder is taken where there is one, its last layer where the labels are the same. What
    stays as it was is logged.

    Args:
        network: with random weights, and the source's widths and depths.
        place: as for ``read_source``.
        task: whose labels and channels the network has.

    Raises:
        ConfigError: where the source's network has other sizes.
        ModelError: for what cannot be read.
    """
    source = read_source(place)
    own = network.state_dict()
    given = _encoder(source, network, task)
    theirs = {k: v for k, v in source.network.state_dict().items() if k.startswith(("decoder.", "head."))}
    if isinstance(source.network, SegFormer) == isinstance(network, SegFormer) and theirs:
        given |= theirs
        last = [key for key in theirs if key.startswith(("decoder.predict.", "head."))]
        order = _label_order(source, network, task)
        for key in last:
            if order is None:
                del given[key]
            else:
                given[key] = given[key][order]
        if order is None:
            _say_anew("last layer", source, "labels", source.labels, () if task is None else tuple(task.labels))
    else:
        logger.info("the decoder is made anew: %s has none that fits", source.name)
    wrong = sorted(k for k, v in given.items() if k not in own or own[k].shape != v.shape)
    wrong += sorted(k for k in own if k.startswith("encoder.") and k not in given)
    if wrong:
        raise ConfigError(
            f"{place} holds another network: {len(wrong)} of {len(own)} weights do not fit ({', '.join(wrong[:5])}"
            f"{', ...' if len(wrong) > 5 else ''}); drop the settings network.* so that its own sizes are taken"
        )
    with torch.no_grad():
        network.load_state_dict(own | given)
    logger.info("%d of %d weights are those of %s", len(given), len(own), source.name)


def _encoder(source: Source, network: Any, task: Task | None) -> dict[str, Tensor]:
    """The source's encoder for the network's images, under the names that it has there."""
    config, encoder = network.config, network.encoder
    reductions = [stage.blocks[0].attention.reduction for stage in encoder.stages]
    try:
        fitted: Any = adapted(
            source.network,
            spatial_dims=config["spatial_dims"],
            in_channels=config["in_channels"],
            reductions=reductions,
            strides=encoder.strides,
        )
    except ValueError as error:
        raise ConfigError(f"{source.name} cannot begin this network: {error}") from None
    state = fitted.state_dict()
    if isinstance(fitted, MixTransformer):
        state = {f"encoder.{key}": value for key, value in state.items()}
    before: Any = source.network.config
    if before["spatial_dims"] != config["spatial_dims"]:
        logger.info("%s is inflated from %dD to %dD", source.name, before["spatial_dims"], config["spatial_dims"])
    ours = () if task is None else task.inputs
    theirs = source.channels or ()
    if before["in_channels"] != config["in_channels"] or (theirs and ours and theirs != ours):
        shared = [name for name in ours if name in theirs]
        key = "encoder.stages.0.embed.proj.weight"
        if theirs and ours:
            # Kernels along the channels that both have, from a network with all of theirs, in its new axes.
            whole: Any = adapted(
                source.network, spatial_dims=config["spatial_dims"], reductions=reductions, strides=encoder.strides
            )
            kernels = whole.state_dict()[key if key in whole.state_dict() else key.removeprefix("encoder.")]
            mean = kernels.mean(1) * (1 if shared else len(theirs) / len(ours))
            for i, name in enumerate(ours):
                state[key][:, i] = kernels[:, theirs.index(name)] if name in theirs else mean
        logger.info(
            "the first layer: %s has %s, this task %s; %s",
            source.name,
            f"the channels {', '.join(theirs)}" if theirs else f"{before['in_channels']} channels",
            ", ".join(ours) or config["in_channels"],
            f"{', '.join(shared)} keep their kernels, others get the mean" if shared else "each gets the mean kernel",
        )
    return {key: value for key, value in state.items() if key.startswith("encoder.")}


def _label_order(source: Source, network: Any, task: Task | None) -> list[int] | None:
    """Which of the source's outputs each of the network's is; None where their labels are others."""
    outputs = network.config["out_channels"]
    before: Any = source.network.config
    if before["out_channels"] != outputs:
        return None
    if task is None:
        return list(range(outputs))
    if source.labels is None:
        return None
    theirs = [(name, tuple(ids)) for name, ids in source.labels.items()]
    ours = [(name, tuple(ids)) for name, ids in task.labels.items()]
    if sorted(theirs) != sorted(ours):
        return None
    first = outputs - len(ours)  # background, where there is one
    return [*range(first), *(first + theirs.index(label) for label in ours)]


def _say_anew(layer: str, source: Source, what: str, theirs: Any, ours: Sequence[str]) -> None:
    known = f"the {what} {', '.join(theirs)}" if theirs else f"{what} of its own"
    logger.info("the %s is made anew: %s has %s, this task %s", layer, source.name, known, ", ".join(ours))
