"""What a look at data found, to print and to pass on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.checks import Finding

SHOWN = 5
"""Findings of one code that are printed."""
ORDER = ("error", "warning", "info")


@dataclass(frozen=True)
class Inspection:
    """Findings about a data set, a folder or a file.

    Args:
        path: what was looked at.
        heading: what it is, in words: cases, channels and label values as they were understood.
        findings: errors first.
        cases: how many cases, series or files were looked at.
        labels: for each label of the task ``cases`` that hold it, ``voxels``, and their ``share`` of all.
        parts: names of the cases that train and validate.
    """

    path: Path
    heading: str
    findings: tuple[Finding, ...]
    cases: int
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(dict.fromkeys(self.findings), key=lambda f: ORDER.index(f.severity))
        object.__setattr__(self, "findings", tuple(ordered))

    def count(self, severity: str) -> int:
        return sum(f.severity == severity for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "description": self.heading,
            "cases": self.cases,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [f.as_dict() for f in self.findings],
            "labels": {name: dict(values) for name, values in self.labels.items()},
            "parts": {part: list(names) for part, names in self.parts.items()},
        }

    def text(self) -> str:
        """The same to read, with files as seen from ``path``."""
        lines = [self.heading]
        width = max(map(len, self.labels), default=0)
        for name, values in self.labels.items():
            amount = f", {values['voxels']:,} voxels ({values['share']:.2%})" if "voxels" in values else ""
            lines.append(f"  {name:{width}}  in {values['cases']} of {self.cases} cases{amount}")
        if self.findings:
            lines.append("")
        lines += summarised(self.findings, self.path)
        errors, warnings = self.count("error"), self.count("warning")
        if errors:
            end = f"{count_of(errors, 'error')} and {count_of(warnings, 'warning')}: training refuses these data"
            lines += ["", end if self.parts else end.partition(":")[0]]
        elif warnings:
            lines += ["", f"no error, {count_of(warnings, 'warning')}"]
        else:
            lines += ["", "nothing to complain about"]
        return "\n".join(lines)


def count_of(count: int, word: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def summarised(findings: Iterable[Finding], root: Path) -> list[str]:
    """A line per finding; of many with one code the first few and how many more there are."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    lines = []
    for code, same in by_code.items():
        lines += [f"{f.severity}: {_shorter(f, root)}" for f in same[:SHOWN]]
        if len(same) > SHOWN:
            lines.append(f"{same[0].severity}: ... and {len(same) - SHOWN} more of the kind [{code}]")
    return lines


def _shorter(finding: Finding, root: Path) -> str:
    """The finding with its file as seen from ``root``."""
    folder = root if root.is_dir() else root.parent
    file = finding.file
    if file is not None and Path(file) != root and Path(file).is_relative_to(folder):
        file = Path(file).relative_to(folder).as_posix()
    return str(Finding(finding.code, finding.severity, file, finding.message, finding.fix))
