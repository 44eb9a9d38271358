"""Folders to predict: one bad case costs one case, what is done is skipped, and processes share the work."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medseg3d.checks import ConfigError, InputError
from medseg3d.inference import batch
from medseg3d.inference.claims import Claims
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.pipeline import run_pipeline
from medseg3d.inference.predictor import Predictor
from medseg3d.io.cases import Case, ChannelFile
from medseg3d.io.images import read_volume, write_volume
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.shared import ROOT
from tests.test_predictor import BALL, ball_scan, oblique, save_model, task_2d


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder, BALL, phantom=True)
    return folder


def save_scans(folder: Path, names: list[str]) -> None:
    scan, _ = ball_scan(oblique((2.0, 1.0, 1.5)), (12, 24, 20))
    for i, name in enumerate(names):
        write_volume(Volume(scan.data + i, scan.affine), folder / f"{name}.nii.gz")


def test_a_folder_and_one_bad_case_in_it(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_scans(tmp_path / "in", ["a", "b", "c"])
    damaged = tmp_path / "in" / "b.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        result = predict_folder(run, tmp_path / "in", tmp_path / "out", probabilities=True, precision="float32")
    assert result.done == ["a", "c"]
    assert list(result.failed) == ["b"]
    assert result.failed["b"].file is not None
    assert result.failed["b"].file.endswith("b.nii.gz")
    assert "trained on sample phantoms" in caplog.text
    assert "case b (2 of 3) failed" in caplog.text
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    written = [f"{name}{kind}" for name in "ac" for kind in (".nii.gz", ".nii.gz.json", "_probabilities.nii.gz")]
    assert names == [*written[:3], "b.nii.gz.json", *written[3:], "labels.ctbl", "labels.label.txt", "predictions.json"]
    scan = read_volume(tmp_path / "in" / "a.nii.gz")
    labels = read_volume(tmp_path / "out" / "a.nii.gz", labels=True)
    assert labels.grid.differs_from(scan.grid, tolerance_voxels=1e-3) is None
    expected = Predictor.from_bundle(run, precision="float32")(scan)
    np.testing.assert_array_equal(labels.data, expected.data)
    shares = read_volume(tmp_path / "out" / "a_probabilities.nii.gz")
    assert shares.data.shape == (2, *scan.shape)
    np.testing.assert_allclose(shares.data.sum(0), 1, atol=1e-5)


def test_an_unforeseen_error_costs_one_case_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_scans(tmp_path / "in", ["a", "b"])
    predictor = Predictor.from_bundle(run)
    predict = predictor.predict

    def sometimes(volume: Volume, **options: Any) -> Any:
        if volume.data.max() < 1:
            raise RuntimeError("out of luck")
        return predict(volume, **options)

    monkeypatch.setattr(predictor, "predict", sometimes)
    result = predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert result.done == ["b"]
    assert result.failed["a"].message == "out of luck"
    assert result.failed["a"].code == "E-UNEXPECTED"


def test_an_interruption_is_not_taken_for_a_bad_case(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scans(tmp_path / "in", ["a"])
    predictor = Predictor.from_bundle(run)

    def interrupted(volume: Volume, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, tmp_path / "in", tmp_path / "out")


def test_results_that_would_collide_are_refused_before_the_work(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a", "b"])
    first, second = ((ChannelFile(tmp_path / "in" / f"{n}.nii.gz", None),) for n in "ab")
    with pytest.raises(InputError, match="cases 'a' and 'A' would both be written"):
        predict_folder(run, tmp_path / "in", tmp_path / "out", cases=[Case("a", first), Case("A", second)])
    with pytest.raises(InputError, match="cases 'a' and 'a' would both be written"):
        predict_folder(run, tmp_path / "in", tmp_path / "out", cases=[Case("a", first), Case("a", second)])
    both = [Case("a", first), Case("a_probabilities", second)]
    with pytest.raises(InputError, match="would both be written"):
        predict_folder(run, tmp_path / "in", tmp_path / "out", cases=both, probabilities=True)
    with pytest.raises(InputError, match="would replace a scan"):
        predict_folder(run, tmp_path / "in", tmp_path / "in")
    assert not (tmp_path / "out").exists()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError):
        predict_folder(run, tmp_path / "nothing", tmp_path / "out")


def test_pictures_become_pictures(tmp_path: Path) -> None:
    task = task_2d()
    save_model(tmp_path / "run", task)
    picture = np.random.default_rng(0).integers(0, 255, (1, 70, 45), dtype=np.uint8)
    write_volume(Volume(picture, np.eye(3)), tmp_path / "in" / "one.png")
    result = predict_folder(tmp_path / "run", tmp_path / "in", tmp_path / "out", probabilities=True)
    assert result.done == ["one"]
    names = ["one.png", "one.png.json", "one_probabilities.npy", "predictions.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    labels = read_volume(tmp_path / "out" / "one.png", labels=True).data
    shares = np.load(tmp_path / "out" / "one_probabilities.npy")
    assert labels.shape == (1, 70, 45)
    assert shares.shape == (3, 70, 45)
    assert (labels[0] == shares.argmax(0)).mean() > 0.999


def test_classification_writes_one_table(tmp_path: Path) -> None:
    task = task_2d("classification")
    network = save_model(tmp_path / "run", task)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 1, 40, 20), dtype=np.uint8)
    for name, picture in zip("ab", pictures, strict=True):
        write_volume(Volume(picture, np.eye(3)), tmp_path / "in" / f"{name}.png")
    predict_folder(tmp_path / "run", tmp_path / "in", tmp_path / "out", precision="float32")
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    padded = F.pad(torch.from_numpy(pictures[1] / np.float32(255))[None], [0, 12])
    with torch.no_grad():
        expected = torch.softmax(network(padded)[0], 0)
    assert float(rows[1]["cell"]) == pytest.approx(expected[0].item(), abs=1e-5)
    assert float(rows[1]["border"]) == pytest.approx(expected[1].item(), abs=1e-5)
    assert rows[1]["predicted"] == ("cell", "border")[int(expected.argmax())]


# Stages


def test_three_stages_at_once_and_one_item_in_each() -> None:
    """Computing 1 waits until 2 is read and 0 is being written; 3 is not read before 1 is computed."""
    read_two, writing_zero, computed_one = threading.Event(), threading.Event(), threading.Event()
    items = iter(range(4))
    seen: list[str] = []

    def read() -> int | None:
        item = next(items, None)
        seen.append(f"read {item}")
        if item == 2:
            read_two.set()
        if item == 3:
            assert computed_one.is_set()
        return item

    def compute(item: int) -> int:
        if item == 1:
            assert read_two.wait(10)
            assert writing_zero.wait(10)
            assert "read 3" not in seen
            computed_one.set()
        return item

    def write(item: int) -> None:
        if item == 0:
            writing_zero.set()
            assert computed_one.wait(10)
        seen.append(f"wrote {item}")

    run_pipeline(read, compute, write)
    assert [s for s in seen if s.startswith("wrote")] == [f"wrote {i}" for i in range(4)]


def test_without_looking_ahead_a_case_is_written_before_the_next_is_read() -> None:
    items = iter(range(3))
    seen: list[str] = []

    def read() -> int | None:
        item = next(items, None)
        seen.append(f"read {item}")
        return item

    run_pipeline(read, lambda item: item, lambda item: seen.append(f"wrote {item}"), ahead=False)
    assert seen == ["read 0", "wrote 0", "read 1", "wrote 1", "read 2", "wrote 2", "read None"]


def interrupting(predictor: Predictor, at: int, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the network of a predictor be interrupted at a case (from 1)."""
    predict, calls = predictor.predict, []

    def predict_or_not(volume: Volume, **options: Any) -> Any:
        calls.append(volume)
        if len(calls) == at:
            how()
        return predict(volume, **options)

    monkeypatch.setattr(predictor, "predict", predict_or_not)


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


