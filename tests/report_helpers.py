"""An evaluation and a run directory to report on, made in a moment and without a network."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from medseg3d.evaluation import evaluate
from medseg3d.io import write_volume
from medseg3d.metrics import LesionRule
from medseg3d.task import Task
from medseg3d.volume import Volume

CANARY = "Canary-Patient-Name"
SPACING = (1.0, 1.5, 4.0)
SHAPE = (20, 24, 8)
LABELS = {"organ": [1, 2], "tumour": [2]}
TASK = {
    "name": "toy",
    "channels": {"CT": [], "late": []},
    "labels": LABELS,
    "patch_size": [16, 16, 8],
    "write": {"organ": 1, "tumour": 2},
}
AFFINE = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
"""LPS order, so that a report must turn the pictures."""


def make_data(
    root: Path, *, names: Mapping[str, str] | None = None, shape: tuple[int, ...] = SHAPE, noise: bool = False
) -> dict[str, Path]:
    """Three cases: ``same`` (a perfect prediction), ``shifted`` by two voxels, ``missed`` without the tumour."""
    folders = {"data": root / "data", "prediction": root / "prediction", "task": root / "toy.yaml"}
    for folder in (folders["data"] / "imagesTr", folders["data"] / "labelsTr", folders["prediction"]):
        folder.mkdir(parents=True)
    folders["task"].write_text(yaml.safe_dump(TASK), encoding="utf-8")
    described = {
        "channel_names": {"0": "CT", "1": "late"},
        "labels": {"background": 0, "organ": [1, 2], "tumour": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folders["data"] / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    rng = np.random.default_rng(0)
    x, y, z = (np.arange(n) for n in shape)
    for kind in ("same", "shifted", "missed"):
        name = (names or {}).get(kind, kind)
        label = np.zeros(shape, np.uint8)
        label[
            np.ix_((x > shape[0] * 0.2) & (x < shape[0] * 0.7), (y > 5) & (y < shape[1] * 0.8), (z > 1) & (z < 6))
        ] = 1
        label[7:11, 8:13, 3:5] = 2
        for channel in (0, 1):
            image = rng.normal(0, 200 if noise else 20, shape) + 100 * label + 50 * channel
            write_volume(
                Volume(image.astype(np.int16)[None], AFFINE),
                folders["data"] / "imagesTr" / f"{name}_000{channel}.nii.gz",
            )
            _sign(folders["data"] / "imagesTr" / f"{name}_000{channel}.nii.gz")
        predicted = label.copy()
        if kind == "shifted":
            predicted = np.roll(label, 2, 0)
        elif kind == "missed":
            predicted[label == 2] = 1
        write_volume(Volume(label[None], AFFINE), folders["data"] / "labelsTr" / f"{name}.nii.gz")
        write_volume(Volume(predicted[None], AFFINE), folders["prediction"] / f"{name}.nii.gz")
    return folders


def _sign(path: Path) -> None:
    """Write a name into the free text of a NIfTI header (descrip and db_name)."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[148 : 148 + len(CANARY)] = CANARY.encode()
    raw[14:32] = CANARY.encode()[:18]
    path.write_bytes(gzip.compress(bytes(raw)))


def make_evaluation(root: Path, *, lesions: LesionRule | None = None, **options: object) -> dict[str, Path]:
    """As ``make_data``, with the output of an evaluation under ``scores``."""
    folders = make_data(root, **options)  # type: ignore[arg-type]
    folders["scores"] = root / "scores"
    places = (folders["data"] / "labelsTr", folders["prediction"], Task.from_dict(TASK))
    evaluate(*places, output=folders["scores"], lesions=lesions)
    return folders


def make_run(root: Path) -> Path:
    """A run directory as ``medseg3d train`` leaves it, as far as a report reads it."""
    folders = make_data(root)
    run = root / "run"
    (run / "configs").mkdir(parents=True)
    folders["prediction"].rename(run / "validation")
    evaluate(folders["data"] / "labelsTr", run / "validation", Task.from_dict(TASK), output=run / "validation")
    task = Task.from_dict(TASK).as_dict()
    known = {"task": task, "network": {"name": "segformer", "spatial_dims": 3}, "phantom": True}
    (run / "configs" / "metadata.json").write_text(json.dumps({"medseg3d": known}), encoding="utf-8")
    settings = {"epochs": 3, "learning_rate": 0.001, "patch_size": [16, 16, 8], "dataset_dir": str(folders["data"])}
    (run / "configs" / "train.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    cases = [
        {
            "name": name,
            "images": [[f"imagesTr/{name}_0000.nii.gz", None], [f"imagesTr/{name}_0001.nii.gz", None]],
            "label": f"labelsTr/{name}.nii.gz",
            "class_index": None,
        }
        for name in ("missed", "same", "shifted")
    ]
    data = {"layout": "nnU-Net", "channel_names": {"CT": "0", "late": "1"}, "label_values": {"1": 1, "2": 2}}
    parts = {**data, "training": cases[:1], "validation": cases}
    (run / "configs" / "data.json").write_text(json.dumps(parts), encoding="utf-8")
    (run / "metrics.csv").write_text(
        "epoch,step,loss,learning_rate,seconds,skipped_steps,dice_organ,dice_tumour,score\n"
        "1,10,1.5,0.001,60,0,,,\n2,20,0.9,0.0007,60,0,0.5,0.3,0.4\n3,30,0.6,0.0001,65,0,0.8,0.6,0.7\n",
        encoding="utf-8",
    )
    return run
