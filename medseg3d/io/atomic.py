"""Whole files or none: every file medseg3d writes goes through here (DESIGN.md, decision 11)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from medseg3d.checks import InputError


def atomic_write(
    path: str | Path, content: bytes | str | Callable[[IO[bytes]], object], *, needed_bytes: int | None = None
) -> Path:
    """Write a file so that its name holds the old content or the whole new one, never a part.

    Args:
        path: where to write; its folder is made if it is missing.
        content: the bytes (text becomes UTF-8), or a function that writes them to the open binary file it is given.
        needed_bytes: of what a function writes; said in the message where the disk is full.

    Returns:
        The path written.

    Raises:
        InputError: ``E-DISK-FULL`` or ``E-NOT-WRITABLE``; the old file is as it was and nothing else is left behind.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8")

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())

    return atomic_fill(path, fill, needed_bytes=len(content) if isinstance(content, bytes) else needed_bytes)


def atomic_fill(path: str | Path, fill: Callable[[Path], object], *, needed_bytes: int | None = None) -> Path:
    """As ``atomic_write``, for libraries that want a file name: ``fill`` writes the temporary file it is given.

    Args:
        path: where to write.
        fill: writes the file of the name it gets, which has the suffixes of ``path``.
        needed_bytes: said in the message where the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{''.join(path.suffixes[-2:])}")
        fill(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise refusal(path, error, needed_bytes) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk; Windows cannot open folders, and needs it not."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal(path: Path, error: OSError, needed_bytes: int | None) -> InputError:
    """What it means that a file could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free / 2**20
        need = "" if needed_bytes is None else f" {needed_bytes / 2**20:.1f} MiB are needed and"
        message = f"the disk is full:{need} {free:.1f} MiB are free"
        return InputError("E-DISK-FULL", message, file=path, fix="make room or write elsewhere; nothing was changed")
    return InputError(
        "E-NOT-WRITABLE",
        f"cannot be written ({error.strerror or error})",
        file=path,
        fix="write to a folder that you may write to",
    )
