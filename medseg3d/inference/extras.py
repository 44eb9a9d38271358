"""What is made of finished label maps besides: statistics, pictures, a file per label; later, too, without predicting again."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.checks import ConfigError
from medseg3d.inference.results import output_files
from medseg3d.io.dataset import Case
from medseg3d.io.images import image_suffix, write_labels
from medseg3d.task import Task
from medseg3d.volume import Volume

Draw = Callable[[Volume, Volume, Path], object]
"""Draws a scan and its label map into a PNG file; ``medseg3d.report.draw`` does."""
STATISTICS, PREVIEW, PER_LABEL = "statistics", "preview", "per_label"
"""Keys of sidecars."""
NOT_IN_NAMES = re.compile(r"[^\w.-]+")
"""What a label's name may hold and a file's should not."""
ROI_SUBSET = "roi_subset"
"""Key of their options."""


def kept_labels(task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """The task's labels that the names mean, in the task's order; all without a name.

    Raises:
        ConfigError: for a name that the task does not know.
    """
    found = set()
    for name in names:
        label = task.label_named(name)
        if label is None:
            raise ConfigError(f"task {task.name!r} has no label {name!r}; it has {', '.join(task.labels)}")
        found.add(label)
    return tuple(label for label in task.labels if label in found or not names)


def only(labels: Volume, task: Task, names: Sequence[str]) -> Volume:
    """A label map with the labels of these names alone; what lies in several regions is painted as the last of them.

    Args:
        labels: ``(1, *spatial)`` of the task's values.
        names: of the task.
    """
    if set(names) == set(task.labels):
        return labels
    painted = np.zeros(int(np.iinfo(labels.data.dtype).max) + 1, labels.data.dtype)
    for label, value in task.write.items():
        if label in names:
            painted[list(task.labels[label])] = value
    return labels.with_data(painted[labels.data])


@dataclass(frozen=True)
class Extras:
    """What is made of the label map of each case.

    Args:
        task: of the model.
        output: the folder.
        channels: of the scans.
        labels: names that are kept.
        statistics: measure each label.
        per_label: write ``NAME/LABEL.nii.gz``, 0 and 1, for each label.
        draw: draws ``NAME_preview.png``.

    Raises:
        ConfigError: where something is asked for, and the task gives no label maps.
    """

    task: Task
    output: Path
    channels: Sequence[str]
    labels: Sequence[str]
    statistics: bool = False
    per_label: bool = False
    draw: Draw | None = None

    def __post_init__(self) -> None:
        if self.task.kind != "segmentation" and (self.wanted or self.options):
            what = "kept labels, statistics, previews and files per label are for segmentation"
            raise ConfigError(f"task {self.task.name!r} is one of {self.task.kind}; {what}")

    @property
    def options(self) -> dict[str, list[str]]:
        """What decides the label map itself, for the record."""
        return {} if set(self.labels) == set(self.task.labels) else {ROI_SUBSET: list(self.labels)}

    @property
    def wanted(self) -> bool:
        """Whether there is anything to make, for which the scan is needed."""
        return self.statistics or self.per_label or self.draw is not None

    def only(self, labels: Volume) -> Volume:
        """The label map without what is not kept."""
        return only(labels, self.task, self.labels)

    def missing(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether something is asked for that a case that is done does not have."""
        asked = {STATISTICS: self.statistics, PREVIEW: self.draw is not None, PER_LABEL: self.per_label}
        without = any(wanted and key not in sidecar for key, wanted in asked.items())
        files = [name for key in (PREVIEW, PER_LABEL) if asked[key] for name in _files(sidecar, key)]
        return without or not all((self.output / name).is_file() for name in files)

    def make(self, case: Case, labels: Volume, image: Volume) -> dict[str, Any]:
        """Make what is asked for.

        Args:
            case: its name says where files go.
            labels: ``(1, *spatial)``.
            image: the scan.

        Returns:
            What the sidecar tells of it.
        """
        content: dict[str, Any] = {}
        names = {name: self.task.labels[name] for name in self.labels}
        if self.statistics:
            from medseg3d.statistics import label_statistics

            rows = label_statistics(labels, names, image=image, channels=self.channels)
            content[STATISTICS] = [{key: _plain(value) for key, value in row.items()} for row in rows]
        if self.draw is not None:
            picture = self.output / f"{case.name}_preview.png"
            self.draw(image, labels, picture)
            content[PREVIEW] = picture.name
        if self.per_label:
            suffix = image_suffix(output_files(case, self.output)["labels"])
            content[PER_LABEL] = {}
            for name, values in names.items():
                file = f"{case.name}/{NOT_IN_NAMES.sub('_', name)}{suffix}"
                mask = np.isin(labels.data, values).astype(np.uint8)
                write_labels(labels.with_data(mask), self.output / file)
                content[PER_LABEL][name] = file
        return content

    def remove_leftovers(self, before: Mapping[str, Any] | None, content: Mapping[str, Any]) -> None:
        """Files made of an earlier label map do not belong to the new one."""
        for key in (PREVIEW, PER_LABEL):
            for name in set(_files(before or {}, key)) - set(_files(content, key)):
                path = self.output / name
                with contextlib.suppress(OSError):
                    path.unlink()
                    if path.parent != self.output:
                        path.parent.rmdir()


def _files(sidecar: Mapping[str, Any], key: str) -> list[str]:
    """Names of files below the output folder; what leads out of it is left out."""
    value = sidecar.get(key)
    names = list(value.values()) if isinstance(value, Mapping) else [value]
    return [n for n in names if isinstance(n, str) and ".." not in Path(n).parts and not Path(n).is_absolute()]


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
