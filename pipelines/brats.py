"""A BraTS data folder to a report, with the Python API alone: train, segment unseen cases, evaluate.

    python pipelines/brats.py [DATA] [RUN] [key=value ...]

DATA: an MSD, nnU-Net or BraTS folder; without it the phantoms that come with medseg3d. key=value: keys of train.yaml.
"""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import yaml

import medseg3d


def main(data: Path | None, run: Path | None, settings: dict[str, object]) -> None:
    # Train. The run directory is a MONAI bundle: configs, metadata, the best weights, the curve in metrics.csv.
    model = medseg3d.train("brats", data, run, overrides=settings)

    # Segment the cases kept for validation, on their own grids, and score them: Dice and HD95 per case and region.
    scores = medseg3d.validate(model)
    if scores is None:
        raise SystemExit("too few cases to keep some for validation")
    print(scores.table())

    # The label maps are NIfTI; here the volume of each region in the first of them.
    predictor = medseg3d.Predictor.from_bundle(model)
    case = scores.rows[0]["case"]
    labels = medseg3d.read_volume(model / "validation" / f"{case}.nii.gz", labels=True)
    voxel_ml = math.prod(labels.spacing_mm) / 1000
    for name, ids in predictor.task.labels.items():
        inside = sum(int((labels.data == value).sum()) for value in ids)
        print(f"{case}: {name} {inside * voxel_ml:.1f} ml")

    # One HTML file that works offline: curves, scores, every case with a slice viewer, the worst first.
    print(f"report: {medseg3d.write_report(model, model / 'report.html')}")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)  # what is done meanwhile
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    pairs = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    data, run = [*folders, None, None][:2]
    main(data, run, {key: yaml.safe_load(value) for key, value in pairs.items()})
