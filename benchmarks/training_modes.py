"""What becomes of accuracy when a trained run predicts in other ways: one pass, flips, bfloat16, several runs, a channel missing.

    python -m benchmarks.training_modes RUN [RUN ..] --data FOLDER [--json FILE]
    python -m benchmarks.training_modes --quick

Scored are the cases of FOLDER that no RUN was trained on. Every way differs in one thing from the first, which is windows in
float32 by the first RUN; with several, the others are scored alone, too, and all of them as an ensemble. A run of several channels
is also scored without each of them, set to zero; predict refuses that of a run trained without channel_dropout, and here is why.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.training_data import TOLERANCE_MM
from benchmarks.training_results import case_means, mean_of, means, number
from medseg3d.io import Case, DataSet


@dataclass(frozen=True)
class Way:
    """A way to predict.

    Args:
        name: of it.
        runs: one, or an ensemble.
        options: of the ``Predictor``, besides float32.
        missing: a channel that is taken away.
    """

    name: str
    runs: tuple[Path, ...]
    options: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None


def ways_of(runs: Sequence[Path], channels: Sequence[str], flips: bool) -> list[Way]:
    """What is compared; the first is what the others differ from."""
    first, every = tuple(runs[:1]), tuple(runs)
    found = [
        Way("windows", first),
        Way("bf16", first, {"precision": "bf16"}),
        Way("whole", first, {"mode": "whole"}),
    ]
    found += [Way("tta", first, {"tta": True})] * flips
    found += [Way(f"run_{number}", (run,)) for number, run in enumerate(runs[1:], start=2)]
    if len(runs) > 1:
        found += [Way("ensemble", every)] + [Way("ensemble_tta", every, {"tta": True})] * flips
    if len(channels) > 1:
        found += [Way(f"missing_{channel}", first, missing=channel) for channel in channels]
    return found


def unseen(runs: Sequence[Path], data: Path) -> tuple[DataSet, list[Case]]:
    """The labelled cases of a folder that none of the runs was trained on."""
    from medseg3d.bundle import read_data
    from medseg3d.inference.model import load_model
    from medseg3d.training.source import find_data

    seen = {case["name"] for run in runs for case in read_data(run)["training"]}
    dataset = find_data(data, load_model(runs[0]).task)
    return dataset, [case for case in dataset.cases if case.name not in seen]


def score(way: Way, dataset: DataSet, cases: Sequence[Case], folder: Path) -> tuple[dict[str, dict[str, float]], float]:
    """Metrics of each case, and the seconds that computing took, reading and writing apart."""
    from medseg3d import write_volume
    from medseg3d.evaluation import evaluate
    from medseg3d.inference.predictor import Predictor
    from medseg3d.inference.results import output_files
    from medseg3d.io import read_image

    options: dict[str, Any] = {"precision": "float32", **way.options}
    if way.missing is not None:
        # As if every run had learned to do without: what the others make of it is to be seen.
        options |= {"missing": [way.missing], "channel_dropout": 1.0}
    predictor = Predictor.from_bundle(list(way.runs), **options)
    task = predictor.task
    kept = [i for i, channel in enumerate(task.channels) if channel != way.missing]
    given = replace(task, channels={c: names for c, names in task.channels.items() if c != way.missing})
    seconds = 0.0
    for case in cases:
        volume = read_image(replace(case, images=tuple(case.images[i] for i in kept)), given)
        began = time.perf_counter()
        labels = predictor(volume)
        seconds += time.perf_counter() - began
        write_volume(labels, output_files(case, folder)["labels"])
    names = [case.name for case in cases]
    found = evaluate(dataset.root, folder, task, output=folder / "scores", cases=names, tolerance_mm=TOLERANCE_MM)
    if found.summary["failed"]:
        raise SystemExit(f"not scored: {found.summary['failed']}")
    return case_means(folder / "scores" / "per_case.csv"), seconds


def compare(runs: Sequence[Path], data: Path, *, most_cases: int | None = None) -> dict[str, Any]:
    """Figures of every way, as ``WAY.FIGURE``."""
    from medseg3d.inference.model import load_model

    model = load_model(runs[0])
    dataset, cases = unseen(runs, data)
    cases = cases[:most_cases]
    if not cases:
        raise SystemExit(f"every case of {data} was trained on; give a folder that holds others")
    figures: dict[str, Any] = {"cases": len(cases), "channel_dropout": model.channel_dropout}
    first: dict[str, dict[str, float]] = {}
    for way in ways_of(runs, list(model.task.channels), bool(model.task.mirror_axes)):
        with tempfile.TemporaryDirectory() as folder:
            found, seconds = score(way, dataset, cases, Path(folder))
        first = first or found
        cases_in_both = [name for name in found if name in first]
        figures[f"{way.name}.dice"] = mean_of(list(found.values()), "dice")
        figures[f"{way.name}.dice_change"] = statistics.fmean(
            found[name]["dice"] - first[name]["dice"] for name in cases_in_both
        )
        figures |= {f"{way.name}.{key}": value for key, value in means(list(found.values())).items()}
        figures[f"{way.name}.seconds"] = seconds
    return figures


def table(figures: dict[str, Any]) -> str:
    """In Markdown."""
    lines = ["| way | Dice | change | HD95, mm | NSD at 1 mm | labels not found | seconds |", "|" + "---|" * 7]
    for name in [key.removesuffix(".dice") for key in figures if key.endswith(".dice")]:
        dice, change, distance, nsd, lost, seconds = (
            figures[f"{name}.{key}"] for key in ("dice", "dice_change", "hd95_mm", "nsd_1mm", "lost", "seconds")
        )
        lines.append(
            f"| {name} | {dice:.4f} | {change:+.4f} | {number(distance, 2)} | {number(nsd, 4)} | {lost:.1%} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def quick_runs(folder: Path) -> list[Path]:
    """Two runs of one step each on the sample heads, coarse and small."""
    from medseg3d.training.run import train

    size = {"patch_size": [32, 32, 32], "spacing_mm": [6, 6, 6], "steps_per_epoch": 1, "channel_dropout": 0.2}
    return [
        train(
            "brats", None, folder / f"run {seed}", overrides={**size, "seed": seed}, epochs=1, validation_fraction=0.1
        )
        for seed in range(2)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="run directories, of the same task")
    add("--data", type=Path, metavar="FOLDER", help="labelled cases, those trained on among them or not")
    add("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    add("--quick", action="store_true", help="train two tiny runs and try all on one case; its figures mean nothing")
    options = parser.parse_args()
    logging.getLogger("medseg3d").setLevel(logging.ERROR)  # a model of phantoms says so each time
    if options.quick:
        from medseg3d import sample_data_folder

        with tempfile.TemporaryDirectory() as folder:
            figures = compare(quick_runs(Path(folder)), sample_data_folder() / "brats", most_cases=1)
    elif not options.runs or options.data is None:
        parser.error("give one or more RUN and --data FOLDER")
    else:
        figures = compare(options.runs, options.data)
    print(
        f"{figures['cases']} unseen cases, channel_dropout {figures['channel_dropout']:g}\n{machine()}\n{table(figures)}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
