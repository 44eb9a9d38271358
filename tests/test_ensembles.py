"""Ensembles and uncertainty in folder runs: what is written, what is recorded, and which cases to look at first."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from medseg3d.checks import ConfigError, ModelError
from medseg3d.inference import decode
from medseg3d.inference.claims import Claims
from medseg3d.inference.confidence import Calibration
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.model import store_calibrations
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.provenance import models_of
from medseg3d.inference.sidecar import FORMAT, read_sidecar, write_sidecar
from medseg3d.inference.summary import write_summary
from medseg3d.inference.verify import verify
from medseg3d.io import nifti_writing
from medseg3d.io.images import read_volume, write_volume
from medseg3d.io.scratch import let_go, scratch_array
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.test_predictor import BALL, edit, save_model, task_2d

MIRRORED = Task("mirrored", {"image": []}, {"x": [1], "y": [2]}, (32, 32, 32), mirror_axes=(0,))


def save_members(folder: Path, task: Task, names: str = "ab") -> list[Path]:
    """Models of one kind with different weights."""
    for i, name in enumerate(names):
        save_model(folder / name, task)
        shift_weights(folder / name, 0.25 * i)
    return [folder / name for name in names]


def shift_weights(model: Path, by: float) -> None:
    """Change every weight a little: another model."""
    file = model / "models" / "model.safetensors"
    save_file({k: v + by * v.flip(0) if v.is_floating_point() else v for k, v in load_file(file).items()}, file)


def save_noise(folder: Path, names: str = "p", shape: tuple[int, ...] = (20, 17, 23)) -> Path:
    for i, name in enumerate(names):
        data = np.random.default_rng(i).random((1, *shape), dtype=np.float32)
        write_volume(Volume(data, np.diag([1.5, 1, 2, 1])), folder / f"{name}.nii.gz")
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "predictions.json").read_text(encoding="utf-8"))


def test_an_ensemble_is_recorded_whole_and_done_again_when_any_member_changes(tmp_path: Path) -> None:
    models, scans, out = save_members(tmp_path, MIRRORED), save_noise(tmp_path / "in"), tmp_path / "out"

    def again(given: Sequence[Path] = models, **options: Any) -> Any:
        return predict_folder(given, scans, out, precision="float32", **options)

    assert again().done == ["p"]
    scan = read_volume(scans / "p.nii.gz")
    expected = Predictor.from_bundle(models, precision="float32").predict(scan)
    np.testing.assert_array_equal(read_volume(out / "p.nii.gz", labels=True).data, expected.labels.data)
    sidecar = read_sidecar(out / "p.nii.gz.json")
    assert sidecar is not None
    assert [m["name"] for m in sidecar["models"]] == ["a", "b"]
    assert sidecar["models"] == models_of(models)
    assert sidecar["models"][0]["weights_sha256"] != sidecar["models"][1]["weights_sha256"]
    assert again().skipped == ["p"]
    assert again(models[:1]).redone == {"p": "1 model instead of 2"}
    assert again().redone == {"p": "2 models instead of 1"}
    shift_weights(models[1], 0.125)
    assert again().redone == {"p": "the weights changed"}
    edit(models[1], "medseg3d", "phantom", value=True)
    assert again().redone == {"p": "the model's metadata changed"}
    assert again().skipped == ["p"]


def test_an_ensemble_verifies_in_any_order_of_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_members(tmp_path, MIRRORED)
    save_noise(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    predict_folder(["a", "b"], "in", "out", precision="float32", uncertainty=True)
    assert verify("out/p.nii.gz").identical, "the hints lead to both models"
    assert verify("out/p.nii.gz", model=["b", "a"]).identical
    with pytest.raises(ModelError, match=r"2 models made the file \('a', 'b'\), and 1 given"):
        verify("out/p.nii.gz", model="a")
    with pytest.raises(ModelError, match="other weights than those of model 'b'"):
        verify("out/p.nii.gz", model=["a", "a"])
    edit(tmp_path / "b", "medseg3d", "phantom", value=True)
    with pytest.raises(ModelError, match="other metadata than those of model 'b'"):
        verify("out/p.nii.gz")


def test_models_of_one_ensemble_must_share_task_and_grid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models, scans = save_members(tmp_path, MIRRORED, "abc"), save_noise(tmp_path / "in")
    edit(models[1], "medseg3d", "preprocessing", "spacing_mm", value=[1, 1, 1])
    edit(models[2], "medseg3d", "task", "channels", value={"other": []})
    for wrong, message in ((models[1], "prepare scans in different ways"), (models[2], "was trained with channels")):
        with pytest.raises(ModelError, match=message):
            predict_folder([models[0], wrong], scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    predict_folder([models[0], models[0]], scans, tmp_path / "out")
    assert "the same weights" in caplog.text


def test_uncertainty_is_a_map_beside_the_labels(tmp_path: Path) -> None:
    models, scans, out = save_members(tmp_path, MIRRORED), save_noise(tmp_path / "in"), tmp_path / "out"
    predict_folder(models, scans, out, uncertainty=True, precision="float32")
    scan = read_volume(scans / "p.nii.gz")
    expected = Predictor.from_bundle(models, precision="float32").predict(scan, uncertainty=True)
    assert expected.uncertainty is not None
    written = read_volume(out / "p_uncertainty.nii.gz")
    assert written.data.dtype == np.float32
    assert written.grid.differs_from(scan.grid) is None
    np.testing.assert_array_equal(written.data, expected.uncertainty.data)
    assert 0 < written.data.max() <= 1
    sidecar = read_sidecar(out / "p.nii.gz.json")
    assert sidecar is not None
    assert sidecar["outputs"]["uncertainty"]["file"] == "p_uncertainty.nii.gz"
    assert sidecar["uncertainty"]["of"] == {"models": 2, "flips": 1}
    assert sidecar["confidence"]["compared"] == 2
    assert sidecar["confidence"]["raw_dice"] == pytest.approx(expected.raw_dice, abs=1e-6)
    told = summary(out)["cases"]["p"]
    assert (told["uncertainty"], told["raw_dice"]) == ("p_uncertainty.nii.gz", sidecar["confidence"]["raw_dice"])
    assert predict_folder(models, scans, out, precision="float32").skipped == ["p"]
    assert predict_folder(models, scans, out, precision="float32", overlap=0.75).done == ["p"]
    assert not (out / "p_uncertainty.nii.gz").exists(), "it belonged to the earlier labels"
    again = predict_folder(models, scans, out, precision="float32", overlap=0.75, uncertainty=True)
    assert again.redone == {"p": "it has no uncertainty yet"}


def test_one_model_is_compared_with_its_own_flips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = save_noise(tmp_path / "in")
    save_model(tmp_path / "run", MIRRORED)
    with caplog.at_level("INFO"):
        predict_folder(tmp_path / "run", scans, tmp_path / "out", uncertainty=True)
    assert "disagreement among the flips" in caplog.text
    sidecar = read_sidecar(tmp_path / "out" / "p.nii.gz.json")
    assert sidecar is not None
    assert sidecar["options"]["tta"] is True
    assert sidecar["uncertainty"]["of"] == {"models": 1, "flips": 2}
    assert verify(tmp_path / "out" / "p.nii.gz", model=tmp_path / "run", input=scans).identical
    save_model(tmp_path / "ball", BALL)
    with pytest.raises(ConfigError, match=r"task 'ball' allows no flips .* give several models"):
        predict_folder(tmp_path / "ball", scans, tmp_path / "out2", uncertainty=True)
    save_model(tmp_path / "classes", task_2d("classification"))
    with pytest.raises(ConfigError, match="is one of classification; uncertainty maps are for segmentation"):
        predict_folder([tmp_path / "classes"] * 2, scans, tmp_path / "out2", uncertainty=True)
    assert not (tmp_path / "out2").exists()


def test_pictures_have_uncertainty_too(tmp_path: Path) -> None:
    models = save_members(tmp_path, task_2d())
    picture = np.random.default_rng(0).integers(0, 255, (1, 70, 45), dtype=np.uint8)
    write_volume(Volume(picture, np.eye(3)), tmp_path / "in" / "one.png")
    result = predict_folder(models, tmp_path / "in", tmp_path / "out", uncertainty=True)
    assert result.done == ["one"]
    assert np.load(tmp_path / "out" / "one_uncertainty.npy").shape == (1, 70, 45)


# Which case to look at first


def test_triage_puts_the_worst_case_first(tmp_path: Path) -> None:
    """By hand: nothing found comes first, then 0.5 before 0.9; a case without a figure is not ranked."""

    def put(name: str, confidence: dict[str, Any] | None) -> None:
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
        values: dict[str, Any] = {"format": FORMAT, "status": "done", "seconds": {"read": 1.0}}
        values["outputs"] = {"labels": {"file": f"{name}.nii.gz"}}
        if confidence is not None:
            values["confidence"] = confidence
        write_sidecar(tmp_path / f"{name}.nii.gz.json", name, values)

    put("good", {"expected_dice": 0.8, "raw_dice": 0.9})
    put("bad", {"expected_dice": 0.3, "raw_dice": 0.5})
    put("none", {"expected_dice": None, "raw_dice": None})
    put("old", None)
    names = ["good", "bad", "none", "old", "late"]
    claims = Claims(tmp_path)
    triage = write_summary(tmp_path, claims, BALL, names, {}, tmp_path)["triage"]
    assert triage == summary(tmp_path)["triage"]
    ranked = [("none", None), ("bad", 0.3), ("good", 0.8)]
    assert triage["cases"] == [{"case": name, "expected_dice": dice} for name, dice in ranked]
    assert triage["calibrated"] is True
    put("good", {"expected_dice": None, "raw_dice": 0.9})
    triage = write_summary(tmp_path, claims, BALL, names, {}, tmp_path)["triage"]
    assert [c["expected_dice"] for c in triage["cases"]] == [None, 0.5, 0.9], "one line is missing: the raw figures"
    assert triage["calibrated"] is False
    assert "not calibrated" in triage["note"]
    claims.close()


def test_a_calibration_that_comes_later_reaches_what_is_done(tmp_path: Path) -> None:
    scans, out, run = save_noise(tmp_path / "in", "pq"), tmp_path / "out", tmp_path / "run"
    save_model(run, MIRRORED)
    predict_folder(run, scans, out)
    told = summary(out)
    assert told["triage"]["calibrated"] is False
    assert told["cases"]["p"]["expected_dice"] is None
    raw = told["cases"]["p"]["raw_dice"]
    (own,) = (m["weights_sha256"] for m in models_of(run))
    store_calibrations(run, [Calibration(0.5, 0.125, 9, weights_sha256=(own,))])
    written = (out / "p.nii.gz").stat().st_mtime_ns
    result = predict_folder(run, scans, out)
    assert result.skipped == ["p", "q"], "a calibration changes no label"
    assert (out / "p.nii.gz").stat().st_mtime_ns == written
    assert summary(out)["cases"]["p"]["expected_dice"] == pytest.approx(0.125 + 0.5 * raw, abs=2e-6)
    assert result.triage["calibrated"] is True
    sidecar = read_sidecar(out / "p.nii.gz.json")
    assert sidecar is not None
    assert sidecar["confidence"]["calibrated_on_cases"] == 9
    assert verify(out / "p.nii.gz", model=run, input=scans).identical


# Probabilities


def test_probabilities_are_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 classes on 48^3 voxels: 8.8 MB in the file. NumPy never holds half of it, torch no more than a slab of it."""
    classes = {f"c{i}": [i] for i in range(1, 20)}
    task = Task("many", {"image": []}, classes, (32, 32, 32), spacing_mm=(1.5, 1.5, 1.5))
    save_model(tmp_path / "run", task)
    scans, out = save_noise(tmp_path / "in", shape=(48, 48, 48)), tmp_path / "out"
    whole = 4 * 20 * 48**3
    expected = Predictor.from_bundle(tmp_path / "run").probabilities(read_volume(scans / "p.nii.gz")).data
    predictor = Predictor.from_bundle(tmp_path / "run")
    monkeypatch.setattr(nifti_writing, "PIECE_BYTES", whole // 40)
    monkeypatch.setattr(decode, "SLAB_BYTES", whole // 40)
    interpolate, largest = decode.interpolate, [0]

    def spied(values: Tensor, coordinates: Any) -> Tensor:
        piece = interpolate(values, coordinates)
        largest[0] = max(largest[0], 4 * piece.numel())
        return piece

    monkeypatch.setattr(decode, "interpolate", spied)
    tracemalloc.start()
    result = predict_folder(predictor, scans, out, probabilities=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.done == ["p"]
    assert 0 < largest[0] < whole / 10
    assert peak < whole / 2
    np.testing.assert_allclose(read_volume(out / "p_probabilities.nii.gz").data, expected, atol=1e-6)
    sidecar = read_sidecar(out / "p.nii.gz.json")
    assert sidecar is not None
    assert sidecar["probabilities"]["channels"] == ["background", *classes]
    assert sorted(p.name for p in out.glob("p*")) == [
        "p.nii.gz",
        "p.nii.gz.json",
        "p_probabilities.nii.gz",
        "predictions.json",
    ]
    assert not list(out.glob(".*"))


def test_regions_name_their_probabilities_without_background(tmp_path: Path) -> None:
    labels = {"whole": [1, 2], "core": [2]}
    task = Task("regions", {"image": []}, labels, (32, 32, 32), write={"whole": 1, "core": 2})
    save_model(tmp_path / "run", task)
    predict_folder(tmp_path / "run", save_noise(tmp_path / "in"), tmp_path / "out", probabilities=True)
    sidecar = read_sidecar(tmp_path / "out" / "p.nii.gz.json")
    assert sidecar is not None
    assert sidecar["probabilities"]["channels"] == ["whole", "core"]
    assert read_volume(tmp_path / "out" / "p_probabilities.nii.gz").channels == 2


@pytest.mark.parametrize("along", [1, 2, 3])
def test_a_scratch_array_lies_in_a_file_without_a_name(along: int, tmp_path: Path) -> None:
    array = scratch_array((2, 3, 5, 7), tmp_path / "deep" / "x.nii.gz", along=along)
    assert array.shape == (2, 3, 5, 7)
    assert array.dtype == np.float32
    assert not array.any()
    values = np.arange(210, dtype=np.float32).reshape(array.shape)
    array[...] = values
    slabs = np.moveaxis(array[0], along - 1, 0)
    assert slabs.strides[0] == max(slabs.strides), "what is filled at a time lies together"
    let_go(array)
    np.testing.assert_array_equal(array, values)
    assert list((tmp_path / "deep").iterdir()) == []


def test_beyond_the_cropped_part_is_background_for_sure(tmp_path: Path) -> None:
    data = np.zeros((1, 40, 30, 35), np.float32)
    data[:, 10:30, 5:25, 10:30] = 1 + np.random.default_rng(0).random((1, 20, 20, 20), dtype=np.float32)
    scan = Volume(data, np.eye(4))
    save_model(tmp_path / "run", BALL)
    predictor = Predictor.from_bundle(tmp_path / "run")
    expected = predictor.probabilities(scan).data
    assert (expected[0, :9] == 1).all()
    assert (expected[1, :9] == 0).all()
    assert (expected[1, 12:28, 8:22, 12:28] > 0).all()
    into = np.full_like(expected, 7)
    predictor.predict(scan, probabilities=into)
    np.testing.assert_array_equal(into, expected)
    asked: list[tuple[tuple[int, ...], int]] = []

    def room(shape: tuple[int, ...], axis: int) -> Any:
        asked.append((shape, axis))
        return np.full(shape, 7, np.float32)

    found = predictor.predict(scan, probabilities=room).probabilities
    assert found is not None
    np.testing.assert_array_equal(found.data, expected)
    assert [shape for shape, _ in asked] == [(2, 40, 30, 35)]
    assert asked[0][1] in (1, 2, 3)