def send_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


@pytest.mark.parametrize("how", [press_ctrl_c, send_sigterm])
def test_an_interruption_keeps_what_is_done_and_leaves_no_half_file(
    how: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scans(tmp_path / "in", ["a", "b", "c"])
    predictor = Predictor.from_bundle(run)
    interrupting(predictor, 2, how, monkeypatch)
    slowly = batch.write_labels

    def write_slowly(volume: Volume, path: Path) -> None:
        time.sleep(0.3)  # so that the interruption comes while the first case is being written
        slowly(volume, path)

    monkeypatch.setattr(batch, "write_labels", write_slowly)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert listing(tmp_path / "out") == ["a.nii.gz", "a.nii.gz.json", "predictions.json"]
    assert summary(tmp_path / "out")["counts"] == {"done": 1, "failed": 0, "refused": 0, "pending": 2}
    monkeypatch.undo()
    result = predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert (result.skipped, result.done) == (["a"], ["b", "c"])


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "predictions.json").read_text(encoding="utf-8"))


# Skipping and doing again


def test_what_is_done_is_skipped_and_what_is_stale_is_done_again(run: Path, tmp_path: Path) -> None:
    model, scans, out = tmp_path / "run", tmp_path / "in", tmp_path / "out"
    save_model(model, BALL)
    save_scans(scans, ["a", "b"])

    def again(**options: Any) -> Any:
        return predict_folder(model, scans, out, **{"precision": "float32", **options})

    assert again().done == ["a", "b"]
    written = (out / "a.nii.gz").stat().st_mtime_ns
    second = again()
    assert (second.done, second.skipped, second.failed) == ([], ["a", "b"], {})
    assert (out / "a.nii.gz").stat().st_mtime_ns == written
    os.utime(scans / "a.nii.gz")
    assert again().skipped == ["a", "b"], "a new date on the same content changes nothing"
    scan = read_volume(scans / "a.nii.gz")
    write_volume(scan.with_data(scan.data * 0.5), scans / "a.nii.gz")
    third = again()
    assert (third.done, third.skipped) == (["a"], ["b"])
    assert third.redone == {"a": "the input changed"}
    assert again(overlap=0.5).redone == dict.fromkeys("ab", "overlap is 0.5, and was 0.25")
    assert again(overlap=0.5).skipped == ["a", "b"]
    assert again(overlap=0.25).done == ["a", "b"]
    assert again(precision="bf16").redone["a"] == "precision is bf16, and was float32"
    assert again().done == ["a", "b"]
    assert again(batch_size=2, device="cpu").skipped == ["a", "b"], "neither decides the result"
    (out / "a.nii.gz").unlink()
    damaged = (out / "b.nii.gz").read_bytes()
    (out / "b.nii.gz").write_bytes(damaged[:-9] + bytes([damaged[-9] ^ 1]) + damaged[-8:])
    fourth = again()
    assert fourth.redone == {
        "a": "a.nii.gz is not there any more",
        "b": "b.nii.gz is not the file that was written",
    }
    assert (out / "b.nii.gz").read_bytes() == damaged
    assert again(overwrite=True).done == ["a", "b"]


