"""What each choice of the default training is worth: the same training with one setting changed, on training cases alone.

    python -m benchmarks.ablations hippocampus:shipped nuclei:rate_high --minutes 4   arms, one after the other
    python -m benchmarks.ablations --list
    python -m benchmarks.ablations --collect                                 a table of all arms that are there

Of the training cases of a data set (those that docs/results.md does not score) a fifth is left out and scored; so what is chosen by
these figures is not chosen on the cases that results come from. Every arm has the same wall clock from reading data to the trained
model, and leaves its scores in docs/results/ablations; what is there is not done again. On a machine that others use, two arms at
once, tied to a core each (``taskset -c 0``, ``-c 1``), are slowed by the same things. Needs the real data (MEDSEG3D_DATA);
``--quick`` makes phantoms up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.training_results import FOLDS, ahead, ahead_of, case_means
from medseg3d.io import Case
from medseg3d.task import Task

KEPT = Path(__file__).parent.parent / "docs" / "results" / "ablations"
BASE = "shipped"
"""The arm that the others are compared with."""
SMALL = {"patch_size": [160, 192], "batch_size": 4}
"""What is planned for nuclei and ten minutes of one core."""
ARMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "hippocampus": {
        BASE: {},
        "again": {"seed": 1},
        "rate_low": {"learning_rate": 0.001},
        "rate_high": {"learning_rate": 0.01},
        "no_average": {"ema": 0.0},
        "deep_supervision": {"deep_supervision": True},
        "any_place": {"foreground_share": 0.0},
        "no_augmentation": {"augmentation": 0.0},
        "dice_alone": {"loss": "dice"},
        "large_patch": {"patch_size": [80, 112, 80]},
        "stem_2": {"network": {"strides": [2, 2, 2, 2]}},
        "float32": {"precision": "float32"},
    },
    "nuclei": {
        BASE: SMALL,
        "rate_low": SMALL | {"learning_rate": 0.0003},
        "rate_high": SMALL | {"learning_rate": 0.003},
        "stem_2": SMALL | {"network": {"strides": [2, 2, 2, 2]}},
        "deep_supervision": SMALL | {"deep_supervision": True},
        "batch_2": SMALL | {"batch_size": 2},
        "whole_image": SMALL | {"patch_size": [256, 256]},
    },
    "slices": {BASE: {}, "usual_strides": {"network": {"strides": [4, 2, 2, 2]}}},
}
"""By data set the settings of each arm. ``slices`` are the hippocampi with slices of 6 mm (benchmarks/slices.py), as planned."""
WORDS = {
    "again": "as shipped, another seed",
    "rate_low": "`learning_rate` {learning_rate}",
    "rate_high": "`learning_rate` {learning_rate}",
    "no_average": "`ema: 0`",
    "deep_supervision": "`deep_supervision: true`",
    "any_place": "`foreground_share: 0`",
    "no_augmentation": "`augmentation: 0`",
    "dice_alone": "`loss: dice`",
    "large_patch": "patch of the largest image, 80 x 112 x 80",
    "stem_2": "logits at stride 2",
    "float32": "`precision: float32`",
    "batch_2": "`batch_size: 2`",
    "whole_image": "patches of 256 x 256",
    "usual_strides": "strides of 4, 2, 2, 2 on all axes",
}


def find(name: str, work: Path, *, quick: bool, minutes: float) -> tuple[Path, Task, list[Case], list[Case]]:
    """A data set's folder, the task it is trained with, and the cases to train on and to score."""
    from benchmarks import slices
    from medseg3d.io import split_cases
    from medseg3d.task import load_task
    from medseg3d.training.folds import assign_folds, groups_of
    from medseg3d.training.source import find_data
    from tests.shared import DATA

    if quick or name == "slices":
        folder = work / ("phantoms" if quick else "thick")
        if not folder.exists():
            slices.write(folder, 6, quick=quick)
        folder /= "train"
        task = slices.tasks(folder, minutes * 60, ["3d"], quick=True)["3d"]  # no step measured: all arms get one plan
        cases = find_data(folder, task).cases
    else:
        folder = DATA / {"hippocampus": slices.SCANS, "nuclei": "dsb2018_nuclei_2d"}[name]
        if not folder.is_dir():
            raise SystemExit(f"the real data are absent ({folder}); point MEDSEG3D_DATA at the folder that holds them")
        task = load_task(name)
        cases = split_cases(find_data(folder, task).cases)[0]
    folds = assign_folds(groups_of(cases), {case.name: () for case in cases}, FOLDS)
    training = [case for case in cases if folds[case.name] != 1]
    return folder, task, training, [case for case in cases if folds[case.name] == 1]


