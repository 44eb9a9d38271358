"""Whole-volume prediction against MONAI's sliding window over the paper's formulation of the network; same weights, same windows.

    python -m benchmarks.predict [--brats RUN] [--ct RUN] [--only NAME ..] [--json FILE] [--quick]

Each side lives in a process of its own; the sides of a scene take turns. Theirs: monai.inferers.sliding_window_inference (Gaussian,
overlap 0.5, float32, batches of 4 windows as in SegFormer3D's released validation), then argmax or threshold on the source grid.
Both begin with the same scan in memory and end with labels on its grid; no window is skipped. RUN: see benchmarks/published.py;
without one the weights are random, and the agreement says nothing. Ratios are theirs / ours, larger is better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import interleaved, machine
from benchmarks.predict_side import Scene

PAIRS = ("brats", "ct", "ct_resampled")
NAMES = (*PAIRS, "whole_body", "defaults", "growth")


class Side:
    """A process that holds one side of a scene."""

    def __init__(self, name: str, scene: Scene, sw_batch_size: int, reference: Path | None = None) -> None:
        words = [sys.executable, "-m", "benchmarks.predict_side", name, scene.as_json(), str(sw_batch_size)]
        words += [str(reference)] if reference else []
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name
        self.before = self._answer()["bytes"]
        self.peak = 0

    def _ask(self, request: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side of the benchmark ended early, with {self.process.wait()}")
        return json.loads(line)

    def run(self) -> float:
        """Seconds of one prediction."""
        answer = self._ask("run")
        self.peak = answer["bytes"]
        return float(answer["seconds"])

    def labels(self, folder: Path) -> np.ndarray:
        self._ask(f"labels {folder / f'{self.name}.npy'}")
        return np.load(folder / f"{self.name}.npy")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def dice(labels: np.ndarray, reference: np.ndarray, regions: bool) -> float:
    """Mean over the labels of the reference; of regions, each value and those above it."""
    values = [v for v in np.unique(reference) if v]
    pairs = [(labels >= v, reference >= v) if regions else (labels == v, reference == v) for v in values]
    return float(np.mean([2 * np.logical_and(a, b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def compare(name: str, scene: Scene, sides: Sequence[str], repeats: int, sw_batch_size: int) -> dict[str, float]:
    """Seconds, peak memory, agreement and Dice of each side."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference_file = Path(folder, "reference.npy")
        running = [Side(s, scene, sw_batch_size, reference_file if s == "theirs" else None) for s in sides]
        seconds = interleaved({s.name: s.run for s in running}, repeats)
        labels = {s.name: s.labels(Path(folder)) for s in running}
        reference = np.load(reference_file) if reference_file.exists() else None
        for side in running:
            side.close()
            key = f"{name}_{side.name}"
            figures[f"{key}_seconds"] = seconds[side.name]
            figures[f"{key}_peak_mb"] = side.peak / 2**20
            figures[f"{key}_before_mb"] = side.before / 2**20
            if side.name != "theirs":
                figures[f"{key}_speedup"] = seconds["theirs"] / seconds[side.name]
                figures[f"{key}_memory_ratio"] = running[0].peak / side.peak
                mine, other = labels[side.name], labels["theirs"]
                union = (mine > 0) | (other > 0)
                figures[f"{key}_agreement"] = float((mine == other)[union].mean()) if union.any() else 1.0
            if reference is not None:
                figures[f"{key}_dice"] = dice(labels[side.name], reference, scene.regions)
    return figures


