"""How many processors there are to compute with."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that this process may use: fewer than the machine has where it is tied to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
