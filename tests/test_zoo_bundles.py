"""The bundles in configs/bundles: the zoo's ids, MONAI's own checks, and trainings and a prediction by MONAI alone."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.bundle.scripts import verify_net_in_out

from medseg3d import Volume, configs_folder, predict_folder, read_volume, write_volume
from medseg3d.foreign_bundle import predict_bundle
from medseg3d.networks import build_network, segformer
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from tests.shared import reference
from tests.test_processes import torchrun
from tests.training_helpers import NETWORK

BUNDLES = configs_folder() / "bundles"
NAMES = ("brats_mri_segmentation", "spleen_ct_segmentation")
SHARED_IDS = {
    "train": "bundle_root ckpt_dir output_dir dataset_dir device epochs val_interval network_def network loss optimizer "
    "lr_scheduler train#random_transforms train#preprocessing train#dataset train#dataset#data train#dataloader "
    "train#inferer train#postprocessing train#handlers train#key_metric train#trainer train#trainer#max_epochs "
    "train#trainer#amp validate#preprocessing validate#dataset validate#dataloader validate#inferer validate#postprocessing "
    "validate#handlers validate#key_metric#val_mean_dice validate#additional_metrics validate#evaluator initialize run",
    "inference": "bundle_root output_dir dataset_dir device network_def network preprocessing dataset dataset#data dataloader "
    "inferer inferer#roi_size inferer#overlap postprocessing handlers evaluator evaluator#amp initialize run",
    "evaluate": "validate#postprocessing validate#handlers run",
    "multi_gpu_train": "device network train#sampler train#dataloader#sampler train#dataloader#shuffle "
    "train#handlers#3#_disabled_ validate#sampler validate#dataloader#sampler validate#handlers#2#_disabled_ initialize run "
    "finalize",
    "multi_gpu_evaluate": "device network validate#sampler validate#dataloader#sampler validate#handlers#1#_disabled_ "
    "initialize run finalize",
}
OWN_IDS = {
    ("brats_mri_segmentation", "train"): "data_list_file_path train_datalist val_datalist learning_rate amp "
    "train#preprocessing_transforms validate#additional_metrics#val_mean_dice_tc",
    ("brats_mri_segmentation", "inference"): "ckpt_dir data_list_file_path test_datalist amp",
    (
        "spleen_ct_segmentation",
        "train",
    ): "images labels train#deterministic_transforms validate#additional_metrics#val_accuracy",
    (
        "spleen_ct_segmentation",
        "inference",
    ): "output_ext output_dtype output_postfix separate_folder load_pretrain datalist image_key checkpointloader",
    ("spleen_ct_segmentation", "evaluate"): "validate#dataset#cache_rate",
}
SPATIAL = {"spatial_dims": 3, **NETWORK}
PATCH = [32, 32, 32]


def config(name: str, kind: str) -> dict[str, Any]:
    return json.loads((BUNDLES / name / "configs" / f"{kind}.json").read_text(encoding="utf-8"))


def find(values: Any, key: str) -> Any:
    """The entry of an id; override files hold whole ids as keys."""
    if key in values:
        return values[key]
    for part in key.split("#"):
        values = values[int(part) if isinstance(values, list) else part]
    return values


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SHARED_IDS)
def test_ids_are_the_zoos(name: str, kind: str) -> None:
    values = config(name, kind)
    for key in f"{SHARED_IDS[kind]} {OWN_IDS.get((name, kind), '')}".split():
        find(values, key)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_and_configs_say_the_same(name: str) -> None:
    metadata = config(name, "metadata")
    section, formats = metadata["medseg3d"], metadata["network_data_format"]
    task, inference, train = Task.from_dict(section["task"]), config(name, "inference"), config(name, "train")
    assert task.name == name
    assert len(formats["inputs"]["image"]["channel_def"]) == task.in_channels
    assert len(formats["outputs"]["pred"]["channel_def"]) == task.out_channels
    for values, inferer in ((inference, inference["inferer"]), (train, train["validate"]["inferer"])):
        sizes = {k: v for k, v in values["network_def"].items() if k != "_target_"}
        assert segformer(**sizes).config == build_network(section["network"]).config
        assert inferer["roi_size"] == section["inference"]["roi_size"]
        assert inferer["overlap"] == section["inference"]["overlap"]
    transforms = {t["_target_"]: t for t in inference["preprocessing"]["transforms"]}
    prepared = Preprocessing.from_dict(section["preprocessing"])
    assert transforms.get("Spacingd", {}).get("pixdim") == section["preprocessing"]["spacing_mm"]
    assert prepared == Preprocessing.from_task(task, prepared.statistics)
    if window := transforms.get("ScaleIntensityRanged"):
        (ct,) = prepared.statistics
        assert (ct["low"], ct["high"]) == (window["a_min"], window["a_max"])
        assert [(v - ct["mean"]) / ct["std"] for v in (-57, 164)] == [window["b_min"], window["b_max"]]


@pytest.mark.parametrize("name", NAMES)
def test_metadata_follows_monais_schema(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(reference("monai_meta_schema_20240725.json").read_text())
    jsonschema.validate(config(name, "metadata"), schema)
    assert {p.relative_to(BUNDLES / name).as_posix() for p in (BUNDLES / name).rglob("*") if p.is_file()} >= {
        *(f"configs/{kind}.json" for kind in (*SHARED_IDS, "metadata")),
        "docs/README.md",
        "LICENSE",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_network_takes_and_gives_what_metadata_says(name: str) -> None:
    folder = BUNDLES / name / "configs"
    for kind in ("train", "inference"):
        files = {"meta_file": str(folder / "metadata.json"), "config_file": str(folder / f"{kind}.json")}
        verify_net_in_out("network_def", device="cpu", **files)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_monai_itself_verifies_the_metadata(name: str) -> None:
    schema = reference("monai_meta_schema_20240725.json")
    files = ["--meta_file", str(BUNDLES / name / "configs" / "metadata.json"), "--filepath", str(schema)]
    command = [sys.executable, "-m", "monai.bundle", "verify_metadata", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def ball(seed: int, radii: tuple[float, ...], values: tuple[int, ...]) -> Volume:
    """Concentric balls as a label map of 1.5 x 1.5 x 2 mm whose axes run to P, S and L."""
    random = np.random.default_rng(seed)
    shape = (40, 24, 36)
    distance = (np.stack(np.indices(shape), -1) - np.array(shape) / 2 + random.uniform(-4, 4, 3)) * (1.5, 2, 1.5)
    labels = np.zeros(shape, np.uint8)
    for radius, value in zip(radii, values, strict=True):
        labels[np.linalg.norm(distance, axis=-1) < radius] = value
    affine = np.array([[0, 0, -1.5, 20], [-1.5, 0, 0, 30], [0, 2, 0, -10], [0, 0, 0, 1.0]])
    return Volume(labels[None], affine)


def scan(labels: Volume, grey: dict[int, float], seed: int) -> Volume:
    look = np.vectorize(grey.get)(labels.data).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 15, look.shape).astype(np.float32)
    return labels.with_data(np.where(look == 0, 0, look + noise).astype(np.float32))


def write_brats(folder: Path, count: int) -> Path:
    greys = {
        "t1ce": (40, 60, 50, 300),
        "t1": (200, 120, 160, 140),
        "t2": (90, 250, 200, 220),
        "flair": (80, 150, 300, 200),
    }
    for seed in range(count):
        labels = ball(seed, (21, 14, 10, 6), (9, 2, 1, 4))
        place = folder / f"BraTS18_{seed}"
        for channel, looks in greys.items():
            grey = dict(zip((0, 9, 1, 2, 4), (0, *looks), strict=True))
            write_volume(scan(labels, grey, seed), place / f"BraTS18_{seed}_{channel}.nii.gz")
        write_volume(labels.with_data(np.where(labels.data == 9, 0, labels.data)), place / f"BraTS18_{seed}_seg.nii.gz")
    return folder


def write_spleen(folder: Path, count: int) -> Path:
    for seed in range(count):
        labels = ball(seed, (18,), (1,))
        image = scan(labels, {0: 20, 1: 140}, seed)
        write_volume(image, folder / "imagesTr" / f"spleen_{seed}.nii.gz")
        write_volume(labels, folder / "labelsTr" / f"spleen_{seed}.nii.gz")
    shutil.copytree(folder / "imagesTr", folder / "imagesTs")
    return folder


def run(folder: Path, kinds: tuple[str, ...], data: Path, **changes: Any) -> ConfigWorkflow:
    """What ``monai.bundle run`` does, in this process."""
    workflow = ConfigWorkflow(
        [str(folder / "configs" / f"{kind}.json") for kind in kinds],
        workflow_type="train" if "train" in kinds else "infer",
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(data),
        device="cpu",
        **changes,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    return workflow


def agreement(folder: Path, scans: Path, output: Path, found: dict[str, Volume]) -> float:
    """Part of the foreground in which ``medseg3d predict`` gives the same labels as the bundle run by MONAI."""
    predict_folder(folder, scans, output, device="cpu", dense=True, precision="float32", progress=False)
    same = total = 0
    for name, labels in found.items():
        ours = read_volume(output / f"{name}.nii.gz", labels=True)
        np.testing.assert_allclose(ours.affine, labels.affine, atol=1e-3)
        inside = (ours.data > 0) | (labels.data > 0)
        same, total = same + (ours.data == labels.data)[inside].sum(), total + inside.sum()
    assert total > 100 * len(found)
    return same / total


def prepared(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, dict[str, Any]]:
    """A copy of the bundle, its data, and what must change for a small network and small scans."""
    folder = root / name
    shutil.copytree(BUNDLES / name, folder)
    brats = name.startswith("brats")
    data = (write_brats if brats else write_spleen)(root / "data", 6)
    metadata = config(name, "metadata")
    sizes = {k: metadata["medseg3d"]["network"][k] for k in ("in_channels", "out_channels")} | SPATIAL
    network = {"network_def": {"_target_": "medseg3d.SegFormer", **sizes}}
    # The folder is a model of medseg3d with the network it has now.
    metadata["medseg3d"]["network"] = {"name": "segformer", **sizes}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    if brats:
        script = folder / "scripts" / "prepare_datalist.py"
        monkeypatch.setattr(sys, "argv", [str(script), "--path", str(data)])
        runpy.run_path(str(script), run_name="__main__")
        changes: dict[str, Any] = {"train#random_transforms#0#roi_size": [32, 32, 16]}
    else:
        changes = {
            "train#random_transforms#0#spatial_size": [32, 32, 16],
            "val_cases": 2,
            "train#dataset#num_workers": None,
        }
    changes |= {f"{part}#dataloader#num_workers": 0 for part in ("train", "validate")}
    return folder, data, changes | network | {"validate#inferer#roi_size": PATCH}


def evaluated(folder: Path) -> dict[str, float]:
    """The mean scores that MONAI wrote."""
    with (folder / "eval" / "metrics.csv").open() as file:
        return {row[0]: float(row[1]) for row in csv.reader(file) if len(row) == 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_monai_trains_evaluates_and_predicts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data, changes = prepared(name, tmp_path, monkeypatch)
    network = {"network_def": changes["network_def"]}
    brats = name.startswith("brats")
    if brats:
        lists = json.loads((folder / "configs" / "datalist.json").read_text())
        assert [len(lists[part]) for part in ("training", "validation", "testing")] == [4, 1, 1]
        assert [Path(p).name.split("_")[-1].split(".")[0] for p in lists["training"][0]["image"]] == [
            *("t1ce", "t1", "t2", "flair")
        ]
    run(folder, ("train",), data, epochs=60, val_interval=60, learning_rate=5e-3, **changes)
    assert (folder / "models" / "model.pt").is_file()

    run(folder, ("train", "evaluate"), data, **changes)
    assert evaluated(folder)["val_mean_dice"] > 0.5

    out = tmp_path / "out"
    infer = {
        "dataloader#num_workers": 0,
        "inferer#roi_size": PATCH,
        "inferer#precision": "float32",
        "output_dir": str(out),
    }
    run(folder, ("inference",), data, **infer, **network)
    files = sorted(out.rglob("*.nii.gz"))
    if brats:
        test = Path(lists["testing"][0]["label"])
        assert [f.name for f in files] == [f"{test.parent.name}_t1ce_seg.nii.gz"]
        found = {test.parent.name: read_volume(files[0], labels=True)}
        assert set(np.unique(found[test.parent.name].data)) <= {0, 1, 2, 4}
        scans = tmp_path / "scans"
        shutil.copytree(data / test.parent, scans / test.parent.name, ignore=lambda *_: [test.name])
    else:
        assert [f.name for f in files] == [f"spleen_{i}_trans.nii.gz" for i in range(6)]
        found = {f.name.removesuffix("_trans.nii.gz"): read_volume(f, labels=True) for f in files}
        scans = data / "imagesTs"
    for case, labels in found.items():
        image = next(scans.rglob(f"{case}*.nii.gz"))
        np.testing.assert_allclose(labels.affine, read_volume(image).affine, atol=1e-3)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["medseg3d"]["inference"]["roi_size"] = PATCH
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    assert agreement(folder, scans, tmp_path / "ours", found) > 0.995
    if not brats:
        inference = config(name, "inference") | network
        inference["inferer"]["roi_size"] = PATCH
        (folder / "configs" / "inference.json").write_text(json.dumps(inference))
        result = predict_bundle(folder, scans, tmp_path / "trusted", trust=True, device="cpu")
        assert sorted(result.done) == sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_and_evaluate(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data, changes = prepared(name, tmp_path, monkeypatch)
    if (
        datalist := folder / "configs" / "datalist.json"
    ).exists():  # a case for each process, and MONAI asks for no less
        lists = json.loads(datalist.read_text())
        datalist.write_text(json.dumps({**lists, "validation": lists["validation"] + lists["testing"]}))

    def both(*kinds: str, **more: int) -> None:
        arguments = [str(folder), ",".join(kinds), str(data), json.dumps(changes | more)]
        done = torchrun("-m", "tests.test_zoo_bundles", *arguments)
        assert done.returncode == 0, done.stderr[-4000:]

    both("train", "multi_gpu_train", epochs=2, val_interval=2)
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert all(not key.startswith("module.") for key in state)
    assert len(list((folder / "eval").glob("events*"))) == 2, "one process writes the losses, and the scores"
    if name.startswith("brats"):  # the two bundles score alike
        return
    both("train", "evaluate", "multi_gpu_evaluate")
    found = evaluated(folder)
    with (folder / "eval" / "val_mean_dice_raw.csv").open() as file:
        assert len([row for row in csv.reader(file) if row]) == 1 + 2, "each process scored a case"
    run(folder, ("train", "evaluate"), data, **changes)
    assert found == pytest.approx(evaluated(folder), nan_ok=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), tuple(sys.argv[2].split(",")), Path(sys.argv[3]), **json.loads(sys.argv[4]))
