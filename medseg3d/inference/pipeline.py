"""Three stages at once: the next item is read while this one is computed and the last one is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def run_pipeline(
    read: Callable[[], T | None],
    compute: Callable[[T], U],
    write: Callable[[U], None],
    *,
    stop: Callable[[], None] = lambda: None,
    ahead: bool = True,
) -> None:
    """Pass items through three stages, in order.

    ``compute`` runs in the calling thread, ``read`` and ``write`` in one thread each. Every stage holds one item at
    most, so memory is bounded by three. Where a stage raises, or Ctrl-C comes, the write that has begun is finished first.

    Args:
        read: gives the next item, None after the last one.
        compute: an item to its result.
        write: brings a result away.
        stop: called at the first exception, while a ``read`` may be running: it is to end soon.
        ahead: False runs one stage at a time, for the memory of a single item.
    """
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    written: Future[None] | None = None
    try:
        upcoming = reader.submit(read)
        while (item := upcoming.result()) is not None:
            del upcoming
            if ahead:
                upcoming = reader.submit(read)
            result = compute(item)
            del item
            if written is not None:
                written.result()
            written = writer.submit(write, result)
            del result
            if not ahead:
                written.result()
                upcoming = reader.submit(read)
        if written is not None:
            written.result()
    except BaseException:
        stop()
        raise
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
