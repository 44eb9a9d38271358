"""The plain loop that trains the sides of benchmarks/training_sides.py, and their sliding windows.

The learning rate follows the part of the time that is gone; a piece that was stopped goes on with the time it had left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from benchmarks.training_sides import Side
from medseg3d import write_volume
from medseg3d.io import Case, DataSet, read_image, read_label
from medseg3d.task import Task

SAVE_S = 60
"""The state is saved this often, and at the end."""


def load(dataset: DataSet, cases: Sequence[Case], task: Task) -> list[tuple[np.ndarray, np.ndarray]]:
    """Normalised images (mean 0, deviation 1 over the whole scan, as nnU-Net does for MRI) and class numbers, in memory."""
    found = []
    for case in cases:
        image = read_image(case, task)
        label = read_label(case, dataset, task, image.grid)
        data = image.data - image.data.mean(axis=tuple(range(1, image.data.ndim)), keepdims=True)
        data /= data.std(axis=tuple(range(1, data.ndim)), keepdims=True) + 1e-8
        found.append((data.astype(np.float32), label.data))
    return found


def batch(
    cases: Sequence[tuple[np.ndarray, np.ndarray]], side: Side, augment: mt.Compose, random: np.random.RandomState
) -> Any:
    """One step's images and labels: random boxes, padded with zeros where a scan is smaller."""
    dims = len(side.patch_size)
    margins = side.margin if isinstance(side.margin, tuple) else (side.margin,) * dims
    larger = [int(np.ceil(n * m)) for n, m in zip(side.patch_size, margins, strict=True)]
    pad = mt.SpatialPadd(["image", "label"], larger)
    crop = mt.RandSpatialCropd(["image", "label"], larger, random_size=False)
    crop.set_random_state(state=random)
    samples = []
    for place, number in enumerate(random.randint(len(cases), size=side.batch_size)):
        image, label = cases[number]
        sample = pad({"image": torch.from_numpy(image), "label": torch.from_numpy(label)})
        if place >= round(side.batch_size * (1 - side.foreground)) and sample["label"].any():
            sample = foreground_crop(sample, larger, side.patch_size, random)
        samples.append(augment(crop(sample)))
    images, labels = (
        torch.stack([torch.as_tensor(s[key]).as_subclass(Tensor) for s in samples]) for key in ("image", "label")
    )
    return images, labels


def foreground_crop(
    sample: dict[str, Any], size: Sequence[int], patch_size: Sequence[int], random: np.random.RandomState
) -> dict[str, Any]:
    """A box of ``size`` whose middle holds a voxel of a label, the label drawn first, within ``patch_size`` about it."""
    label = np.asarray(sample["label"])[0]
    voxels = np.argwhere(label == random.choice([value for value in np.unique(label) if value]))
    voxel = voxels[random.randint(len(voxels))]
    start = []
    for at, n, p, whole in zip(voxel, size, patch_size, label.shape, strict=True):
        wanted = int(at) - (n - p) // 2 - random.randint(p)
        start.append(min(max(wanted, 0), whole - n))
    box = (slice(None), *(slice(s, s + n) for s, n in zip(start, size, strict=True)))
    return {key: value[box] for key, value in sample.items()}


def train_side(
    side: Side,
    loaded: Sequence[tuple[np.ndarray, np.ndarray]],
    task: Task,
    folder: Path,
    *,
    seconds: float,
    seed: int,
    began: float,
    most_steps: int | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train one side for a wall clock that began at ``began`` (``time.monotonic``), or go on with what is left of it.

    Args:
        side: how.
        loaded: of each case image and class numbers, ``(C, *spatial)`` and ``(1, *spatial)``.
        task: the channels and labels.
        folder: for the state.
        seconds: wall clock.
        seed: of weights and samples.
        began: when it started.
        most_steps: end after so many, to see that it works.
    """
    torch.manual_seed(seed)
    network = side.build(task)
    optimizer = side.optimizer(network.parameters())
    rates = [group["lr"] for group in optimizer.param_groups]
    step, spent = 0, 0.0
    state = folder / "state.pt"
    if state.exists():
        held = torch.load(state, weights_only=True)
        network.load_state_dict(held["network"])
        optimizer.load_state_dict(held["optimizer"])
        step, spent = held["step"], held["seconds"]
    random = np.random.RandomState(1000 * seed + step)
    augment = side.augment(side.patch_size)
    augment.set_random_state(seed=1000 * seed + step)
    saved = time.monotonic()

    def gone() -> float:
        return spent + time.monotonic() - began

    def save() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": gone(),
        }
        torch.save(values, state.with_suffix(".new"))
        state.with_suffix(".new").replace(state)

    network.train()
    while gone() < seconds and (most_steps is None or step < most_steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * side.factor(min(gone() / seconds, 1.0))
        images, labels = batch(loaded, side, augment, random)
        with torch.autocast("cpu", torch.bfloat16, enabled=side.bfloat16):
            outputs = network(images)
        loss = side.loss(outputs, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), side.gradient_clip)
        optimizer.step()
        step += 1
        if time.monotonic() - saved > SAVE_S:
            save()
            saved = time.monotonic()
    save()
    return network.eval(), {"steps": step, "seconds": round(gone(), 1)}


@torch.no_grad()
def shares(side: Side, network: nn.Module, image: Tensor) -> Tensor:
    """Probabilities ``(K, *spatial)`` (times the number of flips) of an image ``(C, *spatial)``, by sliding windows."""
    dims = len(side.patch_size)
    flips = [[a + 2 for a in range(dims) if bits >> a & 1] for bits in range(2**dims if side.tta else 1)]
    total = torch.zeros(())
    for axes in flips:
        turned = image[None].flip(axes) if axes else image[None]
        logits = sliding_window_inference(turned, side.patch_size, 4, network, overlap=0.5, mode="gaussian")
        found = torch.softmax(torch.as_tensor(logits).float(), dim=1)
        total = total + (found.flip(axes) if axes else found)
    return total[0]


def predict_side(side: Side, network: nn.Module, cases: Sequence[Case], task: Task, out: Path) -> None:
    """Label maps of cases on their own grids, which the network works on."""
    dims = len(side.patch_size)
    for case in cases:
        volume = read_image(case, task)
        data = volume.data - volume.data.mean(axis=tuple(range(1, dims + 1)), keepdims=True)
        data /= data.std(axis=tuple(range(1, dims + 1)), keepdims=True) + 1e-8
        codes = shares(side, network, torch.from_numpy(data.astype(np.float32))).argmax(0).numpy()
        values = np.array([0, *(task.write[label] for label in task.labels)], np.uint8)
        write_volume(volume.with_data(values[codes][None]), out / f"{case.name}.nii.gz")
