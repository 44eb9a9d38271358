"""What holds for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# Before torch is loaded: threads that spin while they wait take the cores from each other (see medseg3d.cli.main).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """The command line changes the logger of the package, and a test that calls it is not the last one."""
    logger = logging.getLogger("medseg3d")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
