"""Names of cases become names of files: which of them no system holds, and which are one name on some."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from medseg3d.checks import Finding

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
FORBIDDEN = set('<>:"|?*\\')
LONGEST_NAME = 200
"""Bytes; results add their endings."""


def comparable(name: str) -> str:
    """What is equal for names that are one file where capitals, or ways to write an accent, do not count."""
    return unicodedata.normalize("NFC", name).casefold()


def one_file(names: Sequence[str], file: str) -> Finding:
    """The refusal of cases whose results would be one file; ``file`` is of one of them."""
    words = " and ".join(map(repr, names))
    message = f"cases {words} would both be written to one file (capitals and ways to write accents do not count)"
    return Finding("E-SAME-NAME", "error", file, message, "rename one, or keep them in two folders")


def names_of(names: Sequence[tuple[str, str]]) -> list[Finding]:
    """Names of cases that no file on every system can have, or that are one name on some.

    Args:
        names: of each case the name, and a file of it.
    """
    found: list[Finding] = []
    taken: dict[str, str] = {}
    for name, file in names:
        other = taken.setdefault(comparable(name), name)
        if other != name:
            found.append(one_file([other, name], file))
        reasons = [
            f"it holds {', '.join(sorted(bad))}" if (bad := {c for c in name if c in FORBIDDEN or ord(c) < 32}) else "",
            "Windows reserves it" if name.split(".")[0].casefold() in RESERVED else "",
            "it ends with a blank or dot" if name != name.rstrip(" .") else "",
            f"it is longer than {LONGEST_NAME} bytes" if len(name.encode()) > LONGEST_NAME else "",
        ]
        if any(reasons):
            message = f"the name {name!r} is none on every system: {', '.join(filter(None, reasons))}"
            found.append(Finding("W-NAME", "warning", file, message, "rename the case: results are named after it"))
    return found
