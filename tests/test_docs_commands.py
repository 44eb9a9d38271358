"""Every command and every line of Python of the pages for newcomers runs, in their order, on the sample data."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg3d import sample_data_folder
from medseg3d.cli import main
from medseg3d.io.nifti import read_nifti
from tests.shared import ROOT
from tests.test_docs import FENCE, lines_of
from tests.test_foreign_bundle import CONFIG, HELPER, IMAGE, PRED

pytestmark = pytest.mark.slow
SHORT = "--epochs 1 --set steps_per_epoch=2 --set spacing_mm=[6,6,6] --set patch_size=[32,32,32]"
ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "aorta")


def run_page(page: str) -> list[str]:
    """Run a page's shell and Python blocks in the current folder, trainings cut short; returns the commands."""
    done, names = [], {}
    for language, block in FENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if language == "python":
            exec(block, names)
        for command in lines_of(block) if language == "sh" else []:
            words = shlex.split(command)
            if words[:2] == ["medseg3d", "train"]:
                words += shlex.split(SHORT)
            elif words[:2] == ["medseg3d", "plan"]:
                words.append("--no-measure")
            if words[0] == "medseg3d":
                assert main(words[1:]) == 0, command
                done.append(words[1])
            elif words[:2] == ["python", "-m"]:
                subprocess.run([sys.executable, *words[1:]], check=True)
                done.append(words[2])
    return done


def copy_channels(scan: Path, folder: Path) -> None:
    """A scan of several channels as nnU-Net has it."""
    image = nib.load(scan)
    for channel in range(image.shape[3]):
        one = nib.Nifti1Image(np.asanyarray(image.dataobj)[..., channel], image.affine, dtype=image.get_data_dtype())
        nib.save(one, folder / f"{scan.name.removesuffix('.nii.gz')}_{channel:04d}.nii.gz")


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw data set of nnU-Net, with regions, and two cases to test on."""
    monkeypatch.chdir(tmp_path)
    sample, raw = sample_data_folder() / "brats", tmp_path / "Dataset001_Heads"
    for number in range(6):
        part = "Ts" if number > 3 else "Tr"
        images, labels = raw / f"images{part}", raw / f"labels{part}"
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        copy_channels(sample / "imagesTr" / f"head_{number:02d}.nii.gz", images)
        shutil.copy(sample / "labelsTr" / f"head_{number:02d}.nii.gz", labels)
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    described = {"channel_names": {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"}, "labels": labels}
    (raw / "dataset.json").write_text(
        json.dumps({**described, "regions_class_order": [1, 2, 3], "numTraining": 4, "file_ending": ".nii.gz"})
    )
    return tmp_path


@pytest.fixture
def organs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in TotalSegmentator's form, a scan, a study and a model of organs."""
    monkeypatch.chdir(tmp_path)
    sample = sample_data_folder() / "ct"
    for number, scan in enumerate(sorted((sample / "imagesTr").glob("*.nii.gz"))):
        case = tmp_path / "Totalsegmentator_dataset" / f"s{number:04d}"
        (case / "segmentations").mkdir(parents=True)
        shutil.copy(scan, case / "ct.nii.gz")
        label = nib.load(sample / "labelsTr" / scan.name)
        for value, organ in enumerate(ORGANS, 1):
            mask = (np.asanyarray(label.dataobj) == value).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, label.affine), case / "segmentations" / f"{organ}.nii.gz")
    shutil.copy(sample / "imagesTr" / "torso_00.nii.gz", tmp_path / "ct.nii.gz")
    shutil.copytree(sample / "dicom" / "torso_02", tmp_path / "STUDY")
    assert main(["train", "--task", "organ_ct", "--data", str(sample), "-o", "runs/organs", *shlex.split(SHORT)]) == 0
    return tmp_path


