"""How sure a mean is: bootstrap confidence intervals that come out the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

CONFIDENCE = 0.95
RESAMPLES = 5000
SEED = 0


def mean_interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean by the bootstrap, bias-corrected and accelerated (BCa; Efron 1987).

    Args:
        values: finite numbers, one per case.

    Returns:
        Low and high end; NaN for fewer than two values, the value itself where all are the same.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size < 2:
        return float("nan"), float("nan")
    if (x == x[0]).all():
        return float(x[0]), float(x[0])
    mean = x.mean()
    means = np.einsum("ij,j->i", _times_drawn(x.size), x - mean) / x.size  # of the differences, which round less
    below = (np.count_nonzero(means < 0) + 0.5 * np.count_nonzero(means == 0)) / RESAMPLES
    bias = ndtri(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    left_out = (x - mean) / (x.size - 1)  # how the mean of the others differs, sign reversed
    acceleration = (left_out**3).sum() / (6 * (left_out**2).sum() ** 1.5)
    tails = bias + ndtri(np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    low, high = np.quantile(means, ndtr(bias + tails / (1 - acceleration * tails)))
    return float(mean + low), float(mean + high)


@lru_cache(maxsize=4)
def _times_drawn(number: int) -> NDArray[np.uint8]:
    """How often each of ``number`` cases is in each resample, ``(RESAMPLES, number)``."""
    rng = np.random.default_rng(SEED)
    counts = np.empty((RESAMPLES, number), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, number, number), minlength=number)
    return counts
