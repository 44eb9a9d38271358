"""What a folder of images is once it is understood: cases, and how its names and numbers map to the task's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medseg3d.checks import Finding, some_names

if TYPE_CHECKING:
    from medseg3d.io.dicom_series import Series


@dataclass(frozen=True)
class ChannelFile:
    """Where one channel lies.

    Args:
        path: the file.
        index: the channel inside a file of several; None for a file of one.
        series: for DICOM the series, whose first file ``path`` is.
    """

    path: Path
    index: int | None = None
    series: Series | None = None


@dataclass(frozen=True)
class Case:
    """One patient's images in the task's channel order, with what is known about them.

    Args:
        name: unique in its data set; output files are called so.
        images: one entry per channel of the task.
        label: the label map, where there is one.
        class_index: index into the task's labels, for classification.
    """

    name: str
    images: tuple[ChannelFile, ...]
    label: Path | None = None
    class_index: int | None = None


@dataclass(frozen=True)
class DataSet:
    """Cases and the mapping of names and numbers that was found.

    Args:
        root: the folder or CSV.
        layout: which layout was recognised, in words.
        cases: sorted by name.
        channel_names: channel of the task -> what it is called there.
        label_values: label value in the files -> value of the task; other values are refused. 0 is background.
        notes: what a user should know, such as files that were left out.
        refused: cases to predict that cannot be, with the reason; for training any such case is an error.
        label_names: label value in the files -> what it is called there, where that is said.
        numbering: where files are numbered by channel, what the channels are called, from 0 on.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    channel_names: Mapping[str, str]
    label_values: Mapping[int, int]
    notes: tuple[str, ...] = ()
    refused: Mapping[str, Finding] = field(default_factory=dict)
    label_names: Mapping[int, str] = field(default_factory=dict)
    numbering: tuple[str, ...] = ()

    def describe(self) -> str:
        """The mapping, to be printed before the data are used."""
        plural = "" if len(self.cases) == 1 else "s"
        lines = [f"{len(self.cases)} case{plural} in {self.root} ({self.layout})"]
        lines.append("channels: " + ", ".join(f"{task} <- {there}" for task, there in self.channel_names.items()))
        if self.label_values:
            lines.append("label values: " + ", ".join(self._label_words()))
        lines += [f"note: {note}" for note in self.notes]
        reasons: dict[str, list[str]] = {}
        for name, finding in self.refused.items():
            reasons.setdefault(str(finding), []).append(name)
        lines += [f"refused: {some_names(names)}: {reason}" for reason, names in reasons.items()]
        return "\n".join(lines)

    def _label_words(self) -> list[str]:
        background = [v for v, target in self.label_values.items() if target == 0]
        words = []
        for value, target in self.label_values.items():
            name = f" ({self.label_names[value]})" if value in self.label_names else ""
            if target != 0 or len(background) <= 5:
                words.append(f"{target} <- {value}{name}" if target else f"background <- {value}{name}")
        if len(background) > 5:
            words.append(f"background <- {len(background)} others")
        return words
