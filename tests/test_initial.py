"""What a training begins with: weights of a run or published ones, made to fit; what is new is said."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from medseg3d.checks import ConfigError, ModelError
from medseg3d.cli import main
from medseg3d.networks import MixTransformer, SegFormer
from medseg3d.networks.inflation import adapted
from medseg3d.task import Task, load_task
from medseg3d.training.initial import begin_with, initial_config
from medseg3d.training.parts import network_config, new_network
from tests.model_helpers import write_model
from tests.test_networks import filled, published_shapes
from tests.test_pretrained import mmseg_names, theirs
from tests.training_helpers import SETTINGS, ball_task, write_balls

TASK = ball_task()
FIRST = "encoder.stages.0.embed.proj.weight"


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("medseg3d"), "propagate", True)
    caplog.set_level(logging.INFO)


def begun(place: Path, task: Task) -> dict[str, torch.Tensor]:
    return new_network(network_config(task, initial_config(place, task)), 3, place, task).state_dict()


def made_up(folder: Path, task: Task, **options) -> tuple[Path, dict[str, torch.Tensor]]:
    network = filled(new_network(network_config(task, {"widths": [8, 16, 40, 64], "depths": [1] * 4, **options}), 0))
    return write_model(folder, task, network), network.state_dict()


def test_a_2d_hugging_face_encoder_begins_a_3d_training(tmp_path: Path, caplog) -> None:
    model = theirs("SegformerForImageClassification")
    model.save_pretrained(tmp_path / "hf")
    config = network_config(TASK, initial_config(tmp_path / "hf", TASK))
    assert config["widths"] == [8, 16, 40, 64]
    assert "reductions" not in config
    weights = begun(tmp_path / "hf", TASK)
    source = SegFormer(2, 3, 1, widths=[8, 16, 40, 64], depths=[1, 2, 1, 1]).encoder
    source.load_state_dict({k.removeprefix("encoder."): v for k, v in _ours(model).items() if k.startswith("encoder.")})
    expected = adapted(source, spatial_dims=3, in_channels=1).state_dict()
    assert all(torch.equal(weights[f"encoder.{key}"], value) for key, value in expected.items())
    assert "inflated from 2D to 3D" in caplog.text
    assert "the first layer: hf has 3 channels, this task MRI; each gets the mean kernel" in caplog.text
    assert "the decoder is made anew: hf has none that fits" in caplog.text


def _ours(model) -> dict[str, torch.Tensor]:
    from medseg3d.networks.naming import renamed

    return renamed(model.state_dict(), "huggingface")


def test_train_init_from_the_command_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    theirs().save_pretrained("hf")
    write_balls(Path("data"), 3)
    Path("ball.yaml").write_text(yaml.safe_dump({k: v for k, v in TASK.as_dict().items() if v}))
    changes = {k: v for k, v in SETTINGS.items() if k != "network"} | {"steps_per_epoch": 1, "validation_interval": 1}
    options = [f"--set={key}={value}" for key, value in changes.items()]
    command = ["train", "--task", "ball.yaml", "--data", "data", "-o", "run", "--epochs", "1", *options]
    assert main([*command, "--init", "hf"]) == 0
    metadata = json.loads(Path("run/configs/metadata.json").read_text())["medseg3d"]
    assert metadata["init"]["weights"] == "hf"
    assert len(metadata["init"]["sha256"]) == 64
    assert metadata["network"]["decoder_width"] == 32
    # The trained run begins another one, from its folder.
    assert main([*[c if c != "run" else "again" for c in command], "--init", "run"]) == 0
    assert json.loads(Path("again/configs/metadata.json").read_text())["medseg3d"]["init"]["weights"] == "run"
    capsys.readouterr()
    assert main([*[c if c != "run" else "third" for c in command], "--init", "nowhere.bin"]) == 6
    assert "no file or folder" in capsys.readouterr().err
    assert not Path("third").exists()


def test_channels_keep_their_kernels_by_name(tmp_path: Path, caplog) -> None:
    four = ball_task(channels={"FLAIR": [], "T1": [], "T2": []})
    run, before = made_up(tmp_path / "run", four)
    after = begun(run, ball_task(channels={"T2": [], "CT": [], "FLAIR": []}))
    kernels = before[FIRST]
    assert torch.equal(after[FIRST][:, 0], kernels[:, 2])
    assert torch.equal(after[FIRST][:, 2], kernels[:, 0])
    assert torch.allclose(after[FIRST][:, 1], kernels.mean(1))
    assert "run has the channels FLAIR, T1, T2, this task T2, CT, FLAIR; T2, FLAIR keep their kernels" in caplog.text
    other = begun(run, ball_task(channels={"A": [], "B": []}))
    assert torch.allclose(other[FIRST], kernels.mean(1, keepdim=True).expand(-1, 2, -1, -1, -1) * 1.5)


def test_labels_keep_their_outputs_by_name(tmp_path: Path, caplog) -> None:
    run, before = made_up(tmp_path / "run", TASK)
    key = "decoder.predict.weight"
    same = begun(run, TASK)
    assert torch.equal(same[key], before[key])
    turned = begun(run, replace(TASK, labels={"core": [2], "shell": [1]}))
    assert torch.equal(turned[key], before[key][[0, 2, 1]])
    assert "made anew" not in caplog.text
    other = begun(run, ball_task(labels={"shell": [1], "nodule": [2]}))
    assert not torch.equal(other[key], before[key])
    assert torch.equal(other["decoder.norm.weight"], before["decoder.norm.weight"])
    assert "last layer is made anew: run has the labels shell, core, this task shell, nodule" in caplog.text


def test_the_published_segformer3d_begins_brats_with_its_outputs_in_the_tasks_order(tmp_path: Path) -> None:
    path = tmp_path / "segformer3d.bin"
    weights = {key: torch.rand(shape) for key, shape in published_shapes().items()}
    torch.save(weights, path)
    state = begun(path, load_task("brats"))  # WT, TC, ET; theirs: TC, WT, ET
    theirs_last = weights["segformer_decoder.linear_pred.weight"].flatten(1)
    assert torch.equal(state["decoder.predict.weight"], theirs_last[[1, 0, 2]])
    kernel = weights["segformer_encoder.embed_1.patch_embeddings.weight"]
    assert torch.equal(state[FIRST], kernel.permute(0, 1, 4, 3, 2))  # z, y, x there; x, y, z here
    assert (
        network_config(load_task("brats"), initial_config(path, load_task("brats")))["attention_scale"]
        == "sqrt_num_heads"
    )


def test_the_encoder_of_an_mmseg_checkpoint_with_its_own_head(tmp_path: Path) -> None:
    encoder = filled(MixTransformer(2, 3, widths=[8, 16, 40, 64], depths=[1] * 4, norm_eps=1e-6))
    weights = {f"backbone.{k}": v for k, v in mmseg_names(encoder).items()}
    torch.save({"state_dict": {**weights, "decode_head.convs.0.conv.weight": torch.zeros(1)}}, tmp_path / "m.pth")
    task = load_task("nuclei")
    network = new_network(network_config(task, initial_config(tmp_path / "m.pth", task)), 0, tmp_path / "m.pth", task)
    assert network.config["norm_eps"] == 1e-6
    mine, other = network.encoder.state_dict(), encoder.state_dict()
    assert all(torch.equal(mine[key], other[key]) for key in other)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    run, _ = made_up(tmp_path / "run", TASK)
    wider = network_config(TASK, initial_config(run, TASK) | {"decoder_width": 24})
    with pytest.raises(
        ConfigError, match=r"another network: \d+ of \d+ weights do not fit \(decoder.*drop the settings"
    ):
        new_network(wider, 0, run, TASK)
    with pytest.raises(ConfigError, match="a reduction of 2 cannot become 4"):
        new_network(network_config(TASK, initial_config(run, TASK) | {"reductions": [4, 4, 1, 1]}), 0, run, TASK)
    with pytest.raises(ConfigError, match="cannot become one for 2D images"):
        new_network(
            network_config(load_task("nuclei"), initial_config(run, load_task("nuclei"))), 0, run, load_task("nuclei")
        )
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(ModelError, match="of none of these"):
        begin_with(SegFormer(3, 1, 2), tmp_path / "resnet.pt")
