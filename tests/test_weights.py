"""Files of weights: what is read, from where, and what is refused in which words."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from medseg3d.checks import ModelError
from medseg3d.networks import MixTransformer, SegFormer, SegFormerClassifier
from medseg3d.weights import locate, read_network
from tests.test_networks import filled, noise, published_shapes, relative_error
from tests.test_pretrained import IMAGE, KINDS, mmseg_names, old_names, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_transformers_wrote_is_read(kind, tmp_path: Path) -> None:
    model = theirs(kind, num_attention_heads=[2, 4, 5, 8])
    model.save_pretrained(tmp_path)
    network = read_network(tmp_path)
    assert network.config["heads"] == [2, 4, 5, 8]
    image = noise(1, 3, *IMAGE)
    with torch.no_grad():
        expected = model(image, output_hidden_states=True)
        if isinstance(network, SegFormer):
            assert (
                relative_error(SegFormer.from_pretrained(str(tmp_path)).forward_coarse(image), expected.logits) < 1e-5
            )
        elif isinstance(network, SegFormerClassifier):
            assert relative_error(network(image), expected.logits) < 1e-5
        else:
            assert relative_error(network(image)["P4"], expected.last_hidden_state) < 1e-5


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth", "model.safetensors"])
@pytest.mark.parametrize("container", [None, "state_dict"])
def test_files_of_every_kind_are_read(name, container, tmp_path: Path) -> None:
    model = theirs()
    weights = {k: v.contiguous() for k, v in old_names(model.state_dict()).items()}
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(weights, path)
    else:
        torch.save({container: weights, "meta": {"epoch": 3}} if container else weights, path)
    image = noise(1, 3, *IMAGE)
    with torch.no_grad():
        assert relative_error(read_network(path).forward_coarse(image), model(image).logits) < 1e-5


def test_encoder_only_from_a_segmentation_model(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    encoder = read_network(tmp_path, encoder_only=True)
    assert isinstance(encoder, MixTransformer)
    with pytest.raises(ValueError, match="holds a MixTransformer, not a SegFormer"):
        SegFormer.from_pretrained(str(tmp_path), encoder_only=True)


def test_segformer3d_says_which_scale_it_takes(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("medseg3d"), "propagate", True)  # the command line turns it off
    path = tmp_path / "pytorch_model.bin"
    torch.save({k: torch.zeros(s) for k, s in published_shapes().items()}, path)
    assert read_network(path).config["attention_scale"] == "sqrt_num_heads"
    assert "its attention scale cannot be seen in the weights; taken as sqrt_num_heads" in caplog.text
    caplog.clear()
    assert read_network(path, attention_scale="sqrt_head_dim").config["attention_scale"] == "sqrt_head_dim"
    assert "cannot be seen" not in caplog.text


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "a.pth")
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pth", "b.bin"):
        with pytest.raises(ModelError, match="cannot be read as weights"):
            read_network(tmp_path / name)
    assert not (tmp_path / "evil").exists()


def test_what_is_no_model_is_said_plainly(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        read_network(empty)
    (empty / "a.pth").touch()
    (empty / "b.pth").touch()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, but a\.pth, b\.pth; give the file"):
        read_network(empty)
    with pytest.raises(ModelError, match=r"no file or folder .*weights\.bin"):
        read_network(tmp_path / "weights.bin")
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "train.pt")
    with pytest.raises(ModelError, match="holds no state dict: neither tensors by name, nor"):
        read_network(tmp_path / "train.pt")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pt")
    with pytest.raises(
        ModelError, match=r"1 entries \(conv1\.weight.*the published SegFormer3D, Hugging Face SegFormer"
    ):
        read_network(tmp_path / "resnet.pt")
    (tmp_path / "half.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(ModelError, match="truncated, damaged or another kind of file"):
        read_network(tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "swin"}, "'swin' is neither segformer nor medseg3d"),
        ({"hidden_act": "relu"}, "hidden_act is relu, and a SegFormer of medseg3d has gelu"),
        ({"num_attention_heads": [3, 2, 5, 8]}, "width 8 must be divisible by the number of heads 3"),
    ],
)
def test_a_config_of_another_network(changes, words, tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=words):
        read_network(tmp_path)


def test_mmsegs_own_head_in_a_file(tmp_path: Path) -> None:
    encoder = filled(MixTransformer(2, 3, widths=[8, 16, 40, 64], depths=[1, 1, 1, 1], norm_eps=1e-6))
    weights = {f"backbone.{k}": v for k, v in mmseg_names(encoder).items()}
    weights["decode_head.fusion_conv.bn.weight"] = torch.zeros(3)
    torch.save({"meta": {"version": "1"}, "state_dict": weights}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="which is another network; read the encoder alone"):
        read_network(tmp_path / "model.pth")
    assert isinstance(read_network(tmp_path / "model.pth", encoder_only=True), MixTransformer)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    weights = theirs().state_dict()
    weights["decode_head.batch_norm.bias"][3] = float("nan")
    torch.save(weights, tmp_path / "a.bin")
    with pytest.raises(ModelError, match=r"decode_head\.batch_norm\.bias hold NaN"):
        read_network(tmp_path / "a.bin")


def test_half_precision_is_read_into_single(tmp_path: Path) -> None:
    weights = {k: v.half() if v.is_floating_point() else v for k, v in theirs().state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "a.safetensors")
    network = read_network(tmp_path / "a.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_hub_name_is_fetched_once_asked_for(tmp_path: Path, monkeypatch) -> None:
    """The hub's own client fetches and caches; here it is stood in for."""
    hub = pytest.importorskip("huggingface_hub")
    theirs().save_pretrained(tmp_path / "hub")
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path / "hub")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert read_network("nvidia/segformer").config["widths"] == [8, 16, 40, 64]
    assert asked == [("nvidia/segformer", ["config.json", "model.safetensors", "pytorch_model.bin"])]


def test_a_hub_name_without_the_hub_or_a_network(monkeypatch) -> None:
    """No test talks to the hub: offline mode is what a machine without a network is."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError,
        match=r"nvidia/mit-b0 is no file or folder here, and the Hugging Face hub cannot be reached \(.+give the folder",
    ):
        locate("nvidia/mit-b0")
    response = SimpleNamespace(headers={}, request=None)

    def not_there(name: str, allow_patterns: list[str]) -> str:
        raise hub.errors.RepositoryNotFoundError("404 Client Error.", response=response)

    monkeypatch.setattr(hub, "snapshot_download", not_there)
    with pytest.raises(
        ModelError, match=r"shows no repository of that name \(404 Client Error\.\); is it spelt as there"
    ):
        locate("nvidia/mitb0")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install 'medseg3d\[hub\]'"):
        locate("nvidia/mit-b0")
