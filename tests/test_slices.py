"""Volumes slice by slice: a 2D network sees every slice with its neighbours, in training as in prediction."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg3d import evaluate, predict_folder, read_volume, write_volume
from medseg3d.augmentation import Augmentation
from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.inference.model import load_models
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.setting import Wishes, at_once
from medseg3d.inference.verify import verify
from medseg3d.inference.windows import WindowPlan, sliding_logits
from medseg3d.networks import SegFormer
from medseg3d.networks.slices import SliceNetwork, slice_as_channels
from medseg3d.preprocessing import Preprocessing, slice_axis
from medseg3d.task import Task, load_task
from medseg3d.training.cache import PreparedCase
from medseg3d.training.run import train, validate
from medseg3d.training.sampling import Patches
from medseg3d.training.validation import case_scores
from medseg3d.volume import Grid, Volume
from tests.model_helpers import write_model
from tests.training_helpers import NETWORK, SETTINGS

TINY: dict[str, Any] = {"widths": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2), "decoder_width": 16}
DISC = Task(
    "disc",
    {"MRI": []},
    {"disc": [2]},
    (32, 32),
    spacing_mm=(1, 1),
    intensity="range",
    slices="axial",
    mirror_axes=(0, 1),
)
EVERY_AXIS = [(p, s) for p in itertools.permutations(range(3)) for s in itertools.product((1, -1), repeat=3)]


class Brighter(nn.Module):
    """Logits: background 0, and how much brighter than a half the middle slice is, in blocks of 4 x 4."""

    stride = 4
    size_multiple = 8

    def __init__(self, gain: float = 10.0) -> None:
        super().__init__()
        self.gain = gain

    def forward_coarse(self, x: Tensor) -> Tensor:
        middle = x[:, x.shape[1] // 2][:, None]
        mean = torch.nn.functional.avg_pool2d(middle, 4)
        return torch.cat([torch.zeros_like(mean), self.gain * (mean - 0.5)], 1)


def network(channels: int = 1, seed: int = 0) -> SegFormer:
    torch.manual_seed(seed)
    return SegFormer(2, channels, 2, **TINY).eval()


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Of an array whose axis a runs along world axis ``order[a]``."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * spacing[world]
    return affine


def discs(shape: tuple[int, int, int] = (40, 36, 5), seed: int = 0) -> tuple[Volume, Volume]:
    """A bright disc in every slice but the first, each somewhere else, in voxels of 1 x 1 x 6 mm."""
    random = np.random.default_rng(seed)
    x, y = np.indices(shape[:2])
    label = np.zeros(shape, np.uint8)
    for z in range(1, shape[2]):
        cx, cy = random.uniform(12, 24, 2)
        label[..., z] = 2 * ((x - cx) ** 2 + (y - cy) ** 2 < 81)
    image = np.where(label > 0, 200, 30) + random.normal(0, 10, shape)
    affine = np.diag([1, 1, 6, 1.0])
    return Volume(image.clip(0, 255).astype(np.uint8)[None], affine), Volume(label[None], affine)


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_every_slice_is_seen_by_itself_with_its_neighbours(neighbours: int) -> None:
    several = 2 * neighbours + 1
    plain = network(2 * several)
    image = torch.randn(1, 2, 4 + 2 * neighbours, 32, 64)
    with torch.no_grad():
        found = SliceNetwork(plain, neighbours).forward_coarse(image)
        assert found.shape == (1, 2, 4, 8, 16)
        for z in range(4):
            channels = [image[:, c, z + o] for c in range(2) for o in range(several)]
            assert torch.allclose(found[:, :, z], plain.forward_coarse(torch.stack(channels, 1)), atol=1e-5)


def test_beyond_the_ends_slices_are_repeated() -> None:
    image = torch.arange(3.0).view(1, 3, 1, 1)
    assert [slice_as_channels(image, z, 2).flatten().tolist() for z in range(3)] == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 2],
        [0, 1, 2, 2, 2],
    ]


@pytest.mark.parametrize("neighbours", [0, 1])
def test_windows_over_a_volume_are_those_over_its_slices(neighbours: int) -> None:
    plain = network(2 * neighbours + 1)
    image = torch.rand(1, 4, 70, 45)
    found = sliding_logits(SliceNetwork(plain, neighbours), image, roi_size=(1, 32, 32))
    for z in range(4):
        alone = sliding_logits(plain, slice_as_channels(image, z, neighbours), roi_size=(32, 32))
        assert torch.allclose(found[:, z], alone, atol=1e-5)


# The grid -------------------------------------------------------------------------------------------------------------


def test_which_axis_runs_across_slices() -> None:
    coronal = Grid((10, 10, 10), affine_of((0, 2, 1), (1, -1, 1), (1, 6, 1.2)))
    assert [slice_axis(coronal, s) for s in ("sagittal", "coronal", "axial", "thickest")] == [0, 1, 2, 1]
    assert slice_axis(Grid((9, 9, 9), np.eye(4)), "thickest") == 2
    almost = Grid((9, 9, 9), np.diag([1.001, 1, 1, 1.0]))  # rounding in a header is no thickness
    assert slice_axis(almost, "thickest") == 2


@pytest.mark.parametrize(("order", "signs"), EVERY_AXIS[::5])
def test_slices_keep_their_own_spacing_whatever_the_order_of_axes(order: Any, signs: Any) -> None:
    prep = Preprocessing(3, (2.0, 3.0), "range", False, slices="coronal")
    shape = tuple((12, 5, 18)[world] for world in order)
    grid = prep.plan(Volume(np.zeros((1, *shape), np.uint8), affine_of(order, signs, (1, 6, 1))))
    assert grid.grid.spacing_mm == pytest.approx((6, 2, 3))
    assert grid.shape == (5, 7, 7)  # posterior-anterior, then left-right and inferior-superior
    assert grid.grid.axcodes == ("A", "R", "S")


def test_the_same_for_training_and_from_json() -> None:
    prep = Preprocessing.from_task(load_task("acdc-slices"))
    assert prep.slices == "thickest"
    assert Preprocessing.from_dict(json.loads(json.dumps(prep.as_dict()))) == prep
    assert "slices" not in Preprocessing.from_task(load_task("acdc")).as_dict()
    with pytest.raises(ConfigError, match="slices 'diagonal'"):
        Preprocessing(3, None, "range", False, slices="diagonal")


# The predictor --------------------------------------------------------------------------------------------------------


def predictor(task: Task = DISC, net: Any = None, **options: Any) -> Predictor:
    several = 2 * task.neighbours + 1
    return Predictor(
        net if net is not None else network(several),
        task,
        Preprocessing.from_task(task),
        **{"precision": "float32", "device": "cpu", **options},
    )


@pytest.mark.parametrize("neighbours", [0, 1])
def test_labels_come_back_on_the_scans_own_grid(neighbours: int) -> None:
    image, label = discs()
    found = predictor(replace(DISC, neighbours=neighbours), Brighter())(image)
    assert found.grid.differs_from(image.grid) is None
    overlap = 2 * np.sum((found.data > 0) & (label.data > 0)) / (np.sum(found.data > 0) + np.sum(label.data > 0))
    assert overlap > 0.9
    assert not found.data[..., 0].any()
    assert set(np.unique(found.data)) == {0, 2}


@pytest.mark.parametrize(("order", "signs"), EVERY_AXIS[1::9])
def test_whatever_the_order_of_axes(order: Any, signs: Any) -> None:
    image, _ = discs((26, 21, 4))
    task = replace(DISC, neighbours=1)
    expected = predictor(task)(image).data[0]
    turned = np.flip(image.data[0].transpose(order), [a for a in range(3) if signs[a] < 0])
    affine = affine_of(order, signs, image.spacing_mm)
    affine[:3, 3] = [
        sum((image.shape[w] - 1) * image.spacing_mm[w] * (s < 0) for w2, s in zip(order, signs, strict=True) if w2 == w)
        for w in range(3)
    ]
    found = predictor(task)(Volume(turned[None], affine)).data[0]
    assert np.array_equal(found, np.flip(expected.transpose(order), [a for a in range(3) if signs[a] < 0]))


def test_windows_whole_slices_and_threads_agree() -> None:
    image, _ = discs()
    options = {"mode": "whole"}, {"roi_size": (64, 64)}, {"workers": 1}, {"batch_size": 3}, {"dense": True}
    whole, large, one, batch, dense = (predictor(**{"roi_size": (64, 64), **o})(image).data for o in options)
    assert np.array_equal(whole, large)
    assert np.array_equal(large, one)
    assert np.array_equal(large, batch)
    assert np.mean(large == dense) > 0.999


def test_probabilities_flips_ensembles_and_disagreement() -> None:
    image, _ = discs()
    both = predictor(net=[Brighter(), Brighter(2.0)], tta=True)
    assert both.members == 8
    prediction = both.predict(image, probabilities=True, uncertainty=True)
    assert prediction.probabilities is not None
    assert prediction.uncertainty is not None
    shares = prediction.probabilities.data
    assert shares.shape == (2, *image.shape)
    assert np.allclose(shares.sum(0), 1, atol=1e-5)
    assert np.array_equal(shares.argmax(0) * 2, prediction.labels.data[0])
    assert prediction.windows == 5 * 2 * 2
    # Flips act within the slices: a network of mirrored images gives the mirrored result.
    mirrored = Volume(image.data[:, ::-1].copy(), image.affine)
    net = network()
    plain, other = (
        predictor(net=net, tta=True).predict(v, probabilities=True).probabilities for v in (image, mirrored)
    )
    assert plain is not None
    assert other is not None
    assert np.allclose(plain.data, other.data[:, ::-1], atol=1e-5)


def test_memory_follows_the_slice_not_the_stack() -> None:
    few, many = (Volume(np.zeros((1, 256, 256, n), np.uint8), np.diag([1, 1, 5, 1.0])) for n in (4, 400))
    small, large = (predictor().estimate(v) for v in (few, many))
    assert small.network == large.network
    assert small.accumulation == large.accumulation
    assert small.decoding == large.decoding
    with pytest.raises(InputError, match=r"--max-ram allows 0.001 GB.*E-MEMORY"):
        predictor(max_ram=0.001)(few)


@pytest.mark.parametrize(("window", "slices"), [((256, 256), 32), ((64, 64), 64), ((512, 1024), 4)])
def test_a_gpu_computes_a_batch_of_slices(window: tuple[int, int], slices: int) -> None:
    wishes = Wishes("windows", (1, *window), 0.5)
    plan = WindowPlan.of(SliceNetwork(network()), (500, *window), (1, *window), 0.5)
    assert next(at_once(wishes, plan, on_gpu=True)) == slices
    few = WindowPlan.of(SliceNetwork(network()), (3, *window), (1, *window), 0.5)
    assert next(at_once(wishes, few, on_gpu=True)) == 3


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"roi_size \(32, 32, 32\) must be 2 positive sizes of a slice"):
        predictor(roi_size=(32, 32, 32))
    with pytest.raises(ConfigError, match="must be divisible by 1 x 4 x 4"):
        predictor(roi_size=(30, 32))
    with pytest.raises(InputError, match="E-DIMENSIONS"):
        predictor()(Volume(np.zeros((1, 40, 40), np.uint8), np.eye(3)))


def test_models_that_do_not_belong_together(tmp_path: Path) -> None:
    write_model(tmp_path / "axial", DISC, network())
    write_model(tmp_path / "coronal", replace(DISC, slices="coronal"), network())
    write_model(tmp_path / "between", replace(DISC, neighbours=1), network(3))
    with pytest.raises(ModelError, match="prepare scans in different ways"):
        load_models([tmp_path / "axial", tmp_path / "coronal"])
    with pytest.raises(ModelError, match=r"with neighbours 1 and .* with 0"):
        load_models([tmp_path / "axial", tmp_path / "between"])
    write_model(tmp_path / "wrong", replace(DISC, neighbours=1), network(1))
    with pytest.raises(ModelError, match="1 in_channels and task 'disc' needs 3"):
        load_models([tmp_path / "wrong"])


# The task -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": "oblique"}, "'oblique' is none of sagittal, coronal, axial, thickest"),
        ({"patch_size": [32, 32, 32], "spacing_mm": None}, "must be the 2 sizes of a slice"),
        ({"neighbours": -1}, r"neighbours -1 must lie in 0..8"),
        ({"slices": None, "neighbours": 1}, "neighbours 1 must lie in 0..0; without slices"),
        ({"mirror_axes": [2]}, "must lie in 0..1, the axes of patch_size"),
        ({"spacing_mm": [1, 1, 6]}, "must be 2 positive numbers"),
        ({"kind": "classification"}, "a class belongs to a whole scan"),
    ],
)
def test_tasks_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(DISC, **change)


def test_what_the_network_gets() -> None:
    task = replace(DISC, channels={"T1": [], "T2": []}, neighbours=1)
    assert (task.spatial_dims, task.network_dims, task.in_channels) == (3, 2, 2)
    assert task.inputs == ("T1 -1", "T1", "T1 +1", "T2 -1", "T2", "T2 +1")


# Training -------------------------------------------------------------------------------------------------------------


def prepared(task: Task, seed: int = 0) -> PreparedCase:
    image, label = discs(seed=seed)
    prep = Preprocessing.from_task(task)
    grid = prep.plan(image)
    target = (prep.labels(label, grid) > 0).astype(np.uint8)
    return PreparedCase("a", torch.from_numpy(prep.image(image, grid)), torch.from_numpy(target), None, grid)


def test_training_sees_what_prediction_sees() -> None:
    """Every patch is a part of a slice as ``slice_as_channels`` gives it, with the label of that slice."""
    case = prepared(replace(DISC, neighbours=1))
    patches = Patches([case], patch_size=(32, 32), neighbours=1, seed=1)
    seen = set()
    for i in range(40):
        sample = patches[i]
        assert sample["image"].shape == (3, 32, 32)
        assert sample["label"].shape == (1, 32, 32)
        places = [
            (z, x, y)
            for z, x, y in itertools.product(range(5), range(9), range(5))
            if torch.equal(slice_as_channels(case.image, z, 1)[:, x : x + 32, y : y + 32], sample["image"])
        ]
        assert len(places) == 1
        ((z, x, y),) = places
        assert case.target is not None
        assert torch.equal(case.target[:, z, x : x + 32, y : y + 32], sample["label"])
        seen.add(z)
    assert seen == {0, 1, 2, 3, 4}


def test_a_missing_channel_is_missing_from_all_its_slices() -> None:
    one = prepared(DISC)
    case = replace(one, image=torch.cat([one.image, one.image + 1]))
    augmentation = Augmentation((32, 32), strength=0.0, channel_dropout=0.5)
    patches = Patches([case], patch_size=(32, 32), neighbours=1, augmentation=augmentation, seed=0)
    gone = {tuple((patches[i]["image"] == 0).flatten(1).all(1).tolist()) for i in range(20)}
    assert gone == {(False,) * 6, (True,) * 3 + (False,) * 3, (False,) * 3 + (True,) * 3}


def test_validation_scores_the_volume() -> None:
    task = replace(DISC, neighbours=1)
    scores = case_scores(
        Brighter(), [prepared(task)], task=task, roi_size=(32, 32), overlap=0.25, device=torch.device("cpu")
    )
    assert scores[0][0] > 0.9


def write_discs(folder: Path, count: int = 4) -> Path:
    for seed in range(count):
        image, label = discs(seed=seed)
        write_volume(image, folder / "images" / f"disc_{seed}.nii.gz")
        write_volume(label, folder / "labels" / f"disc_{seed}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2.5D network that has learned the discs."""
    folder = tmp_path_factory.mktemp("slices")
    data = write_discs(folder / "data")
    settings = SETTINGS | {"network": NETWORK, "steps_per_epoch": 30, "learning_rate": 5e-3, "ema": 0.9}
    return train(replace(DISC, neighbours=1), data, folder / "run", overrides=settings, epochs=3)