def test_coming_from_nnunet(heads: Path) -> None:
    assert run_page("from_nnunet.md") == ["plan", "check", "train", "predict", "evaluate", "report"]
    assert {p.name for p in (heads / "OUT").glob("*.nii.gz")} == {"head_04.nii.gz", "head_05.nii.gz"}
    scores = json.loads((heads / "SCORES" / "nnunet_summary.json").read_text())
    assert set(scores["mean"]) == {"(1, 2, 3)", "(2, 3)", "3"}
    assert (heads / "SCORES" / "report.html").is_file()
    assert "whole tumor: [1, 2, 3]" in (heads / "task.yaml").read_text()


def test_coming_from_totalsegmentator(organs: Path) -> None:
    assert run_page("from_totalsegmentator.md") == ["predict"] * 3 + ["info", "check", "train"]
    made = read_nifti(organs / "organs" / "labelsTr" / "s0000.nii.gz", labels=True)
    meant = read_nifti(sample_data_folder() / "ct" / "labelsTr" / "torso_00.nii.gz", labels=True)
    assert np.array_equal(made.data, meant.data) and np.allclose(made.affine, meant.affine)
    assert (organs / "OUT" / "statistics.csv").is_file() and (organs / "OUT" / "ct_preview.png").is_file()
    assert {p.name for p in (organs / "LIVER" / "ct").iterdir()} == {"liver.nii.gz", "spleen.nii.gz"}
    assert len(list((organs / "DICOM_OUT").glob("*.dcm"))) == 2


def test_coming_from_monai(heads: Path) -> None:
    theirs: dict[str, Any] = {"network_data_format": {"inputs": {"image": IMAGE}, "outputs": {"pred": PRED}}}
    for folder in ("configs", "models"):
        (heads / "THEIRS" / folder).mkdir(parents=True)
    (heads / "THEIRS" / "bundle_helper.py").write_text(HELPER)
    (heads / "THEIRS" / "configs" / "inference.json").write_text(json.dumps(CONFIG))
    (heads / "THEIRS" / "configs" / "metadata.json").write_text(json.dumps(theirs))
    weights = {"weight": torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1), "bias": torch.tensor([0.5, 0.0])}
    torch.save(weights, heads / "THEIRS" / "models" / "model.pt")
    (heads / "SCANS").mkdir()
    shutil.copy(sample_data_folder() / "ct" / "imagesTr" / "torso_00.nii.gz", heads / "SCANS")
    assert run_page("from_monai.md") == ["train", "predict", "monai.bundle", "export", "predict"]
    for case in ("head_04.nii.gz", "head_05.nii.gz"):
        ours, monais = (read_nifti(heads / out / case, labels=True).data for out in ("OUT", "MONAI_OUT"))
        assert (ours == monais).mean() > 0.99
    assert (heads / "heads_bundle.zip").is_file() and (heads / "THEIR_OUT" / "torso_00.nii.gz").is_file()


def test_getting_started(organs: Path) -> None:
    sample = sample_data_folder() / "ct"
    for folder, part in (("FOLDER/images", "imagesTr"), ("FOLDER/labels", "labelsTr")):
        shutil.copytree(sample / part, organs / folder)
    for folder, part in (("SCANS", "imagesTr"), ("LABELS", "labelsTr")):
        (organs / folder).mkdir()
        shutil.copy(sample / part / "torso_00.nii.gz", organs / folder)
    own = ["doctor", "train", "check", "plan", "train", "predict", "evaluate"]
    assert run_page("start.md") == [*own, "doctor"]
    assert (organs / "SCORES" / "per_case.csv").is_file()


def test_python_of_the_references(organs: Path) -> None:
    shutil.copy(organs / "ct.nii.gz", organs / "scan.nii.gz")
    (organs / "dataset.json").write_text("{}")
    for page in ("geometry.md", "python.md"):
        assert not run_page(page)
    scan, labels = read_nifti(organs / "scan.nii.gz"), read_nifti(organs / "labels.nii.gz", labels=True)
    assert labels.grid.differs_from(scan.grid) is None
    assert re.search(r"print\(scan\)  # (.*)", (ROOT / "docs" / "geometry.md").read_text())[1] == repr(scan)
