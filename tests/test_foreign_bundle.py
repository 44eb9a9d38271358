"""A small bundle of someone else: its network says which voxels are above one half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg3d.checks import ModelError
from medseg3d.cli import main
from medseg3d.foreign_bundle import predict_bundle, task_of
from medseg3d.io.images import read_volume, write_volume
from medseg3d.volume import Volume

CONFIG: dict[str, Any] = {
    "imports": ["$import pathlib", "$import bundle_helper"],
    "network_def": "$bundle_helper.network(pathlib.Path(@bundle_root, 'was_run'))",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        ],
    },
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/elsewhere'"},
        ],
    },
}
HELPER = "import torch\n\ndef network(mark):\n    mark.touch()\n    return torch.nn.Conv3d(1, 2, 1)\n"
IMAGE = {"num_channels": 1, "spatial_shape": [8, 8, 8], "channel_def": {"0": "image"}}
PRED = {"num_channels": 2, "spatial_shape": [8, 8, 8], "channel_def": {"0": "background", "1": "bright"}}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "bundle_helper.py").write_text(HELPER)
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG))
    meta = {"network_data_format": {"inputs": {"image": IMAGE}, "outputs": {"pred": PRED}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(meta))
    weights = {"weight": torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1), "bias": torch.tensor([0.5, 0.0])}
    torch.save(weights, folder / "models" / "model.pt")
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans whose axes are flipped and permuted, and a damaged one."""
    affine = np.array([[0, -2.0, 0, 40], [0, 0, 1.5, -7], [-1.0, 0, 0, 9], [0, 0, 0, 1]])
    for seed, name in enumerate("ab"):
        data = np.random.default_rng(seed).random((1, 6, 7, 8), dtype=np.float32)
        write_volume(Volume(data, affine), tmp_path / "in" / f"{name}.nii.gz")
    return tmp_path / "in"


def words(bundle: Path, scans: Path, *more: str) -> list[str]:
    return ["predict", "--bundle", str(bundle), "-i", str(scans), "-o", str(scans.parent / "out"), *more]


def test_not_run_unless_trusted(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(bundle, scans)) == 2
    said = capsys.readouterr().err
    assert "is code" in said
    assert "give --trust" in said
    assert not (bundle / "was_run").exists()
    assert not (scans.parent / "out").exists()


def test_a_folder_of_scans(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "c.nii.gz").write_bytes(b"nothing")
    assert main(words(bundle, scans, "--trust")) == 3
    said = capsys.readouterr()
    assert "2 of 3 cases are segmented" in said.out
    assert "is code by someone else" in said.err
    for name in "ab":
        scan = read_volume(scans / f"{name}.nii.gz")
        found = read_volume(scans.parent / "out" / f"{name}.nii.gz", labels=True)
        np.testing.assert_array_equal(found.data, scan.data > 0.5)
        np.testing.assert_array_equal(found.affine, scan.affine)
    assert not (bundle / "elsewhere").exists(), "its own writer is not run"
    assert predict_bundle(bundle, scans, scans.parent / "out", trust=True).skipped == ["a", "b"]


def test_options_that_have_no_meaning_there_are_refused(bundle: Path, scans: Path) -> None:
    assert main(words(bundle, scans, "--trust", "--uncertainty")) == 2
    assert main(["predict", "--model", str(bundle), "--trust", "-i", str(scans), "-o", "out"]) == 2


def test_a_result_that_does_not_come_back_is_refused(bundle: Path, scans: Path) -> None:
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    del config["postprocessing"]["transforms"][0]
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    found = predict_bundle(bundle, scans, scans.parent / "out", trust=True)
    assert {finding.code for finding in found.failed.values()} == {"E-GRID"}


def test_what_is_no_bundle(bundle: Path, scans: Path, tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, bundle / "models" / "model.pt")
    with pytest.raises(ModelError, match="holds no weights of the bundle's network"):
        predict_bundle(bundle, scans, tmp_path / "out", trust=True)
    with pytest.raises(ModelError, match="no MONAI bundle"):
        predict_bundle(tmp_path / "in", scans, tmp_path / "out", trust=True)
    with pytest.raises(ModelError, match="does not describe"):
        task_of({}, "x")
