"""Checkpoints: whole or not there, tensors and JSON types alone, and the one before kept (DESIGN.md, decision 11)."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from medseg3d.checks import ModelError
from medseg3d.io.atomic import atomic_fill, atomic_write
from medseg3d.io.checksums import SUMS, Checksums
from medseg3d.io.digest import sha256_of
from medseg3d.weights import load_torch

logger = logging.getLogger(__name__)

LAST, PREVIOUS = "last.pt", "prev.pt"
"""The state to resume from, and the one written before it."""
WEIGHTS = ("model.safetensors", "model.pt")
"""The weights that prediction uses, twice."""


def save_state(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write ``last.pt``; what it held before becomes ``prev.pt``, so that at every moment a whole one exists.

    Their hashes lie beside them in ``SHA256SUMS``.

    Args:
        folder: the run's ``models`` folder.
        state: tensors, numbers, texts, None, and lists and dicts of these.

    Raises:
        InputError: ``E-DISK-FULL`` or ``E-NOT-WRITABLE``; both states are as they were.
    """
    last, sums = folder / LAST, Checksums(folder)
    hashes: dict[str, str] = {}

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _write_torch(dict(state), file)
        hashes[LAST] = sha256_of(temporary)
        before = sums.verified(last) if last.exists() else None
        if before is not None:  # a damaged one must not take the place of a good one
            hashes[PREVIOUS] = before
        sums.expect(hashes)
        if PREVIOUS in hashes:
            _keep(last, folder / PREVIOUS)

    atomic_fill(last, fill, needed_bytes=_bytes_of(state))
    sums.settle(hashes)
    return last


def _write_torch(content: Any, file: IO[bytes]) -> None:
    """``torch.save``, which says nothing of a full disk, with the error that caused its own."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _keep(path: Path, copy: Path) -> None:
    """Give a file a second name."""
    temporary = copy.with_name(f".tmp-{os.getpid()}-{copy.name}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(path)
    except OSError:  # a file system that has no links
        shutil.copyfile(path, temporary)
    temporary.replace(copy)


def _bytes_of(state: Any) -> int:
    """Of the tensors in a state."""
    if isinstance(state, Tensor):
        return state.nbytes
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, list) else ()
    return sum(map(_bytes_of, inner))


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
            logger.warning("%s; going on from %s instead, of step %s", problems[0], path, state.get("step", "?"))
        return state
    if not problems:
        raise ModelError(f"no {LAST} in {folder}; nothing was saved there yet")
    good = Checksums(folder).good(WEIGHTS)
    rest = (
        f"; the weights in {folder / good[0]} are whole: begin anew with them (--fine-tune {folder.parent})"
        if good
        else "; begin anew in another output folder"
    )
    raise ModelError("; ".join(problems) + rest)


def _read(path: Path) -> dict[str, Any]:
    """Read with hash and checksums compared: torch.load alone takes flipped bits as they come."""
    damaged = f"checkpoint {path} is damaged ({path.stat().st_size} bytes)"
    if Checksums(path.parent).verified(path) is None:
        raise ModelError(f"{damaged}: it does not match its SHA-256 in {SUMS}")
    try:
        state = load_torch(path)
    except ValueError as error:
        raise ModelError(f"{damaged}: {error}") from None
    if not isinstance(state, dict):
        raise ModelError(f"{damaged}: it holds a {type(state).__name__}, not a state")
    return state


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights that prediction uses: ``model.pt`` (what MONAI's bundles have) and ``model.safetensors``.

    Raises:
        InputError: ``E-DISK-FULL`` or ``E-NOT-WRITABLE``.
        ModelError: for weights that are not finite; the files stay as they were.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    for name, value in plain.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"weights {name!r} are not finite; they are not saved, the last good ones stay in {folder}"
            )
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    contents = dict(zip(WEIGHTS, (save_safetensors(plain), buffer.getvalue()), strict=True))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    sums = Checksums(folder)
    sums.expect(hashes)
    for name, content in contents.items():
        atomic_write(folder / name, content)
    sums.settle(hashes)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of files it was writing."""
    for path in folder.glob(".tmp-*"):
        with suppress(OSError):
            path.unlink()