def test_train_predict_verify_evaluate(run: Path, tmp_path: Path) -> None:
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    assert metadata["medseg3d"]["network"]["spatial_dims"] == 2
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 3
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    evaluation = validate(run)
    assert evaluation is not None
    assert min(row["dice"] for row in evaluation.rows) > 0.8
    data = run.parent / "data"
    result = predict_folder(run, data / "images", tmp_path, progress=False)
    assert len(result.done) == 4
    scored = evaluate(data / "labels", tmp_path, replace(DISC, neighbours=1))
    assert np.mean([row["dice"] for row in scored.rows]) > 0.8
    assert verify(tmp_path / "disc_1.nii.gz", model=run, input=data / "images").identical


@pytest.mark.slow
def test_monai_runs_the_bundle_to_the_same_labels(run: Path, tmp_path: Path) -> None:
    scans = run.parent / "data" / "images"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(run / "configs" / "inference.yaml")]
    command += ["--bundle_root", str(run), "--dataset_dir", str(scans), "--output_dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ours = Predictor.from_bundle(run, dense=True)
    for scan in scans.iterdir():
        image, theirs = read_volume(scan), read_volume(tmp_path / scan.name, labels=True)
        assert theirs.data.any()
        assert np.array_equal(ours(image).data, theirs.data)
