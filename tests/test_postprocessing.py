"""Cleaning of label maps, on maps small enough to write out."""

from __future__ import annotations

import numpy as np
import pytest

from medseg3d.checks import ConfigError
from medseg3d.postprocessing import Cleaning, clean, rules_as_dict, rules_from_dict
from tests.training_helpers import ball_task

FLAT = ball_task(patch_size=[16, 16], spacing_mm=[1, 1])
REGIONS = ball_task(
    patch_size=[16, 16], spacing_mm=[1, 1], labels={"whole": [1, 2], "core": [2]}, write={"whole": 1, "core": 2}
)


def drawn(text: str) -> np.ndarray:
    return np.array([[int(c) for c in line] for line in text.split()], np.uint8)


PIECES = drawn("110001 110000 000022 100022")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Cleaning(), "110001 110000 000022 100022"),
        (Cleaning(largest=True), "110000 110000 000022 000022"),
        (Cleaning(min_ml=0.002), "110000 110000 000022 000022"),
        (Cleaning(min_ml=0.001), "110001 110000 000022 100022"),
        (Cleaning(min_ml=1), "000000 000000 000022 000022"),
    ],
    ids=str,
)
def test_pieces_by_hand(rule: Cleaning, expected: str) -> None:
    before = PIECES.copy()
    # voxels of 1 x 1 mm: a piece of n voxels has n / 1000 ml
    assert (clean(PIECES, {"shell": rule}, FLAT, (1, 1)) == drawn(expected)).all()
    assert (before == PIECES).all()


def test_sizes_follow_the_spacing() -> None:
    rule = {"shell": Cleaning(min_ml=0.004)}
    assert clean(PIECES, rule, FLAT, (1, 1))[0, 0] == 1
    assert clean(PIECES, rule, FLAT, (0.9, 1))[0, 0] == 0, "four voxels of 0.9 mm2 are too small"
    assert clean(PIECES, rule, FLAT, (2, 2))[0, 5] == 1, "a voxel of 4 mm2 is large enough"


def test_pieces_hang_together_across_corners() -> None:
    diagonal = drawn("100 010 001")
    assert (clean(diagonal, {"shell": Cleaning(largest=True)}, FLAT, (1, 1)) == diagonal).all()


def test_holes_are_filled_with_background_alone() -> None:
    ring = drawn("1111 1021 1111 0000")
    filled = clean(ring, {"shell": Cleaning(fill_holes=True)}, FLAT, (1, 1))
    assert (filled == drawn("1111 1121 1111 0000")).all(), "the core inside the shell stays core"


def test_regions_are_cleaned_as_a_whole() -> None:
    # the whole is 1 and 2 together: two pieces, the smaller one with a core of its own
    both = drawn("112100 112100 000000 000012")
    kept = clean(both, {"whole": Cleaning(largest=True)}, REGIONS, (1, 1))
    assert (kept == drawn("112100 112100 000000 000000")).all(), "a core outside the whole goes with it"
    core = clean(both, {"core": Cleaning(largest=True)}, REGIONS, (1, 1))
    assert (core == drawn("112100 112100 000000 000011")).all(), "what is no core any more is still whole"


def test_three_dimensions_and_empty_maps() -> None:
    task = ball_task()
    labels = np.zeros((6, 5, 4), np.uint16)
    rules = {"shell": Cleaning(largest=True, min_ml=0.001, fill_holes=True), "core": Cleaning(largest=True)}
    assert not clean(labels, rules, task, (1, 1, 1)).any()
    labels[:3, :3, :3] = 1
    labels[1, 1, 1] = 0
    labels[5, 4, 3] = 1
    out = clean(labels, rules, task, (1, 1, 1))
    assert out.dtype == np.uint16
    assert out.sum() == 27


def test_rules_are_plain_data() -> None:
    rules = {"core": Cleaning(largest=True, min_ml=0.5)}
    assert rules_from_dict(rules_as_dict(rules), FLAT) == rules
    assert str(rules["core"]) == "largest piece alone, pieces of at least 0.5 ml"
    for wrong, message in (
        ({"liver": {}}, "no label"),
        ({"core": {"small": 1}}, "wrong form"),
        ({"core": {"min_ml": -1}}, "at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            rules_from_dict(wrong, FLAT)
