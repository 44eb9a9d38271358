"""Volumes slice by slice: a 2D network that sees the slices beside each, too, and a 3D network on the same cases.

    python pipelines/per_slice.py [DATA] [OUTPUT] [key=value ...]

DATA: ACDC (cine MRI of the heart, slices 5 to 10 mm apart); without it the CT phantoms that come with medseg3d.
key=value: keys of train.yaml, for both trainings. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import yaml

import medseg3d


def main(data: Path | None, output: Path, settings: dict[str, object]) -> None:
    whole = medseg3d.load_task("organ_ct" if data is None else "acdc")
    if data is None:
        # What makes a task one of slices; acdc-slices has it in its file. Sizes are those of a slice.
        flat = replace(whole, slices="axial", neighbours=1, spacing_mm=(3, 3), patch_size=(64, 64))
        window: dict[str, object] = {"patch_size": [64, 64], "batch_size": 8}
    else:
        flat, window = medseg3d.load_task("acdc-slices"), {}

    runs = {}
    for name, task, own in (("volumes", whole, {}), ("slices", flat, window)):
        runs[name] = medseg3d.train(task, data, output / name, overrides={**own, **settings}, resume=True)

        # Predictions of either kind are label maps on each scan's own grid, so they are scored in the same way.
        scores = medseg3d.validate(runs[name])
        if scores is None:
            raise SystemExit("too few cases to keep some for validation")
        network = medseg3d.Predictor.from_bundle(runs[name]).network
        print(f"\n{name}, {sum(p.numel() for p in network.parameters()):,} parameters:\n{scores.table()}")

    paired = medseg3d.compare(runs["volumes"] / "validation", runs["slices"] / "validation")
    print(f"\nA: volumes, B: slices\n{paired.table()}")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)  # what is done meanwhile
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    pairs = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    data, output = [*folders, None, None][:2]
    main(data, output or Path("runs/per_slice"), {key: yaml.safe_load(value) for key, value in pairs.items()})
