"""From folders of every layout to a task file: names found, data measured, training without a task."""

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
from medseg3d.io import find_cases
from medseg3d.planning import plan
from medseg3d.planning.declared import declared_task
from medseg3d.planning.fingerprint import measure
from medseg3d.planning.for_run import task_of_folds
from medseg3d.training.run import train
from medseg3d.volume import Volume
from tests.shared import real_data
from tests.training_helpers import SETTINGS, write_balls

SAMPLES = Path(__file__).resolve().parent.parent / "sample_data"


def put(path: Path, data: Any, spacing: float = 1.0) -> None:
    data = np.asarray(data)
    write_volume(Volume(data[None], np.diag([*[spacing] * data.ndim, 1.0])), path)


def scan(seed: int = 0, shape: tuple[int, ...] = (16, 16, 16)) -> Any:
    return np.random.default_rng(seed).integers(1, 200, shape).astype(np.uint8)


def label(value: int = 1, shape: tuple[int, ...] = (16, 16, 16)) -> Any:
    out = np.zeros(shape, np.uint8)
    out[tuple(slice(4, 10) for _ in shape)] = value
    return out


def test_names_come_from_a_dataset_json(tmp_path: Path) -> None:
    names = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    }
    for number in range(2):
        put(tmp_path / "imagesTr" / f"a{number}_0000.nii.gz", scan(number))
        put(tmp_path / "imagesTr" / f"a{number}_0001.nii.gz", scan(number + 5))
        put(tmp_path / "labelsTr" / f"a{number}.nii.gz", label(3))
    (tmp_path / "dataset.json").write_text(json.dumps(names))
    task = declared_task(tmp_path)
    assert list(task.channels) == ["T1", "FLAIR"]
    assert dict(task.labels) == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert dict(task.write) == {"whole": 1, "core": 2, "enhancing": 3}
    assert task.regions
    assert len(find_cases(tmp_path, task, labels=True).cases) == 2


def test_names_come_from_the_ends_of_file_names(tmp_path: Path) -> None:
    two = tmp_path / "two folders"
    nested = tmp_path / "nested"
    flat = tmp_path / "flat"
    for name in ("p1", "p2"):
        for channel in ("adc", "t2"):
            put(two / "images" / f"{name}_{channel}.nii.gz", scan())
            put(nested / name / f"{channel}.nii.gz", scan())
        put(two / "labels" / f"{name}.nii.gz", label(4))
        put(nested / name / "seg.nii.gz", label(1) + label(2, (16, 16, 16)))
        put(flat / f"{name}.nii.gz", scan())
        put(flat / f"{name}_mask.nii.gz", label(1))
    for folder, channels, labels in (
        (two, ["adc", "t2"], {"foreground": (4,)}),
        (nested, ["adc", "t2"], {"foreground": (3,)}),
        (flat, ["image"], {"foreground": (1,)}),
    ):
        task = declared_task(folder)
        assert (sorted(task.channels), dict(task.labels)) == (channels, labels)
        assert len(find_cases(folder, task, labels=True).cases) == 2


def test_brats_is_known_by_its_file_names(tmp_path: Path) -> None:
    for case in ("BraTS19_1", "BraTS19_2"):
        for channel in ("flair", "t1", "t1ce", "t2"):
            put(tmp_path / case / f"{case}_{channel}.nii.gz", scan())
        put(tmp_path / case / f"{case}_seg.nii.gz", label(4))
    task = declared_task(tmp_path)
    assert list(task.labels) == ["WT", "TC", "ET"]
    assert find_cases(tmp_path, task, labels=True).label_values[4] == 3


def test_a_table_names_channels_by_its_columns(tmp_path: Path) -> None:
    put(tmp_path / "x.nii.gz", scan())
    put(tmp_path / "y.nii.gz", scan(1))
    put(tmp_path / "l.nii.gz", label(1) + label(1))
    (tmp_path / "My Cases.csv").write_text("name,PD,T2,label,site\na,x.nii.gz,y.nii.gz,l.nii.gz,Ulm\n")
    task = declared_task(tmp_path / "My Cases.csv")
    assert (task.name, list(task.channels), dict(task.labels)) == ("my_cases", ["PD", "T2"], {"foreground": (2,)})
    assert len(find_cases(tmp_path / "My Cases.csv", task, labels=True).cases) == 1


