"""Whether the outline of a label lies on the edges of its image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARGIN = 3
"""Voxels around a label that count as its surroundings."""
LARGE = 2**24
"""Of images with more voxels than this, evenly spaced planes are looked at."""


def edge_ratio(image: NDArray[Any], labels: NDArray[Any], *, ignore: int | None = None) -> float:
    """The mean step between neighbouring voxels across a label's outline, in that elsewhere around the label.

    About 1 where the outline has nothing to do with the image, as a label of another patient has; above it on edges.

    Args:
        image: the mean over its channels counts; one of a single value does not.
        labels: values of a label map; 0 is background.
        ignore: value of voxels that nobody has judged.

    Shape: ``(C, *spatial)`` and ``(*spatial)`` to a number; NaN where there is no outline or no step.
    """
    inside = np.nonzero((labels != 0) & (labels != ignore) if ignore is not None else labels)
    if not len(inside[0]):
        return math.nan
    box = [slice(max(i.min() - MARGIN, 0), i.max() + MARGIN + 1) for i in inside]
    apart = -(-labels.size // LARGE)
    if apart > 1:
        box[-1] = slice(0, None, apart)
    axes = range(labels.ndim - (apart > 1))
    part = np.where(labels[tuple(box)] == ignore, 0, labels[tuple(box)]) if ignore is not None else labels[tuple(box)]
    ratios = []
    for channel in image:
        values = channel[tuple(box)].astype(np.float32)
        across = np.zeros(2)
        elsewhere = np.zeros(2)
        for axis in axes:
            steps = np.abs(np.diff(values, axis=axis))
            outline = part.take(range(1, part.shape[axis]), axis) != part.take(range(part.shape[axis] - 1), axis)
            count, total = int(outline.sum()), float(steps.sum(dtype=np.float64))
            here = float(steps[outline].sum(dtype=np.float64))
            across += here, count
            elsewhere += total - here, steps.size - count
        if across[1] and elsewhere[1] and elsewhere[0]:
            ratios.append(across[0] / across[1] / (elsewhere[0] / elsewhere[1]))
    return float(np.mean(ratios)) if ratios else math.nan
