"""Memory that tensors leave, kept for the next ones."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What glibc's ``mallopt`` calls them (malloc.h)."""
NEVER = 2**31 - 1
LARGE, USUAL = 2**28, 2**25
"""Bytes from which a block (a whole scan) is still asked of the system, and given back to it, by itself; and glibc's own limit."""


def _c_function(name: str) -> Callable[..., int] | None:
    """A function of the C library, where it is glibc's."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While this holds, what is freed stays with the process.

    A training step makes and frees the same tensors again and again. glibc gives large ones back to the system each time, and each
    comes back page by page, which takes a tenth of a step of small pictures (``benchmarks/shares.py``) and more of one whose logits
    are large. In the end what is left is given back. Where the C library is another, nothing happens.
    """
    mallopt, malloc_trim = _c_function("mallopt"), _c_function("malloc_trim")
    if mallopt is None or malloc_trim is None:
        yield
        return
    if not mallopt(MMAP_THRESHOLD, LARGE):  # older versions allow no more than their own limit
        mallopt(MMAP_THRESHOLD, USUAL)
    mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, USUAL)  # where glibc's own rule ends up once large blocks were freed
        mallopt(TRIM_THRESHOLD, 2 * USUAL)
        malloc_trim(0)
