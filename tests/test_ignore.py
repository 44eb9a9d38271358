"""Voxels that nobody has judged: neither trained on nor scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d import evaluate, load_task, read_volume, write_volume
from medseg3d.checks import ConfigError, InputError
from medseg3d.inspection import inspect
from medseg3d.io import find_cases, read_label
from medseg3d.io.cases import with_ignored
from medseg3d.planning import plan
from medseg3d.planning.declared import declared_task
from medseg3d.planning.fingerprint import measure_case
from medseg3d.planning.for_run import task_of_folds, task_of_run
from medseg3d.preprocessing import Preprocessing
from medseg3d.training.cache import IGNORED
from medseg3d.training.dataset import encode_labels, prepare
from medseg3d.training.intensities import training_statistics
from medseg3d.training.losses import build_loss
from medseg3d.training.run import train, validate
from medseg3d.training.sampling import Patches
from medseg3d.training.validation import dice_from_codes
from tests.training_helpers import SETTINGS, ball_task, write_balls

PLAIN = ball_task()
TASK = ball_task(ignore=9)
SMALL = {"patch_size": [16, 16, 16], "spacing_mm": [1, 1, 1], "batch_size": 2}
REGIONS = {"labels": {"whole": [1, 2], "core": [2]}, "write": {"whole": 1, "core": 2}}


def data_with_unjudged(folder: Path, count: int) -> Path:
    """Balls whose first slices nobody has judged; their images are the same as ever."""
    write_balls(folder, count)
    for path in (folder / "labels").iterdir():
        label = read_volume(path, labels=True)
        label.data[0, :9] = 9
        write_volume(label, path)
    return folder


@pytest.mark.parametrize("changes", [{}, REGIONS], ids=["softmax", "regions"])
@pytest.mark.parametrize("name", ["dice", "dice_ce"])
def test_the_loss_is_the_usual_one_where_all_is_judged_and_blind_elsewhere(changes: dict, name: str) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2 if changes else 3, 6, 5, 4, generator=random)
    target = torch.randint(0, 3, (2, 1, 6, 5, 4), generator=random, dtype=torch.uint8)
    plain, judged = build_loss(name, ball_task(**changes)), build_loss(name, ball_task(ignore=9, **changes))
    assert judged(logits, target).item() == pytest.approx(plain(logits, target).item(), abs=1e-5)
    part = target.clone()
    part[:, :, :3] = IGNORED
    assert judged(logits, part).item() == pytest.approx(plain(logits[:, :, 3:], target[:, :, 3:]).item(), abs=1e-5)
    other = logits.clone()
    other[:, :, :3] += 5
    assert judged(other, part).item() == judged(logits, part).item()


def test_losses_average_per_sample_whatever_is_judged() -> None:
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 6, 5, 4, generator=random)
    target = torch.randint(0, 3, (2, 1, 6, 5, 4), generator=random, dtype=torch.uint8)
    target[0, :, :5] = IGNORED
    loss = build_loss("auto", TASK)
    apart = (loss(logits[:1], target[:1]) + loss(logits[1:], target[1:])) / 2
    assert loss(logits, target).item() == pytest.approx(apart.item(), abs=1e-6)
    assert np.isfinite(loss(logits, torch.full_like(target, IGNORED)).item())


def test_unjudged_voxels_are_read_coded_and_never_looked_for(tmp_path: Path) -> None:
    data = data_with_unjudged(tmp_path, 2)
    with pytest.raises(InputError, match="9"):
        found = find_cases(data, PLAIN, labels=True)
        read_label(found.cases[0], found, PLAIN, None)
    dataset = find_cases(data, TASK, labels=True)
    cases = prepare(dataset, dataset.cases, task=TASK, preprocessing=Preprocessing.from_task(TASK))
    assert cases[0].target is not None
    assert (cases[0].target[0, :9] == IGNORED).all()
    patches = Patches(cases, patch_size=(8, 8, 8), foreground_share=1.0)
    assert all((voxels[:, 0] >= 9).all() for classes in patches.foreground for voxels in classes)
    assert encode_labels(np.array([0, 2, 9], np.uint8), TASK).tolist() == [0, 2, IGNORED]


def test_nnunets_name_for_it_is_known(tmp_path: Path) -> None:
    data = data_with_unjudged(tmp_path, 1)
    (data / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "shell": 1, "core": 2, "ignore": 9}})
    )
    task = ball_task(ignore=100)
    dataset = find_cases(data, task, labels=True)
    label = read_label(dataset.cases[0], dataset, task, None)
    assert set(np.unique(label.data)) <= {0, 1, 2, 100}
    assert (label.data[0, :9] == 100).all()


def with_names(folder: Path, ignore: object = 9) -> Path:
    labels = {"background": 0, "shell": 1, "core": 2, "ignore": ignore}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": labels}))
    return folder


def test_plans_and_trainings_take_nnunets_word_for_it(tmp_path: Path) -> None:
    data = with_names(data_with_unjudged(tmp_path / "data", 3))
    planned = plan(data)
    assert (planned.task.ignore, list(planned.task.labels)) == (9, ["shell", "core"])
    assert "ignore: 9  # so dataset.json calls" in planned.text
    (tmp_path / "task.yaml").write_text(planned.text)
    assert load_task(tmp_path / "task.yaml") == planned.task
    run = train(None, data, tmp_path / "run", overrides=SETTINGS | SMALL, epochs=1)
    assert json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["task"]["ignore"] == 9
    validate(run)
    assert not [f for f in inspect(data, PLAIN).findings if f.severity == "error"]
    assert task_of_run(PLAIN, data, None)[0].ignore == 9
    assert task_of_folds(ball_task(labels={"a": [9]}), data, tmp_path).ignore == 10, "9 is a label's there"
    assert task_of_run(TASK, tmp_path, None)[0] is TASK
    with pytest.raises(InputError, match="add ignore: 9 to the task file"):
        find_cases(data, PLAIN, labels=True)


def test_a_task_that_wants_to_learn_it_may(tmp_path: Path) -> None:
    data = with_names(data_with_unjudged(tmp_path, 1))
    task = ball_task(labels={"shell": [1], "core": [2], "ignore": [3]})
    assert find_cases(data, task, labels=True).label_values == {1: 1, 2: 2, 9: 3}
    assert with_ignored(task, data) is task


def test_nnunets_regions_with_it(tmp_path: Path) -> None:
    data = data_with_unjudged(tmp_path, 1)
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 9}
    (data / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": labels}))
    task = declared_task(data)
    assert (dict(task.labels), task.ignore, task.regions) == ({"whole": (1, 2), "core": (2,)}, 9, True)
    assert find_cases(data, task, labels=True).label_values == {1: 1, 2: 2, 9: 9}


@pytest.mark.parametrize("value", [0, [8, 9], []])
def test_it_is_one_value(tmp_path: Path, value: object) -> None:
    data = with_names(data_with_unjudged(tmp_path, 1), value)
    with pytest.raises(InputError, match="must be one value above 0"):
        find_cases(data, TASK, labels=True)


def test_statistics_and_plans_do_not_look_at_them(tmp_path: Path) -> None:
    data, task = data_with_unjudged(tmp_path, 1), ball_task(ignore=9, intensity="ct")
    dataset = find_cases(data, task, labels=True)
    label = read_volume(data / "labels" / "ball_0.nii.gz", labels=True).data
    values = read_volume(data / "images" / "ball_0.nii.gz").data[(label == 1) | (label == 2)]
    found = training_statistics(dataset, dataset.cases, task)
    assert found is not None
    assert found[0]["mean"] == pytest.approx(values.mean(), rel=1e-6)
    case = measure_case(dataset.cases[0], dataset, task, thickness=True)
    assert case.structures["shell"].thickness_mm is None, "half of it is not judged"
    occupied = np.argwhere((label[0] == 1) | (label[0] == 2))
    assert case.labelled == pytest.approx(np.prod(np.ptp(occupied, axis=0) + 1) / label.size)


def test_scores_leave_them_out() -> None:
    reference = np.array([1, 1, 0, IGNORED, IGNORED], np.uint8)
    prediction = np.array([1, 0, 0, 1, 2], np.uint8)
    assert dice_from_codes(reference, prediction, TASK)[0] == pytest.approx(2 / 3)


def test_training_and_evaluation_with_them(tmp_path: Path) -> None:
    data = data_with_unjudged(tmp_path / "data", 3)
    run = train(TASK, data, tmp_path / "run", overrides=SETTINGS, epochs=1)
    assert json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["task"]["ignore"] == 9
    out = tmp_path / "out"
    for case in find_cases(data, TASK, labels=True).cases:
        assert case.label is not None
        label = read_volume(case.label, labels=True)
        label.data[label.data == 9] = 2  # wrong where nobody can say so, right elsewhere
        write_volume(label, out / case.label.name)
    scores = evaluate(data, out, TASK)
    assert all(row["dice"] == 1 for row in scores.rows)


@pytest.mark.parametrize("value", [2, 0, 70000])
def test_values_that_cannot_be_ignored(value: int) -> None:
    with pytest.raises(ConfigError, match="no value of a label"):
        ball_task(ignore=value)
