"""The other sides of benchmarks/training.py: MONAI's DynUNet as nnU-Net configures it, and the published SegFormer3D.

Both train in one plain loop, whose learning rate follows the part of the time that is gone; a piece that was stopped goes on with
the time it had left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from benchmarks.plain_segformer import PlainSegFormer
from medseg3d import write_volume
from medseg3d.io import Case, DataSet, read_image, read_label
from medseg3d.networks import segformer3d
from medseg3d.task import Task

SAVE_S = 60
"""The state is saved this often, and at the end."""


@dataclass(frozen=True)
class Side:
    """How one side trains.

    Args:
        patch_size, batch_size: of a step.
        build: makes the network.
        loss: of the logits (finest first, where there are several) and the labels ``(B, 1, *s)``.
        optimizer: of the parameters.
        factor: on the learning rate, of the part of the time that is gone.
        augment: transforms of ``{"image", "label"}`` after a crop that is larger by ``margin``.
        margin: factor.
        gradient_clip: largest norm.
        tta: average over all flips when predicting.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    build: Callable[[Task], nn.Module]
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    factor: Callable[[float], float]
    augment: Callable[[Sequence[int]], mt.Compose]
    margin: float
    gradient_clip: float
    tta: bool


def dynunet(task: Task, *, deep_supervision: bool = False) -> nn.Module:
    """MONAI's DynUNet with the topology that nnU-Net plans for a patch of this size.

    Source: Isensee et al., doi:10.1038/s41592-020-01008-z: an axis is halved while it keeps at least 4 voxels, at most five times;
    32 features, doubled at each stage up to 320; instance norm, leaky ReLU.
    """
    from monai.networks.nets import DynUNet

    sizes, dims = list(task.patch_size), len(task.patch_size)
    strides = [[1] * dims]
    while len(strides) <= 5 and max(sizes) >= 8:
        strides.append([2 if n >= 8 else 1 for n in sizes])
        sizes = [n // s for n, s in zip(sizes, strides[-1], strict=True)]
    return DynUNet(
        dims,
        task.in_channels,
        task.out_channels,
        [[3] * dims] * len(strides),
        strides,
        strides[1:],
        filters=[min(32 * 2**i, 320) for i in range(len(strides))],
        deep_supervision=deep_supervision,
        deep_supr_num=max(1, len(strides) - 2),
    )


def nnunet_augmentation(patch_size: Sequence[int]) -> mt.Compose:
    """nnU-Net's transforms and probabilities (its trainer's defaults), by MONAI's transforms of the same kinds."""
    both, dims = ["image", "label"], len(patch_size)
    return mt.Compose(
        [
            mt.RandAffined(
                both,
                prob=0.36,
                rotate_range=[np.pi / 6] * dims,
                scale_range=[(-0.3, 0.4)] * dims,
                spatial_size=patch_size,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            mt.CenterSpatialCropd(both, patch_size),
            mt.RandGaussianNoised("image", prob=0.1, std=0.316),
            mt.RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2),
            mt.RandScaleIntensityd("image", factors=0.25, prob=0.15),
            mt.RandScaleIntensityFixedMeand("image", factors=0.25, prob=0.15),
            mt.RandSimulateLowResolutiond("image", prob=0.25, zoom_range=(0.5, 1)),
            mt.RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            mt.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)),
        ]
    )


def published_augmentation(patch_size: Sequence[int]) -> mt.Compose:
    """That of the published SegFormer3D: flips, noise, contrast and brightness."""
    both = ["image", "label"]
    return mt.Compose(
        [
            *(mt.RandFlipd(both, prob=0.3, spatial_axis=axis) for axis in range(len(patch_size))),
            mt.RandAdjustContrastd("image", prob=0.15, gamma=(0.65, 1.5)),
            mt.RandGaussianNoised("image", prob=0.15, std=0.33),
            mt.RandScaleIntensityd("image", factors=0.3, prob=0.15),
        ]
    )


