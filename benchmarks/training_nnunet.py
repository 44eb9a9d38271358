"""nnU-Net itself as a side of benchmarks/training.py: its own planning, preprocessing, augmentation, network, steps and inference.

Needs ``pip install nnunetv2==2.8.1`` (no dependency of medseg3d). Of its trainer the step is used, not the loop over epochs, which
knows no wall clock: the learning rate falls by nnU-Net's polynomial over the part of the time that is gone. Its validation within
training is left out, in its favour, since it costs time.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg3d.io import DataSet
from medseg3d.task import Task

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
    places = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    for variable, name in places.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder / name)
    os.environ.update({"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "nnUNet_def_n_proc": "2"})
    # It reads those when it is imported.
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


def _write_raw(dataset: DataSet, task: Task, raw: Path) -> None:
    """The data set in nnU-Net's layout; the files themselves as they are."""
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    for case in dataset.cases:
        assert case.label is not None
        shutil.copyfile(case.images[0].path, raw / "imagesTr" / f"{case.name}_0000.nii.gz")
        shutil.copyfile(case.label, raw / "labelsTr" / f"{case.name}.nii.gz")
    about = {
        "channel_names": {"0": next(iter(task.channels))},
        "labels": {"background": 0, **{name: task.write[name] for name in task.labels}},
        "numTraining": len(dataset.cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
