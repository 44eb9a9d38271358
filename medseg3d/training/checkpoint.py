"""Checkpoints: whole or not there, tensors and JSON types alone, and the one before kept (DESIGN.md, decision 11)."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from medseg3d.checks import ModelError
from medseg3d.io.atomic import atomic_write

logger = logging.getLogger(__name__)

LAST, PREVIOUS = "last.pt", "prev.pt"
"""The state to resume from, and the one written before it."""


def save_state(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write ``last.pt``; what it held before becomes ``prev.pt``, so that at every moment a whole one exists.

    Args:
        folder: the run's ``models`` folder.
        state: tensors, numbers, texts, None, and lists and dicts of these.
    """
    last = folder / LAST
    if last.exists():
        temporary = folder / f".{PREVIOUS}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(last)
        temporary.replace(folder / PREVIOUS)
    return atomic_write(last, lambda file: torch.save(dict(state), file))


def load_state(folder: Path) -> dict[str, Any]:
    """The newest whole state in a folder: ``last.pt``, or ``prev.pt`` with a warning.

    Raises:
        ModelError: where neither can be read.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except ModelError as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning("%s; going on from %s instead", problems[0], path)
        return state
    raise ModelError("; ".join(problems) if problems else f"no {LAST} in {folder}; nothing was saved there yet")


def _read(path: Path) -> dict[str, Any]:
    """Read with the archive's own checksums compared: torch.load alone takes flipped bits as they come."""
    damaged = f"checkpoint {path} is damaged ({path.stat().st_size} bytes)"
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise ModelError(f"{damaged}: {member} does not match its checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{damaged}: {error}") from error
    if not isinstance(state, dict):
        raise ModelError(f"{damaged}: it holds a {type(state).__name__}, not a state")
    return state


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights that prediction uses: ``model.pt`` (what MONAI's bundles have) and ``model.safetensors``.

    Raises:
        ModelError: for weights that are not finite; the files stay as they were.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    for name, value in plain.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"weights {name!r} are not finite; they are not saved, the last good ones stay in {folder}"
            )
    atomic_write(folder / "model.pt", lambda file: torch.save(plain, file))
    atomic_write(folder / "model.safetensors", save_safetensors(plain))


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of files it was writing."""
    for path in folder.glob(".tmp-*"):
        with suppress(OSError):
            path.unlink()
