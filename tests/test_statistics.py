"""Statistics of label maps: boxes of known mm, scans of known values."""

from __future__ import annotations

import csv
import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from medseg3d.checks import ConfigError, InputError
from medseg3d.cli import main
from medseg3d.io.images import read_volume, write_volume
from medseg3d.statistics import label_statistics, statistics
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.shared import real_data

AFFINE = np.diag([2.0, 1.0, 5.0, 1.0])
TASK = Task("organs", {"ct": []}, {"both": [1, 2], "small": [2], "none": [3]}, (8, 8, 8))


def box_map() -> Volume:
    """A box of 10 x 4 x 3 voxels of 2 x 1 x 5 mm, whose first two voxels along x are of label 2."""
    data = np.zeros((1, 16, 10, 8), np.uint8)
    data[0, 3:13, 2:6, 1:4] = 1
    data[0, 3:5, 2:6, 1:4] = 2
    return Volume(data, AFFINE)


def scan() -> Volume:
    """100 everywhere, and 0, 1, 2, .. 119 in the box, in the order of its voxels."""
    data = np.full((1, 16, 10, 8), 100, np.float32)
    data[0, 3:13, 2:6, 1:4] = np.arange(120).reshape(10, 4, 3)
    return Volume(data, AFFINE)


def test_a_box_by_hand() -> None:
    both, small, none = label_statistics(box_map(), TASK.labels, image=scan(), channels=["ct"])
    assert [row["label"] for row in (both, small, none)] == ["both", "small", "none"]
    assert both["voxels"] == 120
    assert both["volume_ml"] == pytest.approx(120 * 10 / 1000)
    # Faces of 9 x 3, 9 x 2 and 3 x 2 voxels; along each axis four edges, each cut across half a voxel of the other two.
    faces = 2 * (9 * 3 * 2 + 9 * 2 * 10 + 3 * 2 * 5)
    edges = 4 * (9 * 2 * sqrt(0.5**2 + 2.5**2) + 3 * 1 * sqrt(1 + 2.5**2) + 2 * 5 * sqrt(1 + 0.5**2))
    corner = sqrt((1 * 0.5) ** 2 + (1 * 2.5) ** 2 + (0.5 * 2.5) ** 2) / 2
    area = faces + edges + 8 * corner
    assert both["surface_area_mm2"] == pytest.approx(area)
    assert both["sphericity"] == pytest.approx(np.pi ** (1 / 3) * (6 * 1200) ** (2 / 3) / area)
    # In a slice from end to end, 20 mm, and 3 of 4 voxels of 1 mm across.
    assert both["longest_axial_mm"] == pytest.approx(sqrt(20**2 + 3**2))
    # In 3D from below the first slice to above the third, 15 mm, and 9 of 10 voxels of 2 mm along.
    assert both["longest_3d_mm"] == pytest.approx(sqrt(18**2 + 3**2 + 15**2))
    assert both["axial_slice"] == 1
    assert (both["ct_min"], both["ct_max"], both["ct_mean"], both["ct_median"]) == (0, 119, 59.5, 59.5)
    assert both["ct_std"] == pytest.approx(sqrt((120**2 - 1) / 12))
    assert both["ct_p10"] == pytest.approx(11.9)
    assert (small["voxels"], small["ct_max"]) == (24, 23)
    assert (none["voxels"], none["volume_ml"], none["surface_area_mm2"]) == (0, 0, 0)
    assert np.isnan([none["longest_3d_mm"], none["ct_mean"], none["axial_slice"]]).all()


def test_the_axes_of_the_array_do_not_matter() -> None:
    """The same box, its array turned: slices along the second axis, which runs downwards."""
    turned = box_map().data.transpose(0, 2, 3, 1)[:, :, ::-1]
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[2, 3], affine[3, 3] = 1, -5, 2, 35, 1
    first = label_statistics(box_map(), {"x": [1, 2]})[0]
    again = label_statistics(Volume(turned, affine), {"x": [1, 2]})[0]
    assert again.pop("axial_slice") == 7 - 3
    assert first.pop("axial_slice") == 1
    assert again == pytest.approx(first)


def test_a_picture_has_an_area() -> None:
    data = np.zeros((1, 9, 9), np.uint8)
    data[0, 2:7, 3:6] = 1
    (row,) = label_statistics(Volume(data, np.diag([2.0, 2.0, 1.0])), {"x": [1]})
    assert row == pytest.approx(
        {
            "label": "x",
            "voxels": 15,
            "area_mm2": 60,
            "outline_mm": 24 + 4 * sqrt(2),
            "longest_mm": sqrt(10**2 + 4**2),
            "across_mm": row["across_mm"],
        }
    )


def test_a_tumour_that_pyradiomics_measured_too() -> None:
    """``brain1`` of its test data and its table ``baseline_shape.csv``; its surface is cut into other triangles."""
    folder = real_data("pyradiomics_nrrd")
    labels = read_volume(folder / "brain1_label.nrrd", labels=True)
    (row,) = label_statistics(labels, {"tumour": [1]})
    assert row["voxels"] == 4137
    assert row["volume_ml"] == pytest.approx(16.41265869140625)
    assert row["surface_area_mm2"] == pytest.approx(6438.8216, rel=0.002)
    assert row["sphericity"] == pytest.approx(0.48506174, rel=0.002)


def test_a_scan_on_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match="E-GRID"):
        label_statistics(box_map(), {"x": [1]}, image=Volume(scan().data, np.eye(4)))


def save(tmp_path: Path) -> tuple[Path, Path]:
    labels, images = tmp_path / "labels", tmp_path / "images"
    for name in "ab":
        write_volume(box_map(), labels / f"{name}.nii.gz")
        write_volume(scan(), images / f"{name}.nii.gz")
    return labels, images


def test_a_folder_becomes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, images = save(tmp_path)
    write_volume(scan(), labels / "a_uncertainty.nii.gz")
    out = tmp_path / "out" / "statistics.csv"
    words = ["statistics", labels, "--images", images, "--labels", "box=1,2", "-o", out]
    assert main([str(w) for w in words]) == 0
    assert "1.20" in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"], row["voxels"]) for row in rows] == [("a", "box", "120"), ("b", "box", "120")]
    assert (rows[0]["volume_ml"], rows[0]["channel_0_mean"]) == ("1.2", "59.5")
    assert main(["statistics", str(labels / "a.nii.gz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["label"], row["voxels"]) for row in told["rows"]] == [("1", 96), ("2", 24)]


def test_one_bad_case_costs_one_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, images = save(tmp_path)
    (labels / "b.nii.gz").write_bytes(b"nothing")
    found = statistics(labels, TASK, images=images)
    assert {row["case"] for row in found.rows} == {"a"}
    assert "ct_mean" in found.rows[0]
    assert [f["case"] for f in found.failed] == ["b"]
    assert main(["statistics", str(labels), "--labels", "x=1"]) == 3
    assert "failed: b" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    labels, images = save(tmp_path)
    (images / "a.nii.gz").rename(images / "c.nii.gz")
    (images / "b.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"no scan \(c\) has the name of a label map \(a, b\)"):
        statistics(labels, images=images)
    with pytest.raises(ConfigError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        statistics(tmp_path / "empty")
    assert main(["statistics", str(labels), "--labels", "x=1", "--task", "brats"]) == 2
