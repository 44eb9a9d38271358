"""Write the cases of a BraTS folder and their split, training, validation and testing, as the configs read them.

python scripts/prepare_datalist.py --path DATA [--output configs/datalist.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg3d import Task
from medseg3d.io import find_cases, split_cases
from medseg3d.io.atomic import atomic_write

METADATA = Path(__file__).parents[1] / "configs" / "metadata.json"
HELD_OUT = 0.3
"""Part of the cases that is not trained on; half of it validates, half tests."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, required=True, help="folder of BraTS, one file per channel")
    parser.add_argument("--output", type=Path, default=METADATA.with_name("datalist.json"))
    options = parser.parse_args()
    task = Task.from_dict(json.loads(METADATA.read_text(encoding="utf-8"))["medseg3d"]["task"])
    found = find_cases(options.path, task, labels=True)
    print(found.describe())
    if any(file.index is not None for case in found.cases for file in case.images):
        raise SystemExit("these files hold several channels each, in an order of their own; give one file per channel")
    if others := {value: ours for value, ours in found.label_values.items() if value != ours}:
        raise SystemExit(
            f"the label values {others} have other numbers here than in BraTS 2012 to 2021 (1, 2 and 4), and train.json reads "
            "them as they are; medseg3d train --task brats goes by names"
        )
    training, rest = split_cases(found.cases, HELD_OUT)
    validation, testing = split_cases(rest, 0.5)
    parts = {"training": training, "validation": validation, "testing": testing}
    root = options.path.resolve()
    lists = {
        part: [
            {
                "image": [file.path.resolve().relative_to(root).as_posix() for file in case.images],
                "label": case.label.resolve().relative_to(root).as_posix(),
            }
            for case in cases
        ]
        for part, cases in parts.items()
    }
    atomic_write(options.output, json.dumps(lists, indent=1) + "\n")
    print(f"{options.output}: " + ", ".join(f"{len(cases)} {part}" for part, cases in parts.items()))


if __name__ == "__main__":
    main()
