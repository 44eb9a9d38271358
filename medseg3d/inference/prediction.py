"""What is known of a volume after prediction, and the arrays it grows in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.inference.decode import (
    SourceSlab,
    interpolated,
    label_array,
    paint_labels,
    paint_probabilities,
    probability_array,
)
from medseg3d.inference.memory import MemoryEstimate
from medseg3d.preprocessing import NetworkGrid
from medseg3d.task import Task
from medseg3d.volume import Volume


@dataclass(frozen=True)
class Prediction:
    """What is known of a volume after prediction.

    Args:
        labels: ``(1, *spatial)`` on the volume's grid, with its header fields.
        probabilities: ``(K, *spatial)``, where they were asked for.
        uncertainty: ``(1, *spatial)``, 0 where all members agree to 1 where they are sure and split; where asked for.
        label_dice: Dice to expect of each label that was found, as the model itself judges.
        raw_dice: their mean; None where nothing was found.
        expected_dice: the same, calibrated on validation cases; None without a calibration for this kind of prediction.
        compared: how many members (models times flips) ``raw_dice`` comes from; 1: from the probabilities of their mean.
        seconds: spent in ``network`` (and the way to its grid) and ``decode``.
        mode: ``windows`` or ``whole``.
        windows, skipped: windows of the plan, and those of them that held nothing.
        memory: what was estimated before the work.
        volume_ratios: with uncertainty, for each label that was found the volume of each member in that of their mean.
    """

    labels: Volume
    probabilities: Volume | None
    uncertainty: Volume | None
    label_dice: dict[str, float]
    raw_dice: float | None
    expected_dice: float | None
    compared: int
    seconds: Mapping[str, float]
    mode: str
    windows: int
    skipped: int
    memory: MemoryEstimate
    volume_ratios: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass
class Results:
    """Arrays of the scan's size that slabs are painted into.

    Args:
        labels: values of the task, ``(*spatial)``.
        probabilities: ``(K, *spatial)``, or None where they are not wanted.
        uncertainty: ``(*spatial)``, or None.
    """

    labels: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    uncertainty: NDArray[np.float32] | None

    @classmethod
    def empty(
        cls, grid: NetworkGrid, task: Task, probabilities: bool | NDArray[np.float32], uncertainty: bool
    ) -> Results:
        """Background everywhere; ``probabilities`` may be the array to write them into."""
        shares = None
        if probabilities is not False:
            shares = probability_array(grid, task, None if probabilities is True else probabilities)
        return cls(label_array(grid, task), shares, np.zeros(grid.source.shape, np.float32) if uncertainty else None)

    def paint(self, slab: SourceSlab, task: Task) -> None:
        """Write what the logits of a slab mean; uncertainty is the channel after them."""
        paint_labels(self.labels, slab, task)
        if self.probabilities is not None:
            paint_probabilities(self.probabilities, slab, task)
        if self.uncertainty is not None:
            for place, values in interpolated(slab, slice(task.out_channels, None)):
                self.uncertainty[place] = values[0].cpu().numpy()
