"""A model directory without a training."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from medseg3d.bundle import write_metadata
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.training.checkpoint import save_weights


def write_model(folder: Path, task: Task, network: nn.Module, *, phantom: bool = False) -> Path:
    """The directory of a model as a training leaves it, around any network."""
    write_metadata(
        folder,
        task=task,
        network=network.config,
        preprocessing=Preprocessing.from_task(task),
        roi_size=task.patch_size,
        phantom=phantom,
    )
    save_weights(folder / "models", network.state_dict())
    return folder
