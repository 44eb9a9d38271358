"""Sidecars and the summary: what they say, by hand, and what they must not say."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medseg3d.checks import Finding, InputError
from medseg3d.inference.claims import Claims
from medseg3d.inference.description import describe_labels
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.provenance import hint, options_of, relative_name, without_paths
from medseg3d.inference.sidecar import FORMAT, read_sidecar, sidecar_path, write_sidecar
from medseg3d.inference.summary import write_summary
from medseg3d.io.images import write_volume
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.test_predictor import BALL, Bright, ball_scan, oblique, save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder, BALL)
    return folder


def test_a_sidecar_says_what_was_done(run: Path, tmp_path: Path) -> None:
    scan, _ = ball_scan(oblique((2.0, 1.0, 1.5)), (12, 24, 20))
    source = tmp_path / "in" / "a.nii.gz"
    write_volume(scan, source)
    predictor = Predictor(Bright(), BALL, Preprocessing.from_task(BALL), precision="float32", device="cpu")
    predict_folder(predictor, tmp_path / "in", tmp_path / "out", probabilities=True)
    path = tmp_path / "out" / "a.nii.gz.json"
    sidecar = json.loads(path.read_text())
    assert path == sidecar_path(tmp_path / "out" / "a.nii.gz")
    assert (sidecar["format"], sidecar["case"], sidecar["status"]) == (FORMAT, "a", "done")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert sidecar["inputs"] == [{"channel": "image", "file": "a.nii.gz", "index": None, "sha256": digest}]
    for kind, name in (("labels", "a.nii.gz"), ("probabilities", "a_probabilities.nii.gz")):
        content = (tmp_path / "out" / name).read_bytes()
        expected = {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert sidecar["outputs"][kind] == expected
    options = sidecar["options"]
    assert (options["overlap"], options["roi_size"], options["precision"]) == (0.5, [32, 32, 32], "float32")
    assert options["dense"] is False
    assert {"device", "batch_size"}.isdisjoint(options)
    assert sidecar["geometry"]["shape"] == [12, 24, 20]
    assert sidecar["geometry"]["spacing_mm"] == [2.0, 1.0, 1.5]
    labels = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    voxels = int((labels == 3).sum())
    assert voxels > 1000
    assert sidecar["labels"] == {"ball": {"voxels": voxels, "volume_ml": pytest.approx(voxels * 3 / 1000)}}
    assert set(sidecar["seconds"]) == {"read", "network", "decode", "write"}
    assert sidecar["computed_on"] == {"device": "cpu", "precision": "float32"}
    assert sidecar["versions"]["torch"] == str(torch.__version__)
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]["a"]
    assert told["sizes"] == sidecar["labels"]
    assert told["seconds"] == pytest.approx(sum(sidecar["seconds"].values()), abs=1e-3)


def test_files_of_a_model_are_named_by_their_hash(run: Path, tmp_path: Path) -> None:
    write_volume(ball_scan(np.eye(4), (8, 8, 8))[0], tmp_path / "in" / "a.nii.gz")
    predict_folder(run, tmp_path / "in", tmp_path / "out", overlap=0.5)
    sidecar = read_sidecar(tmp_path / "out" / "a.nii.gz.json")
    assert sidecar is not None
    (model,) = sidecar["models"]
    assert model["name"] == "run"
    weights = (run / "models" / "model.safetensors").read_bytes()
    assert model["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert sidecar["options"]["precision"] == "auto"
    assert sidecar["computed_on"]["precision"] in ("bf16", "float32")


def test_regions_share_voxels_and_volumes_are_millilitres() -> None:
    """5 voxels of 1 and 3 of 2, each 2 x 3 x 4 mm = 0.024 ml; 'whole' holds both values."""
    task = Task("t", {"image": []}, {"whole": [1, 2], "core": [2]}, (32, 32, 32), write={"whole": 1, "core": 2})
    data = np.zeros((1, 4, 4, 4), np.uint8)
    data.ravel()[:5], data.ravel()[20:23] = 1, 2
    content = describe_labels(Volume(data, np.diag([-2.0, 3.0, 4.0, 1.0])), task)
    assert content["labels"] == {
        "whole": {"voxels": 8, "volume_ml": pytest.approx(0.192)},
        "core": {"voxels": 3, "volume_ml": pytest.approx(0.072)},
    }
    assert content["geometry"]["axcodes"] == "LAS"
    flat = Task("t", {"image": []}, {"high": [300]}, (32, 32))
    picture = Volume(np.full((1, 2, 3), 300, np.uint16), np.eye(3))
    assert describe_labels(picture, flat)["labels"] == {"high": {"voxels": 6}}


def test_no_patient_text_and_no_absolute_path_in_what_is_written(run: Path, tmp_path: Path) -> None:
    """The canary stands in every text field of the header; the temporary folder stands for the user's folders."""
    image = nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9), dtype=np.float32), np.eye(4))
    for key in ("descrip", "intent_name", "aux_file", "db_name"):
        image.header[key] = b"ZZPHI"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ZZPHI"))
    folder = tmp_path / "in" / "patients"
    folder.mkdir(parents=True)
    nib.save(image, folder / "good.nii.gz")
    (folder / "bad.nii.gz").write_bytes(b"ZZPHI")
    image.header.set_data_shape((9, 9, 9, 2))
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9, 2), np.float32), np.eye(4)), folder / "several.nii.gz")
    predictor = Predictor.from_bundle(run)
    predict = predictor.predict

    def clumsy(volume: Volume, **options: Any) -> Any:
        if volume.shape == (7, 7, 7):
            raise RuntimeError(f"cannot open '{tmp_path}/secret/weights.bin' or /home/doe/x.txt: 50 mm/s, a/b")
        return predict(volume, **options)

    predictor.predict = clumsy  # type: ignore[method-assign]
    write_volume(Volume(np.ones((1, 7, 7, 7), np.float32), np.eye(4)), folder / "clumsy.nii.gz")
    result = predict_folder(predictor, folder, tmp_path / "out")
    assert result.done == ["good"]
    assert set(result.failed) == {"bad", "clumsy", "several"}
    written = [p for p in (tmp_path / "out").iterdir() if p.suffix == ".json"]
    assert sorted(p.name for p in written) == ["clumsy.nii.gz.json", "good.nii.gz.json", "predictions.json"]
    for path in written:
        text = path.read_text()
        assert "ZZPHI" not in text
        assert str(tmp_path) not in text
        assert "/home" not in text
    failures = json.loads((tmp_path / "out" / "predictions.json").read_text())["failures"]
    assert failures["clumsy"]["message"] == "cannot open 'weights.bin' or x.txt: 50 mm/s, a/b"
    assert failures["bad"]["file"] == "bad.nii.gz"


