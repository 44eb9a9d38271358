"""What is wrong with an input, in words a person can act on: code, severity, file, message, fix."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger("medseg3d")

Severity = Literal["error", "warning", "info"]
SEVERITIES: dict[str, Severity] = {"E": "error", "W": "warning", "I": "info"}
"""By the first letter of a code."""


@dataclass(frozen=True)
class Finding:
    """One observation about one input.

    Args:
        code: stable identifier such as ``E-TRUNCATED``; ``E-`` errors, ``W-`` warnings, ``I-`` information.
        severity: ``error`` (work stops for this input), ``warning`` or ``info``.
        file: the file or folder it is about, or None.
        message: the value that was found and the rule it breaks.
        fix: what the user can do.
    """

    code: str
    severity: Severity
    file: str | None
    message: str
    fix: str = ""

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{where}{self.message}{fix} [{self.code}]"

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)


_collector: ContextVar[list[Finding] | None] = ContextVar("findings", default=None)


def tell(code: str, message: str, *, file: str | Path | None = None, fix: str = "") -> None:
    """Say what was found in an input that is read all the same: into the log, or to whoever collects findings.

    Args:
        code: ``W-`` for what may not be what was meant, ``I-`` for what is good to know.
        message, file, fix: as of ``Finding``.
    """
    pass_on(Finding(code, SEVERITIES[code[0]], None if file is None else str(file), message, fix))


def pass_on(finding: Finding) -> None:
    """``tell`` of a finding that is there already."""
    found = _collector.get()
    if found is None:
        log.log(logging.WARNING if finding.severity == "warning" else logging.INFO, "%s", finding)
    else:
        found.append(finding)


@contextmanager
def collected() -> Iterator[list[Finding]]:
    """While entered, what ``tell`` says in this thread is gathered in the list instead of the log."""
    found: list[Finding] = []
    token = _collector.set(found)
    try:
        yield found
    finally:
        _collector.reset(token)


def some_names(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are, for messages."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is used up; torch has several ways to say so."""
    said = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return said or "can't allocate memory" in str(error)


class MedSegError(Exception):
    """Base of the errors that a user can mend; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(MedSegError):
    """Wrong usage or configuration: an unknown task, key, option or an empty folder."""

    exit_code = 2


class ModelError(MedSegError):
    """A model directory or checkpoint that cannot be used."""

    exit_code = 6


class InputError(MedSegError):
    """An image, label or data set that is refused; carries the finding that says why."""

    exit_code = 5

    def __init__(self, code: str, message: str, *, file: str | Path | None = None, fix: str = "") -> None:
        self.finding = Finding(code, "error", None if file is None else str(file), message, fix)
        super().__init__(str(self.finding))
