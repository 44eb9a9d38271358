"""``medseg3d predict --format``: DICOM in, DICOM out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg3d.cli import main
from medseg3d.evaluation import evaluate
from medseg3d.inference.folder import predict_folder
from medseg3d.io import dicom_seg, read_volume, write_volume
from medseg3d.io.dicom import read_dicom
from medseg3d.io.dicom_rt import read_rtstruct
from medseg3d.io.dicom_seg_reading import read_seg
from medseg3d.task import Task
from medseg3d.volume import placed
from tests import bad_dicom, dicom_series
from tests.test_predictor import save_model

TASK = Task("two", {"CT": ()}, {"liver": (1,), "left_kidney": (2,)}, (32, 32, 32), intensity="zscore")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, TASK)
    return folder


@pytest.fixture
def study(tmp_path) -> Path:
    dicom_series.save_all(dicom_series.slices(PatientName=bad_dicom.CANARY), tmp_path / "studies" / "one")
    return tmp_path / "studies"


def predicted(run: Path, study: Path, output: Path, **options) -> Path:
    options = {"precision": "float32", "progress": False, **options}
    result = predict_folder(run, study, output, **options)
    assert not result.failed, result.failed
    return output


def test_all_formats_hold_the_same_labels(run, study, tmp_path):
    output = predicted(run, study, tmp_path / "out", formats=["nifti", "seg", "rtstruct"])
    assert {p.name for p in output.iterdir() if p.suffix != ".lock"} >= {
        "one.nii.gz",
        "one.nii.gz.json",
        "one.seg.dcm",
        "one.rtstruct.dcm",
        "labels.label.txt",
        "labels.ctbl",
        "predictions.json",
    }
    labels = read_volume(output / "one.nii.gz", labels=True)
    assert {0} < set(np.unique(labels.data))
    seg = read_seg(output / "one.seg.dcm", task=TASK)
    assert (placed(seg.labels, labels.grid).data == labels.data).all()
    files = sorted((study / "one").iterdir())
    assert (placed(read_rtstruct(output / "one.rtstruct.dcm", files).labels, labels.grid).data == labels.data).all()
    sidecar = json.loads((output / "one.nii.gz.json").read_text())
    assert set(sidecar["outputs"]) == {"labels", "seg", "rtstruct"}
    assert '"liver"' in (output / "labels.label.txt").read_text()
    assert "1 liver 230 159 0 255" in (output / "labels.ctbl").read_text()
    scores = evaluate(output, output, TASK, workers=1)
    assert {row["dice"] for row in scores.rows} <= {1.0} | {row["dice"] for row in scores.rows if row["status"] != "ok"}


def test_only_what_is_missing_or_stale_is_done_again(run, study, tmp_path):
    output = predicted(run, study, tmp_path / "out")
    assert not list(output.glob("*.dcm"))
    again = predict_folder(run, study, output, formats=["seg"], precision="float32", progress=False)
    assert "seg" in again.redone["one"]
    assert predict_folder(run, study, output, formats=["seg"], precision="float32", progress=False).skipped == ["one"]
    assert predict_folder(run, study, output, precision="float32", progress=False).skipped == ["one"]
    options = {"formats": ["seg"], "seg_kind": "LABELMAP", "precision": "float32", "progress": False}
    assert predict_folder(run, study, output, **options).done == ["one"]
    assert [p.name for p in output.glob("*.dcm")] == ["one.labelmap.dcm"]  # the other one was of the earlier result
    assert pydicom.dcmread(output / "one.labelmap.dcm").SegmentationType == "LABELMAP"


def test_the_patient_is_named_in_the_dicom_files_alone(run, study, tmp_path, caplog):
    with caplog.at_level("DEBUG"):
        output = predicted(run, study, tmp_path / "out", formats=["seg", "rtstruct"])
    assert bad_dicom.CANARY not in caplog.text
    for path in output.rglob("*"):
        assert bad_dicom.CANARY not in path.name
        if path.is_file():
            found = bad_dicom.CANARY.encode() in path.read_bytes()
            assert found == (path.suffix == ".dcm"), path
    assert pydicom.dcmread(output / "one.seg.dcm").PatientName == bad_dicom.CANARY


def test_a_file_that_reads_back_wrong_fails_the_case_and_is_not_left(run, study, tmp_path, monkeypatch):
    make = dicom_seg._segmentation
    monkeypatch.setattr(dicom_seg, "_segmentation", lambda frames, *rest: make(frames[::-1].copy(), *rest))
    result = predict_folder(run, study, tmp_path / "out", formats=["seg"], precision="float32", progress=False)
    assert [f.code for f in result.failed.values()] == ["E-READ-BACK"]
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_on_the_command_line(run, study, tmp_path, capsys):
    arguments = ["predict", "--model", str(run), "-i", str(study), "--precision", "float32"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--format", "seg,rtstruct"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.dcm")) == ["one.rtstruct.dcm", "one.seg.dcm"]
    more = ["--format", "seg", "--format", "nifti", "--seg-kind", "LABELMAP"]
    assert main([*arguments, "-o", str(tmp_path / "more"), *more]) == 0
    assert sorted(p.name for p in (tmp_path / "more").glob("*.dcm")) == ["one.labelmap.dcm"]
    capsys.readouterr()
    assert main([*arguments, "-o", str(tmp_path / "no"), "--format", "dicom"]) == 2
    assert "unknown format 'dicom'; known are nifti, seg, rtstruct" in capsys.readouterr().err


def test_nifti_scans_have_no_dicom_to_refer_to(run, study, tmp_path, capsys):
    write_volume(read_dicom(study), tmp_path / "nifti" / "case.nii.gz")
    shutil.rmtree(study)
    arguments = ["predict", "--model", str(run), "-i", str(tmp_path / "nifti"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--format", "seg"]) == 2
    said = capsys.readouterr().err
    assert "format seg refers to DICOM images, and case came from other files" in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("case*"))
