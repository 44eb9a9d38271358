"""How well a model knows how good it is: the Dice it expects, held against the Dice of its validation cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from medseg3d import bundle
from medseg3d.checks import ConfigError, InputError
from medseg3d.inference.confidence import LEAST_CASES, Calibration, fit_calibration
from medseg3d.inference.model import load_models, store_calibrations
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.summary import SUMMARY_FILE
from medseg3d.io.case_reading import read_image, read_label
from medseg3d.io.cases import Case, DataSet
from medseg3d.training.dataset import dataset_from_dict, encode_labels
from medseg3d.training.validation import dice_from_codes

if TYPE_CHECKING:
    from medseg3d.evaluation import Evaluation

logger = logging.getLogger(__name__)
MOST_CASES = 64
"""So many cases fix a straight line; more are not predicted for it."""


@dataclass(frozen=True)
class Expectations:
    """What predictions of some cases expected, and what came.

    Args:
        cases: names.
        expected: ``Prediction.raw_dice`` of each; NaN where nothing was found.
        dice: mean over the labels that the reference or the prediction has; NaN where neither has any.
    """

    cases: tuple[str, ...]
    expected: tuple[float, ...]
    dice: tuple[float, ...]

    def fit(self, predictor: Predictor, weights_sha256: Sequence[str], *, compared: bool) -> Calibration:
        """The calibration for predictions of this kind; ConfigError where the cases are too few."""
        models, flips = len(predictor.networks), len(predictor.flips)
        return fit_calibration(
            self.expected, self.dice, models=models, flips=flips, compared=compared, weights_sha256=weights_sha256
        )


def expectations(predictor: Predictor, dataset: DataSet, cases: Sequence[Case], *, compared: bool) -> Expectations:
    """Predict cases that have a reference.

    Args:
        predictor: of the kind in question: its models and flips.
        dataset: that the cases come from.
        cases: with labels; one that cannot be read is left out, and that is logged.
        compared: as ``predict --uncertainty`` does; else a prediction's own probabilities tell.
    """
    task = predictor.task
    found: list[tuple[str, float, float]] = []
    for case in cases:
        try:
            image = read_image(case, task)
            prediction = predictor.predict(image, uncertainty=compared)
            reference = read_label(case, dataset, task, image.grid)
        except InputError as error:
            logger.warning("case %s is left out: %s", case.name, error)
            continue
        right, given = encode_labels(reference.data[0], task), encode_labels(prediction.labels.data[0], task)
        raw = prediction.raw_dice
        found.append((case.name, np.nan if raw is None else raw, _mean(dice_from_codes(right, given, task))))
    names, expected, dice = zip(*found, strict=True) if found else ((), (), ())
    return Expectations(names, expected, dice)


def validation_cases(runs: Sequence[str | Path]) -> tuple[DataSet, list[Case]]:
    """The cases that all of some runs kept for validation, and the data set of the first that they belong to.

    Raises:
        ConfigError: for a folder that is no run directory.
    """
    names: set[str] | None = None
    for run in reversed([Path(run) for run in runs]):
        config = run / "configs" / "train.yaml"
        try:
            root = yaml.safe_load(config.read_text(encoding="utf-8"))["dataset_dir"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(f"{config} cannot be read ({error}); {run} is no run directory") from None
        dataset, parts = dataset_from_dict(bundle.read_data(run), root)
        own = {case.name for case in parts["validation"]}
        names = own if names is None else names & own
    return dataset, [case for case in parts["validation"] if case.name in (names or ())]


def calibrate(run: str | Path | Sequence[str | Path], evaluation: Evaluation | None = None) -> list[Calibration]:
    """Calibrate the expected Dice on validation cases and store it in the metadata of the model, of several the first.

    Args:
        run: run directory; several are an ensemble, calibrated on the cases that all of them kept for validation.
        evaluation: of one run's predictions in ``validation/``, which then need not be made again.

    Returns:
        One calibration for each kind of prediction: with and without comparing the members, which are the models or, of a
        single one, the flips that its task allows. Nothing where the cases are too few.

    Raises:
        ConfigError: for a task without segmentation, or a folder that is no run directory.
        ModelError: for models that do not belong together.
    """
    runs = [run] if isinstance(run, (str, Path)) else list(run)
    dataset, cases = validation_cases(runs)
    if len(cases) < LEAST_CASES:
        logger.info("the expected Dice is not calibrated: %d validation cases, %d are needed", len(cases), LEAST_CASES)
        return []
    models = load_models(runs)
    weights = [model.weights_sha256 for model in models]
    cases = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(len(cases), MOST_CASES)).astype(int))]
    plain = Predictor.from_models(models, calibrations=())
    if evaluation is None:
        known = expectations(plain, dataset, cases, compared=False)
    else:
        known = _from_files(Path(runs[0]) / "validation", evaluation)
    kinds = [(plain, False, known)]
    members = plain if len(runs) > 1 else Predictor.from_models(models, calibrations=(), tta=True)
    if members.members > 1:
        logger.info("predicting %d validation cases once more, to calibrate their uncertainty", len(cases))
        kinds.append((members, True, expectations(members, dataset, cases, compared=True)))
    fitted = []
    for predictor, compared, found in kinds:
        try:
            fitted.append(found.fit(predictor, weights, compared=compared))
        except ConfigError as error:
            logger.info("the expected Dice is not calibrated: %s", error)
    if fitted:
        store_calibrations(runs[0], fitted)
        logger.info("the expected Dice is calibrated on %d validation cases", fitted[0].cases)
    return fitted


def _from_files(folder: Path, evaluation: Evaluation) -> Expectations:
    """What predictions that lie in a folder expected, and how they were scored."""
    told = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))["cases"]
    rows: dict[str, list[float]] = {}
    for row in evaluation.rows:
        rows.setdefault(row["case"], []).append(float(row["dice"]))
    names = tuple(name for name in rows if told.get(name, {}).get("raw_dice") is not None)
    return Expectations(names, tuple(told[n]["raw_dice"] for n in names), tuple(_mean(rows[n]) for n in names))


def _mean(values: Sequence[float]) -> float:
    there = [v for v in values if not np.isnan(v)]
    return float(np.mean(there)) if there else float("nan")
