"""Comparison of evaluations, intervals of means: numbers by hand, and scipy's bootstrap and Wilcoxon test."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from medseg3d.checks import ConfigError
from medseg3d.comparison import compare
from medseg3d.evaluation import Evaluation
from medseg3d.metrics.case import measure_case
from medseg3d.metrics.interval import mean_interval
from medseg3d.metrics.summary import summarise

SETTINGS = {"definition": "surface", "percentile": 95, "tolerance_mm": None, "empty": "nan"}


def write(
    folder: Path, dice: dict[str, float], distance: dict[str, float], status: dict[str, str] | None = None, **settings
):
    rows = [
        {"case": c, "label": "liver", "status": (status or {}).get(c, "ok"), "dice": dice[c], "hd95_mm": distance[c]}
        for c in dice
    ]
    Evaluation(rows, {**SETTINGS, **settings}).write(folder)
    return folder


def test_by_hand(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"u": 0.5, "v": 0.75, "w": 0.9, "x": 0.1}, {"u": 4, "v": 2, "w": 1, "x": 0})
    b = write(tmp_path / "b", {"u": 0.75, "v": 0.75, "w": 0.8, "y": 0.2}, {"u": 2, "v": math.inf, "w": 1, "y": 0})
    found = compare(a, b)
    dice, distance = found.rows
    assert (dice["metric"], dice["n"], dice["wins_a"], dice["wins_b"], dice["ties"]) == ("dice", 3, 1, 1, 1)
    assert dice["difference"] == pytest.approx((0.25 + 0 - 0.1) / 3)
    assert dice["median_difference"] == 0
    assert (distance["metric"], distance["n"], distance["difference"]) == ("hd95_mm", 2, -1)  # u and w
    assert (distance["wins_a"], distance["wins_b"], distance["ties"]) == (1, 1, 1)
    assert (distance["n_inf_a"], distance["n_inf_b"]) == (0, 1)
    assert (found.summary["only_a"], found.summary["only_b"], found.summary["n_cases"]) == (["x"], ["y"], 3)
    text = found.table()
    assert "1 infinite distances" in text
    assert "1 cases in B alone, not compared: y" in text
    assert json.loads(found.json())["rows"][0]["wins_b"] == 1


def test_an_invented_mask_loses_and_two_empty_ones_do_not_count(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    a = write(tmp_path / "a", {"u": nan, "v": nan}, {"u": 0, "v": 0}, {"u": "tn", "v": "tn"})
    b = write(tmp_path / "b", {"u": nan, "v": 0}, {"u": 0, "v": inf}, {"u": "tn", "v": "fp"})
    found = compare(a, b).rows
    assert len(found) == 2
    for row in found:
        assert (row["n"], row["wins_a"], row["wins_b"], row["ties"]) == (0, 1, 0, 0)
        assert math.isnan(row["p"])


def test_equals_scipys_wilcoxon_and_corrects_for_the_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {}
    for side, gain in (("a", 0.0), ("b", 0.04)):
        rows[side] = [
            {"case": f"c{i}", "label": label, "status": "ok", "dice": float(value)}
            for label in ("one", "two", "three")
            for i, value in enumerate(0.7 + 0.1 * rng.random(20) + gain * (label != "three"))
        ]
        Evaluation(rows[side], SETTINGS).write(tmp_path / side)
    found = {row["label"]: row for row in compare(tmp_path / "a", tmp_path / "b").rows}
    for label, row in found.items():
        x, y = ([r["dice"] for r in rows[side] if r["label"] == label] for side in "ab")
        assert row["p"] == pytest.approx(stats.wilcoxon(np.subtract(y, x)).pvalue)
        assert row["difference"] == pytest.approx(np.mean(y) - np.mean(x))
        assert row["ci_low"] < row["difference"] < row["ci_high"]
    ordered = sorted(found.values(), key=lambda row: row["p"])
    expected = np.maximum.accumulate(np.minimum(1, [row["p"] * (3 - i) for i, row in enumerate(ordered)]))
    np.testing.assert_allclose([row["p_holm"] for row in ordered], expected)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"u": 0.5}, {"u": 4})
    with pytest.raises(ConfigError, match="A was measured with definition 'surface', B with definition 'voxel'"):
        compare(a, write(tmp_path / "b", {"u": 0.5}, {"u": 4}, definition="voxel"))
    with pytest.raises(ConfigError, match="no case in common: A has u, B has v"):
        compare(a, write(tmp_path / "c", {"v": 0.5}, {"v": 4}))
    with pytest.raises(ConfigError, match=r"per_case.csv; medseg3d evaluate writes it"):
        compare(a, tmp_path / "absent")
    with pytest.raises(ConfigError, match="metric 'volume' is in neither"):
        compare(a, a, metrics=["volume"])
    with pytest.raises(ConfigError, match="label 'spleen' is in neither"):
        compare(a, a, labels=["spleen"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", [12, 30])
def test_intervals_equal_scipys(seed: int, number: int) -> None:
    values = np.random.default_rng(seed).beta(5, 1.5, number)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", random_state=0).confidence_interval
    width = theirs.high - theirs.low
    assert mean_interval(values) == pytest.approx(tuple(theirs), abs=0.05 * width)
    assert mean_interval(values) == mean_interval(values)


def test_intervals_of_next_to_nothing() -> None:
    assert all(math.isnan(x) for x in (*mean_interval([]), *mean_interval([0.5])))
    assert mean_interval([0.7, 0.7, 0.7]) == (0.7, 0.7)
    assert mean_interval([0.0, 1.0]) == (0.0, 1.0)


def test_intervals_cover_the_mean_nearly_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    inside = [low <= 5 / 6.5 <= high for low, high in (mean_interval(rng.beta(5, 1.5, 25)) for _ in range(300))]
    assert 0.89 <= np.mean(inside) <= 0.98


def test_a_metric_that_no_case_has_is_nan_everywhere() -> None:
    zero = np.zeros((4, 4), np.uint8)
    rows = measure_case(zero, zero, {"a": [1]}, (1, 1))
    found = summarise(rows, ["a"], ["dice"])["labels"]["a"]["dice"]
    assert found["n_used"] == 0
    assert all(math.isnan(found[key]) for key in ("mean", "ci_low", "ci_high", "std", "median"))
