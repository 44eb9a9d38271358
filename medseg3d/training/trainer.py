"""The training loop: plain PyTorch, the same result whether or not it was interrupted (DESIGN.md, decision 7)."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from medseg3d.bundle import write_metadata
from medseg3d.checks import ConfigError, MedSegError
from medseg3d.inference.predictor import autocast_type
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.training.checkpoint import LAST, load_state, remove_leftovers, save_state, save_weights
from medseg3d.training.dataset import PreparedCase
from medseg3d.training.interruption import Interruption, TrainingInterrupted, ignore_interrupts
from medseg3d.training.journal import Journal
from medseg3d.training.optimizer import WeightAverage, build_optimizer, learning_rate_factor
from medseg3d.training.processes import join_processes
from medseg3d.training.recipe import Recipe
from medseg3d.training.sampling import Patches, Turns, seed_step
from medseg3d.training.validation import mean_score, score_names, validate

logger = logging.getLogger(__name__)

SKIPPED_IN_A_ROW = 25
"""So many steps without a finite gradient end the run."""
SAVE_SECONDS = 120
"""The state is saved at validations, at the end, and at the first epoch's end after so long."""


class Trainer:
    """Trains a network on numbered patches.

    Args:
        network: to be trained, on any device.
        loss: of float32 logits and labels, a mean over samples.
        dataset: training patches.
        validation: validation cases; the best network is the one with the highest mean score on them.
        inferer: called as ``inferer(images, network)``, MONAI's ``SimpleInferer``.
        device: to train on.
        bundle_root: the run directory.
        task, preprocessing: written beside the weights, for prediction.
        max_epochs, steps_per_epoch: length of the training.
        recipe: the other numbers.
        resume: go on from ``models/last.pt``.
        phantom: the data are made up; written beside the weights.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: nn.Module,
        dataset: Patches,
        validation: Sequence[PreparedCase],
        inferer: Callable[[Tensor, nn.Module], Tensor],
        device: torch.device | str,
        bundle_root: str | Path,
        task: Task,
        preprocessing: Preprocessing,
        max_epochs: int,
        steps_per_epoch: int,
        recipe: Recipe,
        resume: bool = False,
        phantom: bool = False,
    ) -> None:
        self.rank, self.world_size = join_processes()
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.world_size > 1:
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self.network = network.to(self.device)
        self.loss = loss.to(self.device)
        self.dataset, self.validation, self.inferer = dataset, validation, inferer
        self.folder = Path(bundle_root)
        self.task, self.preprocessing, self.phantom = task, preprocessing, phantom
        self.max_epochs, self.steps_per_epoch, self.recipe, self.resume = max_epochs, steps_per_epoch, recipe, resume
        self.optimizer = build_optimizer(self.network, recipe.learning_rate, recipe.weight_decay)
        self.average = WeightAverage(self.network, recipe.ema)
        self.autocast = autocast_type(recipe.precision, self.device)
        # The average deep-copies the network, which must not be wrapped yet.
        self.module = DistributedDataParallel(self.network) if self.world_size > 1 else self.network
        self.step = 0
        self.best = -math.inf
        self.rows: list[dict[str, Any]] = []
        self.epoch_losses: list[float] = []
        self.skipped = self.skipped_in_a_row = 0

    @property
    def total_steps(self) -> int:
        return self.max_epochs * self.steps_per_epoch

    def run(self, *, stop_at: int | None = None) -> None:
        """Train to the end, or until step ``stop_at``; saves the state either way.

        Raises:
            ConfigError: the run directory holds a training and ``resume`` is not set.
            TrainingInterrupted: after Ctrl-C, with the state saved.
        """
        last = min(self.total_steps, stop_at or self.total_steps)
        models = self.folder / "models"
        if self.resume and (models / LAST).exists():
            self._restore(load_state(models))
        elif (models / LAST).exists():
            raise ConfigError(
                f"{self.folder} holds a training already; go on with resume, or give another output folder"
            )
        if self.rank == 0:
            remove_leftovers(models)
            write_metadata(
                self.folder,
                task=self.task,
                network=self.network.config,  # type: ignore[arg-type]
                preprocessing=self.preprocessing,
                roi_size=self.dataset.patch_size,
                phantom=self.phantom,
            )
        if self.step >= last:
            logger.info("nothing left to do: %d of %d steps are done", self.step, self.total_steps)
            return
        journal = Journal(
            self.folder,
            scores=score_names(self.task),
            total_steps=self.total_steps,
            rows=self.rows,
            active=self.rank == 0,
        )
        with journal, Interruption() as interruption:
            self._loop(journal, interruption, last)

    def _loop(self, journal: Journal, interruption: Interruption, last: int) -> None:
        saved = started = time.monotonic()
        for batch in self._batches(self.step, last):
            loss = self._train_step(batch)
            self.step += 1
            journal.step(self.step, loss)
            if self.step % self.steps_per_epoch == 0:
                row, validated = self._end_epoch(time.monotonic() - started)
                journal.epoch(row)
                self.rows = journal.rows
                started = time.monotonic()
                if validated or started - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
            if interruption.wished and self.step < last:
                self._save()
                logger.info(
                    "stopped at step %d of %d; to go on, give the same command with --resume",
                    self.step,
                    self.total_steps,
                )
                raise TrainingInterrupted
        self._save()

    def _batches(self, first: int, last: int) -> DataLoader[dict[str, Any]]:
        workers = self.recipe.workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(8, max((os.cpu_count() or 2) // self.world_size - 1, 1))
        return DataLoader(
            self.dataset,
            batch_sampler=Turns(first, last, self.recipe.batch_size, rank=self.rank, world_size=self.world_size),
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            pin_memory=self.device.type == "cuda",
        )

    def _train_step(self, batch: Mapping[str, Any]) -> float:
        """One step; a gradient that is not finite changes nothing."""
        recipe = self.recipe
        self.module.train()
        seed_step(recipe.seed, self.step, self.rank)
        factor = learning_rate_factor(
            self.step,
            total_steps=self.total_steps,
            warmup_steps=min(recipe.warmup_epochs * self.steps_per_epoch, self.total_steps // 5),
            schedule=recipe.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        images = batch["image"].to(self.device, non_blocking=True)
        labels = batch["label"].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            logits = self.inferer(images, self.module)
        loss = self.loss(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip, foreach=True)
        value = float(loss.detach())
        if math.isfinite(value) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.average.update(self.network, self.step)
            self.epoch_losses.append(value)
            self.skipped_in_a_row = 0
            return value
        for buffer, before in zip(self.network.buffers(), statistics, strict=True):
            buffer.copy_(before)
        self._count_skipped(batch)
        return value

    def _count_skipped(self, batch: Mapping[str, Any]) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        names = ", ".join(sorted({self.dataset.cases[int(i)].name for i in batch["case"]}))
        logger.warning("step %d skipped: its gradient is not finite (cases %s)", self.step, names)
        if self.skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise MedSegError(
                f"{SKIPPED_IN_A_ROW} steps in a row had no finite gradient, the last on cases {names}; lower learning_rate "
                f"or set precision=float32; the last good state is in {self.folder / 'models'}"
            )

    def _end_epoch(self, seconds: float) -> tuple[dict[str, Any], bool]:
        """The epoch's row of metrics.csv, and whether there was a validation."""
        epoch = self.step // self.steps_per_epoch
        losses, self.epoch_losses = self.epoch_losses, []
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "loss": sum(losses) / len(losses) if losses else float("nan"),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 2),
            "skipped_steps": self.skipped,
        }
        if epoch % self.recipe.validation_interval and epoch != self.max_epochs:
            return row, False
        if self.rank == 0:
            scores = self.validate(self.validation)
            row |= scores
            row["score"] = mean_score(scores)
            if not row["score"] <= self.best:  # a first score, or none at all, too
                self.best = row["score"] if math.isfinite(row["score"]) else self.best
                save_weights(self.folder / "models", self.average.network.state_dict())
        return row, True

    def validate(self, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Scores of the averaged weights."""
        return validate(
            self.average.network,
            cases,
            task=self.task,
            roi_size=self.dataset.patch_size,
            overlap=self.recipe.overlap,
            device=self.device,
            autocast=self.autocast,
        )

    def _state(self) -> dict[str, Any]:
        return {
            "format": 1,
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "rows": self.rows,
            "epoch_losses": self.epoch_losses,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            self.network.load_state_dict(state["network"])
            self.average.network.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]
            self.rows, self.epoch_losses = state["rows"], state["epoch_losses"]
            self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{self.folder}: its checkpoint is of another network or version ({error})") from error

    def _save(self) -> None:
        if self.rank == 0:
            save_state(self.folder / "models", self._state())

    def measure(self, *, steps: int = 8, cases: int = 3) -> tuple[float, float]:
        """Seconds that a step and that a validation take, from real ones; everything is as before afterwards."""
        state = copy.deepcopy(self._state())
        marks = []
        for batch in self._batches(self.step, self.step + steps + 2):
            self._train_step(batch)
            self.step += 1
            marks.append(time.monotonic())
        some = self.validation[:cases]
        start = time.monotonic()
        self.validate(some)
        share = sum(c.image.numel() for c in some) / max(sum(c.image.numel() for c in self.validation), 1)
        validation_s = (time.monotonic() - start) / share if some else 0.0
        self._restore(state)
        # The first steps also choose and compile kernels.
        return (marks[-1] - marks[1]) / (len(marks) - 2), validation_s
