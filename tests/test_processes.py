"""Training over two processes, as torchrun starts them: the same weights as one process with the whole batch, one writer."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from monai.inferers import SimpleInferer
from torch import nn

from medseg3d.augmentation import Augmentation
from medseg3d.io import find_cases
from medseg3d.preprocessing import Preprocessing
from medseg3d.training.checkpoint import load_state
from medseg3d.training.dataset import prepare
from medseg3d.training.losses import build_loss
from medseg3d.training.parts import network_config, new_network
from medseg3d.training.processes import Processes
from medseg3d.training.recipe import Recipe
from medseg3d.training.sampling import Patches
from medseg3d.training.trainer import Trainer
from tests.shared import ROOT
from tests.training_helpers import NETWORK, ball_task, write_balls

TASK = ball_task()


def train_some_steps(
    data: Path, folder: Path, *, accumulate: int = 1, checkpointing: bool = False, deep_supervision: bool = False
) -> None:
    """Two epochs of three steps of four samples, without BatchNorm, whose statistics are those of a process's own samples."""
    dataset = find_cases(data, TASK, labels=True)
    preprocessing = Preprocessing.from_task(TASK)
    cases = prepare(dataset, dataset.cases, task=TASK, preprocessing=preprocessing)
    network = new_network(network_config(TASK, NETWORK), 3)
    network.decoder.norm = nn.Identity()
    Trainer(
        network=network,
        loss=build_loss("auto", TASK),
        dataset=Patches(
            cases[:3], patch_size=TASK.patch_size, augmentation=Augmentation(TASK.patch_size, mirror_axes=(0,)), seed=3
        ),
        validation=cases[3:],
        inferer=SimpleInferer(),
        device="cpu",
        bundle_root=folder,
        task=TASK,
        preprocessing=preprocessing,
        max_epochs=2,
        steps_per_epoch=3,
        recipe=Recipe(
            batch_size=4,
            learning_rate=3e-3,
            weight_decay=0.01,
            warmup_epochs=1,
            schedule="cosine",
            gradient_clip=1.0,
            ema=0.9,
            precision="float32",
            validation_interval=1,
            overlap=0.25,
            workers=0,
            seed=3,
            accumulate=accumulate,
            checkpointing=checkpointing,
            deep_supervision=deep_supervision,
        ),
    ).run()
    Processes.leave()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("balls"), 5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_some_steps(data, folder)
    return folder


def assert_same_weights(a: Path, b: Path, tolerance: float) -> None:
    first, second = load_state(a / "models"), load_state(b / "models")
    assert first["step"] == second["step"] == 6
    for part in {"network", "average", "heads"} & first.keys():
        for name, value in first[part].items():
            assert torch.allclose(value, second[part][name], rtol=0, atol=tolerance), name


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("accumulate", "checkpointing"), [(2, False), (4, False), (1, True)])
def test_pieces_and_recomputed_activations_give_the_same_weights(
    tmp_path: Path, data: Path, alone: Path, accumulate: int, checkpointing: bool
) -> None:
    train_some_steps(data, tmp_path, accumulate=accumulate, checkpointing=checkpointing)
    assert_same_weights(tmp_path, alone, 1e-5)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("supervised")
    train_some_steps(data, folder, deep_supervision=True)
    return folder


def test_deep_supervision_in_pieces_gives_the_same_weights(tmp_path: Path, data: Path, supervised: Path) -> None:
    train_some_steps(data, tmp_path, accumulate=2, checkpointing=True, deep_supervision=True)
    assert_same_weights(tmp_path, supervised, 1e-5)


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
    )


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_with_the_whole_batch(tmp_path: Path, data: Path, alone: Path) -> None:
    done = torchrun("-m", "tests.test_processes", str(data), str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_weights(tmp_path, alone, 1e-5)
    for mine, theirs in zip(rows(tmp_path), rows(alone), strict=True):
        for column in ("loss", "score", "dice_shell", "dice_core"):
            assert float(mine[column]) == pytest.approx(float(theirs[column]), abs=1e-3), column
    assert len(list((tmp_path / "logs").glob("events*"))) == 1, "one process writes"


@pytest.mark.slow
def test_two_processes_supervise_as_one_does(tmp_path: Path, data: Path, supervised: Path) -> None:
    done = torchrun("-m", "tests.test_processes", str(data), str(tmp_path), "deep")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_weights(tmp_path, supervised, 1e-5)


@pytest.mark.slow
def test_the_command_line_under_torchrun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["steps_per_epoch=4", "patch_size=[64,64]", "device=cpu", "batch_size=2"]
    arguments = ["-m", "medseg3d", "train", "--task", "nuclei", "-o", str(run), "--max-time", "15s"]
    arguments += [part for s in settings for part in ("--set", s)]
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("model:  ") == 1, "one process prints"
    assert (run / "validation" / "summary.json").exists()
    config = yaml.safe_load((run / "configs" / "train.yaml").read_text())
    assert len(rows(run)) == config["epochs"], "both processes follow the plan of the first"
    again = torchrun(*arguments)
    assert again.returncode != 0
    assert "holds a training already" in again.stderr


if __name__ == "__main__":
    train_some_steps(Path(sys.argv[1]), Path(sys.argv[2]), deep_supervision="deep" in sys.argv)
