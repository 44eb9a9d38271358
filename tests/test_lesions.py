"""Lesions one by one: counts that a person can make, and the rule of BraTS written out in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from medseg3d.metrics import LesionRule, dice, lesion_scores, measure_case, surface_distances

ANY_SIZE = LesionRule(dilation_voxels=1, smallest_mm3=0)


def squares(*corners: tuple[int, int], side: int = 3, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for i, j in corners:
        mask[i : i + side, j : j + side] = True
    return mask


def test_found_missed_and_false_by_hand() -> None:
    reference = squares((2, 2), (20, 20), (30, 5))
    prediction = squares((2, 3), (30, 30)) | squares((20, 20))
    found = lesion_scores(reference, prediction, (1, 1), rule=ANY_SIZE)
    assert (len(found.lesions), found.found, found.missed, found.true, found.false) == (3, 2, 1, 2, 1)
    assert [x.dice for x in found.lesions] == [pytest.approx(12 / 18), 1, 0]
    assert [x.matches for x in found.lesions] == [1, 1, 0]
    assert found.dice == pytest.approx((12 / 18 + 1 + 0 + 0) / 4)
    assert found.hausdorff_mm == pytest.approx((1 + 0 + 374 + 374) / 4)
    assert (found.sensitivity, found.precision, found.f1) == (2 / 3, 2 / 3, 4 / 6)
    assert [x.volume_mm3 for x in found.lesions] == [9, 9, 9]


def test_parts_within_the_dilation_are_one_lesion_and_others_are_two() -> None:
    reference = squares((10, 10), (10, 15))  # two columns between them: dilated once each, they touch
    both = lesion_scores(reference, reference, (1, 1), rule=ANY_SIZE)
    assert [(x.matches, x.dice) for x in both.lesions] == [(2, 1)]
    apart = lesion_scores(reference, reference, (1, 1), rule=LesionRule(dilation_voxels=0, smallest_mm3=0))
    assert [(x.matches, x.dice) for x in apart.lesions] == [(1, 1), (1, 1)]


def test_a_match_need_not_overlap_but_must_touch_the_dilation() -> None:
    reference = squares((10, 10))
    near, far = squares((10, 13)), squares((10, 14))
    assert lesion_scores(reference, near, (1, 1), rule=ANY_SIZE).lesions[0].matches == 1
    assert lesion_scores(reference, near, (1, 1), rule=ANY_SIZE).dice == 0
    assert lesion_scores(reference, far, (1, 1), rule=ANY_SIZE).false == 1


def test_small_lesions_count_neither_as_missed_nor_their_matches_as_false() -> None:
    reference, prediction = (
        squares((2, 2), (20, 20)) | squares((30, 30), side=1),
        squares((2, 2)) | squares((30, 30), side=1),
    )
    found = lesion_scores(reference, prediction, (1, 1), rule=LesionRule(dilation_voxels=1, smallest_mm3=1))
    assert (found.found, found.missed, found.false) == (1, 1, 0)
    assert found.dice == 0.5


@pytest.mark.parametrize(("empty", "ratio"), [("nan", math.nan), ("one", 1.0)])
def test_nothing_to_find(empty: str, ratio: float) -> None:
    zero = np.zeros((5, 5, 5), bool)
    found = lesion_scores(zero, zero, (1, 1, 1), empty=empty)
    np.testing.assert_equal([found.dice, found.f1, found.sensitivity, found.precision], [ratio] * 4)
    assert found.hausdorff_mm == 0


def by_the_rule(
    a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], dilation: int, smallest: float
) -> list[float]:
    """The steps of the BraTS script on whole arrays."""
    struct, full = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    grown, n = ndimage.label(ndimage.binary_dilation(a, struct, dilation), full)
    predicted, m = ndimage.label(b, full)
    scores, hits = [], set()
    for i in range(1, n + 1):
        lesion = a & (grown == i)
        ids = set(np.unique(predicted[ndimage.binary_dilation(lesion, struct, dilation)])) - {0}
        hits |= ids
        match = np.isin(predicted, list(ids))
        if lesion.sum() * np.prod(spacing) > smallest:
            distance = surface_distances(lesion, match, spacing).hausdorff(95)
            scores.append((dice(lesion, match), min(distance, 374)))
    false = m - len(hits)
    total = len(scores) + false
    return [sum(s[0] for s in scores) / total, (sum(s[1] for s in scores) + 374 * false) / total, total, false]


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_rule_of_brats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 32, 30, 28)), (0, 1.5, 1.5, 1.5))
    a, b = noise[0] > 0.22, noise[0] + 0.4 * noise[1] > 0.25
    spacing = (1.0, 1.2, 0.9)
    for dilation, smallest in ((1, 0.0), (1, 20.0), (2, 5.0)):
        found = lesion_scores(a, b, spacing, rule=LesionRule(dilation, smallest))
        ours = [found.dice, found.hausdorff_mm, len(found.lesions) + found.false, found.false]
        expected = by_the_rule(a, b, spacing, dilation, smallest)
        assert expected[2] > 5
        np.testing.assert_allclose(ours, expected)


def test_rows_carry_the_lesions_where_asked() -> None:
    reference, prediction = (squares((2, 2), (20, 20)).astype(np.uint8), squares((2, 2), (30, 30)).astype(np.uint8))
    (row,) = measure_case(reference, prediction, {"a": [1]}, (1, 1), lesions=ANY_SIZE)
    assert [row[k] for k in ("n_lesions", "n_lesions_found", "n_lesions_false")] == [2, 1, 1]
    assert (row["lesion_dice"], row["lesion_f1"]) == (pytest.approx(1 / 3), 0.5)
    assert row["lesion_hd95_mm"] == pytest.approx(374 * 2 / 3)
    (without,) = measure_case(reference, prediction, {"a": [1]}, (1, 1))
    assert "n_lesions" not in without


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="dilation_voxels -1 must be 0 or more"):
        LesionRule(dilation_voxels=-1)
    with pytest.raises(ValueError, match="must be 2 numbers"):
        lesion_scores(squares((1, 1)), squares((1, 1)), (1, 1, 1))
