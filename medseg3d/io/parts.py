"""The files of one case, and the parts of their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medseg3d.checks import InputError
from medseg3d.task_rules import plain_name

LABEL_TAILS = {"seg", "segm", "segmentation", "label", "labels", "mask", "gt", "groundtruth"}
NUMBERED = re.compile(r"(.+)_(\d{4})")


@dataclass
class Parts:
    """The files of one case, before channels are resolved.

    Args:
        numbered: whether the channels' files are numbered.
        doubt: why it cannot be a case.
    """

    name: str
    channels: dict[str, Path] = field(default_factory=dict)
    whole: list[Path] = field(default_factory=list)
    label: Path | None = None
    class_index: int | None = None
    where: Path | None = None
    doubt: InputError | None = None
    numbered: bool = False

    def refuse(self, doubt: InputError) -> None:
        """Keep the first reason why this is no case; the others are not affected."""
        self.doubt = self.doubt or doubt


def split_tail(stem: str, matches: Callable[[str], bool]) -> tuple[str, str] | None:
    """Cut a stem before the longest ending that matches, at one of ``_-. ``: ``("case1", "t1_gd")``."""
    for cut in re.finditer(r"[_\-. ]", stem):
        head, tail = stem[: cut.start()], stem[cut.end() :]
        if head and tail and matches(tail):
            return head, tail
    return None


def is_label_name(name: str) -> bool:
    return plain_name(name) in LABEL_TAILS


def must_exist(path: Path, listed_in: Path) -> None:
    """Raise ``E-FILE-MISSING`` where a listed file is not there."""
    if not path.is_file():
        fix = f"complete the download, or take it off {listed_in.name}"
        raise InputError("E-FILE-MISSING", f"listed in {listed_in.name}, but not there", file=path, fix=fix)


def duplicate(name: str, first: str, second: str) -> InputError:
    message = f"two cases are called {name!r}: {first} and {second}"
    return InputError("E-DUPLICATE-CASE", message, file=second, fix="rename one; outputs are named after their case")
