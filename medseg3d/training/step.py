"""One training step: gradients of a batch, in as many pieces and processes as wanted, and the move of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from medseg3d.inference.precision import autocast_type
from medseg3d.training.optimizer import WeightAverage, build_optimizer, learning_rate_factor
from medseg3d.training.processes import Processes
from medseg3d.training.recipe import Recipe
from medseg3d.training.sampling import seed_step
from medseg3d.training.shares import Shares, draws_at_random, one_thread, usual_shares
from medseg3d.training.supervision import DeeplySupervised, supervised_loss


@dataclass(frozen=True)
class StepResult:
    """What a step tells.

    Args:
        loss: of the whole batch, over all processes.
        moved: False where the gradient was not finite and nothing was changed.
        stop: whether any process wishes to stop.
    """

    loss: float
    moved: bool
    stop: bool


class Stepper:
    """Moves the weights of a network, batch by batch.

    Args:
        network: on its device.
        loss: of float32 logits and labels, a mean over samples.
        inferer: called as ``inferer(images, network)``.
        recipe: the numbers.
        processes: this process and its peers.

    Attributes:
        trained: the network, or that with the heads that are trained beside it.
        average: of the network alone.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Any],
        recipe: Recipe,
        processes: Processes,
    ) -> None:
        self.network, self.loss, self.inferer = network, loss, inferer
        self.recipe, self.processes = recipe, processes
        self.device = next(network.parameters()).device
        self.trained = DeeplySupervised(network, recipe.seed) if recipe.deep_supervision else network
        self.optimizer = build_optimizer(self.trained, recipe.learning_rate, recipe.weight_decay)
        # The average deep-copies the network, which must be neither wrapped nor patched yet.
        self.average = WeightAverage(network, recipe.ema)
        self.autocast = autocast_type(recipe.precision, self.device)
        alone = self.device.type == "cpu" and processes.count == 1
        side_by_side = alone and not recipe.compile and not draws_at_random(self.trained)
        count = min(recipe.shares or usual_shares(), recipe.batch_size // recipe.accumulate) if side_by_side else 1
        self.shares = Shares(self.trained, count) if count > 1 else None
        if recipe.checkpointing:
            for one in (self.trained, *(self.shares.copies if self.shares else ())):
                recompute_blocks(one)
        module: nn.Module = torch.compile(self.trained) if recipe.compile else self.trained  # type: ignore[assignment]
        self.module = DistributedDataParallel(module) if processes.count > 1 else module

    @property
    def beside(self) -> dict[str, nn.Module]:
        """What is trained beside the network and dropped in the end, by its name in a checkpoint."""
        return {"heads": self.trained.heads} if isinstance(self.trained, DeeplySupervised) else {}

    def __call__(
        self, batch: Mapping[str, Any], step: int, *, total_steps: int, warmup_steps: int, stop: bool = False
    ) -> StepResult:
        """Train on one batch; a gradient that is not finite changes nothing.

        Args:
            batch: this process's share, on the device.
            step: number of the step, from 0.
            total_steps, warmup_steps: of the training, for the learning rate.
            stop: whether this process wishes to stop; it is told to the others.
        """
        recipe = self.recipe
        self.module.train()
        seed_step(recipe.seed, step, self.processes.rank)
        factor = learning_rate_factor(
            step, total_steps=total_steps, warmup_steps=warmup_steps, schedule=recipe.schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        value = self._gradients(batch)
        with one_thread() if self.shares is not None else contextlib.nullcontext():
            norm = nn.utils.clip_grad_norm_(self.trained.parameters(), recipe.gradient_clip, foreach=True)
            mean, wished = self.processes.mean([value, float(stop)])
            moved = math.isfinite(mean) and bool(torch.isfinite(norm))
            if moved:
                self.optimizer.step()
                self.average.update(self.network, step)
            else:
                for buffer, before in zip(self.network.buffers(), statistics, strict=True):
                    buffer.copy_(before)
        return StepResult(mean, moved, wished > 0)

    def _gradients(self, batch: Mapping[str, Any]) -> float:
        """Gradients of the batch's mean loss, piece by piece; returns that loss."""
        pieces, samples = self.recipe.accumulate, len(batch["image"])
        images, labels = batch["image"].chunk(pieces), batch["label"].chunk(pieces)
        total = torch.zeros((), device=self.device)
        for number, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
            if self.shares is not None:
                parts = zip(image.chunk(self.shares.count), label.chunk(self.shares.count), strict=True)
                total += self.shares.add_gradients([partial(self._loss, *part, of=samples) for part in parts])
                continue
            last = number == len(images)
            unsynced = isinstance(self.module, DistributedDataParallel) and not last
            with self.module.no_sync() if unsynced else contextlib.nullcontext():  # type: ignore[operator]
                loss = self._loss(image, label, self.module, of=samples)
                loss.backward()
            total += loss.detach()
        return float(total)

    def _loss(self, image: Tensor, label: Tensor, network: nn.Module, *, of: int) -> Tensor:
        """What some of ``of`` samples add to the mean loss of all."""
        # Without the cache: each weight is used once, and threads would share its entries.
        with torch.autocast(
            self.device.type, dtype=self.autocast, enabled=self.autocast is not None, cache_enabled=False
        ):
            logits = self.inferer(image, network)
        if isinstance(self.trained, DeeplySupervised):
            loss = supervised_loss(self.loss, logits, label, self.trained.strides)
        else:
            loss = self.loss(logits.float(), label)
        return loss * (len(image) / of)


def recompute_blocks(network: nn.Module) -> None:
    """Let every transformer block forget its inner activations and compute them again in the backward pass."""
    for stage in network.modules():
        for block in getattr(stage, "blocks", ()):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
