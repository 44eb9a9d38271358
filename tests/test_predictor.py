"""Predictor and model directories: from a scan to labels on its own grid, and every refusal on the way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.inference.precision import autocast_type, computes_bf16
from medseg3d.inference.predictor import Predictor
from medseg3d.networks import build_network
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.volume import Volume

TINY = {"widths": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "decoder_width": 16}
BALL = Task(
    "ball", {"image": []}, {"ball": [3]}, (32, 32, 32), spacing_mm=(0.8, 0.8, 0.8), intensity="range", crop=True
)


class Bright(nn.Module):
    """Background against a ball: logits are 0 and the mean intensity of the block minus a half."""

    stride = 4
    size_multiple = 16

    def forward_coarse(self, x: Tensor) -> Tensor:
        pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
        mean = pool(x[:, :1], 4)
        return torch.cat([torch.zeros_like(mean), mean - 0.5], 1)


def ball_scan(matrix: np.ndarray, shape: tuple[int, int, int]) -> tuple[Volume, np.ndarray]:
    """A bright ball (15 mm) with a soft border in the middle of a dim box, and the ball's voxels."""
    index = np.stack([*np.indices(shape), np.ones(shape)], axis=-1)
    centre = (matrix @ [*(n / 2 for n in shape), 1])[:3]
    distance = np.linalg.norm((index @ matrix.T)[..., :3] - centre, axis=-1)
    return Volume(np.clip(0.5 + (15 - distance) / 12, 0.1, 0.9)[None].astype(np.float32), matrix), distance < 15


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def oblique(spacing: tuple[float, float, float], signs: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    c, s = np.cos(0.3), np.sin(0.3)
    out = np.eye(4)
    out[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])[:, [2, 0, 1]] * spacing * np.array(signs)
    out[:3, 3] = (40, -20, 5)
    return out


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_a_ball_is_found_where_it_lies(dense: bool, signs: tuple[int, int, int]) -> None:
    scan, truth = ball_scan(oblique((2.5, 0.9, 1.1), signs), (20, 50, 44))
    scan = Volume(scan.data, scan.affine, {"sform_code": 2})
    predictor = Predictor(Bright(), BALL, Preprocessing.from_task(BALL), precision="float32", dense=dense)
    # Logits lie 3.2 mm apart, so that a convex border is drawn in by a few tenths of a mm.
    labels = predictor(scan)
    assert labels.data.dtype == np.uint8
    assert labels.data.shape == (1, *scan.shape)
    assert set(np.unique(labels.data)) == {0, 3}
    assert dice(labels.data[0] == 3, truth) > 0.97
    apart = (np.argwhere(labels.data[0] == 3).mean(0) - np.argwhere(truth).mean(0)) * scan.spacing_mm
    assert np.linalg.norm(apart) < 0.1
    np.testing.assert_array_equal(labels.affine, scan.affine)
    assert labels.header == {"sform_code": 2}
    shares = predictor.probabilities(scan)
    assert shares.data.shape == (2, *scan.shape)
    clear = np.abs(shares.data[1] - 0.5) > 1e-5
    np.testing.assert_array_equal((shares.data[1] > 0.5)[clear], (labels.data[0] == 3)[clear])


