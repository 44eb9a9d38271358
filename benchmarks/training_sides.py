"""The other sides of benchmarks/training.py: MONAI's DynUNet as nnU-Net configures it, and the published SegFormer3D.

benchmarks/training_loop.py trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from benchmarks.plain_segformer import PlainSegFormer
from medseg3d.networks import segformer3d
from medseg3d.task import Task


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
        margin: factor, of each axis or of all.
        gradient_clip: largest norm.
        tta: average over all flips when predicting.
        foreground: part of a batch whose crops hold a voxel of a label that is drawn first.
        bfloat16: autocast of the forward pass.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    build: Callable[[Task], nn.Module]
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    factor: Callable[[float], float]
    augment: Callable[[Sequence[int]], mt.Compose]
    margin: float | tuple[float, ...]
    gradient_clip: float
    tta: bool
    foreground: float = 0.0
    bfloat16: bool = False


def dynunet(
    task: Task,
    *,
    deep_supervision: bool = False,
    strides: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """MONAI's DynUNet with the topology that nnU-Net plans for a patch of this size.

    Source: Isensee et al., doi:10.1038/s41592-020-01008-z: an axis is halved while it keeps at least 4 voxels, at most five times;
    32 features, doubled at each stage up to 320 (2D: 512); instance norm, leaky ReLU. ``strides`` of each stage, where given, stand
    instead of that rule.
    """
    from monai.networks.nets import DynUNet

    dims = len(task.patch_size)
    sizes = list(task.patch_size)
    if strides is None:
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
        filters=[min(32 * 2**i, 320 if dims == 3 else 512) for i in range(len(strides))],
        deep_supervision=deep_supervision,
        deep_supr_num=max(1, len(strides) - 2),
    )


def nnunet_augmentation(patch_size: Sequence[int]) -> mt.Compose:
    """nnU-Net's transforms and probabilities (its trainer's defaults), by MONAI's transforms of the same kinds."""
    both, dims = ["image", "label"], len(patch_size)
    rotate: list[float] = [np.pi / 6] * dims
    scale: list[tuple[float, float]] = [(-0.3, 0.4)] * dims
    if dims == 2:
        rotate = [np.pi if max(patch_size) <= 1.5 * min(patch_size) else np.pi / 12]
    elif flat_axis(patch_size) is not None:  # turned and scaled within slices alone
        rotate = [np.pi if a == flat_axis(patch_size) else 0.0 for a in range(dims)]
        scale = [(0.0, 0.0) if a == flat_axis(patch_size) else (-0.3, 0.4) for a in range(dims)]
    return mt.Compose(
        [
            mt.RandAffined(
                both,
                prob=0.36,
                rotate_range=rotate,
                scale_range=scale,
                spatial_size=patch_size,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            mt.CenterSpatialCropd(both, patch_size),
            mt.RandGaussianNoised("image", prob=0.1, std=0.316),
            mt.RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2),
            mt.RandScaleIntensityd("image", factors=0.25, prob=0.15),
            mt.RandScaleIntensityFixedMeand("image", factors=0.25, prob=0.15),
            mt.RandSimulateLowResolutiond(
                "image", prob=0.25, zoom_range=(0.5, 1), upsample_mode="trilinear" if dims == 3 else "bilinear"
            ),
            mt.RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            mt.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)),
        ]
    )


def flat_axis(patch_size: Sequence[int]) -> int | None:
    """The axis of a volume along which the patch is less than a third of its largest side, so that nnU-Net augments slices."""
    shortest = min(range(len(patch_size)), key=patch_size.__getitem__)
    return shortest if len(patch_size) == 3 and max(patch_size) > 3 * patch_size[shortest] else None


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


def supervised_loss(*, batch: bool) -> Callable[[Any, Tensor], Tensor]:
    """nnU-Net's Dice and cross entropy, at each output with half the weight of the finer one.

    Args:
        batch: Dice of all samples together, as nnU-Net takes it in 2D, instead of each.
    """
    one = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=batch)

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        levels = outputs.unbind(1) if outputs.ndim == labels.ndim + 1 else [outputs]
        weights = [0.5**i for i in range(len(levels))]
        return sum(w * one(level.float(), labels) for w, level in zip(weights, levels, strict=True)) / sum(weights)

    return loss


def dynunet_side(
    patch_size: tuple[int, ...],
    batch_size: int,
    *,
    strides: Sequence[Sequence[int]] | None = None,
    foreground: float = 0.0,
) -> Side:
    """DynUNet as nnU-Net trains: its loss, optimizer, schedule and augmentation."""

    def build(task: Task) -> nn.Module:
        shaped = replace(task, patch_size=patch_size)
        return dynunet(shaped, deep_supervision=True, strides=strides)

    flat = flat_axis(patch_size)
    return Side(
        patch_size=patch_size,
        batch_size=batch_size,
        build=build,
        loss=supervised_loss(batch=len(patch_size) == 2),
        optimizer=lambda p: torch.optim.SGD(p, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
        factor=lambda gone: (1 - gone) ** 0.9,
        augment=nnunet_augmentation,
        margin=tuple(1.0 if axis == flat else 1.4 for axis in range(len(patch_size))),
        gradient_clip=12,
        tta=True,
        foreground=foreground,
    )


SIDES = {
    "dynunet": dynunet_side((40, 56, 40), 7),  # as nnU-Net 2.8.1 plans on the hippocampus data, the batch too
    # The same made for a processor and little time: nnU-Net's smallest batch, and bfloat16, which nnU-Net itself has on GPUs alone.
    "dynunet_bf16": replace(dynunet_side((40, 56, 40), 2), bfloat16=True),
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
