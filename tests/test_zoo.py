"""The list of weights, and getting one: from a server on this machine, from a file, and refused where it is not what it says."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.cli import main
from medseg3d.inference.model import load_model
from medseg3d.networks import MixTransformer
from medseg3d.published import make_bundle
from medseg3d.task import load_task, task_names
from medseg3d.weights import read_network
from medseg3d.zoo import Entry, install, named, zoo
from tests.test_networks import filled, published_shapes
from tests.test_pretrained import mmseg_names, theirs
from tests.training_helpers import ball_task, write_balls

ENCODER = {"widths": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "norm_eps": 1e-6}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address on 127.0.0.1."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "mit.pth"
    torch.save(mmseg_names(filled(MixTransformer(2, 3, **ENCODER))), path)
    return path


def entry(**values) -> Entry:
    return Entry(**{"name": "mine", "what": "a test", "licence": "none", "page": "http://page", **values})


def test_the_list_is_whole() -> None:
    entries = zoo()
    assert len({e.name for e in entries}) == len(entries) >= 10
    for e in entries:
        assert e.page.startswith("https://")
        assert e.task is None or e.task in task_names()
        assert e.access in ("download", "hub", "by hand")
        if "nvidia" in f"{e.hub}{e.page}".lower() or e.name.startswith(("mmseg", "nvlabs")):
            assert "no commercial use" in e.licence
    assert named(entries, "mit-b0").encoder == 3_319_392


def test_models_lists_for_people_and_programs(capsys) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "segformer3d-brats  by hand" in text
    assert "research and evaluation only, no commercial use" in text
    assert main(["models", "--json"]) == 0
    assert [e["name"] for e in json.loads(capsys.readouterr().out)] == [e.name for e in zoo()]


@pytest.mark.parametrize("digits", [64, 8])
def test_get_from_a_server(served, weights, tmp_path, capsys, digits, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, address = served
    shutil.copy(weights, folder / "mit.pth")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()[:digits]
    count = sum(p.numel() for p in MixTransformer(2, 3, **ENCODER).parameters())
    values = {"name": "mine", "what": "a test", "licence": "CC0", "page": "http://page", "url": f"{address}/mit.pth"}
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump([{**values, "sha256": sha256, "encoder": count}]))
    assert main(["models", "--list", "zoo.yaml", "--get", "mine"]) == 0
    assert "next: medseg3d train --task NAME --init weights/mine" in capsys.readouterr().out
    assert {p.name for p in Path("weights/mine").iterdir()} == {"mit.pth", "ORIGIN.md"}
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in Path("weights/mine/ORIGIN.md").read_text()
    assert read_network("weights/mine").config["widths"] == ENCODER["widths"]  # as train --init is told to
    assert main(["models", "--list", "zoo.yaml", "--get", "mine"]) == 2  # it is there
    capsys.readouterr()
    assert main(["models", "--list", "zoo.yaml", "--get", "mine", "-o", "again", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)  # and nothing else
    assert (said["folder"], said["licence"]) == ("again", "CC0")


def test_a_file_that_is_not_what_it_says_leaves_nothing(served, weights, tmp_path) -> None:
    folder, address = served
    shutil.copy(weights, folder / "mit.pth")
    wrong = entry(url=f"{address}/mit.pth", sha256="0" * 64)
    with pytest.raises(InputError, match=r"is not the file that was expected: its sha256 is not 0000.*E-CHECKSUM"):
        install(wrong, tmp_path / "out" / "mine", progress=False)
    with pytest.raises(InputError, match=r"its sha256 does not begin with 0000.*E-CHECKSUM"):
        install(wrong, tmp_path / "out" / "mine", file=weights)
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match="parameters, and mine has 7"):
        install(entry(url=f"{address}/mit.pth", sha256=right, encoder=7), tmp_path / "out" / "mine", progress=False)
    gone = entry(url=f"{address}/gone.pth", sha256=right)
    with pytest.raises(InputError, match=r"fetch it by hand from http://page and give it with --from FILE.*E-DOWNLOAD"):
        install(gone, tmp_path / "out" / "mine", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_by_hand_says_where_and_from_a_file_gives_a_model_directory(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["models", "--get", "segformer3d-brats"]) == 2
    assert "fetch it by hand from https://github.com/OSUPCVLab/SegFormer3D" in capsys.readouterr().err
    torch.save({k: torch.zeros(s) for k, s in published_shapes().items()}, "pytorch_model.bin")
    assert main(["models", "--get", "segformer3d-brats", "--from", "pytorch_model.bin"]) == 0
    assert "predict --model runs/segformer3d-brats" in capsys.readouterr().out
    assert load_model("runs/segformer3d-brats").task.name == "brats-segformer3d"
    assert main(["models", "--get", "segformer3d-brats", "--from", "nothing.bin", "-o", "other"]) == 2
    assert not Path("other").exists()


def test_a_hugging_face_folder_from_disk_keeps_its_config(tmp_path) -> None:
    theirs("SegformerForImageClassification").save_pretrained(tmp_path / "hf")
    out = install(entry(hub="a/b"), tmp_path / "out", file=tmp_path / "hf")
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "config.json", "ORIGIN.md"}
    assert read_network(out).config["out_channels"] == 5


def test_get_from_the_hub(tmp_path, monkeypatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    theirs("SegformerForImageClassification").save_pretrained(tmp_path / "hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, allow_patterns: str(tmp_path / "hub"))
    out = install(entry(hub="nvidia/mit"), tmp_path / "out")
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "config.json", "ORIGIN.md"}
    with pytest.raises(ModelError, match="parameters, and mine has 7"):
        install(entry(hub="nvidia/mit", encoder=7), tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_without_a_network_it_is_said_where_to_fetch_by_hand(tmp_path, capsys, monkeypatch) -> None:
    """No test talks to the hub: offline mode is what a machine without a network is."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert main(["models", "--get", "mit-b0"]) == 5
    said = capsys.readouterr().err
    assert "the Hugging Face hub cannot be reached" in said
    assert said.count("fetch") == 1
    assert (
        "fetch it by hand from https://huggingface.co/nvidia/mit-b0 and give it with --from FILE [E-DOWNLOAD]" in said
    )
    write_balls(tmp_path / "data", 3)
    (tmp_path / "ball.yaml").write_text(yaml.safe_dump(ball_task().as_dict()))
    assert main(["train", "--init", "nvidia/mit-b0", "--task", "ball.yaml", "--data", "data"]) == 6
    said = capsys.readouterr().err
    assert "without a network fetch config.json and model.safetensors on another machine" in said
    assert not list(tmp_path.glob("runs/*/configs"))


