import json
from dataclasses import replace

import numpy as np
import pytest

from medseg3d.checks import ConfigError
from medseg3d.task import Task, load_task, task_folder, task_names
from medseg3d.task_rules import plain_name

TASKS = ["acdc", "brats", "brats-segformer3d", "btcv", "hippocampus", "nuclei", "organ_ct", "shapes", "spleen"]
MINIMAL = {"name": "t", "channels": {"CT": []}, "labels": {"a": [1]}, "patch_size": [32, 32, 32]}


def test_the_tasks_that_come_along():
    assert set(TASKS) <= set(task_names())


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_short_and_says_how_to_run_it(name):
    lines = (task_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith("# ")
    assert f"medseg3d train --task {name}" in lines[0]
    task = load_task(name)
    assert task.name == name
    multiple = 16 if task.spatial_dims == 3 else 32
    assert all(n % multiple == 0 for n in task.patch_size)


@pytest.mark.parametrize("name", task_names())
def test_json_and_back(name):
    task = load_task(name)
    assert Task.from_dict(json.loads(json.dumps(task.as_dict()))) == task


@pytest.mark.parametrize("name", [n for n in task_names() if load_task(n).kind == "segmentation"])
def test_label_map_to_regions_and_back(name):
    """One voxel of every value: painted into one map, the regions read back the same."""
    task = load_task(name)
    values = np.array([0, *task.values])
    regions = np.stack([np.isin(values, ids) for ids in task.labels.values()])
    painted = np.zeros_like(values)
    for label, value in task.painting:
        painted[regions[label]] = value
    assert (np.stack([np.isin(painted, ids) for ids in task.labels.values()]) == regions).all()
    if task.regions:
        assert painted.tolist() == values.tolist()


def test_brats_outputs_and_painting():
    ours, published = load_task("brats"), load_task("brats-segformer3d")
    assert list(ours.labels) == ["WT", "TC", "ET"]
    assert ours.painting == ((0, 1), (1, 2), (2, 3))
    assert list(published.labels) == ["TC", "WT", "ET"]  # channels of the published weights
    assert published.painting == ((1, 1), (0, 2), (2, 3))  # still from large to small
    assert list(published.channels) == ["FLAIR", "T1", "T1Gd", "T2"]
    assert published.regions
    assert published.out_channels == 3
    assert load_task("hippocampus").out_channels == 3  # background and two parts


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        *((name, "FLAIR") for name in ("flair", "T2-FLAIR", "t2f")),
        *((name, "T1Gd") for name in ("t1ce", "T1c", "t1gd")),
        *(("t1n", "T1"), ("T1w", "T1"), ("t2w", "T2"), ("adc", None)),
    ],
)
def test_names_of_brats_channels(name, channel):
    assert load_task("brats").channel_named(name) == channel


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 1) for name in ("edema", "SNFH", "ED")),
        *((name, 2) for name in ("NCR", "NET", "NETC", "non-enhancing tumor")),
        *((name, 3) for name in ("enhancing tumour", "ET")),
        *((name, None) for name in ("WT", "")),
    ],
)
def test_names_of_brats_values(name, value):
    assert load_task("brats").id_named(name) == value


def test_names_compare_without_case_and_punctuation():
    assert plain_name("Left_Kidney (L)") == "leftkidneyl"
    assert load_task("organ_ct").id_named("kidney_left") == 3
    assert plain_name("Foie gauche é") == "foiegaucheé"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [32]}, "2 or 3 positive sizes"),
        ({"patch_size": [32.5, 32, 32]}, "wrong form"),
        ({"spacing_mm": [1, 1]}, "3 positive numbers"),
        ({"spacing_mm": [1, 1, 0]}, "3 positive numbers"),
        ({"labels": {}}, "no labels"),
        ({"labels": {"a": [0]}}, "1..65535"),
        ({"labels": {"a": 1}}, "wrong form"),
        ({"labels": {"a": [1.5]}}, "wrong form"),
        ({"channels": ["CT"]}, "wrong form"),
        ({"channels": {"A": ["x"], "B": ["X"]}}, "both channel"),
        ({"labels": {"a": [1], "b": [2]}, "ids": {1: ["x"], 2: ["x"]}}, "both value"),
        ({"intensity": "hu"}, "is none of"),
        ({"kind": "detection"}, "is none of"),
        ({"mirror_axes": [3]}, "0..2"),
        ({"write": {"b": 1}}, "the same"),
        ({"aliases": {"b": ["x"]}}, "no label"),
        ({"ids": {7: ["x"]}}, "value 7"),
        ({"labels": {"core": [2], "whole": [1, 2]}}, "reads back"),
        ({"labels": {"whole": [1, 2], "core": [2]}, "write": {"whole": 2, "core": 2}}, "reads back"),
    ],
)
def test_contradictions_are_refused_in_words(change, message):
    with pytest.raises(ConfigError, match=message):
        Task.from_dict(MINIMAL | change)


def test_unknown_and_missing_keys():
    with pytest.raises(ConfigError, match="'patchsize' does not exist"):
        Task.from_dict(MINIMAL | {"patchsize": [1]})
    with pytest.raises(ConfigError, match="without 'labels'"):
        Task.from_dict({k: v for k, v in MINIMAL.items() if k != "labels"})


def test_unknown_task_lists_the_known():
    with pytest.raises(ConfigError, match=r"unknown task 'brain'.*hippocampus"):
        load_task("brain")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no task file"), ("- 1", "no mapping"), ("a: [", "not valid YAML"), ("name: x", "without")],
)
def test_broken_task_files(tmp_path, content, message):
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_task(path)


def test_an_own_task_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nchannels: {CT: }\nlabels: {cyst: [4]}\npatch_size: [64, 64]\n", encoding="utf-8")
    task = load_task(path)
    assert (task.spatial_dims, task.in_channels, task.out_channels, task.write) == (2, 1, 2, {"cyst": 4})
    assert replace(task, name="other").name == "other"
