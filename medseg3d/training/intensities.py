"""The intensity statistics that ``ct`` scales by: of the cases that a run trains on, or one set for all folds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medseg3d.checks import ConfigError
from medseg3d.intensity import STATISTICS, ct_statistics
from medseg3d.io import Case, DataSet, read_image, read_label
from medseg3d.io.atomic import atomic_write
from medseg3d.task import Task
from medseg3d.training.dataset import fingerprint
from medseg3d.volume import Volume

Statistics = tuple[dict[str, float], ...]


def training_statistics(dataset: DataSet, cases: Sequence[Case], task: Task) -> Statistics | None:
    """The intensity statistics of cases that ``ct`` needs, of the voxels with a label; None for other intensities."""
    if task.intensity != "ct":
        return None

    def volumes() -> Iterator[tuple[Volume, Volume]]:
        for case in tqdm(cases, desc="intensities", unit="case", disable=None, leave=False):
            image = read_image(case, task)
            label = read_label(case, dataset, task, image.grid)
            yield (
                image,
                label if task.ignore is None else label.with_data(np.where(label.data == task.ignore, 0, label.data)),
            )

    return ct_statistics(volumes())


def shared_statistics(file: Path, dataset: DataSet, task: Task) -> Statistics | None:
    """The statistics of all cases of a data set, kept in a file that several trainings share.

    They are computed by whoever needs them first; the same cases give the same numbers on any machine, so that trainings which
    share no file agree, too.

    Args:
        file: where they are kept.
        dataset: whose cases they are of.
        task: with the channels and labels that they are of.

    Raises:
        ConfigError: the file holds those of other data, channels or labels, or no statistics.
    """
    if task.intensity != "ct":
        return None
    of = {
        "fingerprint": fingerprint(dataset.cases),
        "channels": list(task.channels),
        "values": {str(k): v for k, v in sorted(dataset.label_values.items())},
    }
    if file.exists():
        return _read(file, of, task)
    statistics = training_statistics(dataset, sorted(dataset.cases, key=lambda c: c.name), task)
    assert statistics is not None
    atomic_write(file, json.dumps({**of, "statistics": list(statistics)}, indent=1) + "\n")
    return statistics


def _read(file: Path, of: dict[str, Any], task: Task) -> Statistics:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kept = tuple({key: float(channel[key]) for key in STATISTICS} for channel in values["statistics"])
        others = {key: values.get(key) for key in of}
    except (AttributeError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); remove it, and it is made again") from None
    if others != of:
        raise ConfigError(
            f"{file} holds the intensities of other data, channels or labels; give another output folder (-o) to begin anew"
        )
    return kept
