"""A time budget as a number of steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from medseg3d.checks import ConfigError

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.1
"""With a time budget, validations take about this part of it."""
WARMING = 2
"""Steps that choose and compile kernels."""
MORE = 100
"""Steps beyond the least that are measured, at most."""


def most_measured(least: int) -> int:
    """How many batches ``time_steps`` may take."""
    return WARMING + least + MORE


def time_steps(
    step: Callable[[Any], None],
    batches: Iterable[Any],
    *,
    least: int,
    seconds: float,
    agree: Callable[[int], int],
) -> float:
    """Seconds of a training step, the mean over the last two thirds of those done: the first also fill the queue of samples.

    Args:
        step: does one.
        batches: of ``most_measured(least)`` steps.
        least: steps to measure.
        seconds: go on for about so long.
        agree: makes the first process's number that of all, which must do as many steps.
    """
    marks: list[float] = []
    last = WARMING + least
    for batch in batches:
        step(batch)
        marks.append(time.monotonic())
        if len(marks) == WARMING + least:
            last += agree(min(max(int(seconds * least / (marks[-1] - marks[1])), 0), MORE))
        if len(marks) == last:
            break
    skipped = max(1, len(marks) // 3)
    return (marks[-1] - marks[skipped]) / (len(marks) - 1 - skipped)


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
