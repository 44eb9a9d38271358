"""A trained model's directory, read without running anything in it (DESIGN.md, decision 3)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medseg3d.checks import ConfigError, ModelError
from medseg3d.inference.confidence import Calibration
from medseg3d.io.atomic import atomic_write
from medseg3d.io.checksums import SUMS, Checksums
from medseg3d.networks.pretrained import load_strictly
from medseg3d.postprocessing import Cleaning, rules_as_dict, rules_from_dict
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.weights import read_weights, require_finite

logger = logging.getLogger(__name__)
METADATA = Path("configs", "metadata.json")
WEIGHTS = (Path("models", "model.safetensors"), Path("models", "model.pt"), Path("model.safetensors"))
"""Where the weights may lie, in order of preference."""
SECTION = "medseg3d"
CALIBRATIONS = "calibrations"
"""Key below ``inference``: what is known of a model and changes none of its results."""
POSTPROCESSING = "postprocessing"
KEYS = ("task", "network", "preprocessing", "inference")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What ``predict`` needs of a model.

    Args:
        network: in eval mode, on the CPU.
        task: it was trained for.
        preprocessing: it was trained with.
        roi_size: window in voxels of the network grid.
        overlap: of windows.
        phantom: whether it was trained on the sample phantoms, so that it knows no real scan.
        weights_sha256: hash of the file of weights.
        calibrations: of the Dice to expect, fitted on validation cases, for these weights or for ensembles with them.
        postprocessing: what is done to each label of a finished map, as cross-validation chose it.
        channel_dropout: part of the training samples that each channel was missing from; above 0 it can do without one.
    """

    network: nn.Module
    task: Task
    preprocessing: Preprocessing
    roi_size: tuple[int, ...]
    overlap: float
    phantom: bool
    weights_sha256: str
    calibrations: tuple[Calibration, ...] = ()
    postprocessing: Mapping[str, Cleaning] = field(default_factory=dict)
    channel_dropout: float = 0.0


def load_model(directory: str | Path) -> TrainedModel:
    """Read a run directory or bundle: ``configs/metadata.json`` (key ``medseg3d``) and the weights, nothing else.

    Raises:
        ModelError: saying which part is missing or wrong.
    """
    from medseg3d.networks import build_network

    directory = Path(directory)
    if not directory.is_dir():
        raise ModelError(f"no model directory {directory}; give a run directory such as runs/brats")
    section = _read_metadata(directory / METADATA)
    try:
        task = Task.from_dict(section["task"])
        preprocessing = Preprocessing.from_dict(section["preprocessing"])
        network = build_network(section["network"])
        roi_size = tuple(int(n) for n in section["inference"].get("roi_size", task.patch_size))
        overlap = float(section["inference"].get("overlap", 0.5))
        calibrations = tuple(map(Calibration.from_dict, section["inference"].get(CALIBRATIONS, ())))
        postprocessing = rules_from_dict(section["inference"].get(POSTPROCESSING, {}), task)
        channel_dropout = float(section["inference"].get("channel_dropout", 0.0))
    except (AttributeError, ConfigError, TypeError, ValueError) as error:
        raise ModelError(f"{directory / METADATA}: {error}; this is no model that this version can use") from None
    for key, wanted in (("in_channels", len(task.inputs)), ("out_channels", task.out_channels)):
        if section["network"].get(key, wanted) != wanted:
            raise ModelError(
                f"{directory / METADATA}: the network has {section['network'][key]} {key} and task {task.name!r} needs "
                f"{wanted}; the two do not belong together"
            )
    path = weights_file(directory)
    digest = _verified_hash(path)
    _load_weights(network, read_weights(path), path)
    phantom = bool(section.get("phantom", False))
    return TrainedModel(
        network.eval(),
        task,
        preprocessing,
        roi_size,
        overlap,
        phantom,
        digest,
        calibrations,
        postprocessing,
        channel_dropout,
    )


def weights_file(directory: Path) -> Path:
    """Where a model's weights lie.

    Raises:
        ModelError: where there are none.
    """
    path = next((directory / w for w in WEIGHTS if (directory / w).is_file()), None)
    if path is None:
        raise ModelError(f"{directory} holds no weights; expected {' or '.join(map(str, WEIGHTS))}")
    return path


