"""Numbers of label maps: evaluate, statistics, compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg3d.checks import ConfigError
from medseg3d.cli.exits import OK, of_cases
from medseg3d.cli.parser import add_json
from medseg3d.cli.values import label, not_negative, whole

if TYPE_CHECKING:
    from medseg3d.metrics.lesions import LesionRule


def evaluate_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--reference", type=Path, required=True, metavar="FOLDER", help="label maps, or a data set's folder")
    add("--prediction", type=Path, required=True, metavar="FOLDER")
    add("--task", help="name or .yaml file: what the values mean")
    add("--model", type=Path, metavar="RUN", help="take the task of this model instead")
    add("--labels", type=label, action="append", metavar="NAME=IDS", help="instead of a task, as liver=1 or tumour=2,3")
    add("-o", "--output", type=Path, metavar="FOLDER", help="write per_case.csv and summary.json here")
    add("--nnunet", type=Path, metavar="JSON", help="write the scores as nnU-Net's summary.json, too")
    add("--by", metavar="COLUMN", help="summarise subgroups by this column of --by-csv")
    add("--by-csv", type=Path, metavar="FILE", help="table with a column 'case'")
    add("--lesions", action="store_true", help="score lesion by lesion, too, as BraTS does")
    add("--lesion-dilation", type=whole, metavar="VOXELS", help="how far apart parts of one lesion may lie; default 3")
    add("--lesion-smallest", type=not_negative, metavar="MM3", help="lesions up to this size do not count; default 50")
    add("--lesion-penalty", type=not_negative, metavar="MM", help="distance of a missed or false lesion; default 374")
    add("--definition", default="surface", choices=("surface", "voxel", "pooled", "mesh"), help="of surface distances")
    add("--percentile", type=float, default=95, help="of the Hausdorff distance; default 95")
    add("--tolerance-mm", type=float, help="of the normalised surface Dice, which is left out without it")
    add("--empty", choices=("nan", "one"), default="nan", help="both masks empty: left out of means, or 1")
    add_json(sub)


def lesion_rule(options: argparse.Namespace) -> LesionRule | None:
    """What ``--lesions`` and its kin ask for; what is not given is as in BraTS."""
    from medseg3d.metrics.lesions import LesionRule

    asked = {
        "dilation_voxels": options.lesion_dilation,
        "smallest_mm3": options.lesion_smallest,
        "penalty_mm": options.lesion_penalty,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if given and not options.lesions:
        raise ConfigError("--lesion-dilation, --lesion-smallest and --lesion-penalty say how; give --lesions, too")
    return LesionRule(**given) if options.lesions else None


def evaluate(options: argparse.Namespace) -> int:
    """Score predicted label maps against references: Dice, Hausdorff distances and more, per case and label."""
    from medseg3d.evaluation import evaluate as score

    given = [name for name in ("task", "model", "labels") if getattr(options, name)]
    if len(given) != 1:
        raise ConfigError(
            "evaluate needs to know what the values mean: give one of --task NAME, --model RUN, --labels NAME=IDS"
        )
    evaluation = score(
        options.reference,
        options.prediction,
        options.task or (task_of_model(options.model) if options.model else None),
        labels=dict(options.labels) if options.labels else None,
        by=options.by,
        by_csv=options.by_csv,
        lesions=lesion_rule(options),
        nnunet=options.nnunet,
        output=options.output,
        definition=options.definition,
        percentile=options.percentile,
        tolerance_mm=options.tolerance_mm,
        empty=options.empty,
        progress=True,
    )
    print(evaluation.json() if options.json else evaluation.table())
    if options.output and not options.json:
        print(f"written: {options.output / 'per_case.csv'}, {options.output / 'summary.json'}")
    return of_cases(evaluation.rows, evaluation.summary["failed"])


def values_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--task", help="name or .yaml file: what the values mean; default: each value is a label of its own")
    add("--model", type=Path, metavar="RUN", help="take the task of this model instead")
    add("--labels", dest="names", type=label, action="append", metavar="NAME=IDS", help="instead of a task, as liver=1")


def values_of_labels(options: argparse.Namespace) -> Any:
    """The task that ``--task`` or ``--model`` gives; None with neither."""
    if sum(map(bool, (options.task, options.model, options.names))) > 1:
        raise ConfigError("what the values mean is said twice: give one of --task NAME, --model RUN, --labels NAME=IDS")
    return options.task or (task_of_model(options.model) if options.model else None)


def named_values(options: argparse.Namespace) -> dict[str, list[int]] | None:
    """The labels that ``--labels`` gives."""
    return dict(options.names) if options.names else None


def task_of_model(model: Path) -> Any:
    """The task that a model was trained for."""
    from medseg3d.inference.model import load_model

    return load_model(model).task


def statistics_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("labels", type=Path, metavar="LABELS", help="folder of label maps, or one")
    add("--images", type=Path, metavar="FOLDER", help="the scans, found by name: intensities, too (HU of a CT)")
    values_options(sub)
    add("-o", "--output", type=Path, metavar="CSV", help="write a table with a line per case and label")
    add_json(sub)


def statistics(options: argparse.Namespace) -> int:
    """Measure label maps for radiomics: volume, surface, longest diameters, intensities, per case and label."""
    from medseg3d.statistics import statistics as measure
    from medseg3d.statistics import write_statistics

    found = measure(options.labels, values_of_labels(options), names=named_values(options), images=options.images)
    if options.output:
        write_statistics(found.rows, options.output)
    print(found.json() if options.json else found.table())
    if options.output and not options.json:
        print(f"written: {options.output}")
    return of_cases(found.rows, found.failed)


def compare_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("a", type=Path, metavar="A", help="output folder of an evaluation; with --longitudinal label maps, or one")
    add("b", type=Path, metavar="B", help="another of the same cases; differences are B - A")
    add("--label", action="append", dest="labels", metavar="NAME", help="compare this label alone; may be repeated")
    add("--metric", action="append", dest="metrics", metavar="COLUMN", help="compare this column; may be repeated")
    add(
        "--longitudinal",
        action="store_true",
        help="two time points: each label's volume, its change, and how sure that is",
    )
    values_options(sub)
    add_json(sub)


def compare(options: argparse.Namespace) -> int:
    """Compare two evaluations of the same cases: paired differences, intervals, wins."""
    from medseg3d.comparison import compare as pair

    if options.longitudinal:
        return _compare_time_points(options)
    if any((options.task, options.model, options.names)):
        raise ConfigError("--task, --model and --labels belong to --longitudinal; evaluations know their labels")
    comparison = pair(options.a, options.b, labels=options.labels, metrics=options.metrics)
    print(comparison.json() if options.json else comparison.table())
    return OK


def _compare_time_points(options: argparse.Namespace) -> int:
    """The volumes of labels at two time points."""
    from medseg3d.longitudinal import longitudinal

    if options.labels or options.metrics:
        raise ConfigError("--label and --metric choose from evaluations; for --longitudinal give --labels NAME=IDS")
    found = longitudinal(options.a, options.b, values_of_labels(options), names=named_values(options))
    print(found.json() if options.json else found.table())
    return of_cases(found.rows, found.failed)