def test_paths_in_words_lose_their_folders() -> None:
    root = Path("/data/my scans")
    assert without_paths("/data/my scans/sub/a.nii: cut short", root) == "sub/a.nii: cut short"
    assert without_paths("see (/etc/x/y.txt), or C:\\Users\\doe\\z.txt", root) == "see (y.txt), or z.txt"
    assert without_paths("voxels of 1/2 mm, values 3 / 4, a/b/c", root) == "voxels of 1/2 mm, values 3 / 4, a/b/c"


def test_names_are_relative_and_hints_tell_nothing_above_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert relative_name(tmp_path / "in" / "sub" / "a.nii", tmp_path / "in") == "sub/a.nii"
    assert relative_name(tmp_path / "elsewhere" / "a.nii", tmp_path / "in") == "a.nii"
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert hint(Path("runs/brats"), Path("deep/out")) == "../../runs/brats"
    assert hint(tmp_path / "elsewhere", Path("out")) is None
    assert hint(Path("runs/brats"), tmp_path / "elsewhere") is None


def test_options_are_those_of_the_predictor_whatever_they_are() -> None:
    """A new keyword of ``Predictor`` is recorded without a change here; objects that are no plain values are not."""

    class Newer(Predictor):
        def __init__(
            self, network: nn.Module, *args: Any, tta: bool = False, hook: Any = None, max_ram: float = 1, **rest: Any
        ) -> None:
            super().__init__(network, *args, **rest)
            self.tta = tta
            self.hook = object()

    newer = Newer(Bright(), BALL, Preprocessing.from_task(BALL), tta=True)
    assert options_of(newer, {}) == {"tta": True}
    assert options_of(newer, {"tta": False}) == {"tta": False}


