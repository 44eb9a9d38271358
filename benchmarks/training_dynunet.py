"""MONAI's DynUNet as nnU-Net configures it for each data set of benchmarks/training_plans.py.

Spacing, patch, batch, strides and kernels are those that nnU-Net 2.8.1 plans for these very data (``python -m
benchmarks.training_nnunet DATASET`` prints them); its normalisation, augmentation, loss, optimizer and foreground sampling. Unlike
there, volumes are resampled linearly, and their axes put into RAS order first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.training_loop import shares, train_side
from benchmarks.training_sides import Side, dynunet_side
from benchmarks.training_speed import count_parameters
from medseg3d import write_volume
from medseg3d.inference.results import output_files
from medseg3d.interpolation import interpolate
from medseg3d.io import Case, DataSet, read_image
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.training.dataset import prepare_case
from medseg3d.training.intensities import training_statistics

FOREGROUND = 1 / 3
"""Part of nnU-Net's batches that is drawn about foreground."""


@dataclass(frozen=True)
class Configuration:
    """What nnU-Net 2.8.1 plans for a data set; axes in RAS order, of pictures rows and columns.

    Args:
        patch_size, batch_size: of a step.
        spacing_mm: of the grid; None keeps each picture's own.
        strides: of each stage but the first, which has none.
        intensity: ``ct``; ``zscore`` over the voxels that are not 0; or ``image``, over all of them.
        bfloat16: autocast of the forward pass, which nnU-Net itself has on GPUs alone.

    Convolutions are 3 wide along every axis in all of them.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    spacing_mm: tuple[float, ...] | None
    strides: Sequence[tuple[int, ...]]
    intensity: str
    bfloat16: bool = False


CONFIGURATIONS: dict[str, Configuration] = {
    "nuclei": Configuration((256, 256), 8, None, [(2, 2)] * 6, "image"),
    "ct_organs": Configuration((128, 112, 14), 2, (3, 3, 3), [(2, 2, 2)] + [(2, 2, 1)] * 3, "ct"),
    "brats_sample": Configuration((48, 56, 48), 2, (3, 3, 3), [(2, 2, 2)] * 3, "zscore"),
    "brats_009": Configuration((112, 144, 28), 2, (1, 1, 1), [(2, 2, 2)] * 2 + [(2, 2, 1)] * 2, "image"),
}


def for_a_processor(chosen: Configuration) -> Configuration:
    """The same with nnU-Net's smallest batch and in bfloat16, for a processor and little time."""
    return replace(chosen, batch_size=2, bfloat16=True)


def train_dynunet(
    chosen: Configuration,
    dataset: DataSet,
    training: Sequence[Case],
    tested: Sequence[Case],
    task: Task,
    folder: Path,
    seconds: float,
    began: float,
    most_steps: int | None,
) -> dict[str, Any]:
    """Train DynUNet for what is left of the time, and predict the tested cases."""
    dims = task.spatial_dims
    intensity = "range" if chosen.intensity == "image" else chosen.intensity
    task = replace(task, patch_size=chosen.patch_size, spacing_mm=chosen.spacing_mm, intensity=intensity, crop=True)
    preprocessing = Preprocessing.from_task(task, training_statistics(dataset, training, task))
    side = dynunet_side(
        chosen.patch_size,
        chosen.batch_size,
        strides=[(1,) * dims, *chosen.strides],
        foreground=FOREGROUND,
    )
    side = replace(side, bfloat16=chosen.bfloat16)
    loaded = []
    for case in training:
        prepared = prepare_case(case, dataset, task, preprocessing)
        assert prepared.target is not None
        loaded.append((normalised(prepared.image.numpy(), chosen), prepared.target.numpy()))
    network, found = train_side(side, loaded, task, folder, seconds=seconds, seed=0, began=began, most_steps=most_steps)
    predict(chosen, side, network, preprocessing, tested, task, folder / "predictions")
    return {**found, "parameters": count_parameters(network)}


def normalised(image: Any, chosen: Configuration) -> Any:
    """An image ``(C, *spatial)`` with mean 0 and deviation 1 over all of it, where nnU-Net does so."""
    if chosen.intensity != "image":
        return image
    axes = tuple(range(1, image.ndim))
    return (image - image.mean(axes, keepdims=True)) / (image.std(axes, keepdims=True) + 1e-8)


def predict(
    chosen: Configuration,
    side: Side,
    network: nn.Module,
    preprocessing: Preprocessing,
    cases: Sequence[Case],
    task: Task,
    out: Path,
) -> None:
    """Label maps on the cases' own grids: probabilities are interpolated linearly, what was cropped is background."""
    values = np.array([0, *(task.write[label] for label in task.labels)], np.uint8)
    for case in cases:
        volume = read_image(case, task)
        grid = preprocessing.plan(volume)
        image = normalised(preprocessing.image(volume, grid), chosen)
        found = shares(side, network, torch.from_numpy(image))
        back = grid.axis_map.inverse().axes
        places = grid.network_coordinates()
        codes = interpolate(found.permute(0, *(1 + a for a in back)), places).argmax(0).numpy()
        for axis, place in enumerate(places):
            outside = (place < -0.5) | (place > grid.shape[back[axis]] - 0.5)
            codes[(slice(None),) * axis + (outside,)] = 0
        write_volume(volume.with_data(values[codes][None]), output_files(case, out)["labels"])
