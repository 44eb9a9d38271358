"""From a path to everything that is to be said about what lies there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.checks import ConfigError, Finding, InputError
from medseg3d.inspection.case import Facts, examine, in_threads
from medseg3d.inspection.files import inspect_files
from medseg3d.inspection.result import Inspection, summarised
from medseg3d.inspection.swaps import swapped_labels
from medseg3d.inspection.together import compare
from medseg3d.io.cases import find_cases, with_ignored
from medseg3d.io.dataset import Case, DataSet
from medseg3d.io.dicom import find_series
from medseg3d.io.layouts import IMAGE_FOLDERS, LABEL_FOLDERS, subfolder
from medseg3d.io.split import split_cases
from medseg3d.task import Task

log = logging.getLogger(__name__)


def inspect(path: str | Path, task: Task | None = None, *, validation_fraction: float = 0.2) -> Inspection:
    """Look at a data set, a folder or a file, as training, prediction and evaluation would; nothing is changed.

    Args:
        path: a data set in any layout that ``find_cases`` knows, a folder with images or DICOM, or a file.
        task: what the data are for. Without one, files are checked one by one, and labels against the images of their names.
        validation_fraction: of the split that training would make, for leakage.

    Raises:
        ConfigError: nothing is there to look at.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a data set, a folder of scans, or a file")
    if task is None:
        return inspect_files(path)
    task = with_ignored(task, path)
    dataset, findings = _data_set(path, task)
    if dataset is None and path.is_file():
        return Inspection(path, str(path), tuple(findings), 0)
    if dataset is None:
        files = inspect_files(path)
        return Inspection(path, files.heading, (*findings, *files.findings), files.cases)
    cases = {"training": list(dataset.cases)}
    if labelled := all(c.label is not None or c.class_index is not None for c in dataset.cases):
        try:
            cases["training"], cases["validation"] = split_cases(dataset.cases, validation_fraction)
        except ConfigError as error:
            findings.append(Finding("W-SPLIT", "warning", str(path), str(error), "add cases of other patients"))
        cases |= _test_cases(path, task)
    else:
        cases = {"prediction": list(dataset.cases)}
    facts = examine_parts(dataset, cases, task)
    findings += [f for part in facts.values() for one in part for f in one.findings]
    findings += compare(facts, task, path)
    findings += swapped_labels(facts, task, dataset)
    known = [one for part in ("training", "validation") for one in facts.get(part, ())]
    labels = _label_counts(known, task) if labelled else {}
    parts = {part: [c.name for c in cases[part]] for part in cases} if labelled else {}
    return Inspection(path, dataset.describe(), tuple(findings), len(dataset.cases), labels, parts)


def examine_parts(dataset: DataSet, parts: Mapping[str, Sequence[Case]], task: Task) -> dict[str, list[Facts]]:
    """``examine`` for every case of every part, several at a time."""
    everything = [case for cases in parts.values() for case in cases]
    done = iter(in_threads(lambda case: examine(case, dataset, task), everything, "checking"))
    return {part: [next(done) for _ in cases] for part, cases in parts.items()}


def require_good(dataset: DataSet, parts: Mapping[str, Sequence[Case]], task: Task) -> None:
    """Refuse data to train on, with everything that is wrong in the log; what is merely odd is logged.

    Args:
        dataset: from ``find_cases``.
        parts: the cases that train and validate.
        task: what they are for.

    Raises:
        InputError: the first error.
    """
    facts = examine_parts(dataset, parts, task)
    findings = [f for part in facts.values() for one in part for f in one.findings]
    findings += compare(facts, task, dataset.root)
    findings += swapped_labels(facts, task, dataset)
    errors = [f for f in findings if f.severity == "error"]
    for severity, say in (("info", log.info), ("warning", log.warning)):
        for line in summarised((f for f in findings if f.severity == severity), dataset.root):
            say("%s", line.removeprefix(f"{severity}: "))
    for line in summarised(errors[1:], dataset.root):
        log.error("%s", line.removeprefix("error: "))
    if errors:
        first = errors[0]
        raise InputError(first.code, first.message, file=first.file, fix=first.fix)


def _data_set(path: Path, task: Task) -> tuple[DataSet | None, list[Finding]]:
    """The cases with their labels, where there are any, else without; and what is wrong with names and files."""
    trouble: list[Finding] = []
    try:
        return find_cases(path, task, labels=True), trouble
    except ConfigError as error:
        log.debug("no labels: %s", error)
    except InputError as error:
        trouble.append(error.finding)
    try:
        dataset = find_cases(path, task, labels=False)
    except InputError as error:
        return None, [*trouble, error.finding]
    except ConfigError:
        if not find_series(path).series:
            raise
        return None, trouble
    if all(f.code == "E-LABEL-MISSING" for f in trouble) and not _promises_labels(path):
        trouble = [Finding("I-NO-LABELS", "info", str(path), "there are no labels: checked as scans to predict")]
    return dataset, [*trouble, *dataset.refused.values()]


def _promises_labels(path: Path) -> bool:
    return path.is_dir() and (subfolder(path, LABEL_FOLDERS) is not None or (path / "dataset.json").is_file())


def _test_cases(path: Path, task: Task) -> dict[str, list[Case]]:
    """The scans in ``imagesTs`` beside those to train on."""
    folder = subfolder(path, ("imagests",)) if path.is_dir() else None
    if folder is None or subfolder(path, IMAGE_FOLDERS) is None:
        return {}
    try:
        return {"test": list(find_cases(folder, task, labels=False).cases)}
    except (ConfigError, InputError) as error:
        log.warning("%s is left out: %s", folder, error)
        return {}


def _label_counts(facts: Sequence[Facts], task: Task) -> dict[str, dict[str, Any]]:
    if task.kind == "classification":
        classes = [one.case.class_index for one in facts]
        return {name: {"cases": classes.count(i)} for i, name in enumerate(task.labels)}
    total = sum(sum(one.voxels.values()) for one in facts)
    out: dict[str, dict[str, Any]] = {}
    for name, ids in task.labels.items():
        counts = [sum(one.voxels.get(i, 0) for i in ids) for one in facts]
        share = sum(counts) / total if total else 0.0
        out[name] = {"cases": sum(c > 0 for c in counts), "voxels": sum(counts), "share": share}
    return out
