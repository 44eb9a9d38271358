"""Thick slices: a 3D network, and 2D networks slice by slice, each trained for the same time on the same cases.

    python -m benchmarks.slices --minutes 20 [--arms 3d,slices,slices+1] [--thickness 6] [--json FILE] [--quick]

The hippocampus scans of MSD Task04 (1 mm) as a clinic would have them: coronal slices of 6 mm, each the mean of what it covers,
its label the one that most of it has. ``3d`` is what ``medseg3d plan`` chooses for them; ``slices`` has the same spacing within
slices, the same intensities and the same encoder in 2D, ``slices+1`` sees one slice on either side, too. A quarter
of the cases is tested, on the thick grid, and no arm sees it before.
Needs the real data (MEDSEG3D_DATA); ``--quick`` makes phantoms up.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import medseg3d
from benchmarks.measure import machine
from medseg3d.io import find_cases
from medseg3d.metrics.interval import mean_interval
from medseg3d.planning.plan import plan
from medseg3d.task import Task
from medseg3d.volume import AxisMap, Volume
from tests.shared import DATA

SCANS = "msd_task04_hippocampus"
ACROSS = 1
"""The RAS axis across the slices: posterior-anterior, as coronal slices have it."""
TESTED = 4
"""Every so many cases one is tested."""
SLICED = re.compile(r"slices(?:\+(\d))?")
NAMES = {"labels": {"background": 0, "anterior": 1, "posterior": 2}, "channel_names": {"0": "MRI"}}
QUICK = {
    "epochs": 1,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "network": {"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "heads": [1, 2, 5, 8], "decoder_width": 16},
}


def thick(image: Volume, label: Volume, voxels: int) -> tuple[Volume, Volume]:
    """Slices of ``voxels`` voxels along ``ACROSS``: the mean of the image, the most frequent label; what is left over is cut."""
    image, label = image.canonical(), label.canonical()
    count = image.shape[ACROSS] // voxels
    parts = []
    for data in (image.data, label.data):
        whole = np.moveaxis(data[0], ACROSS, 0)[: count * voxels]
        parts.append(whole.reshape(count, voxels, *whole.shape[1:]))
    values = int(parts[1].max()) + 1
    most = np.stack([(parts[1] == value).sum(1) for value in range(values)]).argmax(0)
    start, step = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    start[ACROSS], step[ACROSS] = (voxels - 1) / 2, float(voxels)
    data = np.moveaxis(parts[0].mean(1), 0, ACROSS).astype(np.float32)[None]
    grid = image.grid.mapped(AxisMap((0, 1, 2), tuple(start), tuple(step)), data.shape[1:])
    labels = np.moveaxis(most, 0, ACROSS).astype(np.uint8)[None]
    return Volume(data, grid.affine), Volume(labels, grid.affine)


def real_scans() -> Iterator[tuple[str, Volume, Volume]]:
    root = DATA / SCANS
    if not root.is_dir():
        raise SystemExit(f"the real data are absent ({root}); point MEDSEG3D_DATA at the folder that holds them")
    for case in find_cases(root, medseg3d.load_task("hippocampus"), labels=True).cases:
        assert case.label is not None
        yield (
            case.name,
            medseg3d.read_volume(case.images[0].path),
            medseg3d.read_volume(case.label, labels=True),
        )


def phantoms() -> Iterator[tuple[str, Volume, Volume]]:
    """Two ellipsoids behind each other, 8 times."""
    x, y, z = np.indices((36, 48, 36))
    for seed in range(8):
        random = np.random.default_rng(seed)
        cx, cy, cz = random.uniform(15, 20, 3)
        inside = ((x - cx) / 7) ** 2 + ((y - cy - 5) / 16) ** 2 + ((z - cz) / 6) ** 2 < 1
        label = inside * np.where(y > cy + 5, 1, 2)
        image = 100 + 60 * (label == 1) + 40 * (label == 2) + random.normal(0, 10, label.shape)
        yield (
            f"phantom_{seed}",
            *(Volume(a[None], np.eye(4)) for a in (image.astype(np.float32), label.astype(np.uint8))),
        )


def write(folder: Path, voxels: int, *, quick: bool) -> dict[str, int]:
    """``train/`` and ``test/`` as nnU-Net lays data out; returns how many cases each has."""
    counts = {"train": 0, "test": 0}
    for number, (name, image, label) in enumerate(phantoms() if quick else real_scans()):
        part = "test" if number % TESTED == 0 else "train"
        scan, reference = thick(image, label, voxels)
        medseg3d.write_volume(scan, folder / part / "imagesTr" / f"{name}.nii.gz")
        medseg3d.write_volume(reference, folder / part / "labelsTr" / f"{name}.nii.gz")
        counts[part] += 1
    for part in counts:
        (folder / part / "dataset.json").write_text(json.dumps(NAMES))
    return counts


def tasks(data: Path, seconds: float, arms: list[str], *, quick: bool) -> dict[str, Task]:
    """The task of each arm; all follow from the plan."""
    whole = plan(data, budget_s=seconds, measure_step=not quick)
    planned, extent_mm = whole.task, np.median(whole.fingerprint.extents_mm, axis=0)
    train = {k: v for k, v in planned.train.items() if k not in ("epochs", "steps_per_epoch", "validation_interval")}
    spacing = planned.spacing_mm
    assert spacing is not None
    within = [a for a in range(3) if a != ACROSS]
    patch = tuple(max(math.ceil(extent_mm[a] / spacing[a] / 32 - 0.1), 1) * 32 for a in within)
    batch = 2 ** round(math.log2(train["batch_size"] * math.prod(planned.patch_size) / (4 * math.prod(patch))))
    sliced = {
        "spacing_mm": tuple(spacing[a] for a in within),
        "patch_size": patch,
        "mirror_axes": tuple(within.index(a) for a in planned.mirror_axes if a in within),
        "slices": "thickest",
        "train": {**train, "batch_size": int(min(max(batch, 8), 32))} | {"network": {}},  # strides are of three axes
    }
    found = {"3d": replace(planned, name="volumes", train=train)}
    for arm in arms:
        if match := SLICED.fullmatch(arm):
            found[arm] = replace(planned, name=arm, neighbours=int(match[1] or 0), **sliced)
    return {name: found[name] for name in arms}


def score(task: Task, folder: Path, seconds: float, *, quick: bool) -> tuple[dict[str, float], float]:
    """Train, predict the tested cases, and give the mean Dice of each case, and the minutes that the training took."""
    began = time.monotonic()
    overrides: dict[str, Any] = {}
    if quick:
        overrides = {**QUICK, "network": {**QUICK["network"]}}
    length: dict[str, Any] = {} if quick else {"max_time_s": seconds}
    run = medseg3d.train(
        task, folder / "train", folder / f"run_{task.name}", overrides=overrides, validation_fraction=0.15, **length
    )
    trained = time.monotonic() - began
    out = folder / f"out_{task.name}"
    medseg3d.predict_folder(run, folder / "test" / "imagesTr", out, progress=False)
    rows = medseg3d.evaluate(folder / "test" / "labelsTr", out, task).rows
    cases: dict[str, list[float]] = {}
    for row in rows:
        cases.setdefault(str(row["case"]), []).append(float(row["dice"]))
    print(f"  trained for {trained / 60:.1f} minutes", flush=True)
    return {name: float(np.nanmean(values)) for name, values in cases.items()}, trained / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each arm")
    parser.add_argument("--thickness", type=int, default=6, metavar="MM", help="of the slices")
    parser.add_argument("--arms", default="3d,slices,slices+1", help="of 3d, slices, slices+N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument("--quick", action="store_true", help="phantoms and two steps, to see that it works")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep data and runs here")
    options = parser.parse_args()
    arms = options.arms.split(",")
    if unknown := [arm for arm in arms if arm != "3d" and not SLICED.fullmatch(arm)]:
        parser.error(f"arm {unknown[0]!r} is none of 3d, slices, slices+N")
    figures: dict[str, Any] = {"minutes": options.minutes, "thickness_mm": options.thickness}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        counts = write(folder, options.thickness, quick=options.quick)
        print(f"{counts['train']} cases to train with, {counts['test']} tested, slices of {options.thickness} mm")
        scores = {}
        planned = tasks(folder / "train", 60 * options.minutes, arms, quick=options.quick)
        for name, task in planned.items():
            print(
                f"{name}: patch {list(task.patch_size)} at {list(task.spacing_mm or ())} mm, {task.train}", flush=True
            )
            scores[name], figures[f"{name}.minutes"] = score(task, folder, 60 * options.minutes, quick=options.quick)
    print(f"\nMean Dice of the tested cases\n{machine()}")
    for name, cases in scores.items():
        low, high = mean_interval(list(cases.values()))
        figures |= {f"{name}.dice": float(np.mean([*cases.values()])), f"{name}.low": low, f"{name}.high": high}
        print(f"  {name:12} {figures[f'{name}.dice']:.3f}  [{low:.3f}, {high:.3f}]")
    base = arms[0]
    for name in arms[1:]:
        gains = [scores[name][case] - scores[base][case] for case in scores[base]]
        low, high = mean_interval(gains)
        figures |= {f"{name}.gain": float(np.mean(gains)), f"{name}.gain_low": low, f"{name}.gain_high": high}
        print(f"  {name} - {base}: {np.mean(gains):+.3f}  [{low:+.3f}, {high:+.3f}]")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
