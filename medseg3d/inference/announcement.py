"""What a case is going to take, said before the work."""

from __future__ import annotations

import logging
import math

from medseg3d.inference.prediction import Prediction
from medseg3d.inference.setting import Setting

logger = logging.getLogger(__name__)
NEWS = 1.1
"""A case is announced where it takes so many times as much as all before."""


class Announced:
    """Tells the first case's estimate, and again where a case takes clearly more than those before it."""

    def __init__(self) -> None:
        self._bytes = 0
        self._voxels = self._current = 0
        self._known: tuple[int, float] | None = None

    def announce(self, what: str, setting: Setting) -> None:
        """Log memory and, as far as earlier cases tell it, seconds.

        Args:
            what: is going to be computed, such as ``case a``.
            setting: how.
        """
        voxels, memory = _work(setting), setting.memory.host + setting.memory.device
        self._current = voxels
        if memory <= NEWS * self._bytes and voxels <= NEWS * self._voxels:
            return
        self._bytes, self._voxels = max(memory, self._bytes), max(voxels, self._voxels)
        size = " x ".join(map(str, setting.plan.roi))
        how = f"{setting.plan.count} windows of {size}" if setting.mode == "windows" else f"one pass of {size}"
        seconds = ""
        if self._known is not None:
            seconds = f"; by the cases before about {self._known[1] * voxels / self._known[0]:.0f} s"
        logger.info("%s takes %s, for %s voxels%s", what, setting.memory, how, seconds)

    def took(self, prediction: Prediction) -> None:
        """Remember how long the case took that was announced last."""
        computed = self._current * (prediction.windows - prediction.skipped) / max(prediction.windows, 1)
        if computed:
            self._known = (int(computed), sum(prediction.seconds.values()))


def _work(setting: Setting) -> int:
    """Voxels that go through the network."""
    return setting.plan.count * math.prod(setting.plan.roi)