def supervised_loss() -> Callable[[Any, Tensor], Tensor]:
    """nnU-Net's Dice and cross entropy, at each output with half the weight of the finer one."""
    one = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        levels = outputs.unbind(1) if outputs.ndim == labels.ndim + 1 else [outputs]
        weights = [0.5**i for i in range(len(levels))]
        return sum(w * one(level.float(), labels) for w, level in zip(weights, levels, strict=True)) / sum(weights)

    return loss


SIDES = {
    "dynunet": Side(
        patch_size=(40, 56, 40),  # as nnU-Net 2.8.1 plans on these data, the batch too
        batch_size=7,
        build=lambda task: dynunet(
            Task.from_dict({**task.as_dict(), "patch_size": [40, 56, 40]}), deep_supervision=True
        ),
        loss=supervised_loss(),
        optimizer=lambda p: torch.optim.SGD(p, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
        factor=lambda gone: (1 - gone) ** 0.9,
        augment=nnunet_augmentation,
        margin=1.4,
        gradient_clip=12,
        tta=True,
    ),
    "segformer3d": Side(
        patch_size=(64, 64, 64),
        batch_size=2,
        build=lambda task: PlainSegFormer(segformer3d(task.in_channels, task.out_channels)),
        loss=DiceLoss(to_onehot_y=True, softmax=True),
        optimizer=lambda p: torch.optim.AdamW(p, 1e-4, weight_decay=0.01),
        factor=lambda gone: 0.5 * (1 + float(np.cos(np.pi * gone))),
        augment=published_augmentation,
        margin=1.0,
        gradient_clip=float("inf"),
        tta=False,
    ),
}


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
    larger = [int(np.ceil(n * side.margin)) for n in side.patch_size]
    pad = mt.SpatialPadd(["image", "label"], larger)
    crop = mt.RandSpatialCropd(["image", "label"], larger, random_size=False)
    crop.set_random_state(state=random)
    samples = []
    for number in random.randint(len(cases), size=side.batch_size):
        image, label = cases[number]
        samples.append(augment(crop(pad({"image": torch.from_numpy(image), "label": torch.from_numpy(label)}))))
    images, labels = (
        torch.stack([torch.as_tensor(s[key]).as_subclass(Tensor) for s in samples]) for key in ("image", "label")
    )
    return images, labels


def train_side(
    name: str,
    dataset: DataSet,
    cases: Sequence[Case],
    task: Task,
    folder: Path,
    *,
    seconds: float,
    seed: int,
    began: float,
    most_steps: int | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train one side for a wall clock that began at ``began`` (``time.monotonic``), or go on with what is left of it."""
    side = SIDES[name]
    torch.manual_seed(seed)
    network = side.build(task)
    optimizer = side.optimizer(network.parameters())
    rates = [group["lr"] for group in optimizer.param_groups]
    loaded, step, spent = load(dataset, cases, task), 0, 0.0
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
        loss = side.loss(network(images), labels)
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
def predict_side(name: str, network: nn.Module, cases: Sequence[Case], task: Task, out: Path) -> None:
    """Label maps of cases by sliding windows, on their own grids."""
    side = SIDES[name]
    dims = len(side.patch_size)
    flips = [[a + 2 for a in range(dims) if bits >> a & 1] for bits in range(2**dims if side.tta else 1)]
    for case in cases:
        volume = read_image(case, task)
        data = volume.data - volume.data.mean(axis=tuple(range(1, dims + 1)), keepdims=True)
        data /= data.std(axis=tuple(range(1, dims + 1)), keepdims=True) + 1e-8
        image = torch.from_numpy(data.astype(np.float32))[None]
        total = torch.zeros(1, task.out_channels, *image.shape[2:])
        for axes in flips:
            turned = image.flip(axes) if axes else image
            logits = sliding_window_inference(turned, side.patch_size, 4, network, overlap=0.5, mode="gaussian")
            shares = torch.softmax(torch.as_tensor(logits).float(), dim=1)
            total += shares.flip(axes) if axes else shares
        codes = total[0].argmax(0).numpy()
        values = np.array([0, *(task.write[label] for label in task.labels)], np.uint8)
        write_volume(volume.with_data(values[codes][None]), out / f"{case.name}.nii.gz")
