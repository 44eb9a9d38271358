"""The training benchmark's figures: from cases' scores that a person can average in the head."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training_results import collect, tables

Row = tuple[str, str, str, str, str]


def leave_piece(folder: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """What a piece leaves: ``rows`` are case, label, dice, hd95_mm, nsd."""
    folder.mkdir(parents=True)
    (folder / "piece.json").write_text(json.dumps({"steps": 7, "parameters": 2_000_000, **about}))
    with (folder / "per_case.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "label", "dice", "hd95_mm", "nsd"), *rows])


def both_labels(first: float, second: float) -> list[Row]:
    """A case with each label at that Dice."""
    return [("a", "x", str(first), "1", "0.5"), ("a", "y", str(second), "3", "0.7")]


def seed(side: str, number: int) -> dict[str, Any]:
    return {"side": side, "seed": number, "fold": None, "minutes": 10.0}


def test_seeds(tmp_path: Path) -> None:
    leave_piece(tmp_path / "a0", seed("medseg3d", 0), both_labels(0.8, 0.9))
    leave_piece(tmp_path / "a1", seed("medseg3d", 1), both_labels(0.9, 1.0))
    leave_piece(tmp_path / "b0", seed("dynunet", 0), both_labels(0.5, 0.7))
    found = collect(tmp_path)["dice_10min"]
    assert found["medseg3d"]["seeds"] == {"0": 0.85, "1": 0.95}
    assert found["medseg3d"]["mean"] == pytest.approx(0.9)
    assert found["medseg3d"]["spread"] == pytest.approx(0.1)
    assert found["dynunet"]["hd95_mm"] == 2
    assert found["dynunet"]["nsd_1mm"] == pytest.approx(0.6)
    lines = tables(collect(tmp_path)).splitlines()
    assert lines[2] == "| 10 | medseg3d | 0.9000 | 0.1000 | 0.8500, 0.9500 |  | 2.00 | 0.6000 | 2.00 M |"
    assert lines[3].startswith("| 10 | dynunet | 0.6000 | 0.0000 |")


def test_how_far_ahead_over_the_same_cases_and_seeds(tmp_path: Path) -> None:
    """The first half of the cases by 0.1 and 0.3 in the two seeds, the second by 0.4 in both; seed 2 has no counterpart."""
    theirs = {0: (0.5, 0.4), 1: (0.5, 0.4), 2: (0.0, 0.0)}
    ours = {0: (0.6, 0.8), 1: (0.8, 0.8)}
    halves = ("abcdef", "ghijkl")
    for side, seeds in {"medseg3d": ours, "dynunet": theirs}.items():
        for number, dice in seeds.items():
            rows = [(c, "x", str(d), "1", "1") for half, d in zip(halves, dice, strict=True) for c in half]
            leave_piece(tmp_path / f"{side}{number}", seed(side, number), rows)
    found = collect(tmp_path)["dice_10min"]
    assert found["dynunet"]["ours_ahead"] == pytest.approx(0.3)
    low, high = found["dynunet"]["ours_ahead_interval"]
    assert 0.2 < low < 0.3 < high < 0.4
    assert "ours_ahead" not in found["medseg3d"]
    assert f"| +0.3000 [{low:+.4f}, {high:+.4f}] |" in tables(collect(tmp_path))


def test_a_label_that_is_not_found_has_no_distance_and_is_told(tmp_path: Path) -> None:
    rows = [("a", "x", "0.8", "4", "0.5"), ("a", "y", "0", "inf", "0"), ("b", "x", "nan", "0", "nan")]
    leave_piece(tmp_path / "a0", seed("medseg3d", 0), rows)
    found = collect(tmp_path)["dice_10min"]["medseg3d"]
    assert (found["mean"], found["hd95_mm"], found["lost"]) == (
        0.4,
        4,
        0.5,
    )  # case b is empty, and so is its prediction
    assert "4.00 (50.0% not found)" in tables(collect(tmp_path))


def test_folds(tmp_path: Path) -> None:
    for fold, dice in ((1, 0.8), (2, 0.9)):
        about = {"side": "nnunet", "seed": 0, "fold": fold, "minutes": 30.0}
        leave_piece(tmp_path / f"f{fold}", about, both_labels(dice, dice))
    found = collect(tmp_path)["dice_5fold"]["nnunet"]
    assert found["folds"] == {"1": 0.8, "2": 0.9}
    assert (found["mean"], found["hd95_mm"], found["minutes"]) == (pytest.approx(0.85), 2, 30)
    assert "| nnunet | 30 | 0.8500 |  | 2.00 | 0.6000 | 1: 0.8000, 2: 0.9000 |" in tables(collect(tmp_path))


def test_plans_compare_at_the_longest_time_that_both_were_given(tmp_path: Path) -> None:
    pieces = [
        ("nuclei", "medseg3d", 10, 0.9),
        ("nuclei", "dynunet", 10, 0.8),
        ("nuclei", "medseg3d", 60, 0.95),
        ("brats_009", "medseg3d", 10, 0.5),
        ("brats_009", "dynunet", 10, 0.6),
        ("ct_organs", "dynunet", 10, 0.6),
    ]
    for dataset, side, minutes, dice in pieces:
        about = {"dataset": dataset, "side": side, "minutes": float(minutes)}
        leave_piece(tmp_path / "plans" / f"{dataset}-{side}-{minutes}", about, both_labels(dice, dice))
    found = collect(tmp_path)["plans"]
    assert (found["nuclei"]["medseg3d"], found["nuclei"]["dynunet"], found["nuclei"]["minutes"]) == (0.9, 0.8, 10)
    assert (found["wins"], found["compared"]) == (1, 2)
    assert tables(collect(tmp_path)).endswith("medseg3d ahead of dynunet on 1 of 2.")


def test_nothing_yet(tmp_path: Path) -> None:
    assert collect(tmp_path) == {}
    assert tables({}) == "no pieces yet"
