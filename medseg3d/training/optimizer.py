"""How weights move: AdamW, a learning rate that follows the step, and an average of the weights passed through."""

from __future__ import annotations

import copy

import torch
from torch import nn

from medseg3d.checks import ConfigError

SCHEDULES = ("poly", "cosine", "constant")
POLY_POWER = 0.9


def build_optimizer(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and convolution kernels alone: not biases, norms or other vectors."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: str) -> float:
    """Factor on the learning rate at a step (from 0): a line up to 1 in ``warmup_steps``, then the schedule down to 0.

    Args:
        schedule: ``poly`` (power 0.9, as the SegFormer3D paper), ``cosine`` or ``constant``.

    Raises:
        ConfigError: for a schedule that does not exist.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule {schedule!r} is none of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    if schedule == "poly":
        return float((1 - done) ** POLY_POWER)
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done, dtype=torch.float64))))


class WeightAverage:
    """An exponential moving average of a network's weights and norm statistics, as a network of its own.

    Args:
        network: whose weights are averaged.
        decay: part that stays per step; in the first steps less: ``(1 + n) / (10 + n)`` after n of them.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"ema {decay} must be at least 0 (no averaging) and below 1")
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards ``network`` after step number ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.network.state_dict(), network.state_dict()
        moving = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in moving], [theirs[n] for n in moving], 1 - decay)
        for name in mine.keys() - set(moving):
            mine[name].copy_(theirs[name])
