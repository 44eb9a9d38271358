"""A task, data and a network small enough to train within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.io import write_volume
from medseg3d.task import Task
from medseg3d.volume import Volume

NETWORK = {"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "heads": [1, 2, 5, 8], "decoder_width": 16}
SETTINGS: dict[str, Any] = {
    "network": NETWORK,
    "steps_per_epoch": 4,
    "validation_interval": 2,
    "warmup_epochs": 1,
    "precision": "float32",
    "device": "cpu",
}


def ball_task(**changes: Any) -> Task:
    """A bright core in a grey ball."""
    values: dict[str, Any] = {
        "name": "ball",
        "channels": {"MRI": ["MR"]},
        "labels": {"shell": [1], "core": [2]},
        "patch_size": [16, 16, 16],
        "spacing_mm": [1.0, 1.0, 1.0],
    }
    return Task.from_dict(values | changes)


def ball(seed: int, shape: tuple[int, int, int] = (22, 20, 18)) -> tuple[Volume, Volume]:
    """Image (1, *shape) and label of one ball at a random place."""
    random = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + random.uniform(-2, 2, 3)
    distance = np.linalg.norm(np.stack(np.indices(shape), -1) - centre, axis=-1)
    label = (distance < 7).astype(np.uint8) + (distance < 3.5)
    image = np.array([100, 200, 300], np.float32)[label] + random.normal(0, 20, shape).astype(np.float32)
    return Volume(image[None].astype(np.float32), np.eye(4)), Volume(label[None].astype(np.uint8), np.eye(4))


def write_balls(folder: Path, count: int = 5) -> Path:
    """``images/`` and ``labels/`` of some balls."""
    for seed in range(count):
        image, label = ball(seed)
        write_volume(image, folder / "images" / f"ball_{seed}.nii.gz")
        write_volume(label, folder / "labels" / f"ball_{seed}.nii.gz")
    return folder
