"""Two folders of label maps to a table per case and a summary that counts every case."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medseg3d import __version__
from medseg3d.checks import ConfigError, Finding, InputError, some_names
from medseg3d.io import atomic_write
from medseg3d.metrics.case import percentile_name
from medseg3d.metrics.classes import summarise_classes
from medseg3d.metrics.lesions import LesionRule
from medseg3d.metrics.overlap import Empty
from medseg3d.metrics.score_rule import ScoreRule
from medseg3d.metrics.summary import summarise
from medseg3d.metrics.surface import Definition
from medseg3d.metrics.text import aligned, json_text, short, with_interval
from medseg3d.nnunet import nnunet_summary, write_nnunet_summary
from medseg3d.pairs import Pairs, class_pairs, file_of, find_pairs, read_groups, read_pair
from medseg3d.processors import usable_cores
from medseg3d.task import Task, load_task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        rows: one per case and label: ``case`` and the keys of ``medseg3d.metrics.measure_case``. For classification one
            per case: ``case``, ``reference``, ``predicted``, ``correct``.
        summary: the settings, ``n_cases``, the counts and statistics of ``medseg3d.metrics.summary.summarise`` (or of
            ``medseg3d.metrics.classes.summarise_classes``), ``failed`` (findings, with ``case``),
            ``unmatched_reference`` and ``unmatched_prediction`` (names).
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    def table(self) -> str:
        """The main numbers and all counts, to read on a terminal: per label Dice and Hausdorff percentile, mean [95 % CI]."""
        classes = "confusion" in self.summary
        text = [aligned(self._class_lines() if classes else self._label_lines(self.summary))]
        if classes:
            text.append(f"accuracy {short(self.summary['accuracy'], 4)} of {len(self.rows)} cases")
        if groups := self.summary.get("by"):
            for value, found in groups["groups"].items():
                text.append(f"\n{groups['column']} = {value}, {found['n_cases']} cases:")
                accuracy = f"accuracy {short(found['accuracy'], 4)}" if classes else ""
                text.append(accuracy or aligned(self._label_lines(found)))
            if names := groups["without"]:
                text.append(f"\n{len(names)} in no group, as the table has no value for them: {some_names(names)}")
        if failed := self.summary["failed"]:
            names = some_names([f["case"] for f in failed])
            text.append(f"{len(failed)} of {self.summary['n_cases']} cases failed: {names}")
        for key, side in (("unmatched_reference", "prediction"), ("unmatched_prediction", "reference")):
            if names := self.summary[key]:
                text.append(f"{len(names)} without a {side}: {some_names(names)}")
        if values := self.summary.get("other_values"):
            text.append(f"values that no label names, taken as background: {some_names(list(map(str, values)))}")
        return "\n".join(text)

    def _label_lines(self, found: Mapping[str, Any]) -> list[tuple[str, ...]]:
        distance = percentile_name(self.summary["percentile"])
        columns = [("dice", "Dice", 4), (distance, f"{distance[:-3].upper()} mm", 2)]
        if self.summary["tolerance_mm"] is not None:
            columns.append(("nsd", f"NSD {self.summary['tolerance_mm']:g} mm", 4))
        if "lesion_dice" in found["mean"]:
            columns += [("lesion_dice", "lesion Dice", 4), ("lesion_f1", "lesion F1", 4)]
        lines: list[tuple[str, ...]] = [("label", "cases", "missed", "invented", "empty", *(c[1] for c in columns))]
        for label, values in found["labels"].items():
            counts = (str(values[key]) for key in ("n_total", "n_miss", "n_fp", "n_tn"))
            cells = (with_interval(values[metric], digits) for metric, _, digits in columns)
            lines.append((label, *counts, *cells))
        total, used = len(found["labels"]), found["mean_over"]
        cells = (
            short(found["mean"][metric], digits)
            + (f" ({used[metric]} of {total} labels)" if used[metric] < total else "")
            for metric, _, digits in columns
        )
        return [*lines, ("mean of labels", "", "", "", "", *cells)]

    def _class_lines(self) -> list[tuple[str, ...]]:
        confusion = self.summary["confusion"]
        return [
            ("reference \\ predicted", *confusion),
            *((label, *map(str, row.values())) for label, row in confusion.items()),
        ]

    def json(self) -> str:
        """The summary as JSON, which has no infinite numbers: inf is the text ``"inf"``, NaN is null."""
        return json_text(self.summary)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``per_case.csv`` (with ``inf`` and ``nan``) and ``summary.json``, each whole or not at all.

        Returns:
            The two paths.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else ["case"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        folder = Path(folder)
        return (
            atomic_write(folder / "per_case.csv", text.getvalue()),
            atomic_write(folder / "summary.json", self.json() + "\n"),
        )


def evaluate(
    reference: str | Path,
    prediction: str | Path,
    task: Task | str | Path | None = None,
    *,
    labels: Mapping[str, Sequence[int]] | None = None,
    output: str | Path | None = None,
    definition: Definition = "surface",
    percentile: float = 95,
    tolerance_mm: float | None = None,
    empty: Empty = "nan",
    lesions: LesionRule | None = None,
    nnunet: str | Path | None = None,
    by: str | None = None,
    by_csv: str | Path | None = None,
    cases: Collection[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score a folder of predicted label maps against a folder of references.

    Files are matched by name without suffix. Where ``reference`` is a data set in a layout that ``find_cases`` knows
    (MSD and its labelsTr, nnU-Net, BraTS), its labels are read as in training, with their values mapped to the task's.
    For a classification task ``reference`` is a data set with classes, ``prediction`` the folder with the
    ``predictions.csv`` of ``medseg3d predict``, and the result accuracy and confusion matrix.
    A case that cannot be scored is listed under ``failed`` and does not end the evaluation.

    Args:
        reference: folder of label maps, or of a data set.
        prediction: folder of label maps with the task's values, as ``medseg3d predict`` writes them.
        task: says which values make which label; a Task, a name, or a YAML file.
        labels: instead of a task, ``name: values``; other values are background, and listed. Both folders are read as they are.
        output: folder for ``per_case.csv`` and ``summary.json``; None writes nothing.
        definition: of the surface metrics: ``surface``, ``voxel``, ``pooled`` or ``mesh`` (medseg3d.metrics.surface).
        percentile: of the Hausdorff distance.
        tolerance_mm: of the normalised surface Dice, which is left out without it.
        empty: ``nan`` leaves cases where both masks are empty out of the means; ``one`` counts them as perfect.
        lesions: score lesion by lesion, too, by this rule.
        nnunet: file for the same scores as nnU-Net's ``summary.json``.
        by: column of ``by_csv`` whose values make subgroups, each summarised by itself under ``by``.
        by_csv: table with a column ``case`` (or ``name``, or else the first) that holds the cases' names.
        cases: names to score alone, such as those of a validation part; None scores all.
        workers: cases at a time; None takes the processor's cores.
        progress: show a bar on a terminal.

    Raises:
        ConfigError: an unknown option, a folder with nothing in it, two folders without a name in common, a table without
            the column.
    """
    if (task is None) == (labels is None):
        raise ConfigError("evaluate needs to know what the values mean: give either a task or labels as name: values")
    if (by is None) != (by_csv is None):
        raise ConfigError("subgroups need both a column (by) and the table that it is in (by_csv)")
    task = task if task is None or isinstance(task, Task) else load_task(task)
    rule = ScoreRule(definition, percentile, tolerance_mm, empty, lesions)
    groups = read_groups(Path(by_csv), by) if by_csv is not None and by is not None else None
    pairs: Pairs[Any]
    ids: dict[str, list[int]] = {}
    files: dict[str, tuple[Path, Path]] = {}
    if task is not None and task.kind == "classification":
        if nnunet is not None:
            raise ConfigError(f"nnU-Net's summary is one of segmentations, and task {task.name!r} is a classification")
        names = list(task.labels)
        pairs = class_pairs(Path(reference), Path(prediction), task, cases)
        done = [_answer(name, *pairs.found[name], names) for name in pairs.found]
        summarised = partial(summarise_classes, labels=names)
        settings: dict[str, Any] = {}
    else:
        ids |= {str(k): [int(v) for v in values] for k, values in (labels or task.labels).items()}  # type: ignore[union-attr]
        if labels is not None and (wrong := [k for k, values in ids.items() if not values or min(values) < 1]):
            raise ConfigError(
                f"label {wrong[0]!r} names {ids[wrong[0]]}; a label needs values of 1 or more, 0 is background"
            )
        pairs = find_pairs(Path(reference), Path(prediction), task, cases=cases)
        files |= {name: (file_of(first), file_of(second)) for name, (first, second) in pairs.found.items()}
        others: set[int] = set()

        def score(name: str) -> list[dict[str, Any]] | dict[str, Any]:
            try:
                first, second = read_pair(*pairs.found[name], task)
                if task is None:
                    others.update({v for x in (first, second) for v in map(int, np.unique(x.data))} - {0})
                rows = rule.rows(first, second, ids)
            except InputError as error:
                log.error("%s: %s", name, error)
                return {"case": name, **error.finding.as_dict()}
            except Exception as error:  # whatever it is, the other cases are scored; the trace goes to the log
                log.exception("%s", name)
                finding = Finding("E-UNEXPECTED", "error", None, f"{type(error).__name__}: {error}")
                return {"case": name, **finding.as_dict()}
            return [{"case": name, **row} for row in rows]

        with ThreadPoolExecutor(min(workers or usable_cores(), len(pairs.found))) as pool:
            hidden = None if progress else True
            found = pool.map(score, pairs.found)
            done = list(tqdm(found, total=len(pairs.found), desc="evaluate", disable=hidden))
        summarised = partial(summarise, labels=list(ids), metrics=rule.columns, empty=empty)
        named = {v for values in ids.values() for v in values}
        settings = {**rule.as_dict(), "label_ids": ids, "other_values": sorted(others - named)}
    rows = [row for found in done if isinstance(found, list) for row in found]
    summary = {
        "medseg3d": __version__,
        "task": task.name if task is not None else "",
        **settings,
        "n_cases": len(pairs.found),
        **summarised(rows),
        "failed": [found for found in done if isinstance(found, dict)],
        "unmatched_reference": pairs.unmatched_reference,
        "unmatched_prediction": pairs.unmatched_prediction,
    }
    if groups is not None:
        for row in rows:
            row[f"by_{by}"] = groups.get(row["case"], "")
        values = sorted({value for name in pairs.found if (value := groups.get(name))})
        members = {value: [row for row in rows if groups.get(row["case"]) == value] for value in values}
        summary["by"] = {
            "column": by,
            "groups": {
                v: {"n_cases": len({r["case"] for r in mine}), **summarised(mine)} for v, mine in members.items()
            },
            "without": [name for name in pairs.found if not groups.get(name)],
        }
    evaluation = Evaluation(rows, summary)
    if output is not None:
        evaluation.write(output)
    if nnunet is not None:
        write_nnunet_summary(nnunet_summary(rows, ids, files), nnunet)
    return evaluation


def _answer(name: str, right: str, given: str, labels: Sequence[str]) -> list[dict[str, Any]] | dict[str, Any]:
    if given in labels:
        return [{"case": name, "reference": right, "predicted": given, "correct": int(right == given)}]
    message = f"the class {given!r} is none of {', '.join(labels)}"
    return {"case": name, **Finding("E-LABEL-VALUE", "error", None, message).as_dict()}
