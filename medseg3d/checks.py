"""What is wrong with an input, in words a person can act on: code, severity, file, message, fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "info"]


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


def some_names(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are, for messages."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing"


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
