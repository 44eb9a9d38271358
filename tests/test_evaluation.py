"""Evaluation of folders: every case is scored, failed or listed; nothing leaves a mean unseen."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg3d.checks import ConfigError
from medseg3d.evaluation import evaluate
from medseg3d.io import find_cases
from medseg3d.metrics import LesionRule, overlap, surface_distances
from medseg3d.task import Task

OBLIQUE = np.array([[1.9, 0.2, 0, 10], [-0.6, 0.95, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
OBLIQUE[:3, 1] -= OBLIQUE[:3, 0] * (OBLIQUE[:3, 0] @ OBLIQUE[:3, 1]) / (OBLIQUE[:3, 0] @ OBLIQUE[:3, 0])
ORGANS = Task("organs", {"CT": []}, {"liver": [1], "spleen": [2]}, (16, 16, 16))
TUMOUR = Task("tumour", {"MR": []}, {"whole": [1, 2], "core": [2]}, (16, 16, 16), write={"whole": 1, "core": 2})


def save(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data.astype(np.uint8), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)


def cube(*corner: int, size: int = 4, value: int = 1) -> np.ndarray:
    data = np.zeros((16, 14, 12), np.uint8)
    data[tuple(slice(c, c + size) for c in corner)] = value
    return data


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two cases of two organs; the second has no spleen, and one is invented."""
    reference, prediction = tmp_path / "reference", tmp_path / "prediction"
    save(reference / "one.nii.gz", cube(2, 2, 2) + cube(9, 9, 7, value=2))
    save(prediction / "one.nii.gz", cube(3, 2, 2) + cube(9, 9, 7, value=2))
    save(reference / "two.nii.gz", cube(5, 5, 5))
    save(prediction / "two.nii", cube(5, 5, 5) + cube(0, 0, 0, size=1, value=2))
    return reference, prediction


