"""Cross-validation: each fold a run directory in one parent, on one machine or several; what the folds say together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock

from medseg3d import read_volume
from medseg3d.checks import ConfigError
from medseg3d.evaluation import Evaluation, evaluate
from medseg3d.inference.model import METADATA, SECTION, store_postprocessing
from medseg3d.inference.sidecar import DONE, read_sidecar
from medseg3d.io.atomic import atomic_write
from medseg3d.io.images import write_labels
from medseg3d.pairs import Reader, find_pairs, read_groups, read_pair
from medseg3d.planning.for_run import name_of_run, task_of_folds
from medseg3d.postprocessing import Cleaning, clean, rules_as_dict
from medseg3d.task import Task
from medseg3d.training.checkpoint import LAST
from medseg3d.training.dataset import fingerprint
from medseg3d.training.folds import assign_folds, groups_of, traits_of, warnings_about
from medseg3d.training.processes import Processes
from medseg3d.training.rules import Chosen, Pair, choose_rules
from medseg3d.training.run import train, validate
from medseg3d.training.source import find_data, sample_data

logger = logging.getLogger(__name__)

PLAN = "folds.json"
RESULT = "cross_validation.json"
INTENSITIES = "intensities.json"
"""The statistics that all folds of a CT task scale by."""
ALONE = (
    "an earlier version began them. They go on as they were begun, but are no ensemble; for one, train all folds in another "
    "folder (-o)"
)


@dataclass(frozen=True)
class CrossValidation:
    """What is known of a cross-validation.

    Args:
        folder: the parent of the folds' run directories.
        runs: those of all folds.
        open: folds that are not trained and validated yet.
        evaluation: of every case by the network that did not see it; None as long as folds are open.
        rules: by label, how finished maps are cleaned, where that helps.
        data: folder of the data set.
        task: of all folds.
        ensemble: whether the folds prepare scans in the same way, so that they can predict together. Folds that versions before
            this one began have intensity statistics of their own.
    """

    folder: Path
    runs: tuple[Path, ...]
    open: tuple[int, ...]
    evaluation: Evaluation | None
    rules: Mapping[str, Chosen]
    data: Path
    task: Task
    ensemble: bool = True

    @property
    def predictions(self) -> Path:
        """Where the label map of every case lies."""
        return self.folder / "predictions"


def cross_validate(
    task: str | Path | Task | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    folds: int = 5,
    fold: int | None = None,
    group_by: str | None = None,
    group_csv: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    max_time_s: float | None = None,
) -> CrossValidation:
    """Train and validate each fold; when all are done, score all cases and choose how label maps are cleaned.

    What is finished is not done again, what was interrupted goes on: the same command continues a cross-validation. Folds may be
    trained by several machines that share the output folder, each with its own ``fold``; the one that finishes last sums up.

    Args:
        task, data, overrides, epochs: as for ``train``; a task that is planned is kept in ``output`` as ``task.yaml``.
        output: parent of the folds' run directories; default ``runs/NAME-cv``.
        folds: how many.
        fold: the one to train, from 1; None trains all that are left.
        group_by: column of ``group_csv`` (or of the data, where they are a CSV) whose cases stay together, such as the site or the
            patient; None takes the patients that the names show.
        group_csv: table with a column ``case``.
        max_time_s: length of each fold's training.

    Raises:
        ConfigError: a fold that does not exist, fewer groups than folds, or a folder begun with other data or folds.
    """
    processes = Processes.join()
    folder = Path(output or Path("runs", f"{name_of_run(task, data)}-cv")).resolve()
    if fold is not None and not 1 <= fold <= folds:
        raise ConfigError(f"fold {fold} must be from 1 to {folds}")
    begun_with: tuple[Task, dict[str, int]] | None = None
    try:
        if processes.first:
            task = task_of_folds(task, data, folder, budget_s=max_time_s)
            begun_with = task, _planned(task, data, folder, folds, group_by, group_csv)
    finally:
        begun_with = processes.from_first(begun_with)
    if begun_with is None:
        raise ConfigError("the first process could not plan the folds; its message says why")
    task, plan = begun_with
    runs = tuple(folder / f"fold_{number}" for number in range(1, folds + 1))
    if processes.first and _differ(folder, runs):
        logger.warning("folds in %s have intensity statistics of their own: %s", folder, ALONE)
    for number in range(1, folds + 1) if fold is None else [fold]:
        run = runs[number - 1]
        if processes.from_first(is_finished(run)):
            logger.info("fold %d of %d is done: %s", number, folds, run)
            continue
        logger.info("fold %d of %d: %s", number, folds, run)
        split = {
            "training": [name for name, f in plan.items() if f != number],
            "validation": [name for name, f in plan.items() if f == number],
        }
        begun = processes.from_first((run / "models" / LAST).exists())
        train(
            task,
            data,
            run,
            overrides={"cache": str(folder / "cache"), **(overrides or {})},
            epochs=epochs,
            max_time_s=max_time_s,
            resume=begun,
            split=split,
            statistics=folder / INTENSITIES,
        )
        if processes.first:
            validate(run)
    left = tuple(number for number, run in enumerate(runs, start=1) if not is_finished(run))
    if left or not processes.first:
        return CrossValidation(folder, runs, left, None, {}, folder, task)
    with FileLock(folder / ".lock"):
        evaluation, rules, root = summarise(folder, task, runs, plan)
    return CrossValidation(folder, runs, (), evaluation, rules, root, task, not _differ(folder, runs))


def _differ(folder: Path, runs: Sequence[Path]) -> bool:
    """Whether folds were begun with other intensity statistics than the others, or than those that all are to share."""
    metadata = [run / METADATA for run in runs]
    sections = [json.loads(path.read_text(encoding="utf-8"))[SECTION] for path in metadata if path.exists()]
    found = [section["preprocessing"].get("statistics") for section in sections]
    if found and (folder / INTENSITIES).exists():
        found.append(json.loads((folder / INTENSITIES).read_text(encoding="utf-8"))["statistics"])
    return any(statistics != found[0] for statistics in found)


def is_finished(run: Path) -> bool:
    """Whether a fold is trained and its validation cases are scored."""
    return (run / "validation" / "summary.json").exists()


def _planned(
    task: Task,
    data: str | Path | None,
    folder: Path,
    folds: int,
    group_by: str | None,
    group_csv: str | Path | None,
) -> dict[str, int]:
    """The fold of each case: stored in the folder, or assigned now."""
    source = sample_data(task)[0] if data is None else Path(data)
    dataset = find_data(source, task)
    column = None
    if group_by is not None:
        table = Path(group_csv) if group_csv is not None else source
        if not table.is_file():
            raise ConfigError(f"group_by {group_by!r} needs the table that it is a column of: give group_csv")
        column = read_groups(table, group_by)
    elif group_csv is not None:
        raise ConfigError(f"{group_csv} is given, but not which of its columns holds cases together; give group_by")
    content = fingerprint(dataset.cases)
    path = folder / PLAN
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        given = {"folds": folds, "group_by": group_by, "fingerprint": content}
        if other := [key for key, value in given.items() if stored.get(key) != value]:
            what = {"folds": f"{stored.get('folds')} folds", "group_by": f"group_by {stored.get('group_by')}"}
            raise ConfigError(
                f"{folder} was begun with {what.get(other[0], 'other data (names, sizes or contents differ)')}; give the same "
                "to go on, or another output folder (-o)"
            )
        return {str(name): int(number) for name, number in stored["cases"].items()}
    traits = traits_of(dataset, task)
    plan = assign_folds(groups_of(dataset.cases, column), traits, folds)
    for words in warnings_about(plan, traits, task):
        logger.warning("%s", words)
    sizes = [sum(f == number for f in plan.values()) for number in range(1, folds + 1)]
    logger.info("%d cases in %d folds of %s", len(plan), folds, ", ".join(map(str, sizes)))
    values = {"folds": folds, "group_by": group_by, "fingerprint": content, "cases": plan}
    atomic_write(path, json.dumps(values, indent=1) + "\n")
    atomic_write(folder / "folds.csv", "case,fold\n" + "".join(f"{name},{number}\n" for name, number in plan.items()))
    return plan


def summarise(
    folder: Path, task: Task, runs: tuple[Path, ...], plan: Mapping[str, int]
) -> tuple[Evaluation, dict[str, Chosen], Path]:
    """Choose the cleaning, store it with every fold's model, and score all cases as such an ensemble member predicts them.

    Writes ``predictions/`` (each case by the network that did not see it), ``per_case.csv``, ``summary.json`` and
    ``cross_validation.json``; returns the scores, the rules and where the data lie.
    """
    root = Path(yaml.safe_load((runs[0] / "configs" / "train.yaml").read_text(encoding="utf-8"))["dataset_dir"])
    out = folder / "predictions"
    out.mkdir(exist_ok=True)
    rules: dict[str, Chosen] = {}
    if task.kind == "segmentation":
        found: dict[str, tuple[Reader, Reader]] = {}
        for number, run in enumerate(runs, start=1):
            names = [name for name, f in plan.items() if f == number]
            found |= find_pairs(root, run / "validation", task, cases=names).found
        rules = choose_rules({name: _reader(pair, task) for name, pair in found.items()}, plan, task)
        helpful = {name: chosen.rule for name, chosen in rules.items() if chosen.rule}
        for number, run in enumerate(runs, start=1):
            store_postprocessing(run, helpful)
            for name in (n for n, f in plan.items() if f == number):
                _clean_prediction(run / "validation", name, out, helpful, task)
    else:
        _join_tables([run / "validation" / "predictions.csv" for run in runs], out / "predictions.csv")
    evaluation = evaluate(root, out, task, output=folder, cases=list(plan), by="fold", by_csv=folder / "folds.csv")
    result = {
        "folds": [_of_fold(run, number, plan) for number, run in enumerate(runs, start=1)],
        "postprocessing": rules_as_dict({n: c.rule for n, c in rules.items()}),
        "dice_before": {n: c.before for n, c in rules.items()},
        "mean": evaluation.summary.get("mean"),
        "note": "each case is scored by the network that did not see it; postprocessing was chosen on the same cases",
    }
    atomic_write(folder / RESULT, json.dumps(result, indent=2) + "\n")
    return evaluation, rules, root


def _reader(pair: tuple[Reader, Reader], task: Task) -> Pair:
    def read() -> tuple[Any, Any, float]:
        first, second = read_pair(pair[0], pair[1], task)
        return first.data[0], second.data[0], float(np.prod(second.spacing_mm)) / 1000

    return read


def _clean_prediction(source: Path, name: str, out: Path, rules: Mapping[str, Cleaning], task: Task) -> None:
    """A fold's label map of a case, cleaned, into the folder of all."""
    files = [p for p in source.glob(f"{name}.*.json") if (found := read_sidecar(p)) and found["status"] == DONE]
    if not files:
        logger.warning("case %s has no prediction in %s and is not scored", name, source)
        return
    file = files[0].with_suffix("")
    labels = read_volume(file, labels=True)
    cleaned = clean(labels.data[0], rules, task, labels.spacing_mm)
    write_labels(labels.with_data(cleaned[None]), out / file.name)


def _join_tables(tables: list[Path], out: Path) -> None:
    lines = [table.read_text(encoding="utf-8").splitlines(keepends=True) for table in tables]
    atomic_write(out, "".join([lines[0][0], *(line for found in lines for line in found[1:])]))


def _of_fold(run: Path, number: int, plan: Mapping[str, int]) -> dict[str, Any]:
    summary = json.loads((run / "validation" / "summary.json").read_text(encoding="utf-8"))
    return {
        "fold": number,
        "run": run.name,
        "cases": sum(f == number for f in plan.values()),
        "dice": (summary.get("mean") or {}).get("dice"),
        "accuracy": summary.get("accuracy"),
    }
