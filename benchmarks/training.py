"""Training against MONAI's DynUNet, nnU-Net and the published SegFormer3D: accuracy at equal wall clock, speed, the data path.

    python -m benchmarks.training --only pipeline            a step with the whole data path over one on a fixed batch
    python -m benchmarks.training --only speed               steps per second and peak memory at the same patch and batch
    python -m benchmarks.training --piece SIDE:SEED:MINUTES --data HIPPOCAMPUS
    python -m benchmarks.training --piece SIDE:foldK:MINUTES --data HIPPOCAMPUS
    python -m benchmarks.training --piece DATASET:SIDE:MINUTES           see benchmarks/training_plans.py
    python -m benchmarks.training --collect                  docs/results.json from all pieces that are there, and tables

Sides: medseg3d, dynunet, dynunet_bf16, segformer3d, nnunet. A piece trains one side on the fixed 80/20 split (or on all folds
but one of five), alone on the machine, for a wall clock that holds everything from reading the data to the trained network; it
predicts the other cases and leaves their scores, and the hash of its weights, in docs/results/training/. What was stopped goes on
with the time it had left. Scores: Dice, HD95 and NSD at 1 mm, by medseg3d evaluate.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if any(
    "medseg3d:" in word for word in sys.argv
):  # a piece of ours; its command line does so, those of the peers do not
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.measure import machine, report
from benchmarks.training_data import DATASETS, TOLERANCE_MM
from benchmarks.training_plans import PlanPiece, run_plan_piece
from benchmarks.training_results import FOLDS, collect, tables

ROOT = Path(__file__).parent.parent
PIECES = ROOT / "docs" / "results" / "training"
RESULTS = ROOT / "docs" / "results.json"
SIDES = ("medseg3d", "dynunet", "dynunet_bf16", "segformer3d", "nnunet")
TASK = "hippocampus"
PIPELINES = {
    "pipeline_over_fixed": "hippocampus",
    "pipeline_over_fixed_4_channels": "brats",
    "pipeline_over_fixed_2d": "nuclei",
}


@dataclass(frozen=True)
class Piece:
    """One training of one side.

    Args:
        side: one of ``SIDES``.
        seed: of the training; 0 for a fold.
        minutes: wall clock.
        fold: left out, from 1; None for the fixed split.
    """

    side: str
    seed: int
    minutes: float
    fold: int | None = None

    @classmethod
    def read(cls, text: str) -> Piece:
        """``SIDE:SEED:MINUTES`` or ``SIDE:foldK:MINUTES``."""
        match = re.fullmatch(r"(\w+):(?:(\d+)|fold([1-5])):(\d+(?:\.\d+)?)", text)
        if not match or match[1] not in SIDES:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be SIDE:SEED:MINUTES or SIDE:foldK:MINUTES, SIDE one of {', '.join(SIDES)}; or "
                f"DATASET:SIDE:MINUTES, DATASET one of {', '.join(DATASETS)}, SIDE medseg3d or dynunet"
            )
        return cls(match[1], int(match[2] or 0), float(match[4]), int(match[3]) if match[3] else None)

    @property
    def name(self) -> str:
        part = f"seed{self.seed}" if self.fold is None else f"fold{self.fold}"
        return f"{self.side}-{self.minutes:g}min-{part}"


def run_piece(
    piece: Piece, data: Path, work: Path, kept: Path, *, settings: Mapping[str, Any], most_steps: int | None
) -> dict[str, Any]:
    """Train, predict and score one piece; returns and writes what is kept of it."""
    began = time.monotonic()
    from medseg3d.evaluation import evaluate
    from medseg3d.io import split_cases
    from medseg3d.task import load_task
    from medseg3d.training.folds import assign_folds, groups_of, traits_of
    from medseg3d.training.source import find_data

    task = load_task(TASK)
    dataset = find_data(data, task)
    if piece.fold is None:
        training, validation = split_cases(dataset.cases)
    else:
        folds = assign_folds(groups_of(dataset.cases), traits_of(dataset, task), FOLDS)
        training = [c for c in dataset.cases if folds[c.name] != piece.fold]
        validation = [c for c in dataset.cases if folds[c.name] == piece.fold]
    if most_steps is not None:  # a trial: a few cases show that it works
        validation = validation[:4]
    folder, seconds = work / piece.name, piece.minutes * 60
    out = folder / "predictions"
    names = {"training": [c.name for c in training], "validation": [c.name for c in validation]}
    if piece.side == "medseg3d":
        left = seconds - (time.monotonic() - began)
        found = _medseg3d(piece, data, folder, names, settings, left, most_steps)
        from medseg3d.inference.folder import predict_folder

        predict_folder(folder / "run", data, out, cases=validation, progress=False)
        weights = folder / "run" / "models" / "model.safetensors"
    elif piece.side == "nnunet":
        from benchmarks.training_nnunet import train_nnunet

        found, weights = train_nnunet(
            dataset,
            names,
            task,
            folder,
            out,
            seconds=seconds,
            seed=piece.seed,
            began=began,
            most_steps=most_steps,
        )
    else:
        from benchmarks.training_loop import load, predict_side, train_side
        from benchmarks.training_sides import SIDES as OTHERS
        from benchmarks.training_speed import count_parameters

        side = OTHERS[piece.side]
        network, found = train_side(
            side,
            load(dataset, training, task),
            task,
            folder,
            seconds=seconds,
            seed=piece.seed,
            began=began,
            most_steps=most_steps,
        )
        found["parameters"] = count_parameters(network)
        predict_side(side, network, validation, task, out)
        weights = folder / "state.pt"
    scores = evaluate(data, out, task, output=kept / piece.name, cases=names["validation"], tolerance_mm=TOLERANCE_MM)
    about = {
        "side": piece.side,
        "seed": piece.seed,
        "fold": piece.fold,
        "minutes": piece.minutes,
        **found,
        "settings": dict(settings) if piece.side == "medseg3d" else {},
        "mean": scores.summary["mean"],
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "machine": machine(),
    }
    (kept / piece.name / "piece.json").write_text(json.dumps(about, indent=1) + "\n")
    (kept / piece.name / "summary.json").unlink()  # per_case.csv says it all
    return about


def _medseg3d(
    piece: Piece,
    data: Path,
    folder: Path,
    names: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    seconds: float,
    most_steps: int | None,
) -> dict[str, Any]:
    """Train ours with ``medseg3d train``'s own function and defaults; a run that was stopped goes on."""
    from medseg3d.training.run import train

    run = folder / "run"
    began = time.monotonic()
    length: dict[str, Any] = {"max_time_s": seconds}
    changes = {**settings, "seed": piece.seed}
    if most_steps is not None:
        length, changes = {"epochs": 1}, {**changes, "steps_per_epoch": most_steps}
    # Nothing to validate on: the scored cases choose no weights, and the last ones are kept, as the other sides do.
    split = {"training": names["training"], "validation": []}
    train(TASK, data, run, overrides=changes, resume=(run / "configs" / "train.yaml").exists(), split=split, **length)
    return trained(run, began)