def test_what_is_no_sidecar_is_not_taken_for_one(tmp_path: Path) -> None:
    for content in (
        "",
        "[]",
        "{}",
        '{"format": "another"}',
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ):
        (tmp_path / "x.json").write_text(content)
        assert read_sidecar(tmp_path / "x.json") is None
    assert read_sidecar(tmp_path / "nothing.json") is None


def test_a_damaged_sidecar_costs_a_prediction_and_no_more(run: Path, tmp_path: Path) -> None:
    write_volume(ball_scan(np.eye(4), (8, 8, 8))[0], tmp_path / "in" / "a.nii.gz")
    path = tmp_path / "out" / "a.nii.gz.json"
    predict_folder(run, tmp_path / "in", tmp_path / "out")
    for damaged in (
        path.read_text()[:100],
        json.dumps({"format": FORMAT}),
        json.dumps({"format": FORMAT, "case": "a", "status": "done", "inputs": 3, "models": None, "options": []}),
        json.dumps({**json.loads(path.read_text()), "outputs": {"labels": {"file": "../../x", "bytes": 1}}}),
        json.dumps({**json.loads(path.read_text()), "outputs": None}),
    ):
        path.write_text(damaged)
        result = predict_folder(run, tmp_path / "in", tmp_path / "out")
        assert (result.done, result.failed) == (["a"], {})
        sidecar = read_sidecar(path)
        assert sidecar is not None
        assert sidecar["outputs"]["labels"]["file"] == "a.nii.gz"


def test_summaries_of_processes_at_the_same_time_lose_no_case(tmp_path: Path) -> None:
    """Eight writers with a case each: whoever writes last has seen all, and the file is whole at every moment."""
    names = [f"case{i}" for i in range(8)]

    def work(name: str) -> None:
        claims = Claims(tmp_path)
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
        values = {"format": FORMAT, "status": "done", "outputs": {"labels": {"file": f"{name}.nii.gz"}}}
        write_sidecar(tmp_path / f"{name}.nii.gz.json", name, {**values, "seconds": {"read": 1.5}})
        write_summary(tmp_path, claims, BALL, [*names, "late"], {"odd": Finding("E-X", "error", None, "m")}, tmp_path)
        assert json.loads((tmp_path / "predictions.json").read_text())["cases"][name]["status"] == "done"
        claims.close()

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(work, name) for name in names]:
            done.result()
    summary = json.loads((tmp_path / "predictions.json").read_text())
    assert summary["counts"] == {"done": 8, "failed": 0, "refused": 1, "pending": 1}
    assert summary["cases"]["case3"] == {"status": "done", "labels": "case3.nii.gz", "seconds": 1.5}
    assert summary["failures"] == {"odd": {"code": "E-X", "severity": "error", "file": None, "message": "m", "fix": ""}}
    assert not (tmp_path / ".claims").exists()


def test_a_result_that_is_gone_is_not_summed_up_as_done(run: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_volume(ball_scan(np.eye(4), (8, 8, 8))[0], tmp_path / "in" / f"{name}.nii.gz")
    predict_folder(run, tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "a.nii.gz").unlink()
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"")
    with pytest.raises(InputError):
        predict_folder(run, tmp_path / "in" / "b.nii.gz", tmp_path / "out")
    predict_folder(run, tmp_path / "in", tmp_path / "out", part="1/2")
    summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert summary["counts"]["done"] == 1
