"""What each choice of the default training is worth: the same training with one setting changed, on training cases alone.

    python -m benchmarks.ablations hippocampus:shipped nuclei:rate_high:1 --minutes 4   arms and seeds, one after the other
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.training_results import FOLDS, ahead, ahead_of, case_means
from medseg3d.io import Case
from medseg3d.task import Task

KEPT = Path(__file__).parent.parent / "docs" / "results" / "ablations"
BASE = "shipped"
"""The arm that the others of the same minutes are compared with, seed by seed."""
COMMON: Mapping[str, Mapping[str, Any]] = {
    "hippocampus": {"network": {"name": "mit_b0"}},  # the default before mit_tiny, as most arms were trained
    "nuclei": {"patch_size": [160, 192], "batch_size": 4},  # as planned for ten minutes of one core
    "slices": {},  # strides of 1 across the slices, and so mit_b0
}
"""What all arms of a data set have, where they say nothing else."""
ARMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "hippocampus": {
        BASE: {},
        "fifth": {"network": {"name": "mit_tiny"}},
        "third": {"network": {"name": "mit_tiny", "widths": [32, 64, 96, 128], "heads": [1, 2, 3, 4]}},
        "rate_low": {"learning_rate": 0.001},
        "rate_high": {"learning_rate": 0.01},
        "rate_higher": {"learning_rate": 0.02},
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
        BASE: {},
        "tiny": {"network": {"name": "mit_tiny"}},
        "rate_low": {"learning_rate": 0.0003},
        "rate_high": {"learning_rate": 0.003},
        "stem_2": {"network": {"strides": [2, 2, 2, 2]}},
        "deep_supervision": {"deep_supervision": True},
        "batch_2": {"batch_size": 2},
        "whole_image": {"patch_size": [256, 256]},
    },
    "slices": {BASE: {}, "usual_strides": {"network": {"strides": [4, 2, 2, 2]}}},
}
"""By data set what each arm changes. ``slices`` are the hippocampi with slices of 6 mm (benchmarks/slices.py), as planned."""
WORDS = {
    BASE: "as shipped",
    "fifth": "`mit_tiny`, which the task has (1.0 million parameters for 4.5)",
    "tiny": "`mit_tiny`",
    "third": "widths of 32, 64, 96, 128 (1.7 million parameters)",
    "large_patch": "patch of the largest image, 80 x 112 x 80",
    "stem_2": "logits at stride 2",
    "whole_image": "patches of 256 x 256",
    "usual_strides": "strides of 4, 2, 2, 2 on all axes",
}
"""Of arms whose settings do not speak for themselves."""


@dataclass(frozen=True)
class Arm:
    """One training.

    Args:
        data: one of ``ARMS``.
        name: of the settings that it changes.
        minutes: wall clock.
        seed: of the training.
    """

    data: str
    name: str
    minutes: float
    seed: int = 0

    @classmethod
    def read(cls, text: str, minutes: float) -> Arm:
        """``DATA:ARM`` or ``DATA:ARM:SEED``."""
        data, _, rest = text.partition(":")
        name, _, seed = rest.partition(":")
        if name not in ARMS.get(data, {}) or not (seed or "0").isdigit():
            raise ValueError(f"{text!r} is none of --list, which :SEED may follow")
        return cls(data, name, minutes, int(seed or 0))

    @property
    def folder(self) -> str:
        return f"{self.data}-{self.name}-{self.minutes:g}min-seed{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        common, own = COMMON[self.data], ARMS[self.data][self.name]
        network = {**common.get("network", {}), **own.get("network", {})}
        return {**common, **own, **({"network": network} if network else {})}


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


def run_arm(arm: Arm, work: Path, kept: Path, *, quick: bool = False) -> dict[str, Any]:
    """Train, predict and score one arm; returns and writes what is kept of it."""
    began = time.monotonic()
    from benchmarks.slices import QUICK
    from benchmarks.training import trained
    from medseg3d.evaluation import evaluate
    from medseg3d.inference.folder import predict_folder
    from medseg3d.training.run import train

    changes = arm.settings | {"seed": arm.seed}
    source, task, training, scored = find(arm.data, work, quick=quick, minutes=arm.minutes)
    run = work / arm.folder
    length: dict[str, Any] = {"max_time_s": arm.minutes * 60 - (time.monotonic() - began)}
    if quick:
        changes |= {**QUICK, "network": {**changes.get("network", {}), **QUICK["network"]}}
        length = {}
    started = time.monotonic()
    train(
        task, source, run, overrides=changes, split={"training": [c.name for c in training], "validation": []}, **length
    )
    about = {**asdict(arm), "settings": arm.settings, **trained(run, started)}
    predict_folder(run, source, run / "predictions", cases=scored, progress=False)
    evaluate(source, run / "predictions", task, output=kept / run.name, cases=[c.name for c in scored])
    (kept / run.name / "summary.json").unlink()  # per_case.csv says it all
    scores = case_means(kept / run.name / "per_case.csv")
    about |= {"dice": statistics.fmean(case["dice"] for case in scores.values()), "machine": machine()}
    (kept / run.name / "arm.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def table(kept: Path) -> str:
    """All arms in Markdown, with the difference from the shipped training over the same cases and seeds."""
    found: dict[tuple[str, float], dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(kept.glob("*/arm.json")):
        about = json.loads(file.read_text()) | {"scores": case_means(file.parent / "per_case.csv")}
        group = found.setdefault((about["data"], about["minutes"]), {})
        group.setdefault(about["name"], {})[about["seed"]] = about
    lines = [
        "| data | minutes | setting | seeds | steps | mean Dice | against it [95 % CI over cases] |",
        "|" + "---|" * 7,
    ]
    for (data, minutes), arms in sorted(found.items()):
        base = {seed: about["scores"] for seed, about in arms.get(BASE, {}).items()}
        for name in sorted(arms, key=list(ARMS[data]).index):
            seeds = arms[name]
            gain = ahead_of(base, {seed: about["scores"] for seed, about in seeds.items()}) if name != BASE else {}
            words = WORDS.get(name) or ", ".join(f"`{k}: {json.dumps(v)}`" for k, v in ARMS[data][name].items())
            steps = " and ".join(str(about["steps"]) for about in seeds.values())
            dice = statistics.fmean(about["dice"] for about in seeds.values())
            lines.append(
                f"| {data} | {minutes:g} | {words} | {len(seeds)} | {steps} | {dice:.4f} | {ahead(gain) if gain else ''} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="DATA:ARM[:SEED]", help="to train; see --list")
    parser.add_argument("--list", action="store_true", help="print all arms and what they change")
    parser.add_argument("--minutes", type=float, default=4.0, help="for each arm")
    parser.add_argument(
        "--work", type=Path, default=Path("runs", "ablations"), metavar="FOLDER", help="where they train"
    )
    parser.add_argument("--collect", action="store_true", help="print a table of all that are there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument("--quick", action="store_true", help="phantoms and two steps, to see that it works")
    options = parser.parse_args()
    chosen = ["slices:shipped", "slices:usual_strides"] if options.quick else options.arms
    try:
        arms = [Arm.read(text, options.minutes) for text in chosen]
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for data, named in ARMS.items():
            for name, settings in named.items():
                print(f"{f'{data}:{name}':34} {dict(settings) or 'nothing'}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        kept, work = (Path(temporary, "kept"), Path(temporary)) if options.quick else (KEPT, options.work)
        for arm in arms:
            if (kept / arm.folder / "arm.json").exists():
                print(f"{arm.folder} is done; remove {kept / arm.folder} to do it again")
                continue
            about = run_arm(arm, work, kept, quick=options.quick)
            figures |= {f"{arm.data}.{arm.name}.{figure}": about[figure] for figure in ("steps", "dice")}
        if options.collect or options.quick:
            print(table(kept))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