def run_arm(name: str, arm: str, minutes: float, work: Path, kept: Path, *, quick: bool = False) -> dict[str, Any]:
    """Train, predict and score one arm; returns and writes what is kept of it."""
    began = time.monotonic()
    from benchmarks.slices import QUICK
    from benchmarks.training import trained
    from medseg3d.evaluation import evaluate
    from medseg3d.inference.folder import predict_folder
    from medseg3d.training.run import train

    changes = dict(ARMS[name][arm])
    source, task, training, scored = find(name, work, quick=quick, minutes=minutes)
    run = work / f"{name}-{arm}"
    length: dict[str, Any] = {"max_time_s": minutes * 60 - (time.monotonic() - began)}
    if quick:
        changes |= {**QUICK, "network": {**changes.get("network", {}), **QUICK["network"]}}
        length = {}
    started = time.monotonic()
    train(
        task, source, run, overrides=changes, split={"training": [c.name for c in training], "validation": []}, **length
    )
    about = {"data": name, "arm": arm, "minutes": minutes, "settings": dict(ARMS[name][arm]), **trained(run, started)}
    predict_folder(run, source, run / "predictions", cases=scored, progress=False)
    evaluate(source, run / "predictions", task, output=kept / run.name, cases=[c.name for c in scored])
    (kept / run.name / "summary.json").unlink()  # per_case.csv says it all
    scores = case_means(kept / run.name / "per_case.csv")
    about |= {"dice": statistics.fmean(case["dice"] for case in scores.values()), "machine": machine()}
    (kept / run.name / "arm.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def table(kept: Path) -> str:
    """All arms in Markdown, with the difference from the shipped training over the same cases."""
    lines = ["| data | arm | minutes | steps | mean Dice | against it [95 % CI] |", "|" + "---|" * 6]
    for name, arms in ARMS.items():
        scores = {a: case_means(kept / f"{name}-{a}" / "per_case.csv") for a in arms if (kept / f"{name}-{a}").is_dir()}
        for arm, mine in scores.items():
            about = json.loads((kept / f"{name}-{arm}" / "arm.json").read_text())
            words = WORDS.get(arm, "as shipped").format(**about["settings"])
            gain = ahead(ahead_of({0: scores[BASE]}, {0: mine})) if arm != BASE and BASE in scores else ""
            lines.append(
                f"| {name} | {words} | {about['minutes']:g} | {about['steps']} | {about['dice']:.4f} | {gain} |"
            )
    return "\n".join(lines)


def main() -> None:
    every = [f"{name}:{arm}" for name, arms in ARMS.items() for arm in arms]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="DATA:ARM", help="to train; see --list")
    parser.add_argument("--list", action="store_true", help="print all arms and what they change")
    parser.add_argument("--minutes", type=float, default=4.0, help="for each arm")
    parser.add_argument(
        "--work", type=Path, default=Path("runs", "ablations"), metavar="FOLDER", help="where they train"
    )
    parser.add_argument("--collect", action="store_true", help="print a table of all that are there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument("--quick", action="store_true", help="phantoms and two steps, to see that it works")
    options = parser.parse_args()
    if unknown := [arm for arm in options.arms if arm not in every]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(every)}")
    if options.list:
        for arm in every:
            name, _, key = arm.partition(":")
            print(f"{arm:30} {dict(ARMS[name][key]) or 'nothing'}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        kept, work = (Path(temporary, "kept"), Path(temporary)) if options.quick else (KEPT, options.work)
        for arm in ["slices:shipped", "slices:usual_strides"] if options.quick else options.arms:
            name, _, key = arm.partition(":")
            if (kept / f"{name}-{key}" / "arm.json").exists():
                print(f"{arm} is done; remove {kept / f'{name}-{key}'} to do it again")
                continue
            about = run_arm(name, key, options.minutes, work, kept, quick=options.quick)
            figures |= {f"{name}.{key}.{figure}": about[figure] for figure in ("steps", "dice")}
        if options.collect or options.quick:
            print(table(kept))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
