"""Published weights straight to label maps: the same labels as that code's own steps, written out here."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d import read_volume, write_volume
from medseg3d.checks import ConfigError, ModelError
from medseg3d.cli import main
from medseg3d.inference.model import load_model
from medseg3d.networks.pretrained import from_segformer3d
from medseg3d.published import make_bundle, model_directories
from medseg3d.task import load_task
from medseg3d.volume import Volume
from tests.test_networks import noise, published_shapes
from tests.test_pretrained import theirs

SHAPE = (44, 36, 28)
TASK = "brats-segformer3d"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the published one: every entry, weights that give mixed labels."""
    values = {}
    for seed, (key, shape) in enumerate(published_shapes().items()):
        around_one = ("norm" in key or ".bn." in key or "fuse.1" in key) and key.endswith(("weight", "running_var"))
        scale = 0.2 if len(shape) < 2 else 1.5 / np.sqrt(np.prod(shape[1:]))
        values[key] = around_one + scale * noise(*shape, seed=seed) if shape else torch.tensor(0)
    path = tmp_path_factory.mktemp("weights") / "segformer3d.bin"
    torch.save(values, path)
    values["segformer_decoder.linear_pred.bias"] -= published_logits(path, ras_array()).flatten(1).median(1).values
    torch.save(values, path)
    return path


def ras_array() -> np.ndarray:
    return (noise(4, *SHAPE).numpy() * 100 + 400).astype(np.float32)


def published_logits(weights: Path, ras: np.ndarray) -> torch.Tensor:
    """Their steps on a RAS array: slices scaled, axes z, y, x, network, upsampling; back in x, y, z."""
    low, high = (f(ras, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    image = torch.from_numpy((ras - low) / (high - low)).permute(0, 3, 2, 1)[None].contiguous()
    network = from_segformer3d(
        torch.load(weights, weights_only=True), heads=(1, 2, 5, 8), attention_scale="sqrt_num_heads"
    ).eval()
    with torch.no_grad():
        return network(image)[0].permute(0, 3, 2, 1)


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """One case stored with axes of its own (LPS, slices first), and its RAS array."""
    ras = ras_array()
    stored = ras[:, ::-1, ::-1, :].transpose(0, 3, 1, 2)
    affine = np.array([[0, -1.0, 0, 20], [0, 0, -1.0, 30], [1.0, 0, 0, -10], [0, 0, 0, 1]])
    for channel, name in zip(stored, ("FLAIR", "T1", "T1Gd", "T2"), strict=True):
        write_volume(Volume(channel[None].copy(), affine), tmp_path / "scans" / "case" / f"case_{name}.nii.gz")
    return tmp_path / "scans", ras


def as_published(weights: Path, ras: np.ndarray) -> np.ndarray:
    """Their labels: a sigmoid above a half, painted from the whole tumour to its enhancing part."""
    tumour_core, whole, enhancing = (torch.sigmoid(published_logits(weights, ras)) > 0.5).numpy()
    labels = np.zeros(SHAPE, np.uint8)
    for value, mask in ((1, whole), (2, tumour_core), (3, enhancing)):
        labels[mask] = value
    return labels


def test_predict_gives_what_the_published_steps_give(weights, scans, tmp_path, capsys) -> None:
    folder, ras = scans
    expected = as_published(weights, ras)
    assert min(np.bincount(expected.ravel(), minlength=4)) > 100
    command = ["--model", str(weights), "--task", TASK, "-i", str(folder)]
    options = ["--precision", "float32", "--device", "cpu"]
    assert main(["predict", *command, "-o", str(tmp_path / "out"), *options]) == 0
    said = capsys.readouterr().err
    assert "prepared as the published SegFormer3D code does" in said
    assert "taken as sqrt_num_heads" in said
    labels = read_volume(next((tmp_path / "out").glob("*.nii.gz")), labels=True)
    ours = labels.data[0].transpose(1, 2, 0)[::-1, ::-1]
    # Labels are decoded from logits at stride 4 by other products: a voxel in a thousand may round the other way.
    assert (ours == expected).mean() > 0.999
    # A second call knows its own work, and verify finds the same again.
    assert main(["predict", *command, "-o", str(tmp_path / "out"), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"]
    file = next((tmp_path / "out").glob("*.nii.gz"))
    assert main(["verify", str(file), *command, "--device", "cpu"]) == 0
    assert (
        main(["predict", *command, "-o", str(tmp_path / "other"), *options, "--attention-scale", "sqrt_head_dim"]) == 0
    )
    other = read_volume(next((tmp_path / "other").glob("*.nii.gz")), labels=True)
    assert (other.data != labels.data).any()


def test_the_bundle_says_where_its_weights_come_from(weights, tmp_path) -> None:
    folder = make_bundle(weights, load_task(TASK), tmp_path / "run", attention_scale="sqrt_num_heads")
    section = json.loads((folder / "configs" / "metadata.json").read_text())["medseg3d"]
    assert section["origin"]["weights"] == "segformer3d.bin"
    assert len(section["origin"]["sha256"]) == 64
    model = load_model(folder)
    assert model.roi_size == (128, 128, 128)
    assert model.network.config["attention_scale"] == "sqrt_num_heads"
    with pytest.raises(ConfigError, match="is not empty"):
        make_bundle(weights, load_task(TASK), folder)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("hippocampus", r"has 4 in_channels and task 'hippocampus' needs 1 \(MRI\).*--init .*mean of its kernels"),
        ("nuclei", "has 3 spatial_dims and task 'nuclei' needs 2"),
        ("shapes", "holds a SegFormer and task 'shapes' needs a SegFormerClassifier"),
    ],
)
def test_weights_of_another_task_are_refused_with_what_would_help(task, words, weights, tmp_path) -> None:
    with pytest.raises(ModelError, match=words):
        make_bundle(weights, load_task(task), tmp_path / "run")


def test_a_2d_network_for_a_3d_task(tmp_path) -> None:
    theirs().save_pretrained(tmp_path / "hf")
    with pytest.raises(ModelError, match="gives the kernels of a 2D network a third axis"):
        make_bundle(tmp_path / "hf", load_task("spleen"), tmp_path / "run")


def test_a_hugging_face_folder_predicts_pictures(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("medseg3d"), "propagate", True)
    task = load_task("nuclei")
    theirs(num_labels=task.out_channels, num_channels=task.in_channels).save_pretrained(tmp_path / "hf")
    folder = make_bundle(tmp_path / "hf", task, tmp_path / "run")
    assert load_model(folder).task.name == "nuclei"
    assert "what its own code does with images is not in its weights" in caplog.text


def test_models_and_tasks_must_belong_together(weights, tmp_path) -> None:
    with (
        pytest.raises(ModelError, match=r"segformer3d\.bin is no run directory.*--task brats-segformer3d"),
        model_directories([weights], None),
    ):
        pass
    run = make_bundle(weights, load_task(TASK), tmp_path / "run")
    with pytest.raises(ConfigError, match="a run directory knows its own task"), model_directories([run], TASK):
        pass
    with model_directories([run, weights], TASK) as models:
        assert models[0] == run
        assert models[1].name == "segformer3d"
    assert not models[1].exists()
    assert main(["predict", "--model", str(tmp_path / "no.bin"), "--task", TASK, "-i", "x", "-o", "y"]) == 6