def _verified_hash(path: Path) -> str:
    """The hash of weights, which are what training wrote; flipped bits would be seen in no other way."""
    sums = Checksums(path.parent)
    digest = sums.verified(path)
    if digest is not None:
        return digest
    good = [name for name in sums.good(w.name for w in WEIGHTS) if name != path.name]
    fix = f"remove it, and {path.with_name(good[0])} is taken, which is whole" if good else "copy the model again"
    raise ModelError(
        f"{path} is damaged or was changed: it does not match its SHA-256 in {SUMS}; {fix} (if the change was meant, "
        f"take its line out of {SUMS})"
    )


def load_models(directories: Sequence[str | Path]) -> list[TrainedModel]:
    """Read the members of an ensemble.

    Raises:
        ModelError: as for ``load_model``, and for models that were trained for other labels, channels or grids.
    """
    models = [load_model(directory) for directory in directories]
    if not models:
        raise ModelError("no model given; give at least one run directory")
    for directory, model in zip(directories[1:], models[1:], strict=True):
        for name in ("kind", "channels", "labels", "write", "spatial_dims", "neighbours"):
            mine, theirs = getattr(models[0].task, name), getattr(model.task, name)
            if mine != theirs:
                raise ModelError(
                    f"{directory} was trained with {name} {theirs} and {directories[0]} with {mine}; "
                    "the models of an ensemble must agree"
                )
        if model.preprocessing != models[0].preprocessing:
            raise ModelError(
                f"{directory} and {directories[0]} prepare scans in different ways ({model.preprocessing} against "
                f"{models[0].preprocessing}); the models of an ensemble must agree"
            )
        strides = [getattr(m.network, "stride", None) for m in (model, models[0])]
        if strides[0] != strides[1]:
            raise ModelError(
                f"{directory} predicts at stride {strides[0]} and {directories[0]} at {strides[1]}; the models of an "
                "ensemble must agree"
            )
    return models


def store_postprocessing(directory: str | Path, rules: Mapping[str, Cleaning]) -> None:
    """Write what is done to finished label maps into a model's metadata, in place of what it says."""
    path = Path(directory) / METADATA
    section = _read_metadata(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    values[SECTION] = {**section, "inference": {**section["inference"], POSTPROCESSING: rules_as_dict(rules)}}
    atomic_write(path, json.dumps(values, indent=2) + "\n")


def calibrations_of(models: Sequence[TrainedModel]) -> tuple[Calibration, ...]:
    """What is known of predictions with these models together, by these very weights."""
    hashes = sorted(m.weights_sha256 for m in models)
    known = dict.fromkeys(c for m in models for c in m.calibrations)
    return tuple(c for c in known if sorted(c.weights_sha256) == hashes)


def options_of_models(models: Sequence[TrainedModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """How to predict with these models together: as they say themselves, where nothing else is given."""
    first = models[0]
    fitting = calibrations_of(models)
    others = any(c.models == len(models) for m in models for c in m.calibrations)
    if others and not fitting and "calibrations" not in given:
        logger.warning("the calibration of the expected Dice belongs to other weights, and is not used")
    own: dict[str, Any] = {"roi_size": first.roi_size, "overlap": first.overlap, "calibrations": fitting}
    if all(m.postprocessing == first.postprocessing for m in models):
        own["postprocessing"] = first.postprocessing
    own["channel_dropout"] = min(m.channel_dropout for m in models)
    return {**own, **given}


def store_calibrations(directory: str | Path, calibrations: Sequence[Calibration]) -> None:
    """Write calibrations into a model's metadata, in place of those it has for the same weights and kinds."""
    path = Path(directory) / METADATA
    section = _read_metadata(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    new = {_key(c): c.as_dict() for c in calibrations}
    old = {_key(Calibration.from_dict(c)): c for c in section["inference"].get(CALIBRATIONS, ())}
    values[SECTION] = {**section, "inference": {**section["inference"], CALIBRATIONS: [*(old | new).values()]}}
    atomic_write(path, json.dumps(values, indent=2) + "\n")


def _key(calibration: Calibration) -> tuple[Any, ...]:
    c = calibration
    return c.models, c.flips, c.compared, tuple(sorted(c.weights_sha256))


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no {path}; a model directory holds {METADATA} and {WEIGHTS[0]}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error})") from None
    section = values.get(SECTION) if isinstance(values, dict) else None
    if not isinstance(section, dict):
        raise ModelError(f"{path} has no section {SECTION!r}; this bundle was not written by medseg3d")
    for key in KEYS:
        if not isinstance(section.get(key), dict):
            raise ModelError(f"{path}: section {SECTION!r} lacks {key!r}; it needs {', '.join(KEYS)}")
    return section


def _load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    require_finite(weights, path)
    try:
        load_strictly(network, weights, f"the network in {METADATA}")
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
