"""Which data a run trains on: the sample's or the user's, found, split, and the same again when it goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from medseg3d import bundle, configs_folder, sample_data_folder
from medseg3d.checks import ConfigError
from medseg3d.io import Case, DataSet, find_cases, split_cases
from medseg3d.task import Task
from medseg3d.training.dataset import dataset_as_dict, dataset_from_dict, fingerprint

logger = logging.getLogger(__name__)


def sample_data(task: Task) -> tuple[Path, dict[str, Any]]:
    """The sample data of a task, and the settings that suit them."""
    samples = yaml.safe_load((configs_folder() / "sample.yaml").read_text(encoding="utf-8"))
    if task.name not in samples:
        raise ConfigError(
            f"task {task.name!r} has no sample data; give --data FOLDER (tasks with sample data: {', '.join(samples)})"
        )
    settings = dict(samples[task.name])
    folder = sample_data_folder() / settings.pop("folder")
    logger.info("no data given: training on the sample phantoms in %s", folder)
    return folder, settings


def split_data(
    source: Path,
    task: Task,
    validation_fraction: float,
    split: Mapping[str, Sequence[str]] | None,
    stored_run: Path | None,
) -> tuple[DataSet, dict[str, list[Case]]]:
    """The data set and its split: the stored one for a run that goes on, whose data must match."""
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"validation_fraction {validation_fraction} must be at least 0 and below 1")
    found = find_data(source, task)
    if stored_run is None and split is not None:
        by_name = {case.name: case for case in found.cases}
        training, validation = ([by_name[name] for name in split[p]] for p in ("training", "validation"))
    elif stored_run is None:
        training, validation = split_cases(found.cases, validation_fraction)
    else:
        values = bundle.read_data(stored_run)
        if fingerprint(found.cases) != values["fingerprint"]:
            raise ConfigError(
                f"{stored_run} was begun with other data than {source} (names, sizes or contents differ); give the same data to go "
                "on, or another output folder (-o) to begin anew"
            )
        by_name = {case.name: case for case in found.cases}
        training, validation = ([by_name[c["name"]] for c in values[p]] for p in ("training", "validation"))
    if not training:
        raise ConfigError(
            f"{len(found.cases)} case in {source} leaves none to train on; give more, or a smaller validation part"
        )
    logger.info("%d cases to train on, %d to validate on", len(training), len(validation))
    parts = {"training": training, "validation": validation}
    # What train.yaml will read back, so that what is loaded now is what it finds loaded.
    return dataset_from_dict(dataset_as_dict(found, parts), found.root)


def find_data(source: Path, task: Task) -> DataSet:
    """The labelled cases of a folder or CSV, with absolute paths."""
    found = find_cases(source, task, labels=True)
    logger.info("%s", found.describe())
    root = source if source.is_dir() else source.parent
    return replace(found, root=root.absolute(), cases=tuple(_absolute(c) for c in found.cases))


def _absolute(case: Case) -> Case:
    images = tuple(replace(f, path=f.path.absolute()) for f in case.images)
    return replace(case, images=images, label=None if case.label is None else case.label.absolute())
