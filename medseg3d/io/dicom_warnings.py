"""What pydicom and highdicom warn of while we read and write with them: they repeat values, which may be the patient's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGERS = (
    *("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.encoders.base", "pydicom.pixels.utils"),
    *("highdicom.base", "highdicom.image", "highdicom.io", "highdicom.seg.sop", "highdicom.spatial"),
)
"""Those that the two libraries write to; a filter counts for its own logger alone, not for those below it."""
_ours: ContextVar[bool] = ContextVar("_ours", default=False)


class _NotOurs(logging.Filter):
    """Lets pass what is logged outside ``without_warnings``: the user's own work with the libraries is told as ever."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get()


for _name in LOGGERS:
    logging.getLogger(_name).addFilter(_NotOurs())


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep warnings and log lines of the libraries to ourselves; what matters of them becomes a finding."""
    token = _ours.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _ours.reset(token)
