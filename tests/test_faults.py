"""Killed, interrupted, out of room, damaged: what was saved stays, what is wrong is said, and the same command goes on."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from medseg3d import io
from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.cli import main
from medseg3d.inference.model import load_model
from medseg3d.io.atomic import atomic_write
from medseg3d.io.checksums import Checksums
from medseg3d.report import write_report
from medseg3d.training import trainer
from medseg3d.training.checkpoint import load_state, save_state
from medseg3d.training.run import train
from medseg3d.training.sampling import Patches
from tests.report_helpers import make_evaluation
from tests.shared import ROOT
from tests.training_helpers import SETTINGS, ball_task, write_balls

STATE = {"step": 1, "network": {"w": torch.arange(1000.0)}}


@contextmanager
def room(most_bytes: int) -> Iterator[None]:
    """While entered, no file can become larger: what a full disk is to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("balls"), 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run of two epochs, with a state of each."""
    settings = SETTINGS | {"steps_per_epoch": 2, "validation_interval": 1}
    return train(ball_task(), data, tmp_path_factory.mktemp("runs") / "ball", overrides=settings, epochs=2)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    (tmp_path / "ball.yaml").write_text(json.dumps(ball_task().as_dict()))
    return tmp_path / "ball.yaml"


# Kills


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """Trainings without and with 2 workers, and folder predictions, each killed 8 times."""
    command = [sys.executable, "-m", "benchmarks.faults", "--kills", "8", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["kills"], figures["resumed"], figures["lost"]) == (16, 16, 0), done.stdout
    assert (figures["prediction_kills"], figures["prediction_resumed"]) == (8, 8), done.stdout
    assert figures["bit_equal"] == figures["prediction_equal"] == 1, done.stdout


EVERY_MOMENT = """
import sys
from pathlib import Path
import torch
from benchmarks.kills import ended, forked
from medseg3d.training.checkpoint import load_state, save_state

def state(step):
    return {"step": step, "network": {"w": torch.full((500,), float(step))}}

at, end = 0, None
while end != 0:
    at += 1
    folder = Path(sys.argv[1], str(at))
    folder.mkdir()
    for step in (1, 2):
        save_state(folder, state(step))
    end = ended(forked(lambda: save_state(folder, state(3)), Path(sys.argv[1], "log"), die_at=at))
    found = load_state(folder)
    assert found["step"] in ((3,) if end == 0 else (2, 3)), (at, found["step"])
    save_state(folder, state(4))
    save_state(folder, state(5))
    assert load_state(folder)["step"] == 5
    (folder / "last.pt").write_bytes(b"damaged")
    assert load_state(folder)["step"] == 4
