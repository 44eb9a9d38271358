"""Scores of DICOM segmentations are those of the same labels as NIfTI."""

from __future__ import annotations

import numpy as np
import pytest

from medseg3d.checks import ConfigError
from medseg3d.cli import main
from medseg3d.evaluation import evaluate
from medseg3d.io import write_volume
from medseg3d.io.dicom_rt import write_rtstruct
from medseg3d.io.dicom_seg import write_seg
from medseg3d.io.segments import segments_of
from medseg3d.task import Task, load_task
from medseg3d.volume import Grid, Volume, joined
from tests.dicom_labels import scan

TASK = load_task("organ_ct")
SEGMENTS = segments_of(TASK)


@pytest.fixture
def cases(tmp_path):
    """Two cases: the labels of each, what was predicted, and the images."""
    found = {}
    for name, acquisition in (("a", "oblique"), ("b", "sagittal")):
        given = scan(tmp_path / "scans" / name, acquisition)
        predicted = np.roll(given.labels.data, 1, axis=1)
        predicted[:, :, :, :2] = 0  # a prediction that reaches over other planes than the reference
        found[name] = (given.labels, given.labels.with_data(predicted), given.files)
    return found


def as_nifti(folder, labels):
    for name, volume in labels.items():
        write_volume(volume, folder / f"{name}.nii.gz")
    return folder


def as_seg(folder, labels, cases, suffix=".seg.dcm", kind="BINARY"):
    for name, volume in labels.items():
        write_seg(folder / f"{name}{suffix}", volume, SEGMENTS, cases[name][2], kind=kind)
    return folder


def scores(reference, prediction, **options):
    evaluation = evaluate(reference, prediction, TASK, workers=1, **options)
    assert not evaluation.summary["failed"]
    return [{k: f"{v:.9g}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in evaluation.rows]


def test_the_scores_are_those_of_nifti(tmp_path, cases):
    references = {name: case[0] for name, case in cases.items()}
    predictions = {name: case[1] for name, case in cases.items()}
    wanted = scores(as_nifti(tmp_path / "r", references), as_nifti(tmp_path / "p", predictions))
    assert {row["case"] for row in wanted} == {"a", "b"}
    assert 0 < float(wanted[0]["dice"]) < 1
    seg = as_seg(tmp_path / "p-seg", predictions, cases)
    assert scores(tmp_path / "r", seg) == wanted
    both = as_seg(tmp_path / "r-seg", references, cases, suffix=".dcm", kind="LABELMAP")
    for row, other in zip(wanted, scores(both, seg), strict=True):  # spacing with all its digits, no planes around
        for column in ("dice", "hd95_mm", "assd_mm", "volume_reference_ml", "volume_prediction_ml"):
            assert float(other[column]) == pytest.approx(float(row[column]), rel=1e-6, nan_ok=True)
    mixed = as_nifti(tmp_path / "mixed", {"a": predictions["a"]})
    as_seg(mixed, {"b": predictions["b"]}, cases, suffix="")  # a file without suffix, as an archive gives it
    assert scores(tmp_path / "r", mixed) == wanted


def test_what_lies_beside_nifti_is_not_read_twice(tmp_path, cases):
    references = {"a": cases["a"][0]}
    folder = as_nifti(tmp_path / "p", references)
    as_seg(folder, {"a": cases["a"][1]}, cases)
    write_rtstruct(folder / "a.rtstruct.dcm", cases["a"][1], SEGMENTS, cases["a"][2])
    rows = scores(as_nifti(tmp_path / "r", references), folder)
    assert {row["dice"] for row in rows if row["label"] == "liver"} == {"1"}


def test_a_segmentation_of_other_images_is_refused(tmp_path, cases):
    as_seg(tmp_path / "p", {name: case[1] for name, case in cases.items()}, cases)
    (tmp_path / "p" / "a.seg.dcm").replace(tmp_path / "p" / "c.seg.dcm")
    (tmp_path / "p" / "b.seg.dcm").replace(tmp_path / "p" / "a.seg.dcm")
    (tmp_path / "p" / "c.seg.dcm").replace(tmp_path / "p" / "b.seg.dcm")
    evaluation = evaluate(
        as_nifti(tmp_path / "r", {n: c[0] for n, c in cases.items()}), tmp_path / "p", TASK, workers=1
    )
    assert [f["code"] for f in evaluation.summary["failed"]] == ["E-GRID", "E-GRID"]


def test_segments_of_another_task_are_refused(tmp_path, cases):
    """The same numbers, other organs."""
    other = Task("other", {"CT": ()}, {"brain": [1], "heart": [2], "lung": [3], "rib": [4], "femur": [5]}, [16, 16, 16])
    btcv = load_task("btcv")
    (tmp_path / "p").mkdir()
    write_seg(tmp_path / "p" / "a.dcm", cases["a"][1], segments_of(other), cases["a"][2])
    reference = as_nifti(tmp_path / "r", {"a": cases["a"][0]})
    evaluation = evaluate(reference, tmp_path / "p", btcv, workers=1)
    assert [f["code"] for f in evaluation.summary["failed"]] == ["E-SEGMENT"]
    assert "contradicts label 1 ('spleen'" in evaluation.summary["failed"][0]["message"]


def test_without_a_task_the_numbers_count(tmp_path, cases):
    reference = as_nifti(tmp_path / "r", {"a": cases["a"][0]})
    prediction = as_seg(tmp_path / "p", {"a": cases["a"][0]}, cases)
    evaluation = evaluate(reference, prediction, labels={"third": [3]}, workers=1)
    assert [row["dice"] for row in evaluation.rows] == [1.0]


def test_a_folder_of_images_alone_holds_no_label_map(tmp_path, cases):
    with pytest.raises(ConfigError, match=r"holds no image; known are .* and DICOM segmentations"):
        evaluate(tmp_path / "scans" / "a", tmp_path / "scans" / "a", TASK)


def test_the_command_scores_a_folder_of_segmentations(tmp_path, cases, capsys):
    as_nifti(tmp_path / "r", {"a": cases["a"][0]})
    as_seg(tmp_path / "p", {"a": cases["a"][0]}, cases)
    arguments = ["--reference", str(tmp_path / "r"), "--prediction", str(tmp_path / "p"), "--task", "organ_ct"]
    assert main(["evaluate", *arguments]) == 0
    assert "1.0000" in capsys.readouterr().out


def test_two_grids_of_one_lattice_are_joined():
    first = Grid((4, 4, 2), np.diag([-2, -2, 3, 1.0]))
    affine = np.diag([-2, -2, 3, 1.0])
    affine[:3, 3] = (2, -4, 6)  # one voxel before in x, two behind in y, two above
    whole = joined(first, Grid((4, 4, 3), affine))
    assert whole.shape == (5, 6, 5)
    assert whole.affine[:3, 3].tolist() == [2, 0, 0]
    assert joined(first, first).differs_from(first) is None
    assert Volume(np.zeros((1, *whole.shape)), whole.affine).shape == (5, 6, 5)
