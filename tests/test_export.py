"""Exports: run by the runtimes they are for, equal to the model, refused where they are not."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d import SegFormer, load_task, predict_folder, read_volume
from medseg3d.checks import ConfigError, ModelError
from medseg3d.cli import main
from medseg3d.export import FORMATS, export
from medseg3d.export.compare import thin
from medseg3d.inference.model import load_model
from medseg3d.networks import SegFormerClassifier, build_network
from medseg3d.networks.portable import portable
from medseg3d.training.run import train, validate
from medseg3d.weights import read_network
from tests.model_helpers import write_model
from tests.shared import reference
from tests.test_networks import TINY, filled, noise, relative_error
from tests.training_helpers import NETWORK, SETTINGS, ball_task, write_balls

TASK = ball_task(patch_size=[48, 40, 16])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data"), 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A trained and validated model; a name with a dot and a hyphen, as people give them."""
    folder = tmp_path_factory.mktemp("runs") / "ball-v1"
    train(TASK, data, folder, overrides=SETTINGS | {"steps_per_epoch": 2, "validation_interval": 1}, epochs=1)
    validate(folder)
    return folder


@pytest.mark.parametrize("size", [(48, 64, 32), (50, 60, 40), (45, 66, 51), (33, 17, 9)])
def test_the_portable_network_is_the_network_in_3d(size) -> None:
    network = filled(SegFormer(3, 2, 3, ffn_norm=True, decoder_norm=True, attention_scale="sqrt_num_heads", **TINY))
    image = noise(2, 2, *size)
    with torch.no_grad():
        assert relative_error(portable(network)(image), network(image)) < 1e-5


@pytest.mark.parametrize("size", [(64, 96), (93, 70), (17, 33)])
def test_the_portable_network_is_the_network_in_2d(size) -> None:
    image = noise(2, 2, *size)
    for network in (SegFormer(2, 2, 3, **TINY), SegFormerClassifier(2, 2, 3, widths=TINY["widths"])):
        with torch.no_grad():
            assert relative_error(portable(filled(network))(image), network(image)) < 1e-5


def test_a_foreign_encoder_cannot_be_exported() -> None:
    with pytest.raises(ValueError, match="only a SegFormer with its own encoder"):
        portable(torch.nn.Linear(1, 1))


