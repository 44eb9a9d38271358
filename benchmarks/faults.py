"""What is lost when a training or a folder prediction is killed: nothing.

python -m benchmarks.faults [--kills 50] [--json FILE] [--quick]

A small training and a small prediction are killed with SIGKILL again and again and started again, until so many kills are
made of trainings (with samples made in turn, and by 2 workers) and of predictions. Every second kill comes at a random time,
the others before a random one of the calls that change files, where something could be left half done. A killed run that came
to its end is compared with one that was never killed, bit for bit. Children are forked, so that a start takes no imports; this
runs on Linux and macOS alone.

kills, resumed: of trainings; and after how many of them the next start went on.
bit_equal: part of the killed trainings that ended with the weights, the state and the scores of the uninterrupted one.
lost: kills after which a saved state was gone, of trainings; or a case counted as done whose files were not whole.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads must not be forked

import numpy as np
import torch

from benchmarks.kills import Tally, killed_again_and_again
from benchmarks.measure import machine
from medseg3d import Task, Volume, predict_folder, train, write_volume
from medseg3d.inference.sidecar import DONE, damage, read_sidecar
from medseg3d.training.checkpoint import LAST, PREVIOUS, load_state

BALL = {
    "name": "ball",
    "channels": {"MRI": ["MR"]},
    "labels": {"shell": [1], "core": [2]},
    "patch_size": [16, 16, 16],
    "spacing_mm": [1.0, 1.0, 1.0],
}
SETTINGS = {
    "network": {
        "widths": [8, 16, 20, 32],
        "depths": [1, 1, 1, 1],
        "heads": [1, 2, 5, 8],
        "decoder_width": 16,
        "drop_path": 0.2,
    },
    "steps_per_epoch": 2,
    "validation_interval": 1,
    "warmup_epochs": 1,
    "precision": "float32",
    "device": "cpu",
}
EPOCHS, SCANS = 4, 6

IMPORTED_ONCE = (
    "monai.bundle",
    "monai.inferers",
    "monai.losses",
    "medseg3d.training.trainer",
    "medseg3d.training.losses",
)
"""What a training imports when it begins."""


def write_balls(folder: Path, count: int) -> Path:
    """Images and labels of balls with a bright core."""
    for seed in range(count):
        noise = np.random.default_rng(seed)
        shape = (22, 20, 18)
        centre = np.array(shape) / 2 + noise.uniform(-2, 2, 3)
        distance = np.linalg.norm(np.stack(np.indices(shape), -1) - centre, axis=-1)
        label = (distance < 7).astype(np.uint8) + (distance < 3.5)
        image = np.array([100, 200, 300], np.float32)[label] + noise.normal(0, 20, shape).astype(np.float32)
        write_volume(Volume(image[None].astype(np.float32), np.eye(4)), folder / "images" / f"ball_{seed}.nii.gz")
        write_volume(Volume(label[None].astype(np.uint8), np.eye(4)), folder / "labels" / f"ball_{seed}.nii.gz")
    return folder


def training(data: Path, workers: int) -> Callable[[Path], Any]:
    """A training that goes on where there is one."""
    settings = SETTINGS | {"workers": workers}
    return lambda run: train(Task.from_dict(BALL), data, run, overrides=settings, epochs=EPOCHS, resume=True)


def saved_step(run: Path) -> int:
    """The step to go on from."""
    models = run / "models"
    if not (models / LAST).exists() and not (models / PREVIOUS).exists():
        return 0
    return int(load_state(models)["step"])


def same_training(first: Path, second: Path) -> bool:
    """Whether weights, average, optimiser and scores are the same, bit for bit."""
    states = [load_state(run / "models") for run in (first, second)]
    for state in states:
        for row in state["rows"]:
            row.pop("seconds")
    weights = [torch.load(run / "models" / "model.pt", weights_only=True) for run in (first, second)]
    return same(*states) and same(*weights)


def same(a: Any, b: Any) -> bool:
    """Whether two states hold the same."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or repr(a) == repr(b)  # NaN


def done_cases(output: Path) -> int:
    """How many cases count as done.

    Raises:
        ValueError: one counts as done, and its files are not whole.
    """
    found = 0
    for path in sorted(output.glob("*.nii.gz.json")):
        sidecar = read_sidecar(path)
        if sidecar is None or sidecar["status"] != DONE:
            raise ValueError(f"{path.name} cannot be read")
        if (why := damage(sidecar, output, ["labels"])) is not None:
            raise ValueError(f"{path.name}: {why}")
        found += 1
    return found


def same_labels(first: Path, second: Path) -> bool:
    """Whether two output folders hold the same files, and labels the same bytes; half files go when they are old."""
    names, theirs = (sorted(p.name for p in f.iterdir() if not p.name.startswith(".tmp-")) for f in (first, second))
    labels = [name for name in names if name.endswith(".nii.gz")]
    return names == theirs and all((first / n).read_bytes() == (second / n).read_bytes() for n in labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of each kind of work; default 50")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument("--quick", action="store_true", help="2 kills, to see that it works")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    kills = 2 if options.quick else options.kills
    chance = random.Random(options.seed)
    torch.set_num_threads(1)
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_balls(folder / "data", SCANS)
        for workers in (0, 2):
            place = folder / f"training_{workers}"
            place.mkdir()
            work = training(data, workers)
            tallies[f"training, {workers} workers"] = killed_again_and_again(
                work, saved_step, same_training, place, kills=kills, chance=chance
            )
        model, place = folder / "training_0" / "uninterrupted", folder / "prediction"
        place.mkdir()
        tallies["folder prediction"] = killed_again_and_again(
            lambda out: predict_folder(model, data / "images", out, progress=False),
            done_cases,
            same_labels,
            place,
            kills=kills,
            chance=chance,
        )
    print(f"killed with SIGKILL and started again\n{machine()}")
    print(f"{'':24} {'kills':>6} {'went on':>8} {'lost':>5} {'finished':>9} {'bit-equal':>10}")
    for name, tally in tallies.items():
        print(
            f"{name:24} {tally.kills:6} {tally.resumed:8} {tally.lost:5} {tally.finished:9} {tally.equal:10}",
            *tally.messages,
            sep="\n",
        )
    *trainings, prediction = tallies.values()
    finished = sum(t.finished for t in trainings)
    figures = {
        "kills": sum(t.kills for t in trainings),
        "resumed": sum(t.resumed for t in trainings),
        "bit_equal": sum(t.equal for t in trainings) / finished if finished else 0.0,
        "lost": sum(t.lost for t in tallies.values()),
        "prediction_kills": prediction.kills,
        "prediction_resumed": prediction.resumed,
        "prediction_equal": prediction.equal / prediction.finished if prediction.finished else 0.0,
    }
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
