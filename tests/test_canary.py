"""What identifies a patient in an input appears in nothing that is written or said, but in DICOM SEG and RTSTRUCT."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag

from medseg3d.cli import main
from medseg3d.io import write_volume
from tests import dicom_series
from tests.test_predictor import save_model
from tests.training_helpers import ball, ball_task

CANARY = "ZZPHI"
TEXT = {"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "AS", "UR"}
"""Value representations that hold free text."""
MEANT = {
    "SpecificCharacterSet", "Modality", "PhotometricInterpretation", "ImageType", "PatientPosition", "RescaleType",
    "PatientOrientation",
}  # fmt: skip
"""Texts that say what the pixels are."""


def text_tags() -> list[int]:
    """All tags of free text in the standard that a series may have at its top level."""
    return [
        tag
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
        if vr in TEXT and not retired and keyword not in MEANT and 0x0008 <= tag >> 16 <= 0x4010 and keyword_for_tag(tag)
        and "Data" not in keyword and tag >> 16 not in (0x0054,)
    ]  # fmt: skip


def signed_study(folder: Path) -> Path:
    """A series with the canary in every text tag, in sequences, private tags, codes and dates of birth."""
    tags = text_tags()
    assert len(tags) > 600
    datasets = dicom_series.slices()
    for dataset in datasets:
        for tag in tags:
            vr = pydicom.datadict.dictionary_VR(tag)
            dataset.add_new(tag, vr, "012Y" if vr == "AS" else CANARY)
        dataset.PatientBirthDate = "19010203"
        block = dataset.private_block(0x0031, CANARY, create=True)
        block.add_new(1, "LO", CANARY)
        item = pydicom.Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = CANARY, CANARY, CANARY
        item.PatientID = CANARY
        dataset.ProcedureCodeSequence = [item]
        dataset.ReferencedStudySequence = [item]
    return dicom_series.save_all(datasets, folder)


def signed_nifti(path: Path) -> None:
    """The canary in every free text of a NIfTI-1 header, and in extensions."""
    image = nib.load(path)
    header = image.header
    header["descrip"], header["aux_file"], header["intent_name"] = (CANARY.encode(),) * 3
    header["db_name"], header["data_type"] = CANARY.encode(), CANARY.encode()
    for code in (4, 6):
        header.extensions.append(nib.nifti1.Nifti1Extension(code, CANARY.encode()))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header), path)
    assert gzip.decompress(path.read_bytes()).count(CANARY.encode()) >= 7


def held(folder: Path) -> list[str]:
    """Names of files with the canary in their name or bytes, compressed or not."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content += gzip.decompress(content)
        if CANARY in str(path.relative_to(folder)) or CANARY.encode() in content or b"19010203" in content:
            found.append(path.relative_to(folder).as_posix())
    return found


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Everything that was logged, at the lowest level of every library, and printed."""
    monkeypatch.setattr(logging.Logger, "isEnabledFor", lambda self, level: True)
    caplog.set_level(logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)

    def everything() -> str:
        streams = capfd.readouterr()
        return streams.out + streams.err + caplog.text

    return everything


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


def test_dicom(tmp_path: Path, said, caplog: pytest.LogCaptureFixture) -> None:
    study = signed_study(tmp_path / "in" / "one")
    out = tmp_path / "out"
    task = ball_task(channels={"CT": []}, patch_size=[32, 32, 32])
    save_model(tmp_path / "model", task)
    (tmp_path / "task.yaml").write_text(json.dumps(task.as_dict()))
    logging.getLogger("medseg3d").addHandler(caplog.handler)
    run("convert", "-i", study, "-o", out / "converted")
    run("check", study, "--json")
    run(
        "predict",
        "--model",
        tmp_path / "model",
        "-i",
        tmp_path / "in",
        "-o",
        out / "labels",
        "--format",
        "seg,rtstruct",
    )
    reference = out / "reference"
    labels = next((out / "labels").glob("*.nii.gz"))
    reference.mkdir()
    (reference / labels.name).write_bytes(labels.read_bytes())
    task_words = ("--task", tmp_path / "task.yaml")
    run("evaluate", "--reference", reference, "--prediction", out / "labels", "-o", out / "scores", *task_words)
    images = out / "images"
    images.mkdir()
    (images / labels.name).write_bytes(next((out / "converted").glob("*.nii.gz")).read_bytes())
    pictures = ("--images", images, "--reference", reference, "--prediction", out / "labels")
    run("report", out / "scores", *task_words, *pictures)
    words = said()
    assert "case one" in words
    assert CANARY not in words
    assert held(out) == ["labels/one.rtstruct.dcm", "labels/one.seg.dcm"]


def test_nifti(tmp_path: Path, said, caplog: pytest.LogCaptureFixture) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for seed in range(3):
        for folder, volume in zip(("images", "labels"), ball(seed), strict=True):
            path = data / folder / f"ball_{seed}.nii.gz"
            write_volume(volume, path)
            signed_nifti(path)
    (tmp_path / "task.yaml").write_text(json.dumps(ball_task().as_dict()))
    logging.getLogger("medseg3d").addHandler(caplog.handler)
    network = '{"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "heads": [1, 2, 5, 8], "decoder_width": 16}'
    settings = ["--set", f"network={network}", "--set", "steps_per_epoch=2", "--set", f"cache={out / 'cache'}"]
    task = ("--task", tmp_path / "task.yaml")
    run("train", *task, "--data", data, "-o", out / "run", "--epochs", 1, *settings)
    run("predict", "--model", out / "run", "-i", data / "images", "-o", out / "labels", "--probabilities")
    run("evaluate", "--reference", data / "labels", "--prediction", out / "labels", "-o", out / "scores", *task)
    run("report", out / "scores", *task, "--data", data, "--prediction", out / "labels")
    run("report", out / "run")
    words = said()
    assert "case ball_0" in words
    assert CANARY not in words
    assert len([p for p in out.rglob("*") if p.is_file()]) > 20
    assert held(out) == []


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" + CANARY.encode()))
    (tmp_path / f"{CANARY}.txt").write_text("")
    (tmp_path / "b.csv").write_text("nothing")
    assert held(tmp_path) == [f"{CANARY}.txt", "a.gz"]
    study = signed_study(tmp_path / "study")
    assert len(held(study)) == dicom_series.SLICES
