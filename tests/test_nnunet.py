"""nnU-Net's summary.json, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from medseg3d.cli import main
from medseg3d.io.images import write_volume
from medseg3d.volume import Volume


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
