"""A run directory is a MONAI bundle: MONAI's own checks, its training and its inference agree with ours."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.bundle.scripts import verify_net_in_out

from medseg3d import Predictor, load_task, predict_folder, read_volume, write_volume
from medseg3d.bundle import network_data_format
from medseg3d.io import find_cases
from medseg3d.training.run import train
from medseg3d.volume import Volume
from tests.shared import reference
from tests.training_helpers import SETTINGS, ball, ball_task, write_balls


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A network that has learned the balls well enough to segment them."""
    folder = tmp_path_factory.mktemp("runs") / "ball"
    settings = SETTINGS | {"steps_per_epoch": 50, "learning_rate": 5e-3, "ema": 0.9, "seed": 2}
    return train(ball_task(), data, folder, overrides=settings, epochs=6)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unseen balls on grids of their own: other spacing, flipped and permuted axes, oblique."""
    folder = tmp_path_factory.mktemp("scans")
    turn = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    axes = {
        "plain": np.eye(3),
        "mixed": np.array([[0, -1.0, 0], [0, 0, 1.0], [-1.0, 0, 0]]),
        "oblique": turn @ np.diag([1, 1.1, 0.9]),
    }
    for seed, (name, matrix) in enumerate(axes.items(), start=50):
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = 10, -20, 30
        write_volume(Volume(ball(seed)[0].data, affine), folder / f"{name}.nii.gz")
    return folder


def losses(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "metrics.csv").open() as file:
        return [(r["step"], r["loss"], r["dice_shell"], r["dice_core"]) for r in csv.DictReader(file)]


def test_the_run_directory_has_what_a_bundle_has(run: Path) -> None:
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert names >= {
        "LICENSE",
        "docs/README.md",
        "metrics.csv",
        *(f"configs/{n}" for n in ("train.yaml", "inference.yaml", "evaluate.yaml", "metadata.json", "data.json")),
        *(f"models/{n}" for n in ("model.pt", "model.safetensors", "last.pt")),
    }
    assert any(n.startswith("logs/events") for n in names)
    assert float(losses(run)[-1][1]) < float(losses(run)[0][1])


def test_metadata_follows_monais_schema(run: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(reference("monai_meta_schema_20240725.json").read_text())
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**metadata, "network_data_format": {"inputs": {}}}, schema)
    section = metadata["medseg3d"]
    assert section["task"]["labels"] == {"shell": [1], "core": [2]}
    assert section["inference"]["roi_size"] == [16, 16, 16]
    assert section["phantom"] is False


def test_monai_itself_verifies_metadata_offline(run: Path) -> None:
    schema = reference("monai_meta_schema_20240725.json")
    command = ["verify_metadata", "--meta_file", str(run / "configs" / "metadata.json"), "--filepath", str(schema)]
    done = subprocess.run([sys.executable, "-m", "monai.bundle", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["train", "inference"])
def test_network_takes_and_gives_what_metadata_says(run: Path, name: str) -> None:
    files = {"meta_file": str(run / "configs" / "metadata.json"), "config_file": str(run / "configs" / f"{name}.yaml")}
    verify_net_in_out("network_def", device="cpu", **files)


def test_metadata_of_every_kind_of_task() -> None:
    regions = network_data_format(load_task("brats"), (96, 96, 96))
    assert regions["inputs"]["image"]["channel_def"] == {"0": "FLAIR", "1": "T1", "2": "T1Gd", "3": "T2"}
    assert regions["outputs"]["pred"]["channel_def"] == {"0": "WT", "1": "TC", "2": "ET"}
    classes = network_data_format(ball_task(), (16, 16, 16))
    assert classes["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "shell", "2": "core"}


@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("inference", "infer")])
def test_workflows_have_the_properties_that_monai_wants(run: Path, data: Path, name: str, kind: str) -> None:
    config = str(run / "configs" / f"{name}.yaml")
    workflow = ConfigWorkflow(
        config, workflow_type=kind, logging_file=False, bundle_root=str(run), dataset_dir=str(data)
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.add_property("none", required=True, config_id="does::not::exist")
    with pytest.raises(KeyError, match="does::not::exist"):
        workflow.check_properties()


def test_monai_trains_to_the_same_losses(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run / "configs", again / "configs")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"['{again / 'configs' / 'train.yaml'}']"]
    done = subprocess.run([*command, "--bundle_root", str(again)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(again) == losses(run)
    other = tmp_path / "other"
    shutil.copytree(run / "configs", other / "configs")
    options = ["--bundle_root", str(other), "--learning_rate", "1e-3", "--epochs", "1"]
    subprocess.run([*command[:-1], str(other / "configs" / "train.yaml"), *options], capture_output=True, check=True)
    assert len(losses(other)) == 1
    assert losses(other)[0] != losses(run)[0]


@pytest.fixture(scope="module")
def monai_labels(run: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Volume]]:
    """What inference.yaml writes for the scans."""
    out = tmp_path_factory.mktemp("monai")
    workflow = ConfigWorkflow(
        str(run / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(run),
        dataset_dir=str(scans),
        output_dir=str(out),
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    yield {p.name: read_volume(p, labels=True) for p in out.iterdir()}


def test_inference_config_gives_the_labels_of_predict(run: Path, scans: Path, monai_labels: dict[str, Volume]) -> None:
    dense, fast = (Predictor.from_bundle(run, device="cpu", dense=d) for d in (True, False))
    assert set(monai_labels) == {"plain.nii.gz", "mixed.nii.gz", "oblique.nii.gz"}
    for name, labels in monai_labels.items():
        scan = read_volume(scans / name)
        assert np.array_equal(labels.data, dense(scan).data)
        assert labels.grid.differs_from(scan.grid) is None
        ours = fast(scan).data
        foreground = (ours > 0) | (labels.data > 0)
        assert foreground.sum() > 500
        # Where the network's spacing is not the scan's, two linear interpolations are not quite one.
        assert (ours == labels.data)[foreground].mean() >= (0.98 if name == "oblique.nii.gz" else 0.999)
        assert set(np.unique(ours)) == {0, 1, 2}


def test_inference_config_writes_the_files_of_predict(
    run: Path, scans: Path, monai_labels: dict[str, Volume], tmp_path: Path
) -> None:
    predict_folder(run, scans, tmp_path, dense=True, device="cpu", progress=False)
    for name, labels in monai_labels.items():
        ours = read_volume(tmp_path / name, labels=True)
        assert np.array_equal(ours.data, labels.data)
        assert ours.data.dtype == labels.data.dtype == np.uint8
        assert json.dumps(ours.header, default=str) == json.dumps(labels.header, default=str)


def test_evaluate_config_segments_and_scores(run: Path, data: Path, tmp_path: Path) -> None:
    configs = [str(run / "configs" / f"{n}.yaml") for n in ("inference", "evaluate")]
    settings = {"bundle_root": str(run), "dataset_dir": str(data), "output_dir": str(tmp_path), "device": "cpu"}
    workflow = ConfigWorkflow(configs, workflow_type="infer", logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    with (tmp_path / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["case"] for r in rows} == {c.name for c in find_cases(data, ball_task(), labels=True).cases}
    assert np.mean([float(r["dice"]) for r in rows]) > 0.5


def test_weights_are_the_average_that_was_validated(run: Path, data: Path, tmp_path: Path) -> None:
    state = torch.load(run / "models" / "last.pt", weights_only=True)
    assert state["best"] == max(r["score"] for r in state["rows"] if "score" in r)
    # With a single validation it is the best: the weights are the average of that moment.
    once = train(ball_task(), data, tmp_path / "once", overrides=SETTINGS | {"ema": 0.9}, epochs=1)
    state = torch.load(once / "models" / "last.pt", weights_only=True)
    best = torch.load(once / "models" / "model.pt", weights_only=True)
    assert best.keys() == state["average"].keys()
    assert all(torch.equal(best[k], state["average"][k]) for k in best)
    assert not torch.equal(state["network"]["decoder.predict.weight"], best["decoder.predict.weight"])
