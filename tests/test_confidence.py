"""Confidence: numbers by hand, and a calibration that keeps the order."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d.checks import ConfigError, ModelError
from medseg3d.inference.confidence import Calibration, Disagreement, fit_calibration
from medseg3d.inference.model import load_model, load_models, store_calibrations
from medseg3d.inference.predictor import Predictor
from medseg3d.io.digest import sha256_of
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.test_predictor import BALL, edit, save_model

TWO = Task("t", {"i": []}, {"a": [1], "b": [2]}, (32, 32, 32))
REGIONS = Task("t", {"i": []}, {"a": [1, 2], "b": [2]}, (32, 32, 32), write={"a": 1, "b": 2})


def test_the_agreement_of_two_members_by_hand() -> None:
    # Four voxels; label a: member one says 0 1 2, member two 1 2 3, their mean (both sure alike) all four.
    first = torch.tensor([[9.0, 9, 9, -9], [-9, -9, -9, -9]])
    second = torch.tensor([[-8.0, 9, 9, 9], [-9, -9, -9, -9]])
    first[0, 3], second[0, 0] = -8, -8
    compared = Disagreement(REGIONS, 2)
    (merged,) = compared.merged(iter([torch.cat([first, second]).view(4, 4, 1, 1)]))
    assert merged.shape == (3, 4, 1, 1)
    assert merged[0, :, 0, 0].tolist() == [0.5, 9, 9, 0.5]
    sure = 1 / (1 + math.exp(-9)) - 1 / (1 + math.exp(8))
    np.testing.assert_allclose(merged[2, :, 0, 0], [sure, 0, 0, sure], atol=1e-6)
    # Each member has 3 of the mean's 4 voxels: 2 * 3 / (3 + 4). Label b is found by nobody.
    assert compared.expected_dice() == {"a": pytest.approx(6 / 7)}


def test_a_single_member_is_held_against_its_own_probabilities() -> None:
    logits = torch.tensor([[0.0, 0, 0], [math.log(3), math.log(3), -50], [-50.0, -50, -50]]).view(3, 3, 1, 1)
    compared = Disagreement(TWO, 1)
    (same,) = compared.merged(iter([logits]))
    assert same is logits
    # Two voxels are a with probability 3/4: 2 * 1.5 / (1.5 + 2).
    assert compared.expected_dice() == {"a": pytest.approx(3 / 3.5)}


def test_counting_classes_at_once_is_the_same_as_mask_by_mask() -> None:
    logits = torch.randn(3, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    compared = Disagreement(TWO, 1)
    list(compared.merged(iter(logits.split(2, dim=1))))
    shares, best = torch.softmax(logits, 0), logits.argmax(0)
    for label, name in ((1, "a"), (2, "b")):
        mine, p = best == label, shares[label]
        expected = 2 * float(p[mine].sum()) / (float(p.sum()) + float(mine.sum()))
        assert compared.expected_dice()[name] == pytest.approx(expected, abs=1e-5)


def test_parts_add_up() -> None:
    logits = torch.randn(6, 8, 3, 2, generator=torch.Generator().manual_seed(0))
    whole, parts = Disagreement(TWO, 2), Disagreement(TWO, 2)
    (merged,) = whole.merged(iter([logits]))
    pieces = torch.cat(list(parts.merged(iter(logits.split(3, dim=1)))), dim=1)
    torch.testing.assert_close(merged, pieces)
    assert whole.expected_dice() == pytest.approx(parts.expected_dice())


def test_a_line_through_three_cases() -> None:
    line = fit_calibration([0.8, 0.9, 1.0], [0.5, 0.7, 0.9], models=2, flips=2, compared=True)
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(-1.1))
    assert (line.cases, line.models, line.flips, line.compared) == (3, 2, 2, True)
    assert line.is_for(models=2, flips=2, compared=True)
    assert not line.is_for(models=4, flips=1, compared=True), "four models expect other things than two with two flips"
    assert line(0.85) == pytest.approx(0.6)
    assert (line(0.1), line(2)) == (0, 1)
    assert Calibration.from_dict(json.loads(json.dumps(line.as_dict()))) == line
    falling = fit_calibration([0.8, 0.9, 1.0], [0.9, 0.7, 0.5])
    assert (falling.slope, falling.intercept) == (0, pytest.approx(0.7))
    assert fit_calibration([0.9] * 3, [0.6, 0.7, 0.8])(0.3) == pytest.approx(0.7)
    with pytest.raises(ConfigError, match="2 validation cases are too few to calibrate; at least 3"):
        fit_calibration([0.8, 0.9, math.nan], [0.5, 0.7, 0.9])
    with pytest.raises(ConfigError, match="has the wrong form"):
        Calibration.from_dict({"slope": 1})


def test_a_calibration_is_stored_with_the_model_and_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(tmp_path / "run", BALL)
    data = np.random.default_rng(0).random((1, 20, 20, 20), dtype=np.float32)
    scan = Volume(data, np.eye(4))
    before = Predictor.from_bundle(tmp_path / "run").predict(scan)
    assert before.raw_dice is not None
    assert before.expected_dice is None
    own = sha256_of(tmp_path / "run" / "models" / "model.safetensors")
    line = Calibration(0.5, 0.1, 7, weights_sha256=(own,))
    store_calibrations(tmp_path / "run", [Calibration(0.9, 0.9, 5, weights_sha256=(own,))])
    store_calibrations(tmp_path / "run", [line, Calibration(0.25, 0.5, 3, models=2, weights_sha256=(own, own))])
    assert load_model(tmp_path / "run").calibrations[0] == line
    assert len(load_model(tmp_path / "run").calibrations) == 2
    after = Predictor.from_bundle(tmp_path / "run").predict(scan)
    assert after.expected_dice == pytest.approx(0.1 + 0.5 * before.raw_dice)
    # Each kind of prediction has a line of its own, or none.
    both = Predictor.from_bundle([tmp_path / "run"] * 2)
    assert both.predict(scan).expected_dice == pytest.approx(0.5 + 0.25 * before.raw_dice, abs=1e-4)
    assert both.predict(scan, uncertainty=True).expected_dice is None
    assert not caplog.records
    store_calibrations(tmp_path / "run", [Calibration(0, 0, 4, weights_sha256=("0" * 64,))])
    edit(tmp_path / "run", "medseg3d", "inference", "calibrations", value=[line.as_dict() | {"weights_sha256": ["0"]}])
    assert Predictor.from_bundle(tmp_path / "run").predict(scan).expected_dice is None
    assert "belongs to other weights" in caplog.text
    edit(tmp_path / "run", "medseg3d", "inference", "calibrations", value=[{"slope": "steep"}])
    with pytest.raises(ModelError, match="has the wrong form"):
        load_model(tmp_path / "run")


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    for name in "abc":
        save_model(tmp_path / name, BALL)
    assert len(load_models([tmp_path / "a", tmp_path / "b"])) == 2
    edit(tmp_path / "b", "medseg3d", "task", "labels", value={"ball": [4]})
    edit(tmp_path / "b", "medseg3d", "task", "write", value={"ball": 4})
    with pytest.raises(ModelError, match=r"was trained with labels \{'ball': \(4,\)\} and .* must agree"):
        load_models([tmp_path / "a", tmp_path / "b"])
    edit(tmp_path / "c", "medseg3d", "preprocessing", "spacing_mm", value=[1, 1, 1])
    with pytest.raises(ModelError, match="prepare scans in different ways"):
        load_models([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(ModelError, match="no model given"):
        load_models([])