def test_classes_and_colours_of_pictures() -> None:
    task = declared_task(SAMPLES / "classification")
    assert (task.kind, list(task.labels)) == ("classification", ["elongated", "round", "star"])
    assert list(declared_task(SAMPLES / "images").channels) == ["red", "green", "blue"]


def test_what_cannot_be_planned_for_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        plan(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no images"):
        plan(tmp_path / "empty")
    put(tmp_path / "bare" / "images" / "a.nii.gz", scan())
    put(tmp_path / "bare" / "labels" / "a.nii.gz", label(0))
    with pytest.raises(InputError, match="E-EMPTY-LABEL"):
        plan(tmp_path / "bare")
    (tmp_path / "numbered" / "labels").mkdir(parents=True)
    put(tmp_path / "numbered" / "images" / "a_0000.nii.gz", scan())
    put(tmp_path / "numbered" / "images" / "a_0001.nii.gz", scan())
    put(tmp_path / "numbered" / "labels" / "a.nii.gz", label())
    with pytest.raises(InputError, match=r"dataset\.json"):
        plan(tmp_path / "numbered")
    with pytest.raises(ConfigError, match="GB"):
        plan(write_balls(tmp_path / "balls"), memory_gb=0.5)


def test_a_fingerprint_holds_what_is_in_the_files(tmp_path: Path) -> None:
    for number in range(3):
        image = scan(number, (20, 24, 16))
        image[:5] = 0  # a quarter is empty
        put(tmp_path / "images" / f"c{number}.nii.gz", image, 2.0)
        put(tmp_path / "labels" / f"c{number}.nii.gz", label(1, (20, 24, 16)), 2.0)
    task = declared_task(tmp_path)
    dataset = find_cases(tmp_path, task, labels=True)
    found, findings = measure(dataset, task)
    case = found.cases[0]
    assert (case.shape, case.spacing_mm, case.content) == ((20, 24, 16), (2, 2, 2), 0.75)
    structure = case.structures["foreground"]
    assert structure.volume_ml == pytest.approx(6**3 * 8 / 1000)
    assert structure.share == pytest.approx(216 / 7680)
    assert structure.offset == pytest.approx(((6.5 - 9.5) / 20, (6.5 - 11.5) / 24, (6.5 - 7.5) / 16))
    assert structure.thickness_mm == 12  # six voxels of 2 mm
    assert case.labelled == pytest.approx(216 / 7680)
    assert found.as_dict() == measure(dataset, task)[0].as_dict()
    assert found.as_dict()["labels"]["foreground"]["cases"] == 3
    assert not findings


def test_networks_grow_with_the_time(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / "images" / f"p{number}.nii.gz", scan(number))
        put(tmp_path / "labels" / f"p{number}.nii.gz", label())
    short, long = (plan(tmp_path, budget_s=seconds, measure_step=False) for seconds in (300.0, 10**6))
    assert short.task.network == "mit_tiny"
    assert long.task.network == "mit_b0"
    assert "enough steps" in long.reasons["network"]
    assert short.task.patch_size == long.task.patch_size


def test_a_plan_is_the_same_again_and_trains(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "balls")
    first, second = plan(data), plan(data)
    assert first.text == second.text
    # A shell of 3.5 mm wants finer than 0.6 mm; 22 x 20 x 18 mm are 37 x 33 x 30 voxels of that.
    assert first.task.spacing_mm == (0.6, 0.6, 0.6)
    assert first.task.patch_size == (48, 48, 32)
    small = {**SETTINGS, "patch_size": [16, 16, 16], "spacing_mm": [1, 1, 1], "batch_size": 2}
    run = train(None, data, tmp_path / "run", overrides=small, epochs=2)
    assert load_task(run / "configs" / "task.yaml") == first.task
    assert "# " in (run / "configs" / "task.yaml").read_text(encoding="utf-8")
    train(None, data, tmp_path / "run", overrides=small, epochs=3, resume=True)
    assert (run / "metrics.csv").read_text().count("\n") == 4
    with pytest.raises(ConfigError, match="give --task NAME, or --data"):
        train()


def test_a_budget_becomes_epochs(tmp_path: Path) -> None:
    data = write_balls(tmp_path / "balls")
    found = plan(data, budget_s=600, measure_step=False)
    # 0.9 x 600 s of steps of 8 x 48 x 48 x 32 voxels, 4e-7 s each, a tenth at most for validation.
    steps = found.task.train["epochs"] * 50
    assert 0.85 * 540 / 0.236 < steps <= 540 / 0.236
    assert "guessed" in found.reasons["train.epochs"]
    short = plan(data, budget_s=3, measure_step=False)
    assert any(f.code == "W-BUDGET" for f in short.findings)
    with pytest.raises(ConfigError, match="not even one step"):
        plan(data, budget_s=0.02, measure_step=False)


def test_odd_data_are_said_before_any_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_balls(tmp_path / "balls", 4)
    image = read_volume(data / "images" / "ball_0.nii.gz")
    write_volume(image.with_data(np.full_like(image.data, 7)), data / "images" / "ball_0.nii.gz")
    far = read_volume(data / "images" / "ball_1.nii.gz")
    mask = read_volume(data / "labels" / "ball_1.nii.gz", labels=True)
    write_volume(Volume(far.data, np.diag([9.0, 1, 1, 1])), data / "images" / "ball_1.nii.gz")
    write_volume(Volume(mask.data, np.diag([9.0, 1, 1, 1])), data / "labels" / "ball_1.nii.gz")
    codes = {f.code for f in plan(data).findings}
    assert {"W-CONSTANT", "W-SPACING"} <= codes
    one = tmp_path / "one"
    for part in ("images", "labels"):
        (one / part).mkdir(parents=True)
        shutil.copy(data / part / "ball_2.nii.gz", one / part)
    names = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "shell": 1, "core": 2, "rim": 3}}
    (one / "dataset.json").write_text(json.dumps(names))
    assert main(["plan", str(one), "--json"]) == InputError.exit_code
    found = json.loads(capsys.readouterr().out)
    assert {"E-CLASS-ABSENT", "W-SPLIT"} <= {f["code"] for f in found["findings"]}
    assert found["fingerprint"]["cases"] == 1


