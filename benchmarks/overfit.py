"""Train on one real scan and segment it back: does the whole way, from file to file, fit what it is shown?

    python -m benchmarks.overfit brats|ct [--json FILE] [--epochs N]

brats: the 4-channel box of MSD case BRATS_009, task brats. ct: a body CT with TotalSegmentator's labels, five organs of the
task organ_ct. The scan is the one trained on: this says that nothing on the way is broken, not how well unseen scans go.
Needs the real data (MEDSEG3D_DATA).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import medseg3d
from benchmarks.measure import machine
from tests.shared import DATA

SCANS: dict[str, dict[str, Any]] = {
    "brats": {
        "task": "brats",
        "image": "msd_task01_brain_tumour_box/BRATS_009_box_4ch.nii.gz",
        "label": "msd_task01_brain_tumour_box/BRATS_009_box_label.nii.gz",
        "channels": ["FLAIR", "T1w", "T1gd", "T2w"],
        "labels": {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3},
        "settings": {"patch_size": [96, 96, 64], "augmentation": 0.3},
    },
    "ct": {
        "task": "organ_ct",
        "image": "totalsegmentator_ct/example_ct_sm.nii.gz",
        "label": "totalsegmentator_ct/example_seg.nii.gz",
        "channels": ["CT"],
        "labels": {"background": 0, "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "aorta": 52},
        "settings": {"patch_size": [96, 96, 32], "spacing_mm": [3, 3, 3], "augmentation": 0.3},
    },
}


def data_set(scan: dict[str, Any], folder: Path) -> Path:
    """An MSD folder of the one scan; values without a name of the task's are named by their number."""
    for part in ("image", "label"):
        (folder / f"{part}sTr").mkdir(parents=True)
        shutil.copy(DATA / scan[part], folder / f"{part}sTr" / "scan.nii.gz")
    label = medseg3d.read_volume(DATA / scan["label"], labels=True)
    others = sorted(set(np.unique(label.data).tolist()) - set(scan["labels"].values()))
    names = {**scan["labels"], **{f"organ {value}": value for value in others}}
    described = {
        "name": "one scan",
        "modality": {str(i): name for i, name in enumerate(scan["channels"])},
        "labels": {str(value): name for name, value in names.items()},
        "training": [{"image": "./imagesTr/scan.nii.gz", "label": "./labelsTr/scan.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", choices=SCANS)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    scan = SCANS[options.scan]
    with tempfile.TemporaryDirectory() as folder:
        data = data_set(scan, Path(folder, "data"))
        run = medseg3d.train(
            scan["task"],
            data,
            Path(folder, "run"),
            overrides=scan["settings"],
            epochs=options.epochs,
            validation_fraction=0,
        )
        predicted = Path(folder, "predicted")
        result = medseg3d.predict_folder(run, data, predicted)
        if result.failed:
            raise SystemExit(f"prediction failed: {result.failed}")
        scores = medseg3d.evaluate(data, predicted, scan["task"])
    figures = {f"dice_{row['label']}": row["dice"] for row in scores.rows}
    print(f"{options.scan}, {options.epochs} epochs of 50 steps, segmented back\n{machine()}\n{scores.table()}")
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