print(at)
"""


@pytest.mark.slow
def test_a_kill_before_any_call_of_saving_leaves_a_whole_state(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_MOMENT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 10, "opens, links, renames and removals were tried, one by one"
    assert "is damaged" in done.stderr


def test_a_run_that_was_killed_while_it_began_begins_again(data: Path, run: Path) -> None:
    shutil.rmtree(run / "models")
    (run / "configs" / "train.yaml").unlink()  # written last
    (run / "configs" / ".tmp-1-ab.yaml").write_text("half")
    train(ball_task(), data, run, overrides=SETTINGS, epochs=1, resume=True)
    assert load_state(run / "models")["step"] == SETTINGS["steps_per_epoch"]
    assert not list(run.rglob(".tmp-*"))


# Full disks


def test_a_full_disk_leaves_both_states_as_they_were(tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path, {**STATE, "step": step})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with room(20_000), pytest.raises(InputError, match=r"last\.pt: cannot be written \(File too large\)"):
        save_state(tmp_path, {"step": 3, "network": {"w": torch.zeros(100_000)}})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert load_state(tmp_path)["step"] == 2


def test_a_full_disk_says_what_is_needed_and_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "a", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io.atomic.os, "fsync", full)
    with pytest.raises(InputError, match=r"the disk is full: 3\.0 MiB are needed and [\d.]+ MiB are free") as caught:
        atomic_write(tmp_path / "a", b"n" * 3 * 2**20)
    assert caught.value.finding.code == "E-DISK-FULL"
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"last\.pt: the disk is full: 4\.0 MiB are needed"):
        save_state(tmp_path, {"network": {"w": torch.zeros(2**20)}})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_full_disk_in_the_middle_of_a_training(
    data: Path, run: Path, task_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--task", str(task_file), "--data", str(data), "-o", str(run), "--resume", "--epochs", "3"]
    with room(40_000):
        assert main(command) == 5
    error = capsys.readouterr().err
    assert "cannot be written (File too large)" in error
    assert "Traceback" not in error
    assert load_state(run / "models")["step"] == 4
    assert main(command) == 0
    assert load_state(run / "models")["step"] == 6


def test_a_full_disk_leaves_the_old_report(tmp_path: Path) -> None:
    scores = make_evaluation(tmp_path)["scores"]
    page = write_report(scores, tmp_path / "report.html")
    before = page.read_bytes()
    with room(5_000), pytest.raises(InputError, match=r"report\.html: cannot be written"):
        write_report(scores, page)
    assert page.read_bytes() == before
    assert not list(tmp_path.glob(".tmp-*"))


# Damaged files


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_damaged_weights_are_refused_with_the_name_of_the_whole_ones(run: Path, how: str) -> None:
    spoil(run / "models" / "model.safetensors", how)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .* remove it, and .*model\.pt is taken"):
        load_model(run)
    (run / "models" / "model.safetensors").unlink()
    load_model(run)
    spoil(run / "models" / "model.pt", how)
    with pytest.raises(ModelError, match=r"model\.pt is damaged .* copy the model again"):
        load_model(run)
    (run / "models" / "SHA256SUMS").unlink()
    with pytest.raises(ModelError, match=r"model\.pt cannot be read as weights \("):
        load_model(run)  # by the checksums of the file itself


def test_hashes_are_those_that_sha256sum_reads(run: Path) -> None:
    lines = (run / "models" / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["last.pt", "model.pt", "model.safetensors", "prev.pt"]
    sums = Checksums(run / "models")
    assert sums.good(sums.listed()) == ["last.pt", "model.pt", "model.safetensors", "prev.pt"]
    if (program := shutil.which("sha256sum")) is not None:
        subprocess.run([program, "-c", "--quiet", "SHA256SUMS"], cwd=run / "models", check=True)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_training_goes_on_from_the_last_good_state(
    run: Path, data: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(run / "models" / "last.pt", how)
    train(ball_task(), data, run, overrides={}, epochs=3, resume=True)
    assert "last.pt is damaged" in caplog.text
    assert "SHA-256" in caplog.text
    assert f"going on from {run / 'models' / 'prev.pt'} instead, of step 2" in caplog.text
    assert load_state(run / "models")["step"] == 6


def test_without_a_good_state_the_good_weights_are_named(
    run: Path, data: Path, task_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("last.pt", "prev.pt"):
        spoil(run / "models" / name, "flipped")
    command = ["train", "--task", str(task_file), "--data", str(data), "-o", str(run), "--resume", "--epochs", "3"]
    assert main(command) == 6
    error = capsys.readouterr().err
    assert f"the weights in {run / 'models' / 'model.safetensors'} are whole" in error
    assert f"--fine-tune {run}" in error


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("signed", [False, True])
def test_a_checkpoint_with_code_runs_nothing(
    run: Path, tmp_path: Path, signed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    last = run / "models" / "last.pt"
    last.unlink()
    torch.save({"step": 9, "network": Evil(tmp_path / "evil")}, last)
    if signed:
        digest = io.digest.sha256_of(last)
        Checksums(last.parent).settle({"last.pt": digest})
    assert load_state(run / "models")["step"] == 2
    assert ("code or objects (posix.mkdir), which is not run" if signed else "SHA-256") in caplog.text
    assert "weights_only" not in caplog.text, "torch advises to switch the protection off"
    assert not (tmp_path / "evil").exists()


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_with_its_code(
    number: signal.Signals,
    code: int,
    data: Path,
    task_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = trainer.Journal.step

    def step(self: trainer.Journal, step: int, loss: float) -> None:
        shown(self, step, loss)
        if step == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(trainer.Journal, "step", step)
    settings = [w for k, v in SETTINGS.items() for w in ("--set", f"{k}={json.dumps(v)}")]
    command = ["train", "--task", str(task_file), "--data", str(data), "-o", str(tmp_path / "run"), "--epochs", "3"]
    assert main([*command, *settings]) == code
    error = capsys.readouterr().err
    assert "stopped at step 3 of 12; to go on, give the same command with --resume" in error
    assert "interrupted" in error
    assert "Traceback" not in error
    assert load_state(tmp_path / "run" / "models")["step"] == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_any_verb_ends_with_143(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("medseg3d.task.task_names", lambda: signal.raise_signal(signal.SIGTERM))
    assert main(["tasks"]) == 143
    assert capsys.readouterr().err == "medseg3d: interrupted\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_too_little_memory_is_said(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("medseg3d.task.task_names", fail)
    assert main(["tasks"]) == 1
    said = capsys.readouterr().err
    assert "not enough memory (" in said
    assert "batch_size" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_gets_a_signal(
    number: signal.Signals, code: int, data: Path, task_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "medseg3d", "train", "--task", task_file, "--data", data, "-o", tmp_path / "run"]
    settings = [w for k, v in SETTINGS.items() for w in ("--set", f"{k}={json.dumps(v)}")]
    process = subprocess.Popen(
        [*map(str, command), "--epochs", "100000", *settings], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 3"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == code, rest
    assert load_state(tmp_path / "run" / "models")["step"] >= 12


# One run directory, one training; workers


def test_a_second_training_is_refused_while_the_first_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = trainer.Journal.epoch
    refused = []

    def and_another(self: trainer.Journal, row: dict[str, object]) -> None:
        epoch(self, row)
        for resume in (False, True):
            with pytest.raises(ConfigError, match="another training is running in") as caught:
                train(ball_task(), data, tmp_path / "run", overrides=SETTINGS, epochs=1, resume=resume)
            refused.append(caught)

    monkeypatch.setattr(trainer.Journal, "epoch", and_another)
    train(ball_task(), data, tmp_path / "run", overrides=SETTINGS, epochs=1)
    assert len(refused) == 2
    assert load_state(tmp_path / "run" / "models")["step"] == SETTINGS["steps_per_epoch"]


def test_workers_are_threads_and_what_fails_in_one_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no worker process that could be killed; an error in a worker is the training's own."""
    cut, children, threads = Patches.cut, [], set()

    def failing(self: Patches, index: int) -> object:
        children.extend(multiprocessing.active_children())
        threads.add(threading.current_thread().name)
        if index == 5:
            raise InputError("E-TEST", "this sample cannot be made", file="scan")
        return cut(self, index)

    monkeypatch.setattr(Patches, "cut", failing)
    with pytest.raises(InputError, match=r"scan: this sample cannot be made \[E-TEST\]"):
        train(ball_task(), data, tmp_path / "run", overrides=SETTINGS | {"workers": 2}, epochs=2)
    assert not children
    assert threads & {"samples_0", "samples_1"}
