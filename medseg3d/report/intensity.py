"""From intensities to the 256 values of a picture, and the window that is shown at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES = 400_000
"""How many voxels the percentiles are taken of."""
CT_KNOTS = ((-1024, 0), (-200, 40), (300, 208), (1300, 240), (3071, 255))
"""Hounsfield units and their codes: 3 HU a step in soft tissue, where a window is narrow, and wider steps elsewhere."""
CT_WINDOW = (-160.0, 240.0)
"""Soft tissue: level 40, width 400."""
CT_PRESETS = {
    "soft tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (60, 160),
}
"""Level and width."""


@dataclass(frozen=True)
class Intensity:
    """How a channel is shown.

    Args:
        knots: intensity and 8-bit code, ascending; between them the code is linear.
        window: lowest and highest intensity of the window shown at first.
        unit: ``HU`` or nothing.
    """

    knots: tuple[tuple[float, float], ...]
    window: tuple[float, float]
    unit: str = ""

    @classmethod
    def of(cls, data: NDArray, *, ct: bool | None = None) -> Intensity:
        """Choose from the values; ``ct`` None takes them for Hounsfield units where they reach from air to bone."""
        values = sample(data)
        if ct or (ct is None and values.size and values.min() <= -900 and values.max() >= 200):
            return cls(CT_KNOTS, CT_WINDOW, "HU")
        low, first, last, high = np.percentile(values, (0, 0.5, 99.7, 99.98)) if values.size else (0.0, 0.0, 1.0, 1.0)
        if data.dtype == np.uint8:  # as it is, but for volumes that leave the brighter half unused
            dark = 1 not in data.shape and first < last < 128
            return cls(((0.0, 0.0), (255.0, 255.0)), (float(first), float(last)) if dark else (0.0, 255.0))
        if not high > low:
            high = low + 1
        if not last > first:
            first, last = low, high
        return cls(((float(low), 0.0), (float(high), 255.0)), (float(first), float(last)))

    def codes(self, data: NDArray) -> NDArray[np.uint8]:
        """The 8-bit codes of intensities, a slab at a time."""
        values, codes = zip(*self.knots, strict=True)
        out = np.empty(data.shape, dtype=np.uint8)
        for i in range(len(data)):
            out[i] = np.interp(data[i], values, codes) + 0.5
        return out

    def grey(self, data: NDArray, window: Sequence[float] | None = None) -> NDArray[np.uint8]:
        """The window as grey values 0 to 255."""
        low, high = window or self.window
        return (np.clip((data.astype(np.float32) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


def sample(data: NDArray) -> NDArray:
    """Finite values spread evenly over the data."""
    flat = data[tuple(slice(None, None, step) for step in _steps(data.shape))].reshape(-1)
    return flat[np.isfinite(flat)]


def _steps(shape: Sequence[int]) -> list[int]:
    step = max(1, round((np.prod(shape) / SAMPLES) ** (1 / max(1, sum(n > 1 for n in shape)))))
    return [step if n > step else 1 for n in shape]
