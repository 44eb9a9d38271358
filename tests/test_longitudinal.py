"""Change between two time points: boxes whose rims can be counted."""

from __future__ import annotations

import json
from math import hypot
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d.cli import main
from medseg3d.inference.confidence import Disagreement
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.sidecar import read_sidecar, sidecar_path, write_sidecar
from medseg3d.io.images import write_volume
from medseg3d.longitudinal import longitudinal, volume_interval
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.test_ensembles import MIRRORED, save_noise
from tests.test_predictor import save_model


def box(*sizes: int, spacing: tuple[float, ...] = (10.0, 10.0, 10.0)) -> Volume:
    data = np.zeros((1, 14, 14, 14), np.uint8)
    data[(0, *(slice(1, 1 + n) for n in sizes))] = 1
    return Volume(data, np.diag([*spacing, 1.0]))


def test_the_rim_of_a_box() -> None:
    """10 x 4 x 3 voxels of 1 ml: all but 8 x 2 x 1 touch the outline inside, 2 (40 + 30 + 12) outside."""
    found = volume_interval(box(10, 4, 3), [1])
    assert (found.volume_ml, found.rim_low_ml, found.rim_high_ml) == pytest.approx((120, 104 / 2, 164 / 2))
    assert (found.low_ml, found.high_ml) == pytest.approx((68, 202))
    assert found.variation_ml is None
    sure = volume_interval(box(10, 4, 3), [1], ratios=[0.9, 1.05])
    assert sure.variation_ml == pytest.approx(12)
    assert (sure.low_ml, sure.high_ml) == pytest.approx((120 - hypot(52, 12), 120 + hypot(82, 12)))
    nothing = volume_interval(box(10, 4, 3), [2])
    assert (nothing.volume_ml, nothing.low_ml, nothing.high_ml) == (0, 0, 0)


def test_a_rim_at_the_border_of_the_array_counts() -> None:
    data = np.ones((1, 2, 2, 2), np.uint8)
    found = volume_interval(Volume(data, np.diag([10.0, 10, 10, 1])), [1])
    assert (found.rim_low_ml, found.rim_high_ml) == pytest.approx((8 / 2, 24 / 2))


def test_what_exceeds_and_what_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From 12 x 12 x 6 to 12 x 12 x 12 voxels of 1 ml, and from there to 12 x 12 x 11."""
    for name, before, after in (("grown", 6, 12), ("same", 12, 11)):
        write_volume(box(12, 12, before), tmp_path / "a" / f"{name}.nii.gz")
        write_volume(box(12, 12, after), tmp_path / "b" / f"{name}.nii.gz")
    write_volume(box(1, 1, 1), tmp_path / "b" / "new.nii.gz")
    grown, same = longitudinal(tmp_path / "a", tmp_path / "b", names={"x": [1]}).rows
    outer = (2 * (144 + 2 * 72)) / 2
    inner = (12**3 - 10**3) / 2
    assert grown["change_ml"] == pytest.approx(864)
    assert grown["change_percent"] == pytest.approx(100)
    assert grown["change_low_ml"] == pytest.approx(864 - hypot(inner, outer))
    assert (grown["exceeds"], grown["verdict"]) == (True, "grew")
    assert same["change_ml"] == pytest.approx(-144)
    assert (same["exceeds"], same["verdict"]) == (False, "not more than the interval")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--longitudinal", "--labels", "x=1"]) == 0
    said = capsys.readouterr().out
    assert "test-time variation not available for grown, same" in said
    assert "1 in B alone, not compared: new" in said
    files = [str(tmp_path / "b" / "grown.nii.gz"), str(tmp_path / "a" / "grown.nii.gz")]
    assert main(["compare", *files, "--longitudinal", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["label"], row["verdict"]) == ("1", "shrank")


def test_other_spacings_are_no_change(tmp_path: Path) -> None:
    write_volume(box(4, 4, 4), tmp_path / "a.nii.gz")
    write_volume(box(8, 4, 2, spacing=(5.0, 10.0, 20.0)), tmp_path / "b.nii.gz")
    (row,) = longitudinal(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz").rows
    assert row["case"] == "a - b"
    assert row["change_ml"] == pytest.approx(0)


def test_what_belongs_elsewhere_is_refused(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert main(["compare", a, b, "--longitudinal"]) == 2
    assert main(["compare", a, b, "--task", "brats"]) == 2
    assert main(["compare", a, b, "--longitudinal", "--metric", "dice"]) == 2
    write_volume(Volume(np.ones((1, 4, 4), np.uint8), np.eye(3)), tmp_path / "c.nii.gz")
    assert main(["compare", str(tmp_path / "c.nii.gz"), str(tmp_path / "c.nii.gz"), "--longitudinal"]) == 4


def test_the_members_volumes_in_that_of_their_mean() -> None:
    """Of 8 voxels one member takes 4, the other 6; the mean of their logits takes 5, where the second is the surer."""
    task = Task("t", {"a": []}, {"x": [1]}, (8, 8, 8))
    first, second = torch.tensor([1.0] * 4 + [-1.0] * 4), torch.tensor([2.0] * 5 + [0.5] + [-1.0] * 2)
    logits = torch.stack([torch.stack([-m / 2, m / 2]) for m in (first, second)]).reshape(4, 1, 8, 1)
    compared = Disagreement(task, 2)
    list(compared.merged(iter([logits])))
    assert compared.volume_ratios() == {"x": [4 / 5, 6 / 5]}
    single = Disagreement(task, 1)
    list(single.merged(iter([logits[:2]])))
    assert single.volume_ratios() == {}


def test_variation_comes_from_what_predict_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(tmp_path / "run", MIRRORED)
    save_noise(tmp_path / "in")
    predict_folder(tmp_path / "run", tmp_path / "in", tmp_path / "out", uncertainty=True)
    file = tmp_path / "out" / "p.nii.gz"
    sidecar = read_sidecar(sidecar_path(file))
    assert sidecar is not None
    ratios = sidecar["confidence"]["volume_ratios"]
    assert all(len(members) == 2 for members in ratios.values())
    assert ratios
    sidecar["confidence"]["volume_ratios"] = {"x": [0.5, 1.25], "y": [1.0, 1.0]}
    write_sidecar(sidecar_path(file), "p", sidecar)
    rows = longitudinal(file, file, MIRRORED).rows
    assert rows[0]["variation_a_ml"] == pytest.approx(rows[0]["volume_a_ml"] / 2)
    assert not rows[0]["exceeds"]
    write_volume(box(1, 1, 1), file)
    assert longitudinal(file, file, MIRRORED).rows[0]["variation_a_ml"] is None
