"""A cross-validation: every case scored by a network that did not see it, with intervals, and a report of all of them.

    python pipelines/hippocampus.py [DATA] [OUTPUT] [folds=5] [key=value ...]

DATA: the hippocampus data of the Medical Segmentation Decathlon (medseg3d download --task hippocampus); without it 3 folds of the
brain phantoms that come with medseg3d. key=value: keys of train.yaml. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import yaml

import medseg3d


def main(data: Path | None, output: Path | None, settings: dict[str, object]) -> None:
    task = medseg3d.load_task("brats" if data is None else "hippocampus")
    folds = int(str(settings.pop("folds", 3 if data is None else 5)))

    # Each fold is a run directory of its own. Patients are kept together, and labels spread evenly.
    found = medseg3d.cross_validate(task, data, output, folds=folds, overrides=settings)
    if found.evaluation is None:
        raise SystemExit(f"folds left: {found.open}")

    # All cases together, mean [95 % CI], and then the folds: how much one split says.
    print(found.evaluation.table())

    # Cleaning that helped in every fold is stored with the models, and done to what they predict.
    for name, chosen in found.rules.items():
        print(f"{name}: cleaning {chosen.rule}, Dice {chosen.before:.4f} -> {chosen.after:.4f}")

    # The cases that no network got right are where to look first.
    worst = sorted(found.evaluation.rows, key=lambda row: row["dice"])[:5]
    for row in worst:
        print(f"{row['case']} {row['label']}: Dice {row['dice']:.3f}, HD95 {row['hd95_mm']:.1f} mm")

    file = found.folder / "report.html"
    print(
        f"report: {medseg3d.write_report(found.folder, file, data=found.data, prediction=found.predictions, task=task)}"
    )
    models = " ".join(f"--model {run}" for run in found.runs)
    print(f"all folds as an ensemble: medseg3d predict {models} -i SCANS -o SEGMENTATIONS")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)  # what is done meanwhile
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    pairs = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    data, output = [*folders, None, None][:2]
    main(data, output, {key: yaml.safe_load(value) for key, value in pairs.items()})
