"""Scans whose channels are numbered, as nnU-Net has them: what the numbers mean is known from the data set, never guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg3d import load_task, read_volume, write_volume
from medseg3d.checks import ConfigError, InputError
from medseg3d.cli import main
from medseg3d.inference.channels import numbered_as, numbering_of
from medseg3d.inference.folder import predict_folder
from medseg3d.io import find_cases
from medseg3d.planning import plan
from medseg3d.task import Task
from medseg3d.training.run import train
from tests.test_predictor import save_model
from tests.training_helpers import SETTINGS, ball, ball_task

TASK = ball_task(name="two", channels={"T1": ["T1w"], "FLAIR": []})
NAMES = {"channel_names": {"0": "flair", "1": "T1w"}, "labels": {"background": 0, "shell": 1, "core": 2}}


def write_numbered(folder: Path, count: int, names: dict[str, Any] | None = NAMES) -> Path:
    """nnU-Net's raw data: FLAIR as 0000, T1 (upside down) as 0001."""
    for seed in range(count):
        image, label = ball(seed)
        write_volume(image, folder / "imagesTr" / f"b{seed}_0000.nii.gz")
        write_volume(image.with_data(-image.data), folder / "imagesTr" / f"b{seed}_0001.nii.gz")
        write_volume(label, folder / "labelsTr" / f"b{seed}.nii.gz")
    if names is not None:
        (folder / "dataset.json").write_text(json.dumps(names))
    return folder


def bare(data: Path, folder: Path) -> Path:
    """The scans alone, with nothing that names their channels."""
    shutil.copytree(data / "imagesTr", folder)
    return folder


def numbered(**changes: Any) -> Task:
    return ball_task(name="two", channels={"T1": ["T1w"], "FLAIR": []}, **changes)


def files(folder: Path, task: Task) -> list[str]:
    return [f.path.name for f in find_cases(folder, task, labels=False).cases[0].images]


def test_a_model_of_numbered_data_knows_the_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = write_numbered(tmp_path / "data", 3)
    run = train(TASK, data, tmp_path / "run", overrides=SETTINGS, epochs=1)
    task = json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["task"]
    assert task["numbered"] == ["flair", "T1w"]
    scans = bare(data, tmp_path / "scans")
    caplog.clear()
    predict_folder(run, scans, tmp_path / "out", device="cpu")
    assert "T1 <- T1w (_0001), FLAIR <- flair (_0000)" in caplog.text
    assert "no dataset.json names the channels" in caplog.text
    predict_folder(run, data, tmp_path / "same", device="cpu")
    for case in ("b0", "b1", "b2"):
        one, other = (read_volume(tmp_path / out / f"{case}.nii.gz", labels=True).data for out in ("out", "same"))
        assert np.array_equal(one, other)
    sidecar = json.loads((tmp_path / "out" / "b0.nii.gz.json").read_text())
    assert [Path(i["file"]).name for i in sidecar["inputs"]] == ["b0_0001.nii.gz", "b0_0000.nii.gz"]
    train(TASK, data, run, overrides=SETTINGS, epochs=2, resume=True)
    assert json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["task"] == task


def test_a_planned_task_knows_them_too(tmp_path: Path) -> None:
    data = write_numbered(tmp_path / "data", 3)
    planned = plan(data)
    assert planned.task.numbered == ("flair", "T1w")
    (tmp_path / "task.yaml").write_text(planned.text)
    task = load_task(tmp_path / "task.yaml")
    assert task == planned.task
    assert files(bare(data, tmp_path / "scans"), task) == ["b0_0000.nii.gz", "b0_0001.nii.gz"]
    assert "numbered" in planned.reasons
    one = write_numbered(tmp_path / "one", 1, {**NAMES, "channel_names": {"0": "T1"}})
    (one / "imagesTr" / "b0_0001.nii.gz").unlink()
    assert plan(one).task.numbered == (), "a single channel is no matter of order"