def test_safetensors_holds_weights_and_network(run, tmp_path, capsys) -> None:
    path = tmp_path / "ball.safetensors"
    assert main(["export", str(run), "--to", "safetensors", "-o", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(path)
    assert said["difference"] == 0
    network = read_network(path)
    image = noise(1, 1, 48, 40, 16)
    with torch.no_grad():
        assert torch.equal(network(image), load_model(run).network(image))


def test_hugging_face_folder_is_read_back_and_predicts(run, data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--to", "hf"]) == 0
    folder = tmp_path / "ball-v1-hf"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"config.json", "model.safetensors", "README.md", "LICENSE", "configs/metadata.json"}
    network = SegFormer.from_pretrained(str(folder))
    original = load_model(run).network
    assert network.config == original.config
    image = noise(1, 1, 48, 40, 16)
    with torch.no_grad():
        assert torch.equal(network(image), original(image))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "shell", "2": "core"}
    predict_folder(folder, data / "images", tmp_path / "out", device="cpu", progress=False)
    predict_folder(run, data / "images", tmp_path / "same", device="cpu", progress=False)
    for file in (tmp_path / "same").glob("*.nii.gz"):
        assert np.array_equal(read_volume(tmp_path / "out" / file.name).data, read_volume(file).data)
    with pytest.raises(ConfigError, match="exists; give another folder"):
        export(run, "hf", folder)


def test_the_card_says_data_scores_use_and_licence(run, tmp_path) -> None:
    text = (export(run, "hf", tmp_path / "out").path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: medseg3d\n")
    assert "Trained on 4 cases, validated on 1 other." in text
    assert "| label | cases | Dice (mean [95 % CI]) | HD95 in mm" in text
    for name in ("shell", "core"):
        assert f"| {name} | 1 |" in text
    for words in (
        "## Intended use and limits",
        "not a medical device",
        "## Licence",
        "epochs 1",
        'from_pretrained("out")',
    ):
        assert words in text
    for private in ("ball_0", "ball_4", str(tmp_path)):
        assert private not in text


def test_the_card_of_a_model_of_which_little_is_known(tmp_path) -> None:
    network = filled(
        build_network({"name": "segformer", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, **NETWORK})
    )
    folder = export(write_model(tmp_path / "run", TASK, network, phantom=True), "hf", tmp_path / "out").path
    text = (folder / "README.md").read_text()
    assert "it knows no real scan" in text
    assert "Nothing is known here of the data" in text
    assert "No validation is recorded" in text
    assert "The weights in models/ belong to whoever trained them" in (folder / "LICENSE").read_text()


@pytest.mark.parametrize("to", ["safetensors", "hf", "bundle"])
def test_a_classifier_is_exported_too(to, tmp_path) -> None:
    task = load_task("shapes")
    sizes = {"in_channels": task.in_channels, "out_channels": task.out_channels, "widths": NETWORK["widths"]}
    network = filled(build_network({"name": "segformer_classifier", "spatial_dims": 2, **sizes}))
    path = export(
        write_model(tmp_path / "run", task, network, phantom=True), to, tmp_path / f"shapes{FORMATS[to].suffix}"
    ).path
    if to != "bundle":
        assert isinstance(read_network(path), SegFormerClassifier)
        with pytest.raises(ValueError, match="holds a SegFormerClassifier, not a SegFormer"):
            SegFormer.from_pretrained(str(path))


@pytest.mark.slow
def test_bundle_is_verified_and_run_by_monais_own_tools(run, data, tmp_path) -> None:
    path = export(run, "bundle", tmp_path / "ball.zip").path
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    assert names == {
        f"ball/{n}"
        for n in (
            "LICENSE",
            "configs/metadata.json",
            "configs/inference.json",
            "configs/evaluate.json",
            "docs/README.md",
            "models/model.pt",
            "models/model.safetensors",
            "models/SHA256SUMS",
        )
    }
    folder = tmp_path / "ball"
    schema = reference("monai_meta_schema_20240725.json")
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "verify_metadata",
        "--meta_file",
        str(folder / "configs/metadata.json"),
    ]
    done = subprocess.run([*command, "--filepath", str(schema)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(folder / "configs/inference.json")]
    options = [
        "--bundle_root",
        str(folder),
        "--dataset_dir",
        str(data / "images"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    predict_folder(folder, data / "images", tmp_path / "ours", device="cpu", dense=True, progress=False)
    files = list((tmp_path / "ours").glob("*.nii.gz"))
    assert len(files) == 5
    for file in files:
        assert np.array_equal(read_volume(tmp_path / "out" / file.name).data, read_volume(file).data)


@pytest.mark.parametrize("to", ["safetensors", "hf", "bundle"])
def test_an_export_that_differs_is_refused_and_leaves_nothing(to, run, tmp_path, monkeypatch, capsys) -> None:
    """What is written is spoiled on the way: one weight."""
    module = sys.modules.get(f"medseg3d.export.{FORMATS[to].module}") or __import__(
        f"medseg3d.export.{FORMATS[to].module}", fromlist=["x"]
    )
    honest = module.write

    def spoiled(model, folder, path):
        weights = model.network.decoder.predict.bias
        with torch.no_grad():
            weights += 0.1
            try:
                honest(model, folder, path)
            finally:
                weights -= 0.1

    monkeypatch.setattr(module, "write", spoiled)
    out = tmp_path / "out" / f"ball{FORMATS[to].suffix}"
    assert main(["export", str(run), "--to", to, "-o", str(out)]) == 6
    assert "is not the model: its logits differ by" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_usage_is_said(run, tmp_path, capsys) -> None:
    with pytest.raises(ConfigError, match="'tflite' is none of bundle, onnx"):
        export(run, "tflite")
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        export(run, "onnx", tmp_path / "a.pt")
    with pytest.raises(ModelError, match="no model directory"):
        export(tmp_path / "nothing", "hf", tmp_path / "out")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ConfigError, match=r"pip install 'medseg3d\[export\]'"):
            export(run, "onnx", tmp_path / "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_onnx_is_equal_at_other_sizes_and_batches(dims, tmp_path, caplog) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    task = ball_task(patch_size=[64, 48, 16][:dims], spacing_mm=[1.0] * dims)
    config = {"name": "segformer", "spatial_dims": dims, "in_channels": 1, "out_channels": 3, **NETWORK}
    network = filled(build_network(config))
    path = export(write_model(tmp_path / "run", task, network, phantom=True), "onnx", tmp_path / "ball.onnx").path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, *"xyz"[:dims]]
    assert json.loads(session.get_modelmeta().custom_metadata_map["task"])["labels"] == {"shell": [1], "core": [2]}
    for batch, size in ((1, (96, 64, 32)), (3, (40, 33, 50)), (2, (32, 32, 32))):
        image = noise(batch, 1, *size[:dims])
        with torch.no_grad():
            found = torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
            assert relative_error(found, network(image)) < 1e-4


@pytest.mark.slow
def test_pt2_runs_at_other_sizes_without_medseg3d(run, tmp_path) -> None:
    path = export(run, "pt2", tmp_path / "ball.pt2").path
    image = noise(3, 1, 64, 51, 16)
    torch.save(image, tmp_path / "image.pt")
    code = f"""
import sys, torch
extra = {{"metadata.json": ""}}
program = torch.export.load({str(path)!r}, extra_files=extra).module()
torch.save(program(torch.load({str(tmp_path / "image.pt")!r}, weights_only=True)), {str(tmp_path / "logits.pt")!r})
assert not any(name.startswith("medseg3d") for name in sys.modules)
assert '"shell"' in extra["metadata.json"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        assert (
            relative_error(torch.load(tmp_path / "logits.pt", weights_only=True), load_model(run).network(image)) < 1e-4
        )


THICK = [[4, 4, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
"""Strides of a network that steps by 32 in the plane and by 8 across the slices."""


def thick_slices(folder: Path, patch: list[int]) -> Path:
    config = {"name": "segformer", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "strides": THICK, **NETWORK}
    return write_model(folder, ball_task(patch_size=patch), filled(build_network(config)), phantom=True)


def test_axes_of_one_coarsest_cell_are_thin(run, tmp_path) -> None:
    assert thin(load_model(run)) == (False, False, True)  # a window of 48 x 40 x 16, and cells of 32
    assert thin(load_model(thick_slices(tmp_path / "a", [64, 32, 16]))) == (False, True, False)  # cells of 32, 32, 8
    assert thin(load_model(thick_slices(tmp_path / "b", [64, 64, 8]))) == (False, False, True)


@pytest.mark.slow
def test_pt2_of_thick_slices_runs_at_any_number_of_them(tmp_path) -> None:
    run = thick_slices(tmp_path / "run", [64, 48, 16])
    path = export(run, "pt2", tmp_path / "thick.pt2").path
    program, network = torch.export.load(path).module(), load_model(run).network
    for slices in (16, 24, 31):
        image = noise(2, 1, 40, 66, slices)
        with torch.no_grad():
            assert relative_error(program(image), network(image)) < 1e-4


def test_a_bundle_is_written_without_monais_noise(run, tmp_path, capfd) -> None:
    assert main(["export", str(run), "--to", "bundle", "-o", str(tmp_path / "ball.zip")]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        f"written: {tmp_path / 'ball.zip'}",
        "its logits differ from the model's by at most 0.0e+00 of the largest, on images of 48 x 40 x 16 and 45 x 66 x 16",
    ]
    assert err == ""
