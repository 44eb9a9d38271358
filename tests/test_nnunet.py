"""nnU-Net's summary.json, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg3d.cli import main
from medseg3d.io.images import write_volume
from medseg3d.volume import Volume
from tests.shared import ROOT


def save(file: Path, *values: int) -> None:
    write_volume(Volume(np.array(values, np.uint8).reshape(1, 2, 2, 2), np.eye(4)), file)


def test_the_scores_as_nnunet_lays_them_out(tmp_path: Path) -> None:
    """Label 1 of a: 2 of 3 and 2 voxels in common. Label 2 is in b alone, where it is missed."""
    for side, a, b in (
        ("ref", (1, 1, 1, 0, 0, 0, 0, 0), (2, 0, 0, 0, 0, 0, 0, 0)),
        ("pred", (1, 1, 0, 0, 0, 0, 0, 0), (0,) * 8),
    ):
        save(tmp_path / side / "a.nii.gz", *a)
        save(tmp_path / side / "b.nii.gz", *b)
    out = tmp_path / "nnunet" / "summary.json"
    words = ["evaluate", "--reference", tmp_path / "ref", "--prediction", tmp_path / "pred", "--nnunet", out]
    assert main([str(w) for w in [*words, "--labels", "one=1", "--labels", "two=2", "--labels", "any=1,2"]]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {"foreground_mean", "mean", "metric_per_case"}
    first, second = found["metric_per_case"]
    assert Path(first["reference_file"]) == tmp_path / "ref" / "a.nii.gz"
    assert Path(second["prediction_file"]) == tmp_path / "pred" / "b.nii.gz"
    assert first["metrics"]["1"] == {
        "Dice": 0.8,
        "IoU": pytest.approx(2 / 3),
        "TP": 2,
        "FP": 0,
        "FN": 1,
        "TN": 5,
        "n_pred": 2,
        "n_ref": 3,
    }
    assert math.isnan(first["metrics"]["2"]["Dice"])
    assert second["metrics"]["2"]["Dice"] == 0
    assert second["metrics"]["(1, 2)"]["FN"] == 1
    assert {key: mean["Dice"] for key, mean in found["mean"].items()} == {"1": 0.8, "2": 0, "(1, 2)": 0.4}
    assert found["mean"]["1"]["TP"] == 1
    assert found["foreground_mean"]["Dice"] == pytest.approx(0.4)


def pattern(case: int, steps: tuple[int, int, int]) -> np.ndarray:
    """Values 0 to 3 that can be computed anywhere; label 3 is not in every reference, label 2 not in every case."""
    x, y, z = np.indices((12, 11, 10))
    values = (x * steps[0] // 4 + y * steps[1] // 3 + z * steps[2] + case) % 4
    if case == 3:
        values[values == 2] = 0
    return values[None].astype(np.uint8)


def write_patterns(folder: Path) -> None:
    for case in range(4):
        for side, steps in (("ref", (3, 5, 7)), ("pred", (3, 4, 7))):
            values = pattern(case, steps)
            if case == 2 and side == "ref":
                values[values == 3] = 0
            write_volume(Volume(values, np.diag([1, 1, 2.0, 1])), folder / side / f"c{case}.nii.gz")


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            if not key.endswith("_file"):
                assert_same(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)


def test_it_is_the_file_that_nnunet_writes(tmp_path: Path) -> None:
    """Its JSON beside this file: of ``compute_metrics_on_folder`` of nnU-Net 2.8.1, for labels 1, 2, 3 and the region (1, 2)."""
    write_patterns(tmp_path)
    places = ["--reference", str(tmp_path / "ref"), "--prediction", str(tmp_path / "pred")]
    labels = [word for name in ("a=1", "b=2", "c=3", "ab=1,2") for word in ("--labels", name)]
    assert main(["evaluate", *places, *labels, "--nnunet", str(tmp_path / "ours.json")]) == 0
    theirs = json.loads((ROOT / "tests" / "nnunet_summary.json").read_text())
    assert math.isnan(theirs["metric_per_case"][3]["metrics"]["2"]["Dice"])
    assert 0.1 < theirs["foreground_mean"]["Dice"] < 0.9
    assert_same(json.loads((tmp_path / "ours.json").read_text()), theirs)
