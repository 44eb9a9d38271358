"""Train the network published as SegFormer3D on one real scan, as weights for benchmarks/predict.py.

    python -m benchmarks.published brats|ct OUTPUT [--max-time SECONDS]

brats: the 4-channel box of MSD case BRATS_009, three regions. ct: a body CT with 13 of TotalSegmentator's organs. Needs the
real data (MEDSEG3D_DATA).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import yaml

import medseg3d
from benchmarks.overfit import SCANS, data_set

ORGANS = {
    **{"background": 0, "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "stomach": 6, "aorta": 52},
    **{f"organ_{value}": value for value in (14, 20, 30, 31, 86, 87, 117)},
}
"""The background and the 13 largest labels of the scan."""
CT_TASK: dict[str, Any] = {
    "name": "ct13",
    "channels": {"CT": []},
    "labels": {name: [value] for name, value in ORGANS.items() if value},
    "ids": {0: ["*"]},
    "spacing_mm": [3, 3, 3],
    "patch_size": [96, 96, 32],
    "intensity": "ct",
    "network": "segformer3d",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "brats": {
        "patch_size": [96, 96, 64],
        "network": {"name": "segformer3d", "in_channels": 4, "out_channels": 3},
    },
    "ct": {"precision": "float32"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", choices=SETTINGS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--max-time", type=float, default=480, metavar="SECONDS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scan, task = dict(SCANS[options.scan]), options.scan
        if options.scan == "ct":
            scan["labels"], task = ORGANS, str(Path(folder, "ct13.yaml"))
            Path(task).write_text(yaml.safe_dump(CT_TASK))
        medseg3d.train(
            task,
            data_set(scan, Path(folder, "data")),
            options.output,
            overrides={"augmentation": 0.3, "batch_size": 1, **SETTINGS[options.scan]},
            max_time_s=options.max_time,
            validation_fraction=0,
        )


if __name__ == "__main__":
    main()
