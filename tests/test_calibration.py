"""The expected Dice, held against validation cases: fitted once, stored with the model, used by later predictions."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from medseg3d import bundle
from medseg3d.checks import ConfigError
from medseg3d.evaluation import Evaluation
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.model import load_model
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.verify import verify
from medseg3d.io import read_volume
from medseg3d.training.calibration import calibrate, expectations, validation_cases
from medseg3d.training.run import train, validate
from tests.training_helpers import SETTINGS, ball_task, write_balls

LEARNS = {**SETTINGS, "steps_per_epoch": 20, "warmup_epochs": 0, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Evaluation]:
    """Data, a run on them, and the scores of its four validation cases."""
    folder = tmp_path_factory.mktemp("study")
    data = write_balls(folder / "data", 8)
    task = ball_task(labels={"ball": [1, 2]}, write={"ball": 1}, mirror_axes=[0])
    run = train(task, data, folder / "run", overrides=LEARNS, epochs=3, validation_fraction=0.5)
    evaluation = validate(run)
    assert evaluation is not None
    return data, run, evaluation


def told(run: Path) -> dict:
    return json.loads((run / "validation" / "predictions.json").read_text(encoding="utf-8"))["cases"]


def test_validating_calibrates_both_kinds_of_prediction(study: tuple[Path, Path, Evaluation]) -> None:
    data, run, evaluation = study
    own, flips = load_model(run).calibrations
    assert (own.models, own.flips, own.compared, own.cases) == (1, 1, False, 4)
    assert (flips.models, flips.flips, flips.compared, flips.cases) == (1, 2, True, 4)
    assert own.weights_sha256 == flips.weights_sha256 == (load_model(run).weights_sha256,)
    dice = {row["case"]: row["dice"] for row in evaluation.rows}
    assert min(dice.values()) > 0.5, "a model that has learnt something"
    raw = [told(run)[name]["raw_dice"] for name in dice]
    slope, intercept = np.polyfit(raw, list(dice.values()), 1)
    if slope < 0:
        slope, intercept = 0, np.mean(list(dice.values()))
    assert own.slope == pytest.approx(slope, abs=1e-4)
    assert own.intercept == pytest.approx(intercept, abs=1e-4)
    scan = read_volume(data / "images" / "ball_0.nii.gz")
    single = Predictor.from_bundle(run).predict(scan)
    assert single.raw_dice is not None
    assert single.expected_dice == pytest.approx(np.clip(own.intercept + own.slope * single.raw_dice, 0, 1))
    compared = Predictor.from_bundle(run, tta=True).predict(scan, uncertainty=True)
    assert compared.expected_dice is not None
    assert Predictor.from_bundle(run, tta=True).predict(scan).expected_dice is None, "a kind without a calibration"


def test_what_was_predicted_before_the_calibration_stays_valid(study: tuple[Path, Path, Evaluation]) -> None:
    data, run, _ = study
    name = next(iter(told(run)))
    assert verify(run / "validation" / f"{name}.nii.gz", model=run, input=data).identical
    _, cases = validation_cases([run])
    result = predict_folder(run, data, run / "validation", cases=cases)
    assert sorted(result.skipped) == sorted(told(run))
    assert result.triage["calibrated"] is True


def test_expectations_are_scored_on_the_scans_own_grid(study: tuple[Path, Path, Evaluation]) -> None:
    _, run, evaluation = study
    dataset, cases = validation_cases([run])
    found = expectations(Predictor.from_bundle(run), dataset, cases, compared=False)
    assert dict(zip(found.cases, found.dice, strict=True)) == pytest.approx(
        {row["case"]: row["dice"] for row in evaluation.rows}
    )
    assert found.expected == pytest.approx([told(run)[name]["raw_dice"] for name in found.cases], abs=2e-6)


@pytest.mark.slow
def test_an_ensemble_is_calibrated_on_what_none_of_its_models_has_seen(
    study: tuple[Path, Path, Evaluation], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, run, _ = study
    task = load_model(run).task
    other = train(task, data, tmp_path / "other", overrides={**LEARNS, "seed": 1}, epochs=1, validation_fraction=0.5)
    both = [run, other]
    assert {c.name for c in validation_cases(both)[1]} == set(told(run))
    alone, compared = calibrate(both)
    assert (alone.models, alone.compared, compared.compared, compared.cases) == (2, False, True, 4)
    assert len(load_model(run).calibrations) == 4, "those of the single model stay"
    assert load_model(other).calibrations == ()
    scan = read_volume(data / "images" / "ball_0.nii.gz")
    assert Predictor.from_bundle(both[::-1]).predict(scan, uncertainty=True).expected_dice is not None
    values = bundle.read_data(other)
    values["training"] += values["validation"][:2]
    values["validation"] = values["validation"][2:]
    (other / "configs" / "data.json").write_text(json.dumps(values))
    with caplog.at_level(logging.INFO):
        assert calibrate(both) == []
    assert "the expected Dice is not calibrated: 2 validation cases, 3 are needed" in caplog.text
    with pytest.raises(ConfigError, match="is no run directory"):
        calibrate(tmp_path)
