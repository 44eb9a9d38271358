"""What the library logs, as lines on standard error."""

from __future__ import annotations

import logging
import sys


class LineHandler(logging.StreamHandler):
    """Log lines on standard error, with the level where it is more than information; tqdm bars stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = prefix + record.getMessage()
        bars = sys.modules.get("tqdm")
        if bars is not None:
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
