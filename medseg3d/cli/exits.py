"""Exit codes that are not those of an error (``medseg3d.checks`` has these)."""

from __future__ import annotations

from collections.abc import Sized

OK, UNEXPECTED, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 1, 3, 4, 130


def of_cases(good: Sized, failed: Sized) -> int:
    """The code of a verb that goes on when a case fails."""
    if not failed:
        return OK
    return SOME_FAILED if good else ALL_FAILED
