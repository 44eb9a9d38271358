"""A 3D network that begins with the weights of a 2D one, and the same network begun at random, on the same cases.

    python pipelines/fine_tune.py [WEIGHTS] [DATA] [OUTPUT] [key=value ...]

WEIGHTS: a SegFormer or MiT: a file, a folder, or a name on the Hugging Face hub (medseg3d models lists some, with their licences);
without it one is trained first on the pictures of cells that come with medseg3d. DATA: a BraTS folder; without it the phantoms.
key=value: keys of train.yaml, for every training. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import yaml

import medseg3d


def main(weights: str | None, data: Path | None, output: Path, settings: dict[str, object]) -> None:
    if weights is None:
        weights = str(medseg3d.train("nuclei", output=output / "cells", overrides=settings, resume=True))

    # Kernels get a third axis, so that on a volume of equal slices the 3D network computes the 2D network's features;
    # the first layer is made to fit the scans' channels. The log says what was taken over and what is made anew.
    begun = {**settings, "fine_tune": weights}
    inflated = medseg3d.train("brats", data, output / "inflated", overrides=begun, resume=True)

    # Its twin: the same sizes, cases and seed, other weights at the start.
    metadata = json.loads((inflated / "configs" / "metadata.json").read_text(encoding="utf-8"))
    same = {**settings, "network": metadata["medseg3d"]["network"]}
    random = medseg3d.train("brats", data, output / "random", overrides=same, resume=True)

    print(f"began with {metadata['medseg3d']['init']}")
    for run in (random, inflated):
        scores = medseg3d.validate(run)
        if scores is None:
            raise SystemExit("too few cases to keep some for validation")
        print(f"\n{run.name}:\n{scores.table()}")

    # The paired difference, case by case; with few cases it says little, and says so.
    print(f"\nA: random, B: inflated\n{medseg3d.compare(random / 'validation', inflated / 'validation').table()}")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)  # what is done meanwhile
    words = [word for word in sys.argv[1:] if "=" not in word]
    pairs = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    weights, data, output = [*words, None, None, None][:3]
    settings = {key: yaml.safe_load(value) for key, value in pairs.items()}
    main(weights, None if data is None else Path(data), Path(output or "runs/fine_tune"), settings)