def test_rows_and_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluate(*folders, ORGANS, output=tmp_path / "scores", tolerance_mm=1.0)
    assert [(r["case"], r["label"], r["status"]) for r in found.rows] == [
        ("one", "liver", "ok"),
        ("one", "spleen", "ok"),
        ("two", "liver", "ok"),
        ("two", "spleen", "fp"),
    ]
    spacing = tuple(np.linalg.norm(OBLIQUE[:3, :3], axis=0))
    assert found.rows[0]["dice"] == 0.75  # 4 x 4 x 4 shifted by one voxel
    assert found.rows[0]["hd_mm"] == pytest.approx(spacing[0], rel=1e-5)
    assert found.rows[0]["volume_reference_ml"] == pytest.approx(64 * np.prod(spacing) / 1000, rel=1e-5)
    with (tmp_path / "scores" / "per_case.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = ["case", "label", "status", "dice", "iou", "sensitivity", "specificity", "precision", "hd95_mm", "hd_mm"]
    assert list(rows[0])[:10] == first
    assert [float(r["dice"]) for r in rows] == [0.75, 1.0, 1.0, 0.0]
    assert rows[3]["hd95_mm"] == "inf"
    assert {(r["definition"], r["tolerance_mm"]) for r in rows} == {("surface", "1.0")}
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == ["per_case.csv", "summary.json"]


def test_summary_counts_and_is_valid_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluate(*folders, ORGANS, output=tmp_path)

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    spleen = summary["labels"]["spleen"]
    assert [spleen[k] for k in ("n_total", "n_ok", "n_miss", "n_fp", "n_tn")] == [2, 1, 0, 1, 0]
    interval = {"ci_low": 0.0, "ci_high": 1.0}  # of two cases with 0 and 1 nothing else can be said
    assert spleen["dice"] == {"mean": 0.5, **interval, "std": math.sqrt(0.5), "median": 0.5, "n_used": 2, "n_inf": 0}
    alone = {"ci_low": None, "ci_high": None, "std": None}
    assert spleen["hd95_mm"] == {"mean": 0.0, **alone, "median": "inf", "n_used": 1, "n_inf": 1}
    assert spleen["sensitivity"]["n_used"] == 1
    assert summary["mean"]["dice"] == pytest.approx((0.875 + 0.5) / 2)
    assert (summary["definition"], summary["percentile"], summary["empty"]) == ("surface", 95, "nan")
    assert (summary["n_cases"], summary["failed"]) == (2, [])
    assert json.loads(found.json()) == summary


def test_four_cases_of_which_two_have_no_distance(tmp_path: Path) -> None:
    """A hit, a miss, an invention and an empty case: a nan-mean would say HD95 0 mm and Dice 1 for all of them."""
    nothing = np.zeros((16, 14, 12), np.uint8)
    pairs = {"ok": (cube(2, 2, 2), cube(2, 2, 2)), "miss": (cube(2, 2, 2), nothing)}
    pairs |= {"fp": (nothing, cube(2, 2, 2)), "tn": (nothing, nothing)}
    for name, (reference, prediction) in pairs.items():
        save(tmp_path / "a" / f"{name}.nii.gz", reference)
        save(tmp_path / "b" / f"{name}.nii.gz", prediction)
    task = Task("liver", {"CT": []}, {"liver": [1]}, (16, 16, 16))
    liver = evaluate(tmp_path / "a", tmp_path / "b", task).summary["labels"]["liver"]
    assert [liver[k] for k in ("n_total", "n_ok", "n_miss", "n_fp", "n_tn")] == [4, 1, 1, 1, 1]
    assert (liver["dice"]["mean"], liver["dice"]["n_used"]) == (pytest.approx(1 / 3), 3)
    assert [liver["hd95_mm"][k] for k in ("mean", "median", "n_used", "n_inf")] == [0, math.inf, 1, 2]
    brats = evaluate(tmp_path / "a", tmp_path / "b", task, empty="one").summary["labels"]["liver"]
    assert (brats["dice"]["mean"], brats["dice"]["n_used"]) == (0.5, 4)
    assert [brats["hd95_mm"][k] for k in ("n_used", "n_inf")] == [2, 2]


def test_table_shows_what_the_means_leave_out(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "three.nii.gz", cube(2, 2, 2))
    lines = evaluate(*folders, ORGANS).table().splitlines()
    assert lines[0].split() == ["label", "cases", "missed", "invented", "empty", "Dice", "HD95", "mm"]
    assert lines[2].split() == [
        "spleen",
        "2",
        "0",
        "1",
        "0",
        "0.5000",
        "[0.0000,",
        "1.0000]",
        "0.00",
        "(+",
        "1",
        "inf)",
    ]
    assert lines[3].startswith("mean of labels")
    assert lines[4] == "1 without a prediction: three"


def test_regions(tmp_path: Path) -> None:
    reference = cube(2, 2, 2, size=6)
    reference[4:6, 4:6, 4:6] = 2
    prediction = np.roll(reference, 1, 1)
    save(tmp_path / "a" / "x.nii.gz", reference)
    save(tmp_path / "b" / "x.nii.gz", prediction)
    found = evaluate(tmp_path / "a", tmp_path / "b", TUMOUR, definition="voxel", percentile=100)
    assert [r["label"] for r in found.rows] == ["whole", "core"]
    assert found.rows[0]["dice"] == overlap(reference > 0, prediction > 0).dice == pytest.approx(5 / 6)
    assert found.rows[1]["dice"] == 0.5
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    expected = surface_distances(reference == 2, prediction == 2, spacing, definition="voxel").hausdorff()
    assert found.rows[1]["hd100_mm"] == found.rows[1]["hd_mm"] == pytest.approx(expected, rel=1e-5)


def test_bad_cases_are_listed_and_the_others_scored(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, prediction = folders
    moved = OBLIQUE.copy()
    moved[2, 3] += 2
    save(reference / "moved.nii.gz", cube(2, 2, 2))
    save(prediction / "moved.nii.gz", cube(2, 2, 2), moved)
    save(reference / "size.nii.gz", cube(2, 2, 2))
    save(prediction / "size.nii.gz", cube(2, 2, 2)[:-1])
    save(reference / "value.nii.gz", cube(2, 2, 2))
    save(prediction / "value.nii.gz", cube(2, 2, 2, value=7))
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += 0.1 * sheared[:3, 0]
    for folder in folders:
        save(folder / "sheared.nii.gz", cube(2, 2, 2), sheared)
    image = nib.Nifti1Image(cube(2, 2, 2), sheared)  # a qform cannot hold it
    for folder in folders:
        nib.save(image, folder / "sheared.nii.gz")
    save(reference / "cut.nii.gz", cube(2, 2, 2))
    whole = (reference / "cut.nii.gz").read_bytes()
    (prediction / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    save(reference / "twice.nii.gz", cube(2, 2, 2))
    save(prediction / "twice.nii.gz", cube(2, 2, 2))
    save(prediction / "twice.nii", cube(2, 2, 2))
    save(prediction / "fraction.nii.gz", cube(2, 2, 2))
    nib.save(nib.Nifti1Image(cube(2, 2, 2) * np.float32(0.5), OBLIQUE), reference / "fraction.nii.gz")

    found = evaluate(reference, prediction, ORGANS, output=tmp_path)
    failed = {f["case"]: f for f in found.summary["failed"]}
    assert {name: f["code"] for name, f in failed.items() if name != "cut"} == {
        "moved": "E-GRID",
        "size": "E-GRID",
        "value": "E-LABEL-VALUE",
        "sheared": "E-SHEAR",
        "twice": "E-DUPLICATE-CASE",
        "fraction": "E-LABEL-FRACTION",
    }
    assert failed["cut"]["code"] != "E-UNEXPECTED"
    assert "corners 2 mm apart" in failed["moved"]["message"]
    assert "(15, 14, 12) against (16, 14, 12)" in failed["size"]["message"]
    assert (
        "the prediction holds values 7 (64 voxels) outside task 'organs'; known are 0, 1, 2"
        in failed["value"]["message"]
    )
    assert sorted({r["case"] for r in found.rows}) == ["one", "two"]
    assert found.summary["n_cases"] == 9
    assert "7 of 9 cases failed: cut, fraction, moved, sheared, size and 2 more" in found.table()
    assert len(json.loads((tmp_path / "summary.json").read_text())["failed"]) == 7


def test_all_cases_failed_leaves_an_empty_table(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.nii.gz", cube(2, 2, 2, value=9))
    save(tmp_path / "b" / "x.nii.gz", cube(2, 2, 2))
    found = evaluate(tmp_path / "a", tmp_path / "b", ORGANS, output=tmp_path / "c")
    assert found.rows == []
    assert len(found.summary["failed"]) == 1
    assert "1 of 1 cases failed: x" in found.table()
    assert (tmp_path / "c" / "per_case.csv").read_text() == "case\n"


def test_unmatched_files_and_chosen_cases(folders: tuple[Path, Path]) -> None:
    reference, prediction = folders
    save(reference / "left.nii.gz", cube(2, 2, 2))
    save(prediction / "right.nii.gz", cube(2, 2, 2))
    save(prediction / "one_probabilities.nii.gz", cube(2, 2, 2))  # what predict writes beside the labels
    (prediction / "notes.txt").write_text("not an image")
    found = evaluate(reference, prediction, ORGANS).summary
    assert (found["unmatched_reference"], found["unmatched_prediction"]) == (["left"], ["right"])
    chosen = evaluate(reference, prediction, ORGANS, cases=["two", "left"])
    assert {r["case"] for r in chosen.rows} == {"two"}
    assert chosen.summary["unmatched_reference"] == ["left"]


def test_workers_do_not_change_the_numbers(folders: tuple[Path, Path]) -> None:
    np.testing.assert_equal(
        evaluate(*folders, ORGANS, workers=1, tolerance_mm=1).rows,
        evaluate(*folders, ORGANS, workers=4, tolerance_mm=1).rows,
    )


def test_pictures(tmp_path: Path) -> None:
    task = Task("nuclei", {"image": []}, {"nuclei": [1]}, (32, 32))
    for folder, shift in (("a", 0), ("b", 3)):
        (tmp_path / folder).mkdir()
        mask = np.zeros((20, 30), np.uint8)
        mask[5 + shift : 11 + shift, 5:15] = 1
        Image.fromarray(mask).save(tmp_path / folder / "x.png")
    (row,) = evaluate(tmp_path / "a", tmp_path / "b", task).rows
    assert (row["dice"], row["hd_mm"], row["surface_dims"]) == (0.5, 3.0, 2)
    assert math.isnan(row["volume_reference_ml"])


def test_a_data_set_is_read_with_its_values_mapped(tmp_path: Path) -> None:
    """The data set numbers the spleen 1 and the liver 2; the task, and so the prediction, the other way round."""
    data = tmp_path / "Task99_Organs"
    swapped = cube(2, 2, 2, value=2) + cube(9, 9, 7, value=1)
    save(data / "labelsTr" / "case_1.nii.gz", swapped)
    save(data / "imagesTr" / "case_1.nii.gz", swapped)
    entry = {"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii.gz"}
    header = {"name": "Organs", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen", "2": "liver"}}
    (data / "dataset.json").write_text(json.dumps(header | {"numTraining": 1, "training": [entry], "test": []}))
    save(tmp_path / "prediction" / "case_1.nii.gz", cube(2, 2, 2, value=1) + cube(9, 9, 7, value=2))
    for reference in (data, data / "labelsTr"):
        assert [r["dice"] for r in evaluate(reference, tmp_path / "prediction", ORGANS).rows] == [1, 1]


def test_classification(tmp_path: Path) -> None:
    """Three classes of two pictures each: two of three right, one without an answer, one with an unknown one."""
    task = Task("shapes", {"grey": []}, {"round": [0], "star": [1], "line": [2]}, (8, 8), kind="classification")
    for name in ("round/a", "round/b", "star/c", "star/d", "line/e", "line/f"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "data" / f"{name}.png")
    names = [case.name for case in find_cases(tmp_path / "data", task, labels=True).cases]
    answers = dict(
        zip(names, ("line", "square", "round", "star", "star"), strict=False)
    )  # line, line, round, round, star
    lines = ["case,predicted", *(f"{name},{answer}" for name, answer in answers.items())]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("\n".join(lines) + "\n")
    found = evaluate(tmp_path / "data", tmp_path / "out", task, output=tmp_path / "scores")
    assert [(r["reference"], r["predicted"], r["correct"]) for r in found.rows] == [
        ("line", "line", 1),
        ("round", "round", 1),
        ("round", "star", 0),
        ("star", "star", 1),
    ]
    assert found.summary["accuracy"] == 0.75
    assert found.summary["confusion"]["round"] == {"round": 1, "star": 1, "line": 0}
    assert found.summary["labels"]["star"] == {"n_total": 1, "sensitivity": 1.0, "precision": 0.5}
    assert [f["case"] for f in found.summary["failed"]] == [names[1]]
    assert "the class 'square' is none of round, star, line" in found.summary["failed"][0]["message"]
    assert found.summary["unmatched_reference"] == [names[5]]
    assert "accuracy 0.7500 of 4 cases" in found.table()
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["accuracy"] == 0.75
    (tmp_path / "out" / "predictions.csv").write_text("name,class\nx,round\n")
    with pytest.raises(ConfigError, match="has no column 'case'"):
        evaluate(tmp_path / "data", tmp_path / "out", task)
    (tmp_path / "out" / "predictions.csv").unlink()
    with pytest.raises(ConfigError, match="medseg3d predict writes it for a classification task"):
        evaluate(tmp_path / "data", tmp_path / "out", task)


def test_subgroups_by_a_column(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(folders[0] / "three.nii.gz", cube(2, 2, 2))
    save(folders[1] / "three.nii.gz", cube(2, 2, 2))
    table = tmp_path / "patients.csv"
    table.write_text("Age;Case;Scanner\n40;one.nii.gz;GE\n50;two;Siemens\n60;three;\n70;elsewhere;GE\n")
    found = evaluate(*folders, ORGANS, by="Scanner", by_csv=table, output=tmp_path / "scores")
    groups = found.summary["by"]["groups"]
    assert list(groups) == ["GE", "Siemens"]
    assert [groups[g]["n_cases"] for g in groups] == [1, 1]
    assert groups["GE"]["labels"]["liver"]["dice"]["mean"] == 0.75
    assert groups["Siemens"]["labels"]["spleen"]["n_fp"] == 1
    assert found.summary["by"]["without"] == ["three"]
    assert found.summary["labels"]["liver"]["n_total"] == 3
    assert {r["case"]: r["by_Scanner"] for r in found.rows} == {"one": "GE", "two": "Siemens", "three": ""}
    text = found.table()
    assert "Scanner = GE, 1 cases:" in text
    assert "1 in no group, as the table has no value for them: three" in text
    for content, column, message in (
        ("case,scanner\none,GE\n", "site", "has no column 'site'; it has case, scanner"),
        ("case,scanner\none,GE\none,GE\n", "scanner", "names the case 'one' twice"),
        ("", "scanner", "it has nothing"),
    ):
        table.write_text(content)
        with pytest.raises(ConfigError, match=message):
            evaluate(*folders, ORGANS, by=column, by_csv=table)
    with pytest.raises(ConfigError, match=r"no .*absent.csv; it should hold"):
        evaluate(*folders, ORGANS, by="a", by_csv=tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match="need both a column"):
        evaluate(*folders, ORGANS, by="a")


def test_labels_without_a_task(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, prediction = folders
    found = evaluate(reference, prediction, labels={"both": [1, 2], "spleen": [2]}, output=tmp_path)
    with_task = evaluate(reference, prediction, ORGANS)
    assert [r["label"] for r in found.rows] == ["both", "spleen"] * 2
    assert found.rows[1]["hd95_mm"] == with_task.rows[1]["hd95_mm"]
    assert (found.summary["task"], found.summary["label_ids"]) == ("", {"both": [1, 2], "spleen": [2]})
    assert found.summary["other_values"] == []
    part = evaluate(reference, prediction, labels={"spleen": [2]})
    assert part.summary["other_values"] == [1]
    assert "values that no label names, taken as background: 1" in part.table()
    save(reference / "labelsTr" / "one.nii.gz", cube(2, 2, 2))
    assert evaluate(reference, prediction, labels={"liver": [1]}).summary["n_cases"] == 1
    for wrong in ({"labels": {"a": [0]}}, {"labels": {"a": []}}):
        with pytest.raises(ConfigError, match=r"label 'a' names .*values of 1 or more"):
            evaluate(reference, prediction, **wrong)
    for wrong in ({}, {"task": ORGANS, "labels": {"a": [1]}}):
        with pytest.raises(ConfigError, match="either a task or labels"):
            evaluate(reference, prediction, **wrong)


def test_lesions_in_rows_and_summary(folders: tuple[Path, Path]) -> None:
    found = evaluate(*folders, ORGANS, lesions=LesionRule(dilation_voxels=1, smallest_mm3=0))
    spleen = found.summary["labels"]["spleen"]
    assert [spleen[k] for k in ("n_lesions", "n_lesions_found", "n_lesions_false")] == [1, 1, 1]
    assert spleen["lesion_f1"]["mean"] == 0.5
    assert spleen["lesion_hd95_mm"]["mean"] == 374 / 2
    assert found.summary["lesions"]["dilation_voxels"] == 1
    assert "lesion F1" in found.table()


def test_a_picture_against_a_volume(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.nii.gz", cube(2, 2, 2))
    (tmp_path / "b").mkdir()
    Image.fromarray(cube(2, 2, 2)[:, :, 3]).save(tmp_path / "b" / "x.png")
    (failed,) = evaluate(tmp_path / "a", tmp_path / "b", ORGANS).summary["failed"]
    assert (failed["code"], failed["message"]) == ("E-DIMENSIONS", "the prediction is 2D, the reference 3D")


def test_wrong_use_is_refused_before_work(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "other" / "three.nii.gz", cube(2, 2, 2))
    with pytest.raises(ConfigError, match=r"prediction folder .*empty holds no image"):
        evaluate(folders[0], tmp_path / "empty", ORGANS)
    with pytest.raises(ConfigError, match=r"reference folder .*empty holds no image"):
        evaluate(tmp_path / "empty", folders[1], ORGANS)
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        evaluate(folders[0], tmp_path / "nowhere", ORGANS)
    with pytest.raises(ConfigError, match=r"no prediction \(three\) has the name of a reference \(one, two\)"):
        evaluate(folders[0], tmp_path / "other", ORGANS)
    for option, message in (
        ({"definition": "exact"}, "'exact' is none of surface, voxel, pooled, mesh"),
        ({"percentile": 0}, "percentile 0 must lie in"),
        ({"tolerance_mm": -1}, "tolerance_mm -1 must be 0 or more"),
        ({"empty": "two"}, "'two' is none of nan, one"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(*folders, ORGANS, **option)
