"""The folder of a run: who may write to it, and what an earlier training left in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from medseg3d.checks import ConfigError
from medseg3d.training.checkpoint import LAST

LOCK = ".lock"


def stored_run(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """The train.yaml of a run that goes on, or None for a new one.

    Raises:
        ConfigError: the folder holds a training and ``resume`` is not set, or something else altogether.
    """
    config = folder / "configs" / "train.yaml"
    if not config.exists():
        begun = (folder / LOCK).exists()  # by a training that ended before this file, the last one, was written
        if folder.exists() and not begun and any(p.name != "cache" for p in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and no run directory; give another output folder")
        return None
    if not resume:
        if (folder / "models" / LAST).exists():
            raise ConfigError(
                f"{folder} holds a training already; go on with --resume, or give another output folder (-o)"
            )
        return None
    try:
        return dict(yaml.safe_load(config.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{config} cannot be read ({error}); give another output folder (-o)") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run directory, so that two trainings never write to one."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"another training is running in {folder}; wait for it, or give another output folder (-o)"
        ) from None
    try:
        yield
    finally:
        lock.release()
