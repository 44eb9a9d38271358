"""``medseg3d predict`` as a user meets it: exit codes and messages, above all for input that cannot be used."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg3d.cli import main
from medseg3d.io.images import read_volume, write_volume
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.test_ensembles import MIRRORED, save_members, save_noise
from tests.test_predictor import edit, save_model

TWO = Task("two", {"t1": [], "flair": []}, {"x": [1]}, (32, 32, 32))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder, MIRRORED)
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three sound scans; the tests spoil the one in the middle."""
    return save_noise(tmp_path / "in", "abc")


Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Exit code, standard output and standard error of ``medseg3d predict``; never a stack trace."""

    def call(model: Path, folder: Path, *more: object) -> tuple[int, str, str]:
        capsys.readouterr()
        words = ["predict", "--model", model, "-i", folder, "-o", tmp_path / "out", *more]
        code = main([str(w) for w in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return call


def done(tmp_path: Path) -> list[str]:
    return sorted(p.name.removesuffix(".nii.gz") for p in (tmp_path / "out").glob("?.nii.gz"))


def test_the_way_it_should_go(run: Path, scans: Path, tmp_path: Path, predict: Predict) -> None:
    code, out, err = predict(run, scans)
    assert code == 0
    assert "3 of 3 cases are segmented" in out
    assert "look at first (expected Dice, uncalibrated: the order counts alone): " in out
    lines = err.splitlines()
    said = next(i for i, line in enumerate(lines) if line.startswith("case a takes about "))
    assert "GB (process " in lines[said]
    assert "windows of 32 x 32 x 32 voxels" in lines[said] or "one pass" in lines[said]
    assert said < next(i for i, line in enumerate(lines) if line.startswith("case a (1 of 3): ")), "before the work"
    code, out, _ = predict(run, scans, "--json")
    told = json.loads(out)
    assert (code, told["skipped"], told["failed"]) == (0, ["a", "b", "c"], {})
    assert sorted(c["case"] for c in told["triage"]["cases"]) == ["a", "b", "c"]


def test_a_larger_case_is_announced_with_the_seconds_it_may_take(run: Path, tmp_path: Path, predict: Predict) -> None:
    save_noise(tmp_path / "in", "a")
    save_noise(tmp_path / "in", "c", shape=(90, 80, 40))
    shutil.move(tmp_path / "in" / "c.nii.gz", tmp_path / "in" / "b.nii.gz")
    code, _, err = predict(run, tmp_path / "in")
    assert code == 0
    (line,) = [line for line in err.splitlines() if line.startswith("case b takes about ")]
    assert "by the cases before about " in line


def with_nan(file: Path) -> None:
    scan = read_volume(file)
    scan.data[0, 3, 4, 5] = np.nan
    write_volume(scan, file)


def unreadable(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:400])


def of_two_axes(file: Path) -> None:
    scan = read_volume(file)
    write_volume(Volume(scan.data[..., 0], np.eye(3)), file)


def there_twice(file: Path) -> None:
    write_volume(read_volume(file), file.with_name("b.nii"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_nan, ["E-NONFINITE", "b.nii.gz"]),
        (unreadable, ["E-TRUNCATED", "copy or download it again"]),
        (of_two_axes, ["E-DIMENSIONS", "2 axes"]),
        (there_twice, ["E-DUPLICATE-CASE", "case 'b' is there 2 times: b.nii and b.nii.gz", "keep one of these files"]),
    ],
)
def test_one_bad_scan_in_the_middle(
    spoil: Any, words: list[str], run: Path, scans: Path, tmp_path: Path, predict: Predict
) -> None:
    spoil(scans / "b.nii.gz")
    code, out, err = predict(run, scans)
    assert code == 3
    assert "2 of 3 cases are segmented" in out
    for word in words:
        assert word in err
    assert done(tmp_path) == ["a", "c"]
    code, _, err = predict(run, scans)
    assert code == 3, "what is done is skipped, and the bad one is still bad"
    assert "2 of 3 cases were done before" in err or "2 of 2 cases were done before" in err


def test_small_and_flat_volumes_are_no_trouble(run: Path, tmp_path: Path, predict: Predict) -> None:
    for name, shape in {"a": (5, 4, 3), "b": (40, 30, 1), "c": (1, 1, 1)}.items():
        save_noise(tmp_path / "in", name, shape)
    code, out, _ = predict(run, tmp_path / "in", "--uncertainty", "--probabilities")
    assert code == 0
    assert "3 of 3 cases are segmented" in out
    assert read_volume(tmp_path / "out" / "b_uncertainty.nii.gz").shape == (40, 30, 1)


def test_a_missing_channel(tmp_path: Path, predict: Predict) -> None:
    save_model(tmp_path / "two", TWO)
    image = read_volume(save_noise(tmp_path / "noise") / "p.nii.gz")
    for name in ("a_t1", "a_flair", "b_t1", "c_t1", "c_flair"):
        write_volume(image, tmp_path / "in" / f"{name}.nii.gz")
    code, out, err = predict(tmp_path / "two", tmp_path / "in")
    assert code == 3
    assert "2 of 3 cases are segmented" in out
    assert "failed: b: no channel flair; task 'two' needs t1, flair" in err
    assert done(tmp_path) == ["a", "c"]


def test_a_model_for_other_channels(scans: Path, tmp_path: Path, predict: Predict) -> None:
    save_model(tmp_path / "two", TWO)
    code, _, err = predict(tmp_path / "two", scans)
    assert code == 5
    assert "needs t1, flair" in err
    assert not (tmp_path / "out").exists()


def test_a_full_disk(run: Path, scans: Path, tmp_path: Path, predict: Predict) -> None:
    save_noise(scans, "b", (60, 60, 60))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        code, _, err = predict(run, scans, "--probabilities")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 3
    assert "b_probabilities.nii.gz: cannot be written (File too large)" in err
    assert done(tmp_path) == ["a", "c"]
    assert not [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    assert predict(run, scans, "--probabilities")[0] == 0


def test_a_budget_is_kept_or_refused_with_what_would_fit(
    run: Path, scans: Path, tmp_path: Path, predict: Predict
) -> None:
    code, _, err = predict(run, scans, "--max-ram", "0.01")
    assert code == 4
    assert "--max-ram allows 0.01 GB; give --max-ram " in err
    assert "or a smaller window (--roi) [E-MEMORY]" in err
    assert err.count("failed: ") >= 1
    assert done(tmp_path) == []
    code, _, err = predict(run, scans, "--max-ram", "64")
    assert code == 0
    assert "case a takes about " in err
    code, _, err = predict(run, scans, "--max-ram", "-1")
    assert code == 2
    assert "must be more than 0" in err


def test_a_window_of_another_size(run: Path, scans: Path, tmp_path: Path, predict: Predict) -> None:
    code, _, err = predict(run, scans, "--roi", "16,18,20")
    assert code == 2
    assert "16 x 18 x 20 voxels must be divisible by 4" in err
    assert "the nearest that is: 16 x 16 x 20" in err
    code, _, err = predict(run, scans, "--roi", "16,16")
    assert code == 2
    assert "must be 3 positive sizes" in err
    assert predict(run, scans, "--roi", "16,16,20")[0] == 0
    sidecar = json.loads((tmp_path / "out" / "a.nii.gz.json").read_text())
    assert sidecar["options"]["roi_size"] == [16, 16, 20]
    for wrong in ("16,0,16", "large", "16;16;16"):
        with pytest.raises(SystemExit) as stopped:
            predict(run, scans, "--roi", wrong)
        assert stopped.value.code == 2


def test_ensembles_and_uncertainty(scans: Path, tmp_path: Path, predict: Predict) -> None:
    first, second = save_members(tmp_path, MIRRORED)
    code, out, _ = predict(first, scans, "--model", second, "--uncertainty")
    assert code == 0
    assert "look at first" in out
    assert (tmp_path / "out" / "a_uncertainty.nii.gz").is_file()
    models = [word for model in (second, first) for word in ("--model", str(model))]
    assert main(["verify", str(tmp_path / "out" / "a.nii.gz"), *models, "-i", str(scans)]) == 0
    edit(second, "medseg3d", "task", "labels", value={"x": [1], "z": [2]})
    edit(second, "medseg3d", "task", "write", value={"x": 1, "z": 2})
    code, _, err = predict(first, scans, "--model", second)
    assert code == 6
    assert "was trained with labels" in err
    assert "the models of an ensemble must agree" in err
    single = tmp_path / "single"
    save_model(single, Task("one", {"image": []}, {"x": [1]}, (32, 32, 32)))
    code, _, err = predict(single, scans, "--uncertainty")
    assert code == 2
    assert "give several models (--model A --model B)" in err
