"""Files from elsewhere are data: nothing in them is run, nothing leaves its folder, and nothing is asked of a network."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medseg3d.checks import ConfigError, InputError
from medseg3d.cli import main
from medseg3d.io.archive import unpack_zip
from medseg3d.training.run import train
from tests.shared import ROOT
from tests.test_folder import save_scans
from tests.test_predictor import BALL, save_model
from tests.training_helpers import SETTINGS, ball_task, write_balls


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """What code in a file would make, were it run."""
    return tmp_path / "evil"


def expression(evil: Path) -> str:
    return f"$__import__('os').mkdir({str(evil)!r})"


def target(evil: Path) -> dict[str, Any]:
    return {"_target_": "os.mkdir", "path": str(evil)}


# Models


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


def change(run: Path, value: Any, *keys: str) -> None:
    path = run / "configs" / "metadata.json"
    values = json.loads(path.read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(values))


def in_the_network(run: Path, evil: Path) -> None:
    change(run, target(evil), "medseg3d", "network")


def as_the_networks_name(run: Path, evil: Path) -> None:
    change(run, expression(evil), "medseg3d", "network", "name")


def in_a_width(run: Path, evil: Path) -> None:
    change(run, [expression(evil), 16, 24, 32], "medseg3d", "network", "widths")


def in_the_task(run: Path, evil: Path) -> None:
    change(run, [expression(evil)] * 3, "medseg3d", "task", "patch_size")


def in_the_preprocessing(run: Path, evil: Path) -> None:
    change(run, target(evil), "medseg3d", "preprocessing")


def in_the_window(run: Path, evil: Path) -> None:
    change(run, expression(evil), "medseg3d", "inference", "overlap")


def in_torch_weights(run: Path, evil: Path) -> None:
    (run / "models" / "model.safetensors").unlink()
    torch.save({"weight": Evil(evil)}, run / "models" / "model.pt")


def in_weights_of_another_name(run: Path, evil: Path) -> None:
    torch.save({"weight": Evil(evil)}, run / "models" / "model.safetensors")


@pytest.mark.parametrize(
    "plant",
    [
        in_the_network,
        as_the_networks_name,
        in_a_width,
        in_the_task,
        in_the_preprocessing,
        in_the_window,
        in_torch_weights,
        in_weights_of_another_name,
    ],
)
def test_predict_refuses_a_model_with_code(
    plant: Callable[[Path, Path], None], evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "run", BALL)
    save_scans(tmp_path / "in", ["a"])
    plant(tmp_path / "run", evil)
    code = main(["predict", "--model", str(tmp_path / "run"), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 6, error
    assert "Traceback" not in error
    assert "weights_only" not in error, "torch advises to switch the protection off"
    assert not evil.exists()
    assert not (tmp_path / "out").exists()


def test_predict_does_not_look_at_a_bundles_configs(evil: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_model(run, BALL)
    save_scans(tmp_path / "in", ["a"])
    wiring = {"imports": [expression(evil)], "network_def": target(evil), "run": [expression(evil)]}
    for name in ("inference.yaml", "inference.json", "train.yaml", "evaluate.yaml"):
        (run / "configs" / name).write_text(json.dumps(wiring))
    (run / "configs" / "logging.conf").write_text("[loggers]\nkeys=root\n[handlers]\nkeys=a\n[formatters]\nkeys=\n")
    for place in (run, run / "configs", run / "scripts"):
        place.mkdir(exist_ok=True)
        (place / "__init__.py").write_text(f"import os; os.mkdir({str(evil)!r})")
    change(run, expression(evil), "description")
    assert main(["predict", "--model", str(run), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a.nii.gz").exists()
    assert not evil.exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("balls"), 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return train(ball_task(), data, tmp_path_factory.mktemp("runs") / "ball", overrides=SETTINGS, epochs=1)


@pytest.mark.parametrize("key", ["learning_rate", "cache", "device", "statistics", "task"])
def test_a_run_directory_with_code_is_not_continued(
    key: str, evil: Path, data: Path, trained: Path, tmp_path: Path
) -> None:
    """MONAI runs train.yaml, so what goes into it is what this program writes."""
    run = shutil.copytree(trained, tmp_path / "run")
    path = run / "configs" / "train.yaml"
    values = yaml.safe_load(path.read_text())
    values[key] = expression(evil)
    values["run"] = [expression(evil)]
    values["evil"] = target(evil)
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError):
        train(ball_task(), data, run, epochs=2, resume=True)
    assert not evil.exists()


def test_code_beside_the_settings_is_not_taken_over(evil: Path, data: Path, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    path = run / "configs" / "train.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"run": [expression(evil)], "evil": target(evil)}))
    train(ball_task(), data, run, epochs=2, resume=True)
    assert not evil.exists()
    assert "evil" not in path.read_text()


# Archives


def zipped(path: Path, *members: tuple[str, bytes], kind: int = stat.S_IFREG) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


METADATA = ("m/configs/metadata.json", b"{}")


@pytest.mark.parametrize(
    ("members", "kind", "words"),
    [
        ([("../evil", b"x")], stat.S_IFREG, r"'\.\./evil' leads out of the folder"),
        ([("m/../../evil", b"x")], stat.S_IFREG, "leads out"),
        ([("/evil", b"x")], stat.S_IFREG, "leads out"),
        ([("..\\evil", b"x")], stat.S_IFREG, "leads out"),
        ([("C:/evil", b"x")], stat.S_IFREG, "leads out"),
        ([("m/models", b"/etc")], stat.S_IFLNK, "'m/models' is a link or a special file"),
        ([("m/pipe", b"")], stat.S_IFIFO, "is a link or a special file"),
        ([("m/A", b"1"), ("m/a", b"2")], stat.S_IFREG, "'m/a' is there twice"),
        ([("m/zeros", bytes(30_000_000))], stat.S_IFREG, "would become 30,000,00"),
    ],
    ids=["up", "up later", "absolute", "backslash", "drive", "symlink", "pipe", "twice", "bomb"],
)
def test_zips_are_refused_whole(
    members: list[tuple[str, bytes]], kind: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = zipped(tmp_path / "model.zip", *members, kind=kind)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(*METADATA)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=words) as caught:
        unpack_zip(archive, tmp_path / "out" / "inner")
    assert caught.value.finding.code == "E-ARCHIVE"
    assert sorted(tmp_path.iterdir()) == before
    entries = "- {name: theirs, what: a model, licence: none, page: nowhere}"
    (tmp_path / "zoo.yaml").write_text(entries)
    command = ["models", "--list", tmp_path / "zoo.yaml", "--get", "theirs", "--from", archive, "-o", tmp_path / "run"]
    assert main(list(map(str, command))) == 5
    assert "[E-ARCHIVE]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["predict", "--model", str(archive), "-i", str(tmp_path), "-o", str(tmp_path / "out")]) in (2, 6)
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "evil").exists()


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("m/x", bytes(range(256)) * 8))
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(content)
    with pytest.raises(InputError, match="E-ARCHIVE"):
        unpack_zip(archive, tmp_path / "out")
    archive.write_bytes(content[:100])
    with pytest.raises(InputError, match="E-ARCHIVE"):
        unpack_zip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The source itself

SOURCES = sorted([*(ROOT / "medseg3d").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")])


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [(ast.unparse(node.func), node) for node in nodes if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_call_that_runs_what_it_reads(path: Path) -> None:
    for name, call in calls(path):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name not in ("eval", "exec", "os.system", "os.popen", "yaml.load", "marshal.loads"), name
        assert not name.startswith(("pickle.load", "dill.", "cloudpickle.", "joblib.")), name
        assert keywords.get("allow_pickle", "False") == "False", name
        assert keywords.get("shell", "False") == "False", name
        if name.endswith("torch.load"):
            assert keywords.get("weights_only") == "True"
        if name.endswith(("extractall", "unpack_archive")):
            # monai's own, for tar files, refuses what leads out of the folder
            assert path.name == "archive.py" or name == "monai.extractall", name


# No network


class NetworkUsed(BaseException):
    """Not an Exception, so that no fallback can swallow it."""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Sockets that connect nowhere, and a list of who tried."""
    tried: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        tried.append(arguments[-1])
        raise NetworkUsed(arguments)

    for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_the_guard_would_see_a_request(no_network: list[object]) -> None:
    with pytest.raises((NetworkUsed, urllib.error.URLError)):
        urllib.request.urlopen("http://localhost:1/")
    assert no_network


