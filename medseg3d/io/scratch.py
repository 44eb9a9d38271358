"""An array too large for memory, in a file that nobody sees and that vanishes with the process."""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.io.atomic import refusal

BLOCK_BYTES = 2**24
"""Written at a time where the file system cannot set room aside."""


def scratch_array(shape: Sequence[int], path: Path, *, along: int = 1) -> NDArray[np.float32]:
    """Zeros of float32 that lie in a nameless file beside ``path``, whose content they are going to be.

    The file is gone when the last view of the array is. Room for all of it is taken on the disk at once: a mapped
    file that meets a full disk later would end the process.

    Args:
        shape: of the array, channels first.
        along: axis along which it is going to be filled: in the file that of a channel which runs slowest, so that what is filled
            lies together.
        path: of the file to come; its folder is made if it is missing.

    Raises:
        InputError: ``E-DISK-FULL`` or ``E-NOT-WRITABLE``, about ``path``.
    """
    size, order = 4 * math.prod(shape), list(shape)
    order.insert(1, order.pop(along))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".tmp-", dir=path.parent) as file:
            _take_room(file, size)
            return np.moveaxis(np.memmap(file, np.float32, "r+", shape=tuple(order)), 1, along)
    except OSError as error:
        raise refusal(path, error, size) from error


def let_go(values: NDArray[Any]) -> None:
    """Take the pages of a mapped file out of this process's memory; they come back from the file when they are looked at.

    The system does so by itself when memory is short, but counts them as the process's until then. Nothing happens for
    other arrays.
    """
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and sys.platform == "linux":
        mapped.madvise(mmap.MADV_DONTNEED)


def _take_room(file: Any, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for first in range(0, size, BLOCK_BYTES):
        file.write(bytes(min(BLOCK_BYTES, size - first)))
    file.flush()