@pytest.mark.parametrize("shape", [(5, 4, 3), (40, 30, 1), (1, 1, 1)])
def test_volumes_smaller_than_a_window_and_one_voxel_thick(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    task = Task("t", {"a": [], "b": []}, {"x": [1], "y": [2]}, (32, 32, 32))
    network = build_network({"name": "segformer", "spatial_dims": 3, "in_channels": 2, "out_channels": 3, **TINY})
    predictor = Predictor(network, task, Preprocessing.from_task(task))
    data = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    assert predictor(Volume(data, np.eye(4))).data.shape == (1, *shape)


def test_other_channels_and_axes_and_kinds_are_refused() -> None:
    predictor = Predictor(Bright(), BALL, Preprocessing.from_task(BALL))
    with pytest.raises(InputError, match=r"2 channels, and task 'ball' needs 1 \(image\)"):
        predictor(Volume(np.ones((2, 8, 8, 8), np.float32), np.eye(4)))
    with pytest.raises(InputError, match="an image of 2 axes, and the task works on 3"):
        predictor(Volume(np.ones((1, 8, 8), np.float32), np.eye(3)))
    with pytest.raises(ConfigError, match="one of segmentation, and this is for classification"):
        predictor.classify(Volume(np.ones((1, 8, 8, 8), np.float32), np.eye(4)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"overlap": 1.0}, "overlap 1.0 must be"),
        ({"roi_size": (32, 32)}, "must be 3 positive sizes"),
        ({"precision": "fp8"}, "'fp8' is none of auto, bf16, float32"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ]
    for options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            Predictor(Bright(), BALL, Preprocessing.from_task(BALL), **options)


def test_precision_follows_the_processor() -> None:
    cpu = torch.device("cpu")
    assert autocast_type("float32", cpu) is None
    assert autocast_type("bf16", cpu) is torch.bfloat16
    assert autocast_type("auto", cpu) is (torch.bfloat16 if computes_bf16(cpu) else None)


# A model directory


def task_2d(kind: str = "segmentation") -> Task:
    return Task("cells", {"image": []}, {"cell": [1], "border": [2]}, (64, 64), intensity="range", kind=kind)


def save_model(folder: Path, task: Task, *, phantom: bool = False, safe: bool = True) -> nn.Module:
    torch.manual_seed(1)
    classifier = task.kind == "classification"
    config: dict[str, Any] = {k: v for k, v in TINY.items() if not (classifier and k == "decoder_width")}
    config |= {"name": "segformer_classifier" if classifier else "segformer", "spatial_dims": task.spatial_dims}
    network = build_network({**config, "in_channels": task.in_channels, "out_channels": task.out_channels}).eval()
    section = {
        "version": "0",
        "task": task.as_dict(),
        "network": network.config,
        "preprocessing": Preprocessing.from_task(task).as_dict(),
        "inference": {"roi_size": list(task.patch_size), "overlap": 0.25},
        "phantom": phantom,
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0", "medseg3d": section}))
    if safe:
        save_file(network.state_dict(), folder / "models" / "model.safetensors")
    else:
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network


@pytest.mark.parametrize("safe", [True, False])
def test_a_model_directory_gives_the_same_predictor(tmp_path: Path, safe: bool) -> None:
    network = save_model(tmp_path / "run", BALL, safe=safe)
    predictor = Predictor.from_bundle(tmp_path / "run", precision="float32")
    assert predictor.roi_size == (32, 32, 32)
    assert predictor.overlap == 0.25
    assert predictor.task == BALL
    assert Predictor.from_bundle(tmp_path / "run", overlap=0.5).overlap == 0.5
    scan, _ = ball_scan(oblique((2.5, 0.9, 1.1)), (20, 50, 44))
    direct = Predictor(network, BALL, Preprocessing.from_task(BALL), overlap=0.25, precision="float32")
    np.testing.assert_array_equal(predictor.probabilities(scan).data, direct.probabilities(scan).data)


def edit(folder: Path, *keys: str, value: Any = None) -> None:
    path = folder / "configs" / "metadata.json"
    values = json.loads(path.read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(values))


def test_models_that_cannot_be_used_are_refused_with_the_reason(tmp_path: Path) -> None:
    count = itertools.count()

    def refused(message: str, *keys: str, value: Any = None) -> None:
        folder = tmp_path / str(next(count))
        save_model(folder, BALL)
        edit(folder, *keys, value=value)
        with pytest.raises(ModelError, match=message):
            Predictor.from_bundle(folder)

    with pytest.raises(ModelError, match=r"no model directory .*nowhere"):
        Predictor.from_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds configs.metadata\.json"):
        Predictor.from_bundle(tmp_path / "empty")
    refused("has no section 'medseg3d'", "medseg3d")
    refused("lacks 'preprocessing'", "medseg3d", "preprocessing")
    refused("network 'resnet' is none of", "medseg3d", "network", "name", value="resnet")
    refused("the network has 2 in_channels and task 'ball' needs 1", "medseg3d", "network", "in_channels", value=2)
    refused(
        r"of another shape: decoder\.fuse\.0\.weight \(16, 16\) in place of",
        "medseg3d",
        "network",
        "decoder_width",
        value=24,
    )
    refused(
        r"the network in configs.metadata\.json: 20 missing: encoder\.stages\.0\.blocks\.1\.[^ ]+, (encoder[^ ]+,? ?){19}$",
        *("medseg3d", "network", "depths"),
        value=[2, 1, 1, 1],
    )
    refused("task key 'surprise' does not exist", "medseg3d", "task", "surprise", value=1)
    refused("'ct' needs statistics", "medseg3d", "preprocessing", "intensity", value="ct")


class Payload:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("ran",))


def test_weights_that_cannot_be_used_are_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for safe, name in ((True, "model.safetensors"), (False, "model.pt")):
        folder = tmp_path / name
        save_model(folder, BALL, safe=safe)
        weights = folder / "models" / name
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        with pytest.raises(ModelError, match="cannot be read as weights"):
            Predictor.from_bundle(folder)
        weights.unlink()
        with pytest.raises(ModelError, match="holds no weights"):
            Predictor.from_bundle(folder)
    folder = tmp_path / "model.pt"
    for content, message in (
        ([1, 2], "no plain state dict"),
        ({"epoch": 3}, "no plain state dict"),
        (Payload(), "cannot be read as weights"),
    ):
        torch.save(content, folder / "models" / "model.pt")
        with pytest.raises(ModelError, match=message):
            Predictor.from_bundle(folder)
    assert "ran" not in capsys.readouterr().out
    network = build_network(json.loads((folder / "configs" / "metadata.json").read_text())["medseg3d"]["network"])
    weights_now = {k: torch.full_like(v, torch.nan) for k, v in network.state_dict().items() if v.is_floating_point()}
    torch.save({**network.state_dict(), **weights_now}, folder / "models" / "model.pt")
    with pytest.raises(ModelError, match="hold NaN or infinite numbers"):
        Predictor.from_bundle(folder)
