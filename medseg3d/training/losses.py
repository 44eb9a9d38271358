"""What training minimises. Every loss is the mean over samples of a loss of each sample alone.

So a batch split over processes, or a gradient summed over smaller batches, minimises the same thing (DESIGN.md, decision 7).
"""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.task import Task
from medseg3d.training.cache import IGNORED

LOSSES = ("auto", "dice_ce", "dice", "cross_entropy")
"""dice_ce: soft Dice plus cross entropy. dice: soft Dice alone, as the published SegFormer3D. cross_entropy: classification."""


def region_table(task: Task) -> Tensor:
    """Which regions each label value lies in, ``(rows, regions)``: row 0 is background, row ``i + 1`` is ``task.values[i]``."""
    inside = [[value in ids for ids in task.labels.values()] for value in (None, *task.values)]
    return torch.tensor(inside, dtype=torch.float32)


def in_regions(table: Tensor, codes: Tensor) -> Tensor:
    """Which regions each voxel lies in, ``(B, *s)`` to ``(B, regions, *s)``, region by region in memory, as logits lie.

    Args:
        table: ``region_table``.
        codes: its rows.
    """
    return table.T[:, codes].movedim(0, 1)


class RegionLoss(nn.Module):
    """Soft Dice and binary cross entropy of overlapping regions, each with a sigmoid of its own.

    MONAI's ``DiceCELoss`` takes several channels for exclusive classes even with ``sigmoid=True`` (its cross entropy is a
    softmax over them), so the two parts stand here.

    Args:
        task: names the regions.
        ce_weight: weight of the cross entropy; 0 leaves Dice alone.

    Shape: logits ``(B, regions, *s)``, target ``(B, 1, *s)`` as rows of ``region_table``.
    """

    table: Tensor

    def __init__(self, task: Task, *, ce_weight: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("table", region_table(task), persistent=False)
        self.ce_weight = ce_weight
        self.dice = DiceLoss(sigmoid=True)
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        regions = in_regions(self.table, target[:, 0].long())
        loss: Tensor = self.dice(logits, regions)
        return loss + self.ce_weight * self.cross_entropy(logits, regions) if self.ce_weight else loss


class JudgedLoss(nn.Module):
    """Soft Dice and cross entropy of the voxels that somebody has judged; the others, ``IGNORED``, count for nothing.

    Args:
        task: says whether its labels are classes (softmax) or regions (sigmoid).
        ce_weight: weight of the cross entropy; 0 leaves Dice alone.

    Shape: logits ``(B, K, *s)``, target ``(B, 1, *s)``.
    """

    table: Tensor

    def __init__(self, task: Task, *, ce_weight: float = 1.0) -> None:
        super().__init__()
        self.overlapping = task.regions
        self.register_buffer("table", region_table(task), persistent=False)
        self.ce_weight = ce_weight
        self.dice = DiceLoss(include_background=task.regions)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        judged = target != IGNORED
        codes = torch.where(judged, target, 0)[:, 0].long()
        if self.overlapping:
            wanted = in_regions(self.table, codes)
            shares = torch.sigmoid(logits)
            entropy = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
        else:
            wanted = nn.functional.one_hot(codes, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
            shares = torch.softmax(logits, dim=1)
            entropy = nn.functional.cross_entropy(logits, codes, reduction="none")
        loss: Tensor = self.dice(shares * judged, wanted * judged)
        if not self.ce_weight:
            return loss
        # Each sample's own mean, so that a batch may be split in any way.
        counted = judged[:, 0].flatten(1)
        means = (entropy.flatten(1) * counted).sum(1) / counted.sum(1).clamp_min(1)
        return loss + self.ce_weight * means.mean()


def build_loss(name: str, task: Task) -> nn.Module:
    """The loss for a task.

    Args:
        name: one of ``LOSSES``; ``auto`` is dice_ce for segmentation and cross_entropy for classification.
        task: says whether its labels are classes (softmax) or regions (sigmoid).

    Raises:
        ConfigError: for a name that does not exist or does not fit the task.
    """
    if name not in LOSSES:
        raise ConfigError(f"loss {name!r} is none of {', '.join(LOSSES)}")
    fitting = ("auto", "cross_entropy") if task.kind == "classification" else ("auto", "dice_ce", "dice")
    if name not in fitting:
        raise ConfigError(f"loss {name!r} does not fit {task.kind}; use {' or '.join(fitting)}")
    if task.kind == "classification":
        return nn.CrossEntropyLoss()
    ce_weight = 0.0 if name == "dice" else 1.0
    if task.ignore is not None:
        return JudgedLoss(task, ce_weight=ce_weight)
    if task.regions:
        return RegionLoss(task, ce_weight=ce_weight)
    return DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, lambda_ce=ce_weight)
