"""Verifying: the same comes out again, and whatever differs is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.verify import verify
from medseg3d.io.images import read_volume, write_volume
from medseg3d.volume import Volume
from tests.test_predictor import BALL, ball_scan, oblique, save_model, task_2d


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, two scans in a folder of their own each, and their predictions."""
    save_model(tmp_path / "run", BALL)
    for name in "ab":
        scan, _ = ball_scan(oblique((2.0, 1.0, 1.5)), (12, 24, 20))
        write_volume(scan.with_data(scan.data + ord(name)), tmp_path / "in" / name / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert predict_folder("run", "in", "out", overlap=0.5, precision="float32").done == ["a", "b"]
    return tmp_path


def test_a_result_verifies_from_what_its_sidecar_says(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verify("out/a.nii.gz")
    assert (found.file, found.identical, found.agreement, found.foreground_agreement) == ("a.nii.gz", True, 1, 1)
    assert (found.changed, found.versions) == (None, {})
    assert str(found) == "a.nii.gz: identical"
    assert verify("out/b.nii.gz.json").identical
    monkeypatch.chdir("/")
    assert verify(study / "out" / "a.nii.gz").identical, "hints are relative to the file, not to where one stands"
    assert verify(study / "out" / "a.nii.gz", model=study / "run", input=study / "in").identical
    assert verify(study / "out" / "a.nii.gz", input=study / "in" / "a" / "a.nii.gz").identical


def test_the_share_of_voxels_that_differ_is_counted(study: Path) -> None:
    """All of 12 x 24 x 20 = 5760 voxels are turned over but for 5750: 10 differ."""
    path = study / "out" / "a.nii.gz"
    labels = read_volume(path, labels=True)
    data = labels.data.copy()
    data.reshape(-1)[:10] = np.where(data.reshape(-1)[:10] == 0, 3, 0)
    either = int(((data != 0) | (labels.data != 0)).sum())
    write_volume(labels.with_data(data), path)
    found = verify(path)
    assert not found.identical
    assert found.agreement == pytest.approx(5750 / 5760)
    assert found.foreground_agreement == pytest.approx(1 - 10 / either)
    assert found.changed == "a.nii.gz is not the file that was written"
    assert "99.826389% of all voxels agree" in str(found)
    assert found.as_dict()["identical"] is False
    write_volume(Volume(data[:, :-1], labels.affine), path)
    assert verify(path).agreement == 0


def test_other_versions_are_told(study: Path) -> None:
    path = study / "out" / "a.nii.gz.json"
    sidecar = json.loads(path.read_text())
    now = sidecar["versions"]["torch"]
    path.write_text(json.dumps({**sidecar, "versions": {**sidecar["versions"], "torch": "1.0"}}))
    assert verify(path).versions == {"torch": ("1.0", now)}
    assert f"torch was 1.0, is {now}" in str(verify(path))


def test_what_is_not_the_same_any_more_is_refused(study: Path) -> None:
    with pytest.raises(ConfigError, match="is no sidecar of a prediction"):
        verify("in/a/a.nii.gz")
    scan = read_volume("in/a/a.nii.gz")
    write_volume(scan.with_data(scan.data + 1), "in/a/a.nii.gz")
    with pytest.raises(InputError, match="not the input that the file was made from"):
        verify("out/a.nii.gz")
    (study / "in" / "a" / "a.nii.gz").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        verify("out/a.nii.gz")
    assert verify("out/b.nii.gz").identical
    save_model(study / "other", task_2d())
    with pytest.raises(ModelError, match="other weights than those of model 'run'"):
        verify("out/b.nii.gz", model="other")
    (study / "run").rename(study / "moved")
    with pytest.raises(ConfigError, match="it is not there; give --model"):
        verify("out/b.nii.gz")
    assert verify("out/b.nii.gz", model="moved").identical


def test_sidecars_that_cannot_be_followed(study: Path) -> None:
    path = study / "out" / "a.nii.gz.json"
    sidecar = json.loads(path.read_text())

    def put(**values: object) -> None:
        path.write_text(json.dumps({**sidecar, **values}))

    put(hints={"models": [None], "input": None})
    with pytest.raises(ConfigError, match="does not say where it lay; give --model"):
        verify(path)
    with pytest.raises(ConfigError, match="does not say where it lay; give --input"):
        verify(path, model="run")
    for outside in ("../out/a.nii.gz", "/etc/passwd"):
        put(inputs=[{**sidecar["inputs"][0], "file": outside}])
        with pytest.raises(ConfigError, match="lies outside of the input folder"):
            verify(path)
    put(outputs={})
    with pytest.raises(ConfigError, match="is damaged, or of another version"):
        verify(path)
    put(options={**sidecar["options"], "unheard_of": 1})
    with pytest.raises(ConfigError, match="is damaged, or of another version"):
        verify(path)
    finding = {"code": "E-X", "severity": "error", "file": None, "message": "m", "fix": ""}
    put(status="failed", finding=finding)
    with pytest.raises(ConfigError, match="there is nothing to verify"):
        verify(path)


def test_classes_are_verified_too(tmp_path: Path) -> None:
    save_model(tmp_path / "run", task_2d("classification"))
    picture = np.random.default_rng(0).integers(0, 255, (1, 40, 20), dtype=np.uint8)
    write_volume(Volume(picture, np.eye(3)), tmp_path / "in" / "a.png")
    predictor = Predictor.from_bundle(tmp_path / "run", precision="float32")
    assert predict_folder(predictor, tmp_path / "in", tmp_path / "out").done == ["a"]
    assert predict_folder(predictor, tmp_path / "in", tmp_path / "out").skipped == ["a"]
    found = verify(tmp_path / "out" / "a.classes.json", model=predictor, input=tmp_path / "in")
    assert (found.identical, found.agreement) == (True, 1)
    sidecar = json.loads((tmp_path / "out" / "a.classes.json").read_text())
    shares = sidecar["classes"]
    sidecar["classes"] = dict(zip(shares, reversed(shares.values()), strict=True))
    (tmp_path / "out" / "a.classes.json").write_text(json.dumps(sidecar))
    found = verify(tmp_path / "out" / "a.classes.json", model=predictor, input=tmp_path / "in")
    assert (found.identical, found.agreement) == (False, 0)
