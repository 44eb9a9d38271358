"""How well the expected Dice ranks cases that a model has not seen, so that a person looks at the worst first.

python -m benchmarks.triage RUN [RUN ..] [--json FILE] [--quick]

The validation cases are dealt out into two halves. The expected Dice is calibrated on one half and ranks the other, and the
other way round, so that no case was trained on or calibrated on when it is ranked. (The best checkpoint was chosen by
all of them.) Several runs are an ensemble, on the cases that all of them kept for validation. Without RUN, and with --quick,
a small model is trained on sample pictures first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.measure import machine
from medseg3d import Predictor, train
from medseg3d.inference.confidence import LEAST_CASES
from medseg3d.training.calibration import Expectations, expectations, validation_cases

WORST, LOOKED_AT = 5, 10
QUICK = {
    "network": {"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "heads": [1, 2, 5, 8], "decoder_width": 16},
    "steps_per_epoch": 25,
    "warmup_epochs": 0,
    "learning_rate": 0.002,
    "patch_size": [64, 64],
}


def ranked(predictor: Predictor, found: Expectations, *, compared: bool) -> dict[str, float]:
    """Means over the two halves: rank correlation, share of the worst found early, and how far the figure is off."""
    raw, dice = np.array(found.expected), np.array(found.dice)
    scored = np.isfinite(dice)
    raw, dice = np.nan_to_num(raw[scored], nan=0.0), dice[scored]
    halves = [np.arange(len(dice)) % 2 == half for half in (0, 1)]
    rho, early, chance, off = [], [], [], []
    for calibrated_on, half in (halves, halves[::-1]):
        names = tuple(np.array(found.cases)[scored][calibrated_on])
        line = Expectations(names, tuple(raw[calibrated_on]), tuple(dice[calibrated_on])).fit(
            predictor, (), compared=compared
        )
        # A calibration keeps the order of the raw figure; one without a slope would leave ties.
        rho.append(float(spearmanr(raw[half], dice[half]).statistic) if np.ptp(raw[half]) > 0 else 0.0)
        worst = set(np.argsort(dice[half], kind="stable")[:WORST])
        first = set(np.argsort(raw[half], kind="stable")[:LOOKED_AT])
        early.append(len(worst & first) / len(worst))
        chance.append(min(LOOKED_AT / int(half.sum()), 1))
        off.append(float(np.mean([abs(line(e) - d) for e, d in zip(raw[half], dice[half], strict=True)])))
    names = ("rho", "worst_5_in_first_10", "chance", "mean_error")
    return dict(zip(names, (float(np.mean(v)) for v in (rho, early, chance, off)), strict=True))


def kinds(runs: Sequence[Path]) -> list[tuple[str, Predictor, bool]]:
    """The kinds of prediction that a model or an ensemble can make, each with what it expects."""
    plain = Predictor.from_bundle(runs)
    out = [("probabilities", plain, False)]
    if len(runs) > 1:
        return [*out, ("models", plain, True)]
    flipped = Predictor.from_bundle(runs, tta=True)
    return [*out, ("flips", flipped, True)] if flipped.members > 1 else out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a training with validation cases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument("--quick", action="store_true", help="a model of some seconds, to see that it works")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs
        if not runs:
            if not options.quick:
                parser.error("give a run directory, or --quick")
            runs = [train("nuclei", None, Path(folder) / "run", overrides=QUICK, epochs=4, validation_fraction=0.5)]
        dataset, cases = validation_cases(runs)
        if len(cases) < 2 * LEAST_CASES:
            parser.error(
                f"{len(cases)} validation cases are too few for two halves; at least {2 * LEAST_CASES} are needed"
            )
        figures: dict[str, float | str] = {"cases": len(cases)}
        print(f"{len(cases)} validation cases, ranked in halves\n{machine()}")
        print(
            f"{'expected Dice from':20} {'rho':>7} {'worst 5 in first 10':>20} {'(by chance)':>12} {'mean error':>11}"
        )
        for name, predictor, compared in kinds(runs):
            found = ranked(predictor, expectations(predictor, dataset, cases, compared=compared), compared=compared)
            figures |= {f"{key}_{name}": value for key, value in found.items()}
            rho, early, chance, off = found.values()
            print(f"{name:20} {rho:7.3f} {early:20.2f} {chance:12.2f} {off:11.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
