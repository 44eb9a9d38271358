"""nnU-Net itself as a side of benchmarks/training.py: its own planning, preprocessing, augmentation, network, steps and inference.

    python -m benchmarks.training_nnunet DATASET     what nnU-Net plans for a data set of benchmarks/training_data.py

Needs ``pip install nnunetv2==2.8.1`` (no dependency of medseg3d). Of its trainer the step is used, not the loop over epochs, which
knows no wall clock: the learning rate falls by nnU-Net's polynomial over the part of the time that is gone. Its validation within
training is left out, in its favour, since it costs time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medseg3d import write_volume
from medseg3d.io import DataSet, read_image, read_label
from medseg3d.io.images import PICTURE_SUFFIXES, image_suffix
from medseg3d.task import Task
from medseg3d.training.dataset import encode_labels

NUMBER = 4
NAME = f"Dataset{NUMBER:03}_Benchmark"
CONFIGURATION = "3d_fullres"
SAVE_S = 60


def train_nnunet(
    dataset: DataSet,
    names: Mapping[str, Sequence[str]],
    task: Task,
    folder: Path,
    out: Path,
    *,
    seconds: float,
    seed: int,
    began: float,
    most_steps: int | None = None,
) -> tuple[dict[str, Any], Path]:
    """Train for a wall clock that began at ``began`` (or go on with what is left of it), and predict the validation cases."""
    _set_places(folder)  # which it reads when it is imported
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    raw, prepared = folder / "raw" / NAME, folder / "preprocessed" / NAME
    if not (prepared / "splits_final.json").exists():
        _write_raw(dataset, task, raw)
        planning.extract_fingerprints([NUMBER], num_processes=2, show_progress_bar=False)
        planning.plan_experiments([NUMBER])
        planning.preprocess([NUMBER], configurations=(CONFIGURATION,), num_processes=(2,), show_progress_bar=False)
        split = [{"train": list(names["training"]), "val": list(names["validation"])}]
        (prepared / "splits_final.json").write_text(json.dumps(split))
    np.random.seed(seed)  # noqa: NPY002  (what nnU-Net draws from)
    torch.manual_seed(seed)
    plans = {**json.loads((prepared / "nnUNetPlans.json").read_text()), "continue_training": False}
    about = json.loads((raw / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, about, device=torch.device("cpu"))
    trainer.initialize()
    state, notes = folder / "state.pth", folder / "state.json"
    held = {"steps": 0, "seconds": 0.0}
    if notes.exists():
        held = json.loads(notes.read_text())
        trainer.load_checkpoint(str(state))
    trainer.on_train_start()
    step, saved = int(held["steps"]), time.monotonic()

    def gone() -> float:
        return float(held["seconds"]) + time.monotonic() - began

    def save() -> None:
        trainer.save_checkpoint(str(state.with_suffix(".new")))
        state.with_suffix(".new").replace(state)
        notes.write_text(json.dumps({"steps": step, "seconds": gone()}))

    trainer.network.train()
    while gone() < seconds and (most_steps is None or step < most_steps):
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - min(gone() / seconds, 1.0)) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        step += 1
        if time.monotonic() - saved > SAVE_S:
            save()
            saved = time.monotonic()
    save()
    found = {
        "steps": step,
        "seconds": round(gone(), 1),
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network.eval(),
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        about,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    out.mkdir(parents=True, exist_ok=True)
    scans = [[str(raw / "imagesTr" / f"{name}_0000.nii.gz")] for name in names["validation"]]
    predictor.predict_from_files_sequential(scans, [str(out / name) for name in names["validation"]])
    trainer.on_train_end()
    return found, state


def plan_nnunet(dataset: DataSet, task: Task, folder: Path) -> dict[str, Any]:
    """What nnU-Net chooses for a data set: its 3D configuration at full resolution, for pictures its 2D one.

    Axes are nnU-Net's: of a NIfTI file z, y, x; of a picture rows, columns.
    """
    _set_places(folder)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning

    _write_raw(dataset, task, folder / "raw" / NAME)
    planning.extract_fingerprints([NUMBER], num_processes=2, show_progress_bar=False)
    planning.plan_experiments([NUMBER])
    plans = json.loads((folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    chosen = plans["configurations"][CONFIGURATION if task.spatial_dims == 3 else "2d"]
    network = chosen["architecture"]["arch_kwargs"]
    return {
        **{key: chosen[key] for key in ("patch_size", "batch_size", "spacing")},
        **{key: chosen[key] for key in ("normalization_schemes", "use_mask_for_norm")},
        **{key: network[key] for key in ("strides", "kernel_sizes", "features_per_stage")},
        "transpose_forward": plans["transpose_forward"],
    }


def _set_places(folder: Path) -> None:
    """Where nnU-Net keeps things, and how many processes it takes."""
    if find_spec("nnunetv2") is None:
        raise SystemExit(
            "nnU-Net is absent, and its side is left out; pip install nnunetv2==2.8.1, or name its folder in PYTHONPATH"
        )
    places = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    for variable, name in places.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder / name)
    os.environ.update({"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "nnUNet_def_n_proc": "2"})


def _write_raw(dataset: DataSet, task: Task, raw: Path) -> None:
    """The data set in nnU-Net's layout; scans of one file per channel as they are, labels as the numbers of the task's."""
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    pictures = image_suffix(dataset.cases[0].images[0].path) in PICTURE_SUFFIXES
    ending = ".png" if pictures else ".nii.gz"
    for case in dataset.cases:
        files = [raw / "imagesTr" / f"{case.name}_{i:04}{ending}" for i in range(task.in_channels)]
        if pictures:
            Image.open(case.images[0].path).convert("RGB").save(files[0])  # all colours in one file, as it wants them
        elif len({file.path for file in case.images}) == len(files):
            for file, place in zip(case.images, files, strict=True):
                shutil.copyfile(file.path, place)
        else:
            image = read_image(case, task)
            for channel, place in zip(image.data, files, strict=True):
                write_volume(image.with_data(channel[None]), place)
        label = read_label(case, dataset, task, None)
        write_volume(label.with_data(encode_labels(label.data, task)), raw / "labelsTr" / f"{case.name}{ending}")
    about = {
        "channel_names": {str(i): name for i, name in enumerate(task.channels)},
        "labels": {"background": 0, **{name: i for i, name in enumerate(task.labels, start=1)}},
        "numTraining": len(dataset.cases),
        "file_ending": ending,
    }
    (raw / "dataset.json").write_text(json.dumps(about))


def main() -> None:
    from benchmarks.training_data import DATASETS, find_dataset

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _, dataset, task, _ = find_dataset(options.dataset, Path(folder, "data"))
        print(json.dumps(plan_nnunet(dataset, task, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