def test_a_zipped_bundle_becomes_a_run_directory(served, tmp_path) -> None:
    theirs(num_labels=2).save_pretrained(tmp_path / "hf")
    run = make_bundle(tmp_path / "hf", load_task("nuclei"), tmp_path / "nuclei")
    folder, address = served
    with zipfile.ZipFile(folder / "nuclei.zip", "w") as archive:
        for path in run.rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    sha256 = hashlib.sha256((folder / "nuclei.zip").read_bytes()).hexdigest()
    out = install(entry(url=f"{address}/nuclei.zip", sha256=sha256), tmp_path / "out", progress=False)
    assert load_model(out).task.name == "nuclei"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no model")
    with pytest.raises(InputError, match="holds no model directory"):
        install(entry(), tmp_path / "out2", file=tmp_path / "other.zip")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: a, what: b, licence: c}", "lacks one of name, what, licence, page"),
        ("- {name: a, what: b, licence: c, page: d, url: 'http://x'}", "must have both url and sha256"),
        ("- {name: a, what: b, licence: c, page: d, url: 'http://x', sha256: '123'}", "8 to 64 hexadecimal digits"),
        ("- {name: a, what: b, licence: c, page: d, colour: red}", "'colour'; known are name"),
        ("- {name: a, what: b, licence: c, page: d}\n- {name: a, what: b, licence: c, page: d}", "listed twice"),
        ("name: a", "must hold a list"),
        ("- [", "cannot be read"),
    ],
)
def test_a_wrong_list_is_said(text, words, tmp_path) -> None:
    (tmp_path / "zoo.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        zoo(tmp_path / "zoo.yaml")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="no weights by the name 'mit-b9'; known are segformer3d-brats, mit-b0"):
        named(zoo(), "mit-b9")
