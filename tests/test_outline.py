"""Whether a label lies on the edges of its image, and labels that are exchanged."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from medseg3d.inspection import inspect, outline, swaps
from medseg3d.inspection.outline import edge_ratio
from medseg3d.io import read_volume, write_volume
from medseg3d.task import load_task
from medseg3d.volume import Volume
from tests import bad_labels
from tests.shared import real_data
from tests.training_helpers import ball_task, write_balls


def test_steps_by_hand() -> None:
    """A row of 0 1 2 3 13 14 15: 10 across the outline of what lies right of the step, 1 elsewhere; 3 voxels around count."""
    image = np.array([[0.0, 1, 2, 3, 13, 14, 15]])
    label = np.array([0, 0, 0, 0, 1, 1, 1])
    assert edge_ratio(image, label) == pytest.approx(10)
    beside = np.array([0, 0, 0, 0, 0, 1, 1])
    assert edge_ratio(image, beside) == pytest.approx(1 / ((1 + 10 + 1) / 3))
    assert edge_ratio(np.stack([image[0], np.arange(7.0), np.full(7, 5.0)]), label) == pytest.approx((10 + 1) / 2)
    other = np.array([0, 0, 0, 0, 1, 1, 2])
    assert edge_ratio(image, other) == pytest.approx((10 + 1) / 2)
    assert edge_ratio(image, other, ignore=2) == pytest.approx((10 + 1) / 2)
    assert edge_ratio(image, np.array([2, 0, 0, 0, 1, 1, 1]), ignore=2) == pytest.approx(10)


@pytest.mark.parametrize("label", [np.zeros((1, 4, 4)), np.ones((1, 4, 4))])
def test_without_an_outline_there_is_no_number(label: np.ndarray) -> None:
    assert math.isnan(edge_ratio(np.random.default_rng(0).random((1, 4, 4)), label[0]))
    assert math.isnan(edge_ratio(np.ones((1, 4, 4)), np.eye(4)))


def test_of_large_images_planes_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:15, 5:15, 5:15] = 1
    image = (5.0 * label + random.random((20, 20, 20)))[None]
    whole = edge_ratio(image, label)
    monkeypatch.setattr(outline, "LARGE", 20**3 // 4)
    assert edge_ratio(image, label) == pytest.approx(whole, rel=0.05)
    assert whole > 10


@pytest.mark.parametrize("pair", list(itertools.combinations(range(5), 2)))
def test_every_pair_of_exchanged_labels_is_named_and_no_other(pair: tuple[int, int], tmp_path: Path) -> None:
    first, second = (bad_labels.label_file(write_balls(tmp_path), f"ball_{i}") for i in pair)
    first.rename(tmp_path / "aside.nii.gz")
    second.rename(first)
    (tmp_path / "aside.nii.gz").rename(second)
    (found,) = inspect(tmp_path, ball_task()).findings
    assert found.code == "W-LABEL-SWAPPED"
    assert {Path(str(found.file)).name[:6], found.message.split(" each ")[0][-6:]} == {f"ball_{i}" for i in pair}


@pytest.mark.parametrize("exchanged", [True, False])
def test_exchanged_labels_of_real_scans_are_seen(exchanged: bool, tmp_path: Path) -> None:
    """Every pair of hippocampus MRIs of one size, put on one grid; where their grids differ an exchange is refused anyway."""
    data = real_data("msd_task04_hippocampus")
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path in sorted((data / "imagesTr").glob("*.nii.gz")):
        by_shape.setdefault(read_volume(path).shape, []).append(path.name)
    pairs = [pair for names in by_shape.values() for pair in itertools.combinations(names, 2)]
    assert len(pairs) == 14
    task = load_task("hippocampus")
    for number, (first, second) in enumerate(pairs):
        for name, other in ((first, second), (second, first)):
            image = read_volume(data / "imagesTr" / name)
            label = read_volume(data / "labelsTr" / (other if exchanged else name), labels=True)
            for part, volume in (("imagesTr", image), ("labelsTr", label)):
                write_volume(Volume(volume.data, np.eye(4)), tmp_path / str(number) / part / name)
        codes = [f.code for f in inspect(tmp_path / str(number), task).findings]
        assert codes.count("W-LABEL-SWAPPED") == exchanged, (first, second)


def test_few_are_tried_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two whose labels fit worst are the exchanged ones."""
    monkeypatch.setattr(swaps, "LOOKED_AT", 2)
    (found,) = inspect(bad_labels.exchanged(tmp_path).path, ball_task()).findings
    assert found.code == "W-LABEL-SWAPPED"
    assert "each fit the other's image better" in found.message