def test_other_weights_make_every_result_stale(tmp_path: Path) -> None:
    model = tmp_path / "run"
    network = save_model(model, BALL)
    save_scans(tmp_path / "in", ["a", "b"])
    predict_folder(model, tmp_path / "in", tmp_path / "out")
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    next(v for v in weights.values() if v.is_floating_point()).view(-1)[0] += 0.125
    from safetensors.torch import save_file

    save_file(weights, model / "models" / "model.safetensors")
    result = predict_folder(model, tmp_path / "in", tmp_path / "out")
    assert result.redone == dict.fromkeys("ab", "the weights changed")
    values = json.loads((model / "configs" / "metadata.json").read_text())
    values["changelog"] = {"0.2": "not read by predict"}
    (model / "configs" / "metadata.json").write_text(json.dumps(values, indent=4))
    assert predict_folder(model, tmp_path / "in", tmp_path / "out").skipped == ["a", "b"]
    values["medseg3d"]["preprocessing"]["crop"] = False
    (model / "configs" / "metadata.json").write_text(json.dumps(values))
    result = predict_folder(model, tmp_path / "in", tmp_path / "out")
    assert result.redone == dict.fromkeys("ab", "the model's metadata changed")


def test_probabilities_come_later_and_go_when_they_no_longer_belong(run: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "in", tmp_path / "out"
    save_scans(scans, ["a"])
    predict_folder(run, scans, out)
    result = predict_folder(run, scans, out, probabilities=True)
    assert result.redone == {"a": "it has no probabilities yet"}
    assert (out / "a_probabilities.nii.gz").is_file()
    assert predict_folder(run, scans, out).skipped == ["a"]
    assert (out / "a_probabilities.nii.gz").is_file()
    predict_folder(run, scans, out, overlap=0.5)
    assert listing(out) == ["a.nii.gz", "a.nii.gz.json", "labels.ctbl", "labels.label.txt", "predictions.json"]


def test_a_predictor_in_memory_is_known_by_its_weights(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a"])
    out = tmp_path / "out"
    predictor = Predictor.from_bundle(run, precision="float32")
    assert predict_folder(predictor, tmp_path / "in", out).done == ["a"]
    assert predict_folder(Predictor.from_bundle(run, precision="float32"), tmp_path / "in", out).skipped == ["a"]
    with torch.no_grad():
        next(predictor.network.parameters()).add_(1)
    assert predict_folder(predictor, tmp_path / "in", out).redone == {"a": "the weights changed"}


def test_a_case_that_failed_is_tried_again(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a", "b"])
    whole = (tmp_path / "in" / "a.nii.gz").read_bytes()
    (tmp_path / "in" / "a.nii.gz").write_bytes(whole[:600])
    assert list(predict_folder(run, tmp_path / "in", tmp_path / "out").failed) == ["a"]
    assert summary(tmp_path / "out")["failures"]["a"]["code"] == "E-TRUNCATED"
    assert list(predict_folder(run, tmp_path / "in", tmp_path / "out").failed) == ["a"]
    (tmp_path / "in" / "a.nii.gz").write_bytes(whole)
    result = predict_folder(run, tmp_path / "in", tmp_path / "out")
    assert (result.done, result.skipped, result.failed) == (["a"], ["b"], {})
    assert summary(tmp_path / "out")["counts"] == {"done": 2, "failed": 0, "refused": 0, "pending": 0}


# Bad input: that case fails with its reason, the rest is done


def with_nan(folder: Path) -> None:
    scan = read_volume(folder / "b.nii.gz")
    scan.data[0, 3, 4, 5] = np.nan
    write_volume(scan, folder / "b.nii.gz")


def cut_short(folder: Path) -> None:
    path = folder / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


def empty(folder: Path) -> None:
    (folder / "b.nii.gz").write_bytes(b"")


def of_four_channels(folder: Path) -> None:
    scan = read_volume(folder / "b.nii.gz")
    write_volume(Volume(np.repeat(scan.data, 4, axis=0), scan.affine), folder / "b.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (with_nan, "E-NONFINITE"),
        (cut_short, "E-TRUNCATED"),
        (empty, "E-NOT-NIFTI"),
        (of_four_channels, "E-CHANNEL-COUNT"),
    ],
)
def test_a_spoilt_scan_in_the_middle_costs_one_case(spoil: Any, code: str, run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a", "b", "c"])
    spoil(tmp_path / "in")
    result = predict_folder(run, tmp_path / "in", tmp_path / "out")
    assert result.done == ["a", "c"]
    assert {name: why.code for name, why in result.failed.items()} == {"b": code}
    assert result.failed["b"].fix
    counts = summary(tmp_path / "out")["counts"]
    assert counts["done"] == 2
    assert counts["failed"] + counts["refused"] == 1


def test_a_scan_that_vanishes_after_it_was_found_costs_one_case(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a", "c"])
    cases = [Case(n, (ChannelFile(tmp_path / "in" / f"{n}.nii.gz"),)) for n in "abc"]
    result = predict_folder(run, tmp_path / "in", tmp_path / "out", cases=cases)
    assert result.done == ["a", "c"]
    assert result.failed["b"].code == "E-NOT-READABLE"


def test_small_and_flat_volumes_are_done_with_the_rest(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"flat": (40, 30, 1), "grain": (1, 1, 1), "small": (5, 4, 3)}
    for name, shape in shapes.items():
        write_volume(Volume(rng.random((1, *shape), dtype=np.float32), np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
    assert predict_folder(run, tmp_path / "in", tmp_path / "out").done == ["flat", "grain", "small"]
    for name, shape in shapes.items():
        assert read_volume(tmp_path / "out" / f"{name}.nii.gz", labels=True).shape == shape


def test_a_missing_channel_and_channels_of_another_task_are_refused_by_name(tmp_path: Path) -> None:
    two = Task("two", {"t1": [], "flair": []}, {"x": [1]}, (32, 32, 32))
    save_model(tmp_path / "run", two)
    image = Volume(np.random.default_rng(0).random((1, 8, 8, 8), dtype=np.float32), np.eye(4))
    for name in ("a_t1", "a_flair", "b_t1", "c_t1", "c_flair"):
        write_volume(image, tmp_path / "in" / f"{name}.nii.gz")
    result = predict_folder(tmp_path / "run", tmp_path / "in", tmp_path / "out")
    assert result.done == ["a", "c"]
    assert "no channel flair; task 'two' needs t1, flair" in result.failed["b"].message
    told = summary(tmp_path / "out")
    assert told["counts"] == {"done": 2, "failed": 0, "refused": 1, "pending": 0}
    assert told["failures"]["b"]["code"] == "E-CHANNEL-MISSING"
    save_scans(tmp_path / "other", ["a", "b"])
    with pytest.raises(InputError, match="needs t1, flair"):
        predict_folder(tmp_path / "run", tmp_path / "other", tmp_path / "out2")
    with pytest.raises(ConfigError, match="the model was trained with t1, flair"):
        predict_folder(tmp_path / "run", tmp_path / "other", tmp_path / "out2", task=BALL)


def test_two_inputs_of_one_name_are_refused_and_the_rest_is_done(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a", "b", "c"])
    names = {"a": "a", "A": "b", "c": "c"}
    cases = [Case(n, (ChannelFile(tmp_path / "in" / f"{file}.nii.gz"),)) for n, file in names.items()]
    result = predict_folder(run, tmp_path / "in", tmp_path / "out", cases=cases)
    assert result.done == ["c"]
    assert {n: why.code for n, why in result.failed.items()} == {"a": "E-SAME-NAME", "A": "E-SAME-NAME"}
    save_scans(tmp_path / "twice", ["a", "c"])
    scan = read_volume(tmp_path / "twice" / "a.nii.gz")
    write_volume(scan, tmp_path / "twice" / "a.nii")
    result = predict_folder(run, tmp_path / "twice", tmp_path / "out2")
    assert result.done == ["c"]
    assert result.failed["a"].code == "E-DUPLICATE-CASE"
    assert result.failed["a"].message == "case 'a' is there 2 times: a.nii and a.nii.gz"
    assert summary(tmp_path / "out2")["counts"] == {"done": 1, "failed": 0, "refused": 1, "pending": 0}


def test_a_full_disk_costs_the_cases_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, size in {"a": 12, "b": 60, "c": 12}.items():
        image = Volume(rng.random((1, size, size, size), dtype=np.float32), np.eye(4))
        write_volume(image, tmp_path / "in" / f"{name}.nii.gz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        result = predict_folder(run, tmp_path / "in", tmp_path / "out", probabilities=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.done == ["a", "c"]
    assert result.failed["b"].code == "E-NOT-WRITABLE"
    assert "b_probabilities.nii.gz" in str(result.failed["b"])
    assert not [name for name in listing(tmp_path / "out") if name.startswith(".")]
    assert predict_folder(run, tmp_path / "in", tmp_path / "out", probabilities=True).done == ["b"]


def test_a_folder_that_cannot_be_written_is_said_before_the_work(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a"])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"out.*cannot be written"):
        predict_folder(run, tmp_path / "in", tmp_path / "out")


# Several processes


def test_parts_are_disjoint_and_together_everything(run: Path, tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    save_scans(tmp_path / "in", names)
    shares = [predict_folder(run, tmp_path / "in", tmp_path / "out", part=f"{k}/3").done for k in (1, 2, 3)]
    assert shares == [["a", "d"], ["b", "e"], ["c"]]
    assert summary(tmp_path / "out")["counts"]["done"] == 5
    assert predict_folder(run, tmp_path / "in", tmp_path / "out", part="7/9").done == []
    for wrong in ("0/3", "4/3", "1", "1/0", "a/b"):
        with pytest.raises(ConfigError, match="must be K/N"):
            predict_folder(run, tmp_path / "in", tmp_path / "out", part=wrong)


def test_a_case_that_is_claimed_is_left_alone_and_tried_again_at_the_end(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scans(tmp_path / "in", ["a", "b", "c"])
    other = Claims(tmp_path / "out")
    assert other.take("a")
    assert other.take("b")
    predictor = Predictor.from_bundle(run)
    interrupting(predictor, 1, lambda: other.release("a"), monkeypatch)  # its holder dies while c is computed
    result = predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert result.done == ["c", "a"]
    assert result.elsewhere == ["b"]
    assert summary(tmp_path / "out")["counts"] == {"done": 2, "failed": 0, "refused": 0, "pending": 1}
    other.close()
    result = predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert (result.done, sorted(result.skipped)) == (["b"], ["a", "c"])
    assert not (tmp_path / "out" / ".claims").exists()


def test_the_word_of_a_process_that_ran_meanwhile_is_taken(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a is computed another process does c and fails on b: neither is computed twice, even with overwrite."""
    save_scans(tmp_path / "in", ["a", "b", "c", "d"])
    for name in "bc":
        (tmp_path / "only" / name).mkdir(parents=True)
        (tmp_path / "in" / f"{name}.nii.gz").rename(tmp_path / "only" / name / f"{name}.nii.gz")
    (tmp_path / "only" / "b" / "b.nii.gz").write_bytes(b"nothing")
    cases = [Case(n, (ChannelFile(tmp_path / "only" / n / f"{n}.nii.gz"),)) for n in "bc"]
    ends = [Case(n, (ChannelFile(tmp_path / "in" / f"{n}.nii.gz"),)) for n in "ad"]
    other, predictor = Predictor.from_bundle(run), Predictor.from_bundle(run)
    read = batch.read_image

    def work_of_another() -> None:
        assert predict_folder(other, tmp_path / "only", tmp_path / "out", cases=cases).done == ["c"]

    hold = Claims(tmp_path / "out")  # b and c are not free before a is computed
    for name in "bc":
        assert hold.take(name)

    opened: list[str] = []
    passed_by = threading.Event()

    def open_case(case: Case, task: Task, **options: Any) -> Volume:
        opened.append(case.name)
        if case.name == "d":
            passed_by.set()
        return read(case, task, **options)

    def finish() -> None:
        assert passed_by.wait(30)  # b and c were found claimed
        hold.close()
        work_of_another()

    interrupting(predictor, 1, finish, monkeypatch)
    monkeypatch.setattr(batch, "read_image", open_case)
    result = predict_folder(
        predictor, tmp_path / "in", tmp_path / "out", cases=[ends[0], *cases, ends[1]], overwrite=True
    )
    assert result.done == ["a", "d"]
    assert result.skipped == ["c"]
    assert result.failed["b"].code == "E-NOT-NIFTI"
    assert opened.count("c") == opened.count("b") == 1


HOLD_A_CLAIM = """
import sys, time
from pathlib import Path
from medseg3d.inference.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take("case"), flush=True)
time.sleep(60)
"""


def test_a_claim_dies_with_its_holder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_CLAIM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    claims = Claims(tmp_path)
    assert not claims.take("case")
    assert claims.take("another")
    assert f" {holder.pid}\n" in (tmp_path / ".claims" / "case.lock").read_text()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert claims.take("case")
    claims.close()
    assert list(tmp_path.iterdir()) == []


def test_only_one_of_many_gets_a_claim(tmp_path: Path) -> None:
    """Threads take and release the same claim, whose file comes and goes; two never hold it at the same time."""
    inside, most = [0], [0]
    guard = threading.Lock()

    def work() -> None:
        claims, taken = Claims(tmp_path), 0
        while taken < 40:
            if claims.take("case"):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(1e-4)
                with guard:
                    inside[0] -= 1
                claims.release("case")
                taken += 1
        claims.close()

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(work) for _ in range(6)]:
            done.result()
    assert most[0] == 1


SLOW_PREDICTION = """
import sys, time
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.predictor import Predictor
predictor = Predictor.from_bundle(sys.argv[1], precision="float32")
predict = predictor.predict
def slow(volume, **options):
    print("computing", flush=True)
    time.sleep(float(sys.argv[4]))
    return predict(volume, **options)
predictor.predict = slow
result = predict_folder(predictor, sys.argv[2], sys.argv[3], progress=False)
print("result", *result.done, flush=True)
"""


@pytest.mark.slow
def test_two_processes_one_killed_and_a_second_call_completes(run: Path, tmp_path: Path) -> None:
    names = [f"case{i}" for i in range(8)]
    save_scans(tmp_path / "in", names)
    out = tmp_path / "out"

    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SLOW_PREDICTION, str(run), str(tmp_path / "in"), str(out), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    victim, survivor = start(0.7), start(0.7)
    assert victim.stdout is not None
    assert survivor.stdout is not None
    for _ in range(3):  # the first of its cases is written before it computes the third
        assert victim.stdout.readline().strip() == "computing"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    assert len(list(out.glob("*.nii.gz"))) < len(names)
    lines = survivor.stdout.read().splitlines()
    survivor.stdout.close()
    assert survivor.wait() == 0
    done_by_survivor = lines[-1].split()[1:]
    assert 0 < len(done_by_survivor) < len(names)
    result = predict_folder(Predictor.from_bundle(run, precision="float32"), tmp_path / "in", out)
    assert sorted([*result.done, *result.skipped]) == names
    assert set(done_by_survivor) <= set(result.skipped)
    assert summary(out)["counts"] == {"done": len(names), "failed": 0, "refused": 0, "pending": 0}
    assert not (out / ".claims").exists()
    predict_folder(Predictor.from_bundle(run, precision="float32"), tmp_path / "in", tmp_path / "alone")
    for name in names:  # the files, not the streams: isal may pack the same bytes in two ways
        mine, theirs = ((folder / f"{name}.nii.gz").read_bytes() for folder in (out, tmp_path / "alone"))
        assert gzip.decompress(mine) == gzip.decompress(theirs)


def test_half_files_of_killed_processes_are_removed_when_they_are_old(run: Path, tmp_path: Path) -> None:
    save_scans(tmp_path / "in", ["a"])
    (tmp_path / "out").mkdir()
    for name, age_s in (("old", 7200), ("new", 60)):
        half = tmp_path / "out" / f".tmp-1-{name}.nii.gz"
        half.write_bytes(b"half")
        os.utime(half, (time.time() - age_s,) * 2)
    predict_folder(run, tmp_path / "in", tmp_path / "out")
    assert [n for n in listing(tmp_path / "out") if n.startswith(".tmp")] == [".tmp-1-new.nii.gz"]