def test_the_command_writes_a_task_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file = write_balls(tmp_path / "balls", 3), tmp_path / "new" / "task.yaml"
    assert main(["plan", str(data), "-o", str(file), "--memory", "4GB", "--budget", "5m", "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert "patch_size: " in out and f"medseg3d train --task {file}" in out
    assert load_task(file).name == "balls"
    assert main(["train"]) == ConfigError.exit_code
    assert "--data FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", str(data), "--memory", "lots"])


def test_the_hippocampus_plan_is_near_the_task_that_was_tuned_by_hand() -> None:
    found = plan(real_data("msd_task04_hippocampus"))
    task, tuned = found.task, load_task("hippocampus")
    assert task.spacing_mm == tuned.spacing_mm
    assert all(abs(a - b) <= 16 for a, b in zip(task.patch_size, tuned.patch_size, strict=True))
    assert (task.intensity, task.mirror_axes, task.crop) == (tuned.intensity, tuned.mirror_axes, tuned.crop)
    assert task.train["batch_size"] == 2
    thickness = {n: found.fingerprint.thickness_mm(n) for n in task.labels}
    assert all(t is not None and 3 <= t <= 6 for t in thickness.values())
    assert not found.findings


def test_the_nuclei_plan_is_near_the_task_that_was_written_by_hand() -> None:
    task = plan(real_data("dsb2018_nuclei_2d")).task
    assert (task.spacing_mm, task.intensity, task.mirror_axes) == (None, "zscore", (0, 1))
    assert all(256 <= n <= 320 for n in task.patch_size)


def test_all_folds_share_the_task_that_was_planned_first(tmp_path: Path) -> None:
    data, folder = write_balls(tmp_path / "balls", 3), tmp_path / "cv"
    first = task_of_folds(None, data, folder)
    kept = folder / "task.yaml"
    kept.write_text(kept.read_text(encoding="utf-8").replace("batch_size: 8", "batch_size: 4"), encoding="utf-8")
    assert (first.train["batch_size"], task_of_folds(None, data, folder).train["batch_size"]) == (8, 4)
    assert task_of_folds("brats", None, folder).name == "brats"
