"""Scans that lack a channel: predicted by networks that learned to do without, refused by others; and cleaned label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d import Predictor, predict_folder, read_volume, write_volume
from medseg3d.checks import ConfigError, InputError
from medseg3d.inference.channels import GivenChannels
from medseg3d.inference.model import load_model, store_postprocessing
from medseg3d.postprocessing import Cleaning
from medseg3d.preprocessing import Preprocessing
from medseg3d.training.run import train
from medseg3d.volume import Volume
from tests.training_helpers import SETTINGS, ball, ball_task

TASK = ball_task(channels={"T1": [], "T2": ["T2w"]})


def write_scans(folder: Path, count: int, *, channels: tuple[str, ...] = ("T1", "T2"), labels: bool = True) -> Path:
    """A file per channel; T2 is T1 upside down."""
    for seed in range(count):
        image, label = ball(seed)
        for channel in channels:
            data = image.data if channel == "T1" else 400 - image.data
            write_volume(Volume(data, np.eye(4)), folder / "images" / f"ball_{seed}_{channel}.nii.gz")
        if labels:
            write_volume(label, folder / "labels" / f"ball_{seed}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network that always saw both channels, and one that did not."""
    data = write_scans(tmp_path_factory.mktemp("data"), 3)
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: train(TASK, data, folder / name, overrides=SETTINGS | {"channel_dropout": dropout}, epochs=1)
        for name, dropout in (("always", 0.0), ("dropout", 0.3))
    }


def test_metadata_say_whether_a_channel_may_be_missing(runs: dict[str, Path]) -> None:
    assert load_model(runs["dropout"]).channel_dropout == 0.3
    assert load_model(runs["always"]).channel_dropout == 0


def test_a_network_that_always_saw_all_channels_refuses_with_the_reason(runs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"trained with every channel always there.*channel_dropout"):
        Predictor.from_bundle(runs["always"], missing=["T1"])


@pytest.mark.parametrize(("missing", "message"), [(["FLAIR"], "channels are T1, T2"), (["T1", "T2w"], "at least one")])
def test_channels_that_cannot_be_missing(runs: dict[str, Path], missing: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor.from_bundle(runs["dropout"], missing=missing)


def test_without_a_channel_is_as_with_nothing_in_it(runs: dict[str, Path], tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "scans", 1, channels=("T1",), labels=False)
    result = predict_folder(runs["dropout"], scans, tmp_path / "out", missing=["t2w"], device="cpu", progress=False)
    assert result.done == ["ball_0"]
    scan = ball(0)[0]
    # a channel of zeros is zeros after normalising: the same image for the network
    both = Volume(np.concatenate([scan.data, np.zeros_like(scan.data)]), scan.affine)
    expected = Predictor.from_bundle(runs["dropout"], device="cpu")(both)
    assert (read_volume(tmp_path / "out" / "ball_0.nii.gz", labels=True).data == expected.data).all()
    sidecar = json.loads((tmp_path / "out" / "ball_0.nii.gz.json").read_text())
    assert sidecar["options"]["missing"] == ["t2w"]
    with pytest.raises((ConfigError, InputError), match="T2"):
        predict_folder(runs["dropout"], scans, tmp_path / "none", device="cpu", progress=False)


def test_the_zeros_stand_at_the_missing_channels_place() -> None:
    statistics = [{"low": 0.0, "high": 100.0, "mean": m, "std": 2.0} for m in (10.0, 20.0)]
    ct = ball_task(channels={"A": [], "B": []}, intensity="ct")
    preprocessing = Preprocessing.from_task(ct, statistics)
    given = GivenChannels(ct, preprocessing, ["A"], 0.5)
    volume = Volume(np.full((1, 4, 4, 4), 24, np.float32), np.eye(4))
    image = given.tensor(volume, given.preprocessing.plan(volume))
    assert image.shape == (2, 4, 4, 4)
    assert torch.equal(image[0], torch.zeros(4, 4, 4))
    assert torch.equal(image[1], torch.full((4, 4, 4), 2.0)), "(24 - 20) / 2: the statistics of B"


def test_stored_rules_clean_what_is_predicted(runs: dict[str, Path]) -> None:
    image = Volume(np.concatenate([ball(3)[0].data] * 2), np.eye(4))
    before = Predictor.from_bundle(runs["always"], device="cpu")(image)
    shells = int((before.data == 1).sum())
    store_postprocessing(runs["always"], {"shell": Cleaning(min_ml=1000)})
    try:
        cleaned = Predictor.from_bundle(runs["always"], device="cpu")(image)
    finally:
        store_postprocessing(runs["always"], {})
    assert not (cleaned.data == 1).any()
    assert ((cleaned.data == 2) == (before.data == 2)).all()
    assert shells >= 0
