"""Overlap: small masks whose counts a person can make, and the conventions of empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg3d.metrics import Overlap, dice, measure_case, overlap

FULL, NONE = np.array([[1, 1], [0, 0]], bool), np.zeros((2, 2), bool)


def test_counts_and_ratios_by_hand() -> None:
    reference = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]], bool)
    prediction = np.array([[0, 0, 1, 1, 1, 0, 0, 0, 0, 0]], bool)
    found = overlap(reference, prediction)
    assert found == Overlap(tp=2, fp=1, fn=2, tn=5)
    assert found.dice == pytest.approx(4 / 7)
    assert found.iou == pytest.approx(2 / 5)
    assert found.sensitivity == pytest.approx(2 / 4)
    assert found.precision == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(5 / 6)
    assert found.status == "ok"


@pytest.mark.parametrize("shape", [(7, 5), (6, 5, 4)])
def test_ratios_agree_with_each_other_on_random_masks(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(shape) < 0.5, rng.random(shape) < 0.5
    found = overlap(a, b)
    assert found.tp + found.fp + found.fn + found.tn == a.size
    assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))
    assert found.dice == pytest.approx(2 / (1 / found.sensitivity + 1 / found.precision))
    assert found.dice == overlap(b, a).dice == dice(a.astype(np.uint8), b.astype(float))


NAN = math.nan


@pytest.mark.parametrize(
    ("reference", "prediction", "empty", "status", "dice", "iou", "sensitivity", "precision"),
    [
        (FULL, FULL, "nan", "ok", 1, 1, 1, 1),
        (FULL, NONE, "nan", "miss", 0, 0, 0, NAN),
        (NONE, FULL, "nan", "fp", 0, 0, NAN, 0),
        (NONE, NONE, "nan", "tn", NAN, NAN, NAN, NAN),
        (FULL, NONE, "one", "miss", 0, 0, 0, NAN),
        (NONE, FULL, "one", "fp", 0, 0, NAN, 0),
        (NONE, NONE, "one", "tn", 1, 1, 1, 1),
    ],
)
def test_golden_table_of_empties(reference, prediction, empty, status, dice, iou, sensitivity, precision) -> None:
    found = overlap(reference, prediction, empty=empty)
    assert found.status == status
    ratios = [found.dice, found.iou, found.sensitivity, found.precision]
    np.testing.assert_equal(ratios, [dice, iou, sensitivity, precision])


def test_what_is_no_mask_is_refused_with_the_rule() -> None:
    with pytest.raises(ValueError, match=r"values 0, 2, 4; a mask holds 0 and 1.*reference == 1"):
        overlap(np.array([[0, 2, 4]]), np.array([[0, 1, 1]]))
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2\) must have 2 or 3 axes"):
        overlap(np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2, 2)))
    with pytest.raises(ValueError, match=r"\(2, 2\), prediction of shape \(2, 3\)"):
        overlap(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="'zero' is none of nan, one"):
        overlap(FULL, FULL, empty="zero")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_label_maps_give_the_same_as_their_masks_one_by_one(dtype: type) -> None:
    rng = np.random.default_rng(1)
    reference = rng.choice([0, 1, 2, 4, 9, 300 if dtype != np.uint8 else 200], (9, 8, 7)).astype(dtype)
    prediction = rng.choice([0, 1, 2, 4, 9], (9, 8, 7)).astype(dtype)
    regions = {"whole": [1, 2, 4], "core": [1, 4], "enhancing": [4], "absent": [77]}
    rows = {row["label"]: row for row in measure_case(reference, prediction, regions, (2, 1, 0.5))}
    assert list(rows) == list(regions)
    for name, ids in regions.items():
        masks = np.isin(reference, ids), np.isin(prediction, ids)
        alone, row = overlap(*masks), rows[name]
        np.testing.assert_equal(
            [row[k] for k in ("status", "dice", "iou", "sensitivity", "precision")],
            [alone.status, alone.dice, alone.iou, alone.sensitivity, alone.precision],
        )
        assert row["volume_reference_ml"] == pytest.approx(masks[0].sum() / 1000)
        assert row["volume_prediction_ml"] == pytest.approx(masks[1].sum() / 1000)


def test_large_label_maps_are_counted_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    pair = rng.integers(0, 3, (2, 11, 6, 5))
    whole = measure_case(pair[0], pair[1], {"a": [1], "b": [2]}, (1, 1, 1))
    monkeypatch.setattr("medseg3d.metrics.case.SLAB_VOXELS", 70)
    np.testing.assert_equal(measure_case(pair[0], pair[1], {"a": [1], "b": [2]}, (1, 1, 1)), whole)


def test_label_maps_of_floats_or_negative_values_are_refused() -> None:
    good = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match="type float64 must hold integers"):
        measure_case(good.astype(float), good, {"a": [1]}, (1, 1))
    with pytest.raises(ValueError, match="holds the value -1"):
        measure_case(good, good.astype(np.int16) - 1, {"a": [1]}, (1, 1))
    with pytest.raises(ValueError, match="must be 2 numbers"):
        measure_case(good, good, {"a": [1]}, (1, 1, 1))