def test_names_beside_the_scans_come_before_the_models(tmp_path: Path) -> None:
    data, task = write_numbered(tmp_path / "data", 1), numbered(numbered=["T1", "FLAIR"])
    assert files(data, task) == ["b0_0001.nii.gz", "b0_0000.nii.gz"]
    assert files(bare(data, tmp_path / "scans"), task) == ["b0_0000.nii.gz", "b0_0001.nii.gz"]
    with pytest.raises(InputError, match=r"numbered, but no dataset\.json.*--channels 0000=NAME"):
        files(tmp_path / "scans", TASK)


def test_a_channel_among_others_is_found_by_its_number(tmp_path: Path) -> None:
    """Without the numbers a network of one channel would take each file for a scan of its own."""
    scans = bare(write_numbered(tmp_path / "data", 1), tmp_path / "scans")
    task = ball_task(channels={"T1": []}, numbered=["FLAIR", "T1"])
    assert files(scans, task) == ["b0_0001.nii.gz"]
    (scans / "b0_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="no channel T1"):
        files(scans, task)


@pytest.mark.parametrize("wrong", [["T1"], ["T1", "T1w", "FLAIR"], "T1,FLAIR"])
def test_numbers_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="must name each channel once"):
        numbered(numbered=wrong)


def test_models_that_number_otherwise_know_nothing_together() -> None:
    one, other = numbered(numbered=["T1", "FLAIR"]), numbered(numbered=["FLAIR", "T1"])
    assert numbering_of([one, TASK, numbered(numbered=["T1w", "flair"])]) == ("T1", "FLAIR")
    assert numbering_of([one, other]) == numbering_of([TASK]) == ()


def test_numbers_given_by_hand() -> None:
    assert numbered_as(TASK, {3: "T1w", 0: "flair"}).numbered == ("FLAIR", "number 1", "number 2", "T1")
    assert numbered_as(TASK, {0: "T1"}, missing=["FLAIR"]).numbered == ("T1", "FLAIR")
    with pytest.raises(ConfigError, match="'T2' is no channel; task 'two' has T1, FLAIR"):
        numbered_as(TASK, {0: "T1", 1: "T2"})
    for channels in ({0: "T1"}, {0: "T1", 1: "T1w", 2: "FLAIR"}):
        with pytest.raises(ConfigError, match="each channel must have one number"):
            numbered_as(TASK, channels)


def test_the_command_refuses_an_unknown_order_and_takes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", TASK)
    data = write_numbered(tmp_path / "data", 1)
    scans = bare(data, tmp_path / "scans")

    def predict(folder: Path, *words: str) -> int:
        places = ["--model", str(tmp_path / "model"), "-i", str(folder), "-o", str(tmp_path / "out"), "--device", "cpu"]
        return main(["predict", *places, *words])

    assert predict(scans) == InputError.exit_code
    assert "--channels 0000=NAME" in capsys.readouterr().err
    assert predict(scans, "--channels", "0000=FLAIR,0001=T1") == 0
    assert "T1 <- T1 (_0001), FLAIR <- FLAIR (_0000)" in capsys.readouterr().err
    assert predict(data, "--channels", "0000=FLAIR,0001=T1") == 0, "as dataset.json says"
    assert predict(data, "--channels", "0000=T1,0001=FLAIR") == ConfigError.exit_code
    assert "says 0000=flair, 0001=T1w" in capsys.readouterr().err
    (tmp_path / "named").mkdir()
    for number, name in (("0000", "flair"), ("0001", "t1")):
        shutil.copy(scans / f"b0_{number}.nii.gz", tmp_path / "named" / f"b0_{name}.nii.gz")
    assert predict(tmp_path / "named", "--channels", "0000=T1,0001=FLAIR") == ConfigError.exit_code
    assert "are not numbered" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict(scans, "--channels", "T1,FLAIR")
