"""The main job from a wheel, in an environment of its own, from another folder: what a new user has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.shared import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    return next(folder.glob("medseg3d-*.whl"))


def test_what_the_wheel_carries(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tasks = {f"medseg3d/configs/tasks/{p.name}" for p in (ROOT / "configs" / "tasks").glob("*.yaml")}
    assert tasks <= names
    bundles = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs" / "bundles").rglob("*") if p.is_file()}
    assert {f"medseg3d/{name}" for name in bundles if "__pycache__" not in name} <= names
    assert {"medseg3d/py.typed", "medseg3d/configs/train.yaml", "medseg3d/sample_data/brats/dataset.json"} <= names
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "medseg3d").rglob("*.py")}
    assert modules <= names
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "notebooks"))]


def test_main_job_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    bin_folder = environment / ("Scripts" if os.name == "nt" else "bin")
    constraints = ROOT / "constraints.txt"
    subprocess.run([str(bin_folder / "pip"), "install", "-q", "-c", str(constraints), str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [str(bin_folder / "medseg3d"), "train", "--task", "brats"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no data given" in done.stderr
    assert "medseg3d train --task brats --data" in done.stdout
    run = elsewhere / "runs" / "brats-sample"
    summary = json.loads((run / "validation" / "summary.json").read_text())
    assert summary["labels"]["WT"]["dice"]["mean"] > 0.85
    assert summary["labels"]["ET"]["dice"]["mean"] > 0.6
    assert summary["labels"]["WT"]["n_total"] >= 4
    assert json.loads((run / "configs" / "metadata.json").read_text())["medseg3d"]["phantom"] is True
    split = json.loads((run / "configs" / "data.json").read_text())
    assert not {c["name"] for c in split["training"]} & {c["name"] for c in split["validation"]}
