"""Windows that hold nothing but air, or the zeros around a stripped head: they are not computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task

if TYPE_CHECKING:
    from medseg3d.inference.windows import WindowPlan

Corner = tuple[int, ...]
SURELY_NOT = -10.0
"""Logit of a label where no window was computed."""


@dataclass(frozen=True)
class EmptyWindows:
    """Windows that hold nothing and are not computed.

    Args:
        corners: of these windows.
        logits: what is written where no window was computed.
    """

    corners: frozenset[Corner] = frozenset()
    logits: tuple[float, ...] = ()

    @classmethod
    def find(
        cls, plan: WindowPlan, image: Tensor, background: Sequence[float], logits: Sequence[float]
    ) -> EmptyWindows:
        """A window is empty where every voxel of every channel is its background value, or lies beyond the image.

        Args:
            plan: the windows.
            image: ``(C, *plan.shape)``, of the type that the network takes; the background is rounded to it, too.
            background: what air (or the surroundings of a stripped head) is after preprocessing, for each channel.
            logits: of nothing.
        """
        value = torch.tensor(background, device=image.device, dtype=image.dtype).view(-1, *[1] * len(plan.shape))
        sparse = (slice(None), *[slice(None, None, 8)] * len(plan.shape))

        def empty(corner: Corner) -> bool:
            window = image[(slice(None), *(slice(c, c + r) for c, r in zip(corner, plan.roi, strict=True)))]
            # Most windows hold something almost everywhere: a few of their voxels say so.
            return not bool((window[sparse] != value).any()) and not bool((window != value).any())

        found = (c for start in plan.starts[plan.axis] for c in plan.corners(start) if empty(c))
        return cls(frozenset(found), tuple(logits))


def empty_windows(
    plan: WindowPlan, image: Tensor, task: Task, preprocessing: Preprocessing, times: int
) -> EmptyWindows:
    """The windows of an image that are not computed, and a task's logits of nothing.

    Args:
        plan: the windows.
        image: ``(C, *plan.shape)``, as the networks take it.
        task, preprocessing: of the networks.
        times: how often the logits follow one another along the channels.
    """
    logits = [SURELY_NOT] * task.out_channels
    logits[0] *= 1 if task.regions else -1
    return EmptyWindows.find(plan, image, background_of(preprocessing, task.in_channels), logits * times)


def background_of(preprocessing: Preprocessing, channels: int) -> list[float]:
    """What becomes of air, or of the zeros around a stripped head, in each channel: the least value, or 0."""
    if preprocessing.intensity != "ct" or preprocessing.statistics is None:
        return [0.0] * channels
    # As for a voxel, step by step, so that rounding is the same.
    return [
        float(torch.tensor(values["low"]).sub_(values["mean"]).div_(values["std"] or 1.0))
        for values in preprocessing.statistics
    ]
