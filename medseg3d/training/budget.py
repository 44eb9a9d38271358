"""A time budget as a number of steps."""

from __future__ import annotations

import logging
import math

from medseg3d.checks import ConfigError

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.1
"""With a time budget, validations take about this part of it."""


def fit_budget(
    seconds: float, step_s: float, validation_s: float, steps_per_epoch: int, validation_interval: int
) -> dict[str, int]:
    """Epochs, steps per epoch and validation interval that fill ``seconds``.

    Raises:
        ConfigError: where not even one step and a validation fit.
    """
    if seconds < validation_s + step_s:
        raise ConfigError(
            f"{max(seconds, 0):.0f} s are left of the time budget after reading the data, and one step and a validation take "
            f"{validation_s + step_s:.0f} s; give more time"
        )
    epoch_s = steps_per_epoch * step_s
    interval = max(validation_interval, math.ceil(validation_s / (VALIDATION_SHARE * epoch_s)))
    epochs = int((seconds - validation_s) / (epoch_s + validation_s / interval))
    if epochs >= 1:
        return {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "validation_interval": interval}
    steps = max(1, int((seconds - validation_s) / step_s))
    logger.warning(
        "the time budget is too small for one epoch: it holds %d of its %d steps (%.2f s each) and one validation (%.0f s); "
        "the training is that short, and its model will not be much",
        steps,
        steps_per_epoch,
        step_s,
        validation_s,
    )
    return {"epochs": 1, "steps_per_epoch": steps, "validation_interval": interval}
