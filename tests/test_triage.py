"""The benchmark of the expected Dice: its figures by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.triage import ranked
from medseg3d.training.calibration import Expectations

ONE: Any = SimpleNamespace(networks=[None], flips=[()])
DICE = tuple(np.linspace(0.2, 0.89, 24))
NAMES = tuple(f"case{i}" for i in range(24))


def test_a_figure_that_is_right_ranks_every_case() -> None:
    found = ranked(ONE, Expectations(NAMES, tuple(0.5 + 0.5 * d for d in DICE), DICE), compared=False)
    assert found["rho"] == pytest.approx(1)
    assert found["worst_5_in_first_10"] == 1
    assert found["chance"] == pytest.approx(10 / 12)
    assert found["mean_error"] == pytest.approx(0, abs=1e-9)


def test_a_figure_that_is_upside_down_finds_three_of_five() -> None:
    """12 cases in a half: the 10 looked at first leave out the two worst of all."""
    found = ranked(ONE, Expectations(NAMES, DICE[::-1], DICE), compared=False)
    assert found["rho"] == pytest.approx(-1)
    assert found["worst_5_in_first_10"] == pytest.approx(3 / 5)


def test_cases_where_nothing_was_found_come_first_and_those_without_a_score_not_at_all() -> None:
    dice = (0.0, 0.0, *DICE[2:], float("nan"))
    expected = (float("nan"), float("nan"), *DICE[2:], 0.0)
    found = ranked(ONE, Expectations((*NAMES, "more"), expected, dice), compared=False)
    assert found["rho"] == pytest.approx(1)
    assert found["worst_5_in_first_10"] == 1
