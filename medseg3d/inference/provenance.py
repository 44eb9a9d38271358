"""What a result comes from: inputs, weights, options and versions, as hashes and plain values without absolute paths."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg3d import __version__
from medseg3d.checks import Finding, ModelError
from medseg3d.inference.model import CALIBRATIONS, METADATA, SECTION, weights_file
from medseg3d.inference.predictor import Predictor
from medseg3d.io.dataset import Case
from medseg3d.io.digest import sha256_of, sha256_of_channel
from medseg3d.task import Task

NEUTRAL_OPTIONS = {"device", "batch_size", "workers", "max_ram", "max_vram", "calibrations"}
"""Options that change how a result is computed, but not what it is."""
Model = str | Path | Predictor | Sequence[str | Path]
"""What a result is made with: a run directory or bundle, several as an ensemble, or what is in memory already."""
ABSOLUTE_PATH = re.compile(r"(?<![\w.~/\\])(?:/|[A-Za-z]:[\\/])(?:[^\s/\\:;,'\"()]+[\\/])+(?=[^\s/\\]|$)")
"""The folders of an absolute path; its last part stays."""


def inputs_of(case: Case, task: Task, root: Path) -> list[dict[str, Any]]:
    """For each channel its file (relative to ``root``), the channel inside the file, and the hash of the file.

    Of a DICOM series it is the first file, and the hash is that of all.
    """
    hashes = {f.path: sha256_of_channel(f) for f in {f.path: f for f in case.images}.values()}
    entries: list[dict[str, Any]] = []
    for channel, f in zip(task.channels, case.images, strict=False):
        entry: dict[str, Any] = {
            "channel": channel,
            "file": relative_name(f.path, root),
            "index": f.index,
            "sha256": hashes[f.path],
        }
        if f.series is not None:
            entry["series"] = {"id": f.series.identifier, "files": len(f.series.files)}
        entries.append(entry)
    return entries


def models_of(model: Model) -> list[dict[str, Any]]:
    """Name and hashes of each model: of its weights and of the metadata that ``predict`` reads.

    A ``Predictor`` is hashed as it lies in memory, which is another hash than that of a file.

    Raises:
        ModelError: where a directory holds no model.
    """
    if isinstance(model, Predictor):
        return [_in_memory(model)]
    if isinstance(model, (str, Path)):
        model = [model]
    return [_in_directory(Path(directory)) for directory in model]


def _in_directory(directory: Path) -> dict[str, Any]:
    weights = weights_file(directory)
    try:
        section = json.loads((directory / METADATA).read_text(encoding="utf-8"))[SECTION]
        section["inference"].pop(CALIBRATIONS, None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{directory / METADATA} cannot be read ({error})") from None
    return {
        "name": directory.resolve().name,
        "weights_sha256": sha256_of(weights),
        "metadata_sha256": _hash_of_values(section),
    }


def _in_memory(predictor: Predictor) -> dict[str, Any]:
    state = hashlib.sha256(f"{type(predictor.network).__module__}.{type(predictor.network).__qualname__}".encode())
    for name, tensor in sorted(predictor.network.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    values = {"task": predictor.task.as_dict(), "preprocessing": predictor.preprocessing.as_dict()}
    name = f"{predictor.task.name} (in memory)"
    return {"name": name, "weights_sha256": state.hexdigest(), "metadata_sha256": _hash_of_values(values)}


def _hash_of_values(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def options_of(predictor: Predictor, requested: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide the result: as they were asked for, else what the model itself says.

    ``precision`` stays ``auto`` where that was asked for, so that two kinds of machine can share one folder.
    """
    out: dict[str, Any] = {}
    for name, parameter in sorted(inspect.signature(type(predictor)).parameters.items()):
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name in NEUTRAL_OPTIONS:
            continue
        value = requested.get(name)
        if value is None:
            value = getattr(predictor, name, None)
        if value is None and name == "precision":
            value = precision_of(predictor)
        out[name] = list(value) if isinstance(value, tuple) else value
    return {k: v for k, v in out.items() if isinstance(v, (bool, int, float, str, list, type(None)))}


def precision_of(predictor: Predictor) -> str:
    """What the network computes in: ``bf16`` or ``float32``."""
    return "float32" if predictor.autocast is None else "bf16"


def versions() -> dict[str, str]:
    """Versions of what computes a result."""
    return {
        "medseg3d": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def relative_name(path: Path, root: Path) -> str:
    """A path as seen from a folder, with ``/``; the file name alone where it lies elsewhere."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.name


def hint(target: Path, folder: Path) -> str | None:
    """The way from ``folder`` to ``target``, where both lie below the working directory: nothing above it is told."""
    here = Path.cwd()
    if not (target.resolve().is_relative_to(here) and folder.resolve().is_relative_to(here)):
        return None
    return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()


def finding_without_paths(finding: Finding, root: Path) -> dict[str, Any]:
    """A finding for files that are passed on: its file relative to the inputs, and no folders in its words."""
    values = finding.as_dict()
    values["file"] = None if finding.file is None else relative_name(Path(finding.file), root)
    for key in ("message", "fix"):
        values[key] = without_paths(str(values[key]), root)
    return values


def without_paths(text: str, root: Path) -> str:
    """``text`` with absolute paths cut to what lies below ``root``, or to their last part."""
    for folder in {str(root.resolve()), str(root.absolute()), str(Path.home())} - {"/", ""}:
        text = text.replace(folder + os.sep, "")
    return ABSOLUTE_PATH.sub("", text)
