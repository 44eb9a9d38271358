"""What a user types, and what comes back: exit codes, one clear message, never a stack trace."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d import __version__, sample_data_folder
from medseg3d.cli import VERBS, build_parser, main
from medseg3d.cli.prediction import library_options
from medseg3d.cli.values import seconds, setting
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.predictor import Predictor
from tests.shared import ROOT


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    """Four of the sample heads as an MSD folder that a test may spoil."""
    source = sample_data_folder() / "brats"
    folder = tmp_path / "data"
    described = json.loads((source / "dataset.json").read_text())
    described["training"] = described["training"][:4]
    described["numTraining"] = 4
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for case in described["training"]:
            name = Path(case["image"]).name
            shutil.copy(source / part / name, folder / part / name)
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def described(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def first(folder: Path, part: str) -> Path:
    return sorted((folder / part).iterdir())[0]


def refused(capsys, *words: object) -> tuple[int, str]:
    """Exit code and message of a command that must fail before any training."""
    code = main([str(w) for w in words])
    text = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in text
    assert text.count("medseg3d: error:") == 1
    return code, text.split("medseg3d: error:")[1]


def train(capsys, heads: Path, *more: object) -> tuple[int, str]:
    output = heads.parent / "run"
    code, text = refused(capsys, "train", "--task", "brats", "--data", heads, "-o", output, "--quiet", *more)
    assert not (output / "models" / "last.pt").exists()
    return code, text


def test_missing_channel(capsys, heads) -> None:
    values = described(heads)
    values["modality"] = {"0": "FLAIR", "1": "T1w", "2": "T2w"}
    (heads / "dataset.json").write_text(json.dumps(values))
    code, text = train(capsys, heads)
    assert code == 5
    assert "T1Gd" in text


def test_label_value_outside_the_task(capsys, heads) -> None:
    path = first(heads, "labelsTr")
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[10, 10, 10] = 9
    nib.save(nib.Nifti1Image(data, image.affine), path)
    code, text = train(capsys, heads)
    assert code == 5
    assert "9" in text
    assert path.name in text


def test_image_and_label_on_different_grids(capsys, heads) -> None:
    path = first(heads, "labelsTr")
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 10
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    code, text = train(capsys, heads)
    assert code == 5
    assert "10 mm" in text
    assert path.name in text


def test_truncated_file(capsys, heads) -> None:
    path = first(heads, "imagesTr")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    code, text = train(capsys, heads)
    assert code == 5
    assert "E-TRUNCATED" in text
    assert path.name in text


def test_unknown_task(capsys) -> None:
    code, text = refused(capsys, "train", "--task", "brain")
    assert code == 2
    assert "'brain'" in text
    assert "brats" in text


def test_unknown_setting(capsys, heads) -> None:
    code, text = train(capsys, heads, "--set", "learning_rat=0.1")
    assert code == 2
    assert "learning_rat" in text
    assert "did you mean learning_rate" in text


def test_setting_of_the_wrong_type(capsys, heads) -> None:
    code, text = train(capsys, heads, "--set", "batch_size=many")
    assert code == 2
    assert "batch_size='many' must be a whole number" in text


def test_setting_with_code_is_refused(capsys, heads) -> None:
    code, text = train(capsys, heads, "--set", "device=$__import__('os').getcwd()")
    assert code == 2
    assert "plain data" in text


def test_empty_data_folder(capsys, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    code, text = refused(capsys, "train", "--task", "brats", "--data", tmp_path / "empty", "-o", tmp_path / "run")
    assert code == 2
    assert "empty" in text


def test_data_folder_that_is_not_there(capsys, tmp_path) -> None:
    code, _ = refused(capsys, "train", "--task", "brats", "--data", tmp_path / "none", "-o", tmp_path / "run")
    assert code == 2


def test_task_without_sample_data_needs_data(capsys) -> None:
    code, text = refused(capsys, "train", "--task", "spleen")
    assert code == 2
    assert "--data" in text


def test_predict_without_a_model(capsys, tmp_path) -> None:
    code, text = refused(capsys, "predict", "--model", tmp_path / "none", "-i", tmp_path, "-o", tmp_path / "out")
    assert code == 6
    assert "no model directory" in text


def test_evaluate_needs_a_task(capsys, tmp_path) -> None:
    code, text = refused(capsys, "evaluate", "--reference", tmp_path, "--prediction", tmp_path)
    assert code == 2
    assert "--task NAME" in text


def test_evaluate_prints_json(capsys, heads) -> None:
    labels = heads / "labelsTr"
    assert (
        main(
            [
                "evaluate",
                "--reference",
                str(labels),
                "--prediction",
                str(labels),
                "--task",
                "brats",
                "--json",
                "--quiet",
            ]
        )
        == 0
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["labels"]["WT"]["dice"]["mean"] == 1.0


def test_unexpected_error_has_no_stack_trace(capsys, monkeypatch) -> None:
    monkeypatch.setattr("medseg3d.task.task_names", lambda: 1 / 0)
    assert main(["tasks"]) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert "Traceback" not in text


def test_tasks_lists_every_task_as_json(capsys) -> None:
    assert main(["tasks", "--json"]) == 0
    assert {"brats", "hippocampus", "spleen", "acdc", "btcv", "nuclei", "organ_ct", "brats-segformer3d"} <= {
        t["name"] for t in json.loads(capsys.readouterr().out)
    }


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_durations(text, expected) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-3m", "0s", "5 minutes"])
def test_what_is_no_duration(text, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--task", "brats", "--max-time", text])
    assert stopped.value.code == 2


def test_settings_are_yaml() -> None:
    assert setting("patch_size=[64, 64, 32]") == ("patch_size", [64, 64, 32])
    assert setting("workers=null") == ("workers", None)


@pytest.mark.parametrize("command", [[sys.executable, "-m", "medseg3d"], ["medseg3d"]])
def test_version_and_help(command) -> None:
    def out(*words: str) -> str:
        return subprocess.run([*command, *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert out("--version").strip() == f"medseg3d {__version__}"
    for verb in ("tasks", "download", "train", "predict", "verify", "evaluate", "compare", "report", "preview"):
        assert verb in out("--help")
        assert "exit codes" in out(verb, "--help")


def test_every_option_of_predict_has_a_taker() -> None:
    """What the verb does not use itself is handed on by name: to the folder, or through it to the predictor."""
    words = ["predict", "--model", "runs/any", "-i", "in", "-o", "out"]
    given = library_options(build_parser(VERBS).parse_args(words))
    takers = (predict_folder, Predictor.__init__)
    known = {name: value.default for taker in takers for name, value in inspect.signature(taker).parameters.items()}
    assert set(given) <= set(known)
    # None leaves it to the model; any other value is the library's own default
    same = {name for name, value in given.items() if value is not None and not isinstance(value, list)}
    assert {name: given[name] for name in same} == {name: known[name] for name in same}
