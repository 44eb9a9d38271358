"""Prepared cases on disk: the same arrays, used while nothing changed, made again where damaged, read without the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg3d import read_volume, write_volume
from medseg3d.checks import InputError
from medseg3d.io import DataSet, find_cases
from medseg3d.preprocessing import Preprocessing
from medseg3d.training import cache as cache_module
from medseg3d.training import dataset as dataset_module
from medseg3d.training.cache import PreparedCase
from medseg3d.training.dataset import Cases, prepare
from medseg3d.training.sampling import Patches
from tests.training_helpers import ball_task, write_balls

TASK = ball_task(spacing_mm=[1.5, 1.5, 1.5])
NAMES = ["ball_0", "ball_1", "ball_2"]


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return find_cases(write_balls(tmp_path / "data", 3), TASK, labels=True)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that were prepared, and not taken from a cache."""
    names: list[str] = []
    original = dataset_module.prepare_case

    def noted(case: Any, *others: Any) -> PreparedCase:
        names.append(case.name)
        return original(case, *others)

    monkeypatch.setattr(dataset_module, "prepare_case", noted)
    return names


def prepared(data: DataSet, cache: Path | None, *, task: Any = TASK, **options: Any) -> Cases:
    """As a new process prepares, which remembers nothing."""
    dataset_module._loaded.clear()
    preprocessing = Preprocessing.from_task(task)
    return prepare(data, data.cases, task=task, preprocessing=preprocessing, cache=cache, **options)


def assert_same(a: Cases, b: Cases) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.name == y.name
        assert torch.equal(x.image, y.image)
        assert x.target is not None
        assert y.target is not None
        assert torch.equal(x.target, y.target)
        assert (x.target.dtype, x.class_index, x.grid.shape) == (y.target.dtype, y.class_index, y.grid.shape)
        for field in ("axes", "start", "step"):
            assert getattr(x.grid.axis_map, field) == getattr(y.grid.axis_map, field)
        assert np.array_equal(x.grid.source.affine, y.grid.source.affine)


@pytest.mark.parametrize("in_memory_gb", [4.0, 0.0], ids=["in memory", "mapped"])
def test_a_second_time_nothing_is_prepared(data: DataSet, tmp_path: Path, made: list[str], in_memory_gb: float) -> None:
    fresh = prepared(data, None)
    made.clear()
    first = prepared(data, tmp_path / "cache", in_memory_gb=in_memory_gb)
    assert sorted(made) == NAMES
    again = prepared(data, tmp_path / "cache", in_memory_gb=in_memory_gb)
    assert sorted(made) == NAMES, "the second time all come from the cache"
    assert_same(first, fresh)
    assert_same(again, fresh)


def test_a_cache_is_of_its_scans_labels_settings_and_versions(
    data: DataSet, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    prepared(data, cache)
    made.clear()
    image = read_volume(data.cases[1].images[0].path)
    image.data[0, 0, 0, 0] += 1
    write_volume(image, data.cases[1].images[0].path)
    prepared(data, cache)
    assert made == ["ball_1"], "a scan that changed, though its name and size did not"
    made.clear()
    label = read_volume(data.cases[2].label, labels=True)  # type: ignore[arg-type]
    label.data[0, 0, 0, 0] = 1
    write_volume(label, data.cases[2].label)  # type: ignore[arg-type]
    prepared(data, cache)
    assert made == ["ball_2"]
    for task in (ball_task(spacing_mm=[2, 2, 2]), ball_task(spacing_mm=[1.5] * 3, labels={"ball": [1, 2]})):
        made.clear()
        prepared(data, cache, task=task)
        assert sorted(made) == NAMES
    made.clear()
    prepared(data, cache, task=ball_task(spacing_mm=[1.5] * 3, patch_size=[8, 8, 8]))
    assert made == [], "the patch is no part of what is done to a scan"
    monkeypatch.setattr(cache_module, "VERSIONS", {"torch": "another"})
    prepared(data, cache)
    assert sorted(made) == NAMES


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "header"])
def test_damage_is_seen_and_mended(
    data: DataSet, tmp_path: Path, made: list[str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = prepared(data, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("ball_1-*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "header":
        content[20] ^= 255
    path.write_bytes({"truncated": content[:-100], "empty": b""}.get(damage, content))
    made.clear()
    again = prepared(data, tmp_path / "cache")
    assert made == ["ball_1"]
    assert "ball_1 is prepared again" in caplog.text
    assert_same(again, fresh)
    made.clear()
    prepared(data, tmp_path / "cache")
    assert made == []


def test_what_does_not_fit_into_memory_is_mapped_and_gives_the_same_patches(data: DataSet, tmp_path: Path) -> None:
    whole = prepared(data, None)
    one = whole[0].bytes
    part = prepared(data, None, overflow=tmp_path / "run" / "cache", in_memory_gb=1.5 * one / 1e9)
    files = list((tmp_path / "run" / "cache").iterdir())
    assert len(files) == 2, "one case fits, two lie on the disk"
    assert_same(part, whole)
    patches = [Patches(cases, patch_size=(8, 8, 8), seed=1) for cases in (whole, part)]
    assert all(torch.equal(patches[0][i]["image"], patches[1][i]["image"]) for i in range(12))


def test_patches_leave_the_mapped_file_as_it_is(data: DataSet, tmp_path: Path) -> None:
    cases = prepared(data, tmp_path / "cache", in_memory_gb=0)
    before = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    for i in range(6):
        Patches(cases, patch_size=(8, 8, 8), seed=1)[i]["image"].mul_(2)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_bad_cases_are_refused_with_a_cache_too(data: DataSet, tmp_path: Path) -> None:
    data.cases[0].images[0].path.unlink()
    with pytest.raises(InputError, match="ball_0"):
        prepared(data, tmp_path / "cache")
