"""How sure a prediction is: where the members of an ensemble (or the flips of an image) disagree, and the Dice to expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg3d.checks import ConfigError
from medseg3d.task import Task

LEAST_CASES = 3
"""Fewer validation cases than these say nothing about a line."""


@dataclass(frozen=True)
class Calibration:
    """The straight line from what a prediction itself expects to the Dice of validation cases.

    Args:
        slope, intercept: of the line; the slope is never negative, so that the order of cases stays.
        cases: number of validation cases it was fitted on.
        models: how many models were averaged.
        flips: over how many flips of the image, 1 for the image alone.
        compared: whether these members were compared with each other; else their mean was held against its own
            probabilities. Each kind of prediction expects other things, and has a line of its own.
        weights_sha256: of the models, in any order: a line says nothing about other weights. Empty where nobody asks.
    """

    slope: float
    intercept: float
    cases: int
    models: int = 1
    flips: int = 1
    compared: bool = False
    weights_sha256: tuple[str, ...] = ()

    def __call__(self, expected: float) -> float:
        return float(np.clip(self.intercept + self.slope * expected, 0, 1))

    def is_for(self, *, models: int, flips: int, compared: bool) -> bool:
        """Whether it was fitted on predictions of this kind."""
        return (self.models, self.flips, self.compared) == (models, flips, compared)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, stored in the list ``medseg3d.inference.calibrations`` of a model's metadata."""
        return {**asdict(self), "weights_sha256": list(self.weights_sha256)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Raises ConfigError for missing or malformed values."""
        try:
            numbers = (float(values["slope"]), float(values["intercept"]))
            counts = (int(values["cases"]), int(values["models"]), int(values["flips"]))
            out = cls(*numbers, *counts, bool(values["compared"]), tuple(map(str, values["weights_sha256"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"calibration {values} has the wrong form ({error!r})") from None
        if not np.isfinite(numbers).all():
            raise ConfigError(f"calibration {dict(values)} holds numbers that are none")
        return out


def fit_calibration(
    expected: Sequence[float],
    dice: Sequence[float],
    *,
    models: int = 1,
    flips: int = 1,
    compared: bool = False,
    weights_sha256: Sequence[str] = (),
) -> Calibration:
    """The line through ``(expected, dice)`` of validation cases, by least squares with a slope of at least 0.

    Args:
        expected: ``Prediction.raw_dice`` of each case.
        dice: what each case's mean Dice turned out to be.
        models, flips, compared, weights_sha256: of the predictions, as in ``Calibration``.

    Raises:
        ConfigError: for fewer than ``LEAST_CASES`` cases.
    """
    pairs = np.array([(e, d) for e, d in zip(expected, dice, strict=True) if np.isfinite(e) and np.isfinite(d)])
    if len(pairs) < LEAST_CASES:
        raise ConfigError(f"{len(pairs)} validation cases are too few to calibrate; at least {LEAST_CASES} are needed")
    x, y = pairs.T
    spread = float(((x - x.mean()) ** 2).sum())
    slope = max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.0) if spread > 1e-12 else 0.0
    line = (slope, float(y.mean() - slope * x.mean()), len(pairs))
    return Calibration(*line, models, flips, compared, tuple(weights_sha256))


class Disagreement:
    """Compares the members of an ensemble on the logits' own grid, row by row.

    Args:
        task: says what logits mean.
        members: how many there are.
    """

    def __init__(self, task: Task, members: int) -> None:
        self.task = task
        self.members = members
        self._twice_shared = torch.zeros(members, len(task.labels), dtype=torch.float64)
        self._sizes = torch.zeros(members, len(task.labels), dtype=torch.float64)
        self._found = torch.zeros(len(task.labels), dtype=torch.float64)

    def merged(self, rows: Iterator[Tensor]) -> Iterator[Tensor]:
        """The members' mean logits, with their disagreement as one more channel; a single member's as they are.

        Args:
            rows: logits ``(members * K, n, *others)``, one member after another.

        Shape: yields ``(K + 1, n, *others)``. Disagreement is twice the mean distance of the members' probabilities
        from their mean, of the output where that is largest: 0 where all agree, 1 where they are sure and split in half.
        """
        for part in rows:
            if self.members == 1:
                if self.task.regions:
                    self._count(part[None], part, self._shares(part[None]))
                else:
                    self._count_classes(part)
                yield part
                continue
            logits = part.unflatten(0, (self.members, -1))
            shares = self._shares(logits)
            apart = 2 * (shares - shares.mean(0)).abs().mean(0).amax(0, keepdim=True)
            mean = logits.mean(0)
            self._count(logits, mean, shares)
            yield torch.cat([mean, apart])

    def _shares(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.task.regions else torch.softmax(logits, dim=1)

    def _count(self, logits: Tensor, mean: Tensor, shares: Tensor) -> None:
        merged = self._masks(mean)
        # A single prediction is held against its own probabilities: what their Dice would be if they told the truth.
        members = shares[:, -len(merged) :] if self.members == 1 else [self._masks(member) for member in logits]
        sizes = merged.flatten(1).sum(1, dtype=torch.float64).cpu()
        self._found += sizes
        for i, member in enumerate(members):
            self._twice_shared[i] += 2 * (member * merged).flatten(1).sum(1, dtype=torch.float64).cpu()
            self._sizes[i] += member.flatten(1).sum(1, dtype=torch.float64).cpu() + sizes

    def _count_classes(self, logits: Tensor) -> None:
        """The same as ``_count`` for a single prediction of exclusive classes, without a mask for each of them."""
        values = logits.flatten(1)
        top, winner = values.max(0)
        values = (values - top).exp_()
        sure = values.sum(0).reciprocal_()  # the winner's probability
        shared = torch.bincount(winner, weights=sure.double(), minlength=len(values))
        found = torch.bincount(winner, minlength=len(values)).double()
        self._found += found[1:].cpu()
        self._twice_shared[0] += 2 * shared[1:].cpu()
        self._sizes[0] += (found + values @ sure)[1:].cpu()

    def _masks(self, logits: Tensor) -> Tensor:
        """Which labels a map of logits means, ``(labels, ..)``."""
        if self.task.regions:
            return logits > 0
        classes = torch.arange(1, len(logits), device=logits.device)
        return logits.argmax(0) == classes.view(-1, *[1] * (logits.ndim - 1))

    def volume_ratios(self) -> dict[str, list[float]]:
        """For each label that was found the volume of each member in that of their mean; nothing for a single member."""
        if self.members == 1:
            return {}
        members = (self._sizes - self._found) / self._found.clamp_min(1)
        return {
            name: ratios.tolist()
            for name, ratios, found in zip(self.task.labels, members.T, self._found, strict=True)
            if found > 0
        }

    def expected_dice(self) -> dict[str, float]:
        """For each label that was found (by one member at least) the mean Dice between each member and their mean.

        Source: Roy et al., doi:10.1016/j.neuroimage.2019.03.042, who rank segmentations by the agreement of samples.
        """
        found = (self._sizes > 0).any(0) if self.members > 1 else self._found > 0
        dice = torch.where(self._sizes > 0, self._twice_shared / self._sizes.clamp_min(1e-12), 1.0).mean(0)
        return {name: float(d) for name, d, f in zip(self.task.labels, dice, found, strict=True) if f}
