"""What is done to the values of a channel before the network sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg3d.checks import ConfigError
from medseg3d.volume import Volume

STATISTICS = ("low", "high", "mean", "std")
"""What ``ct`` clips at, then scales by."""
VOXELS_PER_CASE = 100_000
"""How many labelled voxels of each case enter the statistics of ``ct``."""
SUMMED_AT_ONCE = 100_000
FULL_SCALES = (1.0, 255.0, 65535.0)


def normalise(
    data: Tensor,
    intensity: str,
    *,
    statistics: Mapping[str, float] | None,
    scale: float,
    slice_axis: int | None,
) -> None:
    """Scale one channel, in place.

    Args:
        data: float32 ``(*spatial)``.
        intensity: one of ``medseg3d.task_rules.INTENSITIES``.
        statistics: of the channel, for ``ct``: a mapping with the keys ``STATISTICS``.
        scale: for ``range``: the volume's ``full_scale``.
        slice_axis: for ``minmax_slices``; None takes all as one slice.
    """
    if intensity == "zscore":
        _zscore(data)
    elif intensity == "ct" and statistics is not None:
        data.clamp_(statistics["low"], statistics["high"]).sub_(statistics["mean"]).div_(statistics["std"] or 1.0)
    elif intensity == "range":
        data.div_(scale)
    else:
        _minmax_slices(data, slice_axis)


def ct_statistics(cases: Iterable[tuple[Volume, Volume]]) -> tuple[dict[str, float], ...]:
    """What ``ct`` clips and scales by: percentiles, mean and deviation of the labelled voxels of a training set.

    Args:
        cases: ``(image, label)`` volumes on one grid each; of each, evenly spread, at most ``VOXELS_PER_CASE`` voxels.

    Returns:
        For each channel ``low`` and ``high`` (percentiles 0.5 and 99.5), ``mean`` and ``std``. Source: nnU-Net, Isensee
        et al., doi:10.1038/s41592-020-01008-z.

    Raises:
        ConfigError: where no voxel is labelled.
    """
    samples = []
    for image, label in cases:
        labelled = np.flatnonzero(label.data[0])
        labelled = labelled[:: max(1, math.ceil(len(labelled) / VOXELS_PER_CASE))]
        index = np.unravel_index(labelled, image.shape)
        samples.append(np.stack([channel[index] for channel in image.data]).astype(np.float32))
    values = np.concatenate(samples, axis=1) if samples else np.zeros((0, 0), np.float32)
    if not values.shape[1]:
        raise ConfigError(
            "no voxel of the training set is labelled, and 'ct' needs their intensities; check the labels"
        )
    statistics = []
    for channel in values.astype(np.float64):
        low, high = np.percentile(channel, (0.5, 99.5))
        mean = _exact_sum(channel) / len(channel)
        numbers = (low, high, mean, math.sqrt(_exact_sum((channel - mean) ** 2) / len(channel)))
        statistics.append({k: float(v) for k, v in zip(STATISTICS, numbers, strict=True)})
    return tuple(statistics)


def _exact_sum(values: NDArray[np.float64]) -> float:
    """The sum, rounded once: the same on every processor, in any order, which that of NumPy is not."""
    pieces = np.array_split(values, math.ceil(len(values) / SUMMED_AT_ONCE))
    return math.fsum(chain.from_iterable(piece.tolist() for piece in pieces))


def _zscore(data: Tensor) -> None:
    """Mean 0 and deviation 1 over the non-zero part, in place; zeros stay zeros, a constant becomes 0."""
    count = int(torch.count_nonzero(data))
    if not count:
        return
    mean = float(data.sum(dtype=torch.float64)) / count
    zero = data == 0
    data.sub_(mean).masked_fill_(zero, 0)
    deviation = float(torch.linalg.vector_norm(data, dtype=torch.float64)) / count**0.5
    # A constant leaves rounding errors of the mean behind, which must not be blown up to 1.
    data.mul_(1 / deviation if deviation > 1e-6 * abs(mean) else 0.0)


def _minmax_slices(data: Tensor, axis: int | None) -> None:
    """Each slice along ``axis`` (all of it, for None) to 0..1 in place; a constant slice becomes 0."""
    others = [a for a in range(data.ndim) if a != axis]
    low = data.amin(others, keepdim=True)
    high = data.amax(others, keepdim=True)
    data.sub_(low).div_(torch.where(high > low, high - low, 1.0))


def full_scale(data: NDArray[Any]) -> float:
    """What ``range`` divides a volume by: its type's maximum, or for floats the least usual one that holds every value."""
    if data.dtype.kind in "iu":
        return float(np.iinfo(data.dtype).max)
    largest = float(data.max())
    return next((s for s in FULL_SCALES if largest <= s), largest)