def test_a_study_needs_no_network(data: Path, tmp_path: Path, no_network: list[object]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    (tmp_path / "ball.yaml").write_text(json.dumps(ball_task().as_dict()))
    settings = [w for k, v in SETTINGS.items() for w in ("--set", f"{k}={json.dumps(v)}")]
    task = ["--task", str(tmp_path / "ball.yaml")]
    assert main(["train", *task, "--data", str(data), "-o", str(run), "--epochs", "1", *settings]) == 0
    assert main(["predict", "--model", str(run), "-i", str(data / "images"), "-o", str(out)]) == 0
    scores = ["--reference", str(data / "labels"), "--prediction", str(out), "-o", str(tmp_path / "scores")]
    assert main(["evaluate", *scores, *task]) == 0
    assert main(["report", str(tmp_path / "scores"), *task]) == 0
    assert (tmp_path / "scores" / "report.html").exists()
    assert not no_network


def test_a_folder_of_symlinks_is_read_as_what_it_points_to(tmp_path: Path) -> None:
    """As the hub's cache keeps its models; a link to something else is refused without a word of what it holds."""
    save_model(tmp_path / "run", BALL)
    save_scans(tmp_path / "in", ["a"])
    secret = tmp_path / "secret"
    secret.write_text("ZZSECRET")
    weights = tmp_path / "run" / "models" / "model.safetensors"
    shutil.move(weights, tmp_path / "blob")
    command = ["predict", "--model", str(tmp_path / "run"), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    weights.symlink_to(secret)
    assert main(command) == 6
    weights.unlink()
    weights.symlink_to(tmp_path / "blob")
    assert main(command) == 0
    assert not [p for p in (tmp_path / "out").iterdir() if p.is_file() and b"ZZSECRET" in p.read_bytes()]