def alone(name: str, side: str, scene: Scene, repeats: int = 1) -> dict[str, float]:
    """Seconds and peak memory of one side by itself."""
    running = Side(side, scene, 1)
    seconds = sorted(running.run() for _ in range(repeats))[repeats // 2]
    running.close()
    return {
        f"{name}_seconds": seconds,
        f"{name}_peak_gb": running.peak / 1e9,
        f"{name}_before_gb": running.before / 1e9,
    }


def scenes(options: argparse.Namespace) -> dict[str, Scene]:
    quick, roi = options.quick, (32,) * 3 if options.quick else (128,) * 3
    brats = Scene(
        (48, 40, 36) if quick else (240, 240, 156),
        roi,
        regions=True,
        channels=4,
        scan="brats",
        weights=options.brats,
    )
    ct = Scene((48, 40, 36) if quick else (512, 512, 128), roi, 14, scan="ct", weights=options.ct)
    return {
        "brats": brats,
        "ct": ct,
        "ct_resampled": replace(ct, shape=(80, 72, 44) if quick else (512, 512, 300), spacing_mm=(0.8, 0.8, 1.0)),
        "whole_body": Scene((64, 64, 80) if quick else (512, 512, 1000), roi, 104, max_ram_gb=4.0),
    }


def growth(quick: bool) -> dict[str, float]:
    """How time and memory grow with voxels (windows and whole volume) and with classes."""
    out: dict[str, float] = {}
    edge = 32 if quick else 128
    for count in (1, 2) if quick else (1, 2, 4, 6, 8):
        # Two windows across, so that overlap is the same throughout.
        shape = (edge * 3 // 2, edge * 3 // 2, edge * count)
        for side in ("bf16", "whole_bf16"):
            name = f"growth_{side}_{np.prod(shape) / 1e6:.1f}_megavoxels"
            out |= alone(name, side, Scene(shape, (edge,) * 3, 3, regions=True, channels=4), 3)
    for classes in (2, 14) if quick else (2, 14, 52, 104):
        shape = (edge * 3 // 2, edge * 3 // 2, edge * 2)
        out |= alone(f"growth_{classes}_classes", "bf16", Scene(shape, (edge,) * 3, classes), 3)
    return out


def defaults(quick: bool, repeats: int, sw_batch_size: int) -> dict[str, float]:
    """The default network of each task, on one and a half windows along each axis."""
    from medseg3d.task import load_task, task_names

    out: dict[str, float] = {}
    for name in task_names():
        task = load_task(name)
        if task.kind != "segmentation" or task.network == "segformer3d" or (quick and name != "hippocampus"):
            continue
        roi = tuple((32 if task.spatial_dims == 3 else 64) if quick else n for n in task.patch_size)
        scene = Scene(
            tuple(n * 3 // 2 // 4 * 4 for n in roi),
            roi,
            task.out_channels,
            regions=task.regions,
            channels=task.in_channels,
            network="segformer" if task.network == "default" else task.network,
        )
        found = compare(f"default_{name}", scene, ("theirs", "bf16"), repeats, sw_batch_size)
        out |= {k: v for k, v in found.items() if k.endswith(("_seconds", "_speedup"))}
    return out


def summary(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that targets are set for."""
    wanted = {
        "brats_bf16_speedup": "brats_bf16_speedup",
        "brats_fp32_speedup": "brats_fp32_speedup",
        "brats_whole_speedup": "brats_whole_bf16_speedup",
        "brats_memory_ratio": "brats_bf16_memory_ratio",
        "ct_speedup": "ct_bf16_speedup",
        "ct_memory_ratio": "ct_bf16_memory_ratio",
        "ct_resampled_speedup": "ct_resampled_bf16_speedup",
        "whole_body_peak_gb": "whole_body_peak_gb",
        "agreement_fp32": "brats_fp32_agreement",
        "agreement_bf16": "brats_bf16_agreement",
    }
    return {key: figures[source] for key, source in wanted.items() if source in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brats", metavar="RUN", help="weights of the published network for 4 channels and 3 regions")
    parser.add_argument("--ct", metavar="RUN", help="weights of the published network for a CT and 14 classes")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="default: everything")
    parser.add_argument("--sw-batch-size", type=int, default=4, help="of MONAI's side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; its figures mean nothing"
    )
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    figures: dict[str, float] = {}
    found = scenes(options)
    for name in options.only:
        if name in PAIRS:
            sides = ("theirs", "fp32", "bf16", "whole_bf16") if name == "brats" else ("theirs", "bf16")
            new = compare(name, found[name], sides, repeats, options.sw_batch_size)
        elif name == "whole_body":
            new = alone(name, "bf16", found[name])
        elif name == "defaults":
            new = defaults(options.quick, min(repeats, 3), options.sw_batch_size)
        else:
            new = growth(options.quick)
        for key, value in new.items():
            print(f"  {key:58} {value:10.4g}", flush=True)
        figures |= new
    import monai  # noqa: F401 (its version is told)

    print(f"{machine()}\n")
    for key, value in summary(figures).items():
        print(f"  {key:58} {value:10.4g}")
    if options.json is not None:
        text = json.dumps({**summary(figures), **figures, "machine": machine()}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