def trained(run: Path, began: float) -> dict[str, Any]:
    """Steps, seconds and size of one of our runs."""
    from safetensors import safe_open

    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    with safe_open(run / "models" / "model.safetensors", "np") as weights:
        sizes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118
    return {
        "steps": int(rows[-1]["step"]),
        "seconds": round(time.monotonic() - began, 1),  # of the last call, where it was stopped between
        "training_seconds": round(sum(float(row["seconds"]) for row in rows), 1),
        "parameters": sum(math.prod(shape) for shape in sizes),
    }


def speed_and_pipeline(options: argparse.Namespace) -> None:
    """``--only``: what needs no data."""
    from benchmarks.training_speed import BF16, compared, pipeline

    figures: dict[str, Any] = {}
    rows: dict[str, float] = {}
    if options.only in (None, "pipeline"):
        tasks = dict(list(PIPELINES.items())[:1]) if options.quick else PIPELINES
        for key, task in tasks.items():
            whole, fixed = pipeline(task, 3 if options.quick else options.repeats * 5, shrink=2 if options.quick else 1)
            rows[f"{task}: a step with the whole data path"] = whole
            rows[f"{task}: a step on a fixed batch"] = fixed
            figures[key] = whole / fixed
    if options.only in (None, "speed"):
        found = compared(
            2 if options.quick else 8, 2 if options.quick else 1, 1 if options.quick else min(options.repeats, 3)
        )
        for side, values in found.items():
            rows[f"{side}: a training step"] = values["step_s"]
            figures[f"steps_per_s.{side}"] = 1 / values["step_s"]
            figures[f"peak_mb.{side}"] = values["peak_mb"]
            figures[f"parameters.{side}"] = values["parameters"]
            ours = "medseg3d" + (BF16 if side.endswith(BF16) else "")
            if side != ours:
                figures[f"train_speedup_over_{side}"] = values["step_s"] / found[ours]["step_s"]
    report("Training", rows, figures, options.json)


def read_piece(text: str) -> Piece | PlanPiece:
    """Of either kind."""
    try:
        return PlanPiece.read(text)
    except ValueError:
        return Piece.read(text)


def main() -> None:
    from medseg3d.cli.values import setting

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", choices=("pipeline", "speed"))
    add("--piece", type=read_piece, metavar="SIDE:SEED:MINUTES|DATASET:SIDE:MINUTES")
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="for --piece: hippocampus data; of a DATASET the folder of real data",
    )
    add("--work", type=Path, default=ROOT / "runs" / "benchmark", metavar="FOLDER", help="where pieces train")
    add("--set", type=setting, action="append", default=[], metavar="KEY=VALUE", help="a setting of medseg3d's side")
    add(
        "--steps",
        type=int,
        metavar="N",
        help="end a piece after N steps, to see that it works; kept apart from results",
    )
    add("--collect", action="store_true", help="write docs/results.json from the pieces")
    add("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    add("--quick", action="store_true", help="small sizes, to see that it works; its figures mean nothing")
    add("--repeats", type=int, default=7)
    options = parser.parse_args()
    if isinstance(options.piece, PlanPiece):
        if options.set:
            parser.error("a plan is tried without changes; leave --set out")
        kept = (PIECES if options.steps is None else options.work / "tried") / "plans"
        about = run_plan_piece(options.piece, options.work, kept, data=options.data, most_steps=options.steps)
        print(json.dumps(about, indent=1))
    elif options.piece is not None:
        if options.data is None:
            parser.error("--piece needs --data FOLDER")
        kept = PIECES if options.steps is None else options.work / "tried"
        about = run_piece(
            options.piece, options.data, options.work, kept, settings=dict(options.set), most_steps=options.steps
        )
        print(json.dumps(about, indent=1))
    elif options.collect:
        # Figures that other benchmarks put there stay.
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found = collect(PIECES)
        RESULTS.write_text(json.dumps(before | found, indent=1, sort_keys=True) + "\n")
        print(f"{RESULTS}\n\n{tables(found)}")
    else:
        speed_and_pipeline(options)


if __name__ == "__main__":
    main()
