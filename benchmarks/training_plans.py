"""The data sets that ``medseg3d plan`` is tried on without changes, against MONAI's DynUNet as nnU-Net configures it for each.

    python -m benchmarks.training --piece DATASET:SIDE:MINUTES
    python -m benchmarks.training_plans --quick              both sides on the sample, a few steps
    python -m benchmarks.training_nnunet DATASET             what nnU-Net plans, the numbers of CONFIGURATIONS

Which data, and which part of them is tested: benchmarks/training_data.py. DynUNet's settings: benchmarks/training_dynunet.py.

Ours is what ``medseg3d train --data FOLDER --max-time TIME`` does, planning within the time, but that no case is kept back to
choose the best weights by: the last ones count, as with DynUNet, whose plan costs it no time. All is scored by medseg3d evaluate.
On a machine that others use, both sides of a data set are best run at once, tied to a core each (``taskset -c 0``, ``-c 1``, and a
``--work`` folder each): what slows the machine then slows both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import arguments, machine, report
from benchmarks.training_data import DATASETS, TOLERANCE_MM, find_dataset

SIDES = ("medseg3d", "dynunet", "dynunet_bf16")


@dataclasses.dataclass(frozen=True)
class PlanPiece:
    """One training of one side on one data set."""

    dataset: str
    side: str
    minutes: float

    @classmethod
    def read(cls, text: str) -> PlanPiece:
        """``DATASET:SIDE:MINUTES``.

        Raises:
            ValueError: for anything else.
        """
        dataset, side, minutes = text.split(":")
        if dataset not in DATASETS or side not in SIDES:
            raise ValueError(text)
        return cls(dataset, side, float(minutes))

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.side}-{self.minutes:g}min"


def run_plan_piece(
    piece: PlanPiece, work: Path, kept: Path, *, data: Path | None = None, most_steps: int | None = None
) -> dict[str, Any]:
    """Train, predict and score one piece; returns and writes what is kept of it. What is there already is not done again."""
    done = kept / piece.name / "piece.json"
    if done.exists():
        print(f"{piece.name} is done; remove {done.parent} (and {work / 'plans' / piece.name}) to do it again")
        return dict(json.loads(done.read_text()))
    began = time.monotonic()
    from medseg3d.evaluation import evaluate

    folder = work / "plans" / piece.name
    source, dataset, task, tested = find_dataset(piece.dataset, work / "plans" / "data", data)
    training = [case for case in dataset.cases if case not in tested]
    if most_steps is not None:  # a trial: one case shows that it works
        tested = tested[:1]
    out = folder / "predictions"
    if piece.side == "medseg3d":
        from medseg3d.inference.folder import predict_folder

        names = {"training": [c.name for c in training], "validation": []}
        left = piece.minutes * 60 - (time.monotonic() - began)
        found = train_planned(source, folder / "run", names, left, most_steps)
        result = predict_folder(folder / "run", source, out, cases=tested, progress=False)
        if result.failed:
            raise SystemExit("\n".join(result.failures()))
        weights = folder / "run" / "models" / "model.safetensors"
    else:
        from benchmarks.training_dynunet import CONFIGURATIONS, for_a_processor, train_dynunet

        chosen = CONFIGURATIONS[piece.dataset]
        if piece.side == "dynunet_bf16":
            chosen = for_a_processor(chosen)
        found = train_dynunet(chosen, dataset, training, tested, task, folder, piece.minutes * 60, began, most_steps)
        weights = folder / "state.pt"
    scores = evaluate(
        source, out, task, output=kept / piece.name, cases=[c.name for c in tested], tolerance_mm=TOLERANCE_MM
    )
    if scores.summary["failed"]:
        raise SystemExit(f"not scored: {scores.summary['failed']}")
    about = {
        **dataclasses.asdict(piece),
        "trained_on": len(training),
        "tested_on": len(tested),
        **found,
        "mean": scores.summary["mean"],
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "machine": machine(),
    }
    (kept / piece.name / "summary.json").unlink()  # per_case.csv says it all
    done.write_text(json.dumps(about, indent=1) + "\n")
    return about


def train_planned(
    source: Path, run: Path, names: dict[str, list[str]], seconds: float, most_steps: int | None
) -> dict[str, Any]:
    """Train ours with the task that is planned for the data and the time; a run that was stopped goes on."""
    import yaml

    from benchmarks.training import trained
    from medseg3d.training.run import train

    began = time.monotonic()
    resume = (run / "configs" / "train.yaml").exists()
    length: dict[str, Any] = {"max_time_s": seconds}
    if most_steps is not None:
        length = {"epochs": 1, "overrides": {"steps_per_epoch": most_steps}}
    train(None, source, run, resume=resume, split=names, **length)
    planned = yaml.safe_load((run / "configs" / "task.yaml").read_text())
    chosen = {key: planned[key] for key in ("patch_size", "spacing_mm", "intensity", "mirror_axes", "train")}
    return {"planned": chosen, **trained(run, began)}


def main() -> None:
    options = arguments("Two steps of both sides on the sample heads; benchmarks/training.py runs the pieces.")
    figures: dict[str, Any] = {}
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES[:2]:
            piece = PlanPiece("brats_sample", side, 1)
            began = time.monotonic()
            about = run_plan_piece(piece, Path(folder), Path(folder, "kept"), most_steps=2)
            rows[f"{piece.name}: two steps, and all around them"] = time.monotonic() - began
            figures[f"plans.brats_sample.{side}.steps"] = about["steps"]
            figures[f"plans.brats_sample.{side}.parameters"] = about["parameters"]
    report("Plans", rows, figures, options.json)


if __name__ == "__main__":
    main()
