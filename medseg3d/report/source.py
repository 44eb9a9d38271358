"""What a report is made of: a run directory or the output of an evaluation, read without its paths."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from medseg3d.checks import ConfigError, InputError
from medseg3d.io import Case, ChannelFile, DataSet, find_cases, read_image, read_label, read_volume
from medseg3d.io.images import image_suffix
from medseg3d.pairs import find_pairs, read_pair
from medseg3d.task import Task, load_task
from medseg3d.volume import Volume

Pair = Callable[[], tuple[Volume, Volume]]
RUN_FACTS = {
    "epochs": "epochs",
    "steps_per_epoch": "steps per epoch",
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "patch_size": "patch, voxels",
    "spacing_mm": "spacing, mm",
    "intensity": "intensity",
    "seed": "seed",
}
"""Keys of train.yaml that are shown, and what they are called."""


@dataclass(frozen=True)
class CaseFiles:
    """How a case is read, where it can be.

    Args:
        image: reads the scan.
        pair: reads reference and prediction.
    """

    image: Callable[[], Volume]
    pair: Pair


@dataclass(frozen=True)
class Source:
    """A run or an evaluation.

    Args:
        title: of the report.
        facts: name and value of what is worth knowing of a run.
        phantom: whether the data are the sample phantoms.
        curves: rows of metrics.csv.
        rows: of per_case.csv, numbers as numbers.
        summary: of summary.json.
        task: where it is known.
        cases: name -> files, of those that can be shown.
        notes: what a reader should know.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    phantom: bool = False
    curves: list[dict[str, float]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    task: Task | None = None
    cases: dict[str, CaseFiles] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_source(
    source: Path,
    *,
    data: Path | None = None,
    images: Path | None = None,
    reference: Path | None = None,
    prediction: Path | None = None,
    task: Task | str | Path | None = None,
) -> Source:
    """Read a run directory, or a folder with ``per_case.csv`` and ``summary.json``.

    Raises:
        ConfigError: a folder that is neither, or files that cannot be read.
    """
    if task is not None and not isinstance(task, Task):
        task = load_task(task)
    if (source / "configs" / "metadata.json").is_file():
        return _run(source, data)
    if not (source / "per_case.csv").is_file():
        raise ConfigError(
            f"{source} is neither a run directory (configs/metadata.json) nor an evaluation (per_case.csv, summary.json); "
            "medseg3d train makes the one, medseg3d evaluate -o FOLDER the other"
        )
    return _evaluation(source, data, images, reference, prediction, task)


def _run(folder: Path, data: Path | None) -> Source:
    known = _json(folder / "configs" / "metadata.json").get("medseg3d", {})
    try:
        task = Task.from_dict(known["task"])
    except KeyError:
        raise ConfigError(f"{folder / 'configs' / 'metadata.json'} was not written by medseg3d train") from None
    try:
        settings = yaml.safe_load((folder / "configs" / "train.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{folder / 'configs' / 'train.yaml'} cannot be read: {error}") from None
    parts = _json(folder / "configs" / "data.json")
    curves = [
        {k: v for k, v in row.items() if isinstance(v, float) and not math.isnan(v)}
        for row in _csv(folder / "metrics.csv")
    ]
    network = dict(known.get("network", {}))
    facts = [("task", task.name), ("network", f"{network.get('name', '')} {network.get('spatial_dims', '')}D")]
    facts += [(f"cases for {part}", str(len(parts[part]))) for part in ("training", "validation") if part in parts]
    facts += [(name, _words(settings[key])) for key, name in RUN_FACTS.items() if settings.get(key) is not None]
    if curves:
        facts.append(("training time", _duration(sum(row.get("seconds", 0.0) for row in curves))))
    scores = folder / "validation"
    rows = _csv(scores / "per_case.csv")
    summary = _json(scores / "summary.json") if rows else {}
    cases = {}
    notes = []
    if rows:
        root = data or Path(settings["dataset_dir"])
        cases = _run_cases(parts, root, task, scores)
        if not root.exists():
            cases, notes = {}, ["The data set is not on this machine: no pictures. Say where it is to have them."]
    else:
        notes = ["This run has no scored validation cases."]
    return Source(f"Run: {task.name}", facts, bool(known.get("phantom")), curves, rows, summary, task, cases, notes)


def _run_cases(parts: Mapping[str, Any], root: Path, task: Task, predictions: Path) -> dict[str, CaseFiles]:
    """The validation cases of a run's ``configs/data.json`` that have a prediction."""
    found = [
        Case(
            entry["name"],
            tuple(ChannelFile(root / path, index) for path, index in entry["images"]),
            None if entry["label"] is None else root / entry["label"],
            entry["class_index"],
        )
        for entry in parts["validation"]
    ]
    values = {int(k): int(v) for k, v in parts["label_values"].items()}
    dataset = DataSet(root, parts["layout"], tuple(found), dict(parts["channel_names"]), values)
    files = {p.name.removesuffix(image_suffix(p) or ""): p for p in predictions.iterdir() if image_suffix(p)}

    def pair(case: Case) -> tuple[Volume, Volume]:
        return read_pair(
            partial(read_label, case, dataset, task, None), partial(read_volume, files[case.name], labels=True), task
        )

    return {c.name: CaseFiles(partial(read_image, c, task), partial(pair, c)) for c in found if c.name in files}


def _evaluation(
    folder: Path,
    data: Path | None,
    images: Path | None,
    reference: Path | None,
    prediction: Path | None,
    task: Task | None,
) -> Source:
    summary, rows = _json(folder / "summary.json"), _csv(folder / "per_case.csv")
    name = str(summary.get("task", ""))
    title = f"Evaluation: {name}" if name else "Evaluation"
    notes: list[str] = []
    scans, labels = images or data, reference or data
    cases: dict[str, CaseFiles] = {}
    if scans is None or labels is None:
        if scans is not None or labels is not None or prediction is not None:
            raise ConfigError("pictures need images, references and predictions: give all three folders")
        notes.append("No pictures: scans, references and predictions were not given.")
    else:
        task = task or _known_task(name)
        known = {str(row["case"]) for row in rows}
        pairs = find_pairs(labels, prediction or folder, task, cases=known)
        # The scans of a training set lie beside its labels; a folder of scans alone is read as prediction reads it.
        found = find_cases(scans, task, labels=images is None)
        readers = {case.name: partial(read_image, case, task) for case in found.cases}
        for case, (first, second) in pairs.found.items():
            if case in readers:
                cases[case] = CaseFiles(readers[case], partial(read_pair, first, second, task))
        if missing := known - set(cases):
            notes.append(f"{len(missing)} of {len(known)} cases have no picture: scan or label map not found.")
    return Source(title, rows=rows, summary=summary, task=task, cases=cases, notes=notes)


def _known_task(name: str) -> Task:
    try:
        return load_task(name)
    except ConfigError:
        raise ConfigError(
            f"the evaluation was made with the task {name!r}, which does not come with medseg3d; give its YAML file (--task)"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, numbers as floats; none where the file does not exist."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: _number(k, v) for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _number(column: str, text: str | None) -> Any:
    if column in ("case", "label", "status", "reference", "predicted", "definition"):
        return text or ""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return text


def _words(value: Any) -> str:
    return (
        " x ".join(map(_words, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def without_paths(text: str) -> str:
    """A message whose file system paths are left out; their last part may be a name as well."""
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/~.][^\s:;,()'\"]*)?[\\/][^\s:;,()'\"]+", "…", text)


def why(error: InputError) -> str:
    """What stopped a case, without the paths."""
    return without_paths(f"{error.finding.message} [{error.finding.code}]")
