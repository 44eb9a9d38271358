"""What the README says is what works: its commands run, its Python is the pipeline's, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medseg3d import sample_data_folder
from tests.shared import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every command of the README's shell blocks, without comments."""
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def test_python_lines_are_the_pipelines() -> None:
    pipeline = {line.strip() for line in (ROOT / "pipelines" / "brats.py").read_text().splitlines()}
    lines = [line.strip() for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) == 5
    assert set(lines) <= pipeline


def test_python_of_the_network_runs() -> None:
    names: dict = {}
    exec(blocks("python")[1], names)
    assert names["published"].encoder.stages[0].blocks[0].attention.scale == 1.0
    assert names["network"].config["out_channels"] == 3


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_pipelines_are_short() -> None:
    for path in (ROOT / "pipelines").glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path.name


def test_the_install_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    install, tests = commands()[1].split(" && ")
    assert install.replace("pip install", "pip install -q") in ci
    assert tests in ci


@pytest.mark.slow
def test_every_other_command_runs(tmp_path: Path) -> None:
    """In the README's order, on the sample data, two steps of training each."""
    data = sample_data_folder() / "brats"
    scans, labels = tmp_path / "SCANS", tmp_path / "LABELS"
    for folder, part in ((scans, "imagesTr"), (labels, "labelsTr")):
        folder.mkdir()
        for name in ("head_00.nii.gz", "head_01.nii.gz"):
            shutil.copy(data / part / name, folder)
    shutil.copy(data / "dataset.json", scans)
    short = "--epochs 1 --set steps_per_epoch=2 --set spacing_mm=[3,3,3] --set patch_size=[48,48,48]"
    run = [c for c in commands() if not c.startswith("pip")]
    assert len(run) >= 5
    for command in run:
        command = re.sub(r"^medseg3d", "python -m medseg3d", command)
        if " train " in command:
            command = command.replace("FOLDER", str(data)) + f" {short}"
        if "train.yaml" in command:
            # A bundle is trained once; by MONAI alone into a copy of the run's configs.
            shutil.copytree(tmp_path / "runs" / "brats", tmp_path / "runs" / "copy")
            shutil.rmtree(tmp_path / "runs" / "copy" / "models")
            command = command.replace("runs/brats", "runs/copy")
        words = [sys.executable if w == "python" else w for w in shlex.split(command)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert sorted(p.name for p in (tmp_path / "SEGMENTATIONS").glob("head_*.nii.gz")) == [
        "head_00.nii.gz",
        "head_01.nii.gz",
    ]
    assert sorted(p.name for p in (tmp_path / "OUT").glob("*.nii.gz")) == ["head_00.nii.gz", "head_01.nii.gz"]
    assert (tmp_path / "SCORES" / "per_case.csv").exists()
    assert (tmp_path / "runs" / "copy" / "metrics.csv").read_text()


@pytest.mark.slow
def test_the_pipeline_runs(tmp_path: Path) -> None:
    """From a data folder to scores: two steps on the sample heads."""
    settings = ["epochs=1", "steps_per_epoch=2", "spacing_mm=[3,3,3]", "patch_size=[48,48,48]"]
    command = [
        sys.executable,
        str(ROOT / "pipelines" / "brats.py"),
        str(sample_data_folder() / "brats"),
        str(tmp_path / "run"),
    ]
    done = subprocess.run([*command, *settings], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean of labels" in done.stdout
    assert re.search(r"head_\d+: WT [\d.]+ ml", done.stdout)
