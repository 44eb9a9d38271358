"""The training loop: plain PyTorch, the same result whether or not it was interrupted (DESIGN.md, decision 7)."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.bundle import write_metadata
from medseg3d.checks import ConfigError, MedSegError
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.training.budget import most_measured, time_steps
from medseg3d.training.cache import PreparedCase
from medseg3d.training.checkpoint import LAST, load_state, remove_leftovers, save_state, save_weights
from medseg3d.training.feed import feed
from medseg3d.training.interruption import Interruption, TrainingInterrupted
from medseg3d.training.journal import Journal
from medseg3d.training.processes import Processes
from medseg3d.training.recipe import Recipe
from medseg3d.training.sampling import Patches, Turns
from medseg3d.training.step import Stepper
from medseg3d.training.validation import case_scores, mean_score, mean_scores, score_names

logger = logging.getLogger(__name__)

SKIPPED_IN_A_ROW = 25
"""So many steps without a finite gradient end the run."""
SAVE_SECONDS = 120
"""The state is saved at validations, at the end, and at the first epoch's end after so long."""
PLATEAU = 0.001
"""A score must be better by this for ``patience`` to begin anew."""


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
        init: name and hash of the weights that the network began with; written beside the weights.
        tracker: ``mlflow`` or ``wandb``, besides metrics.csv and TensorBoard; None for neither.
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
        init: Mapping[str, Any] | None = None,
        tracker: str | None = None,
    ) -> None:
        self.processes = Processes.join()
        recipe.samples(self.processes.count)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.processes.count > 1:
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self.network = network.to(self.device)
        self.stepper = Stepper(self.network, loss.to(self.device), inferer, recipe, self.processes)
        self.dataset, self.validation = dataset, validation
        self.folder = Path(bundle_root)
        self.task, self.preprocessing, self.phantom, self.tracker = task, preprocessing, phantom, tracker
        self.init = init
        self.max_epochs, self.steps_per_epoch, self.recipe, self.resume = max_epochs, steps_per_epoch, recipe, resume
        self.step, self.saved = 0, -1
        self.best = self.plateau = -math.inf
        self.stale = 0
        self.rows: list[dict[str, Any]] = []
        self.epoch_losses: list[float] = []
        self.skipped = self.skipped_in_a_row = 0

    @property
    def total_steps(self) -> int:
        return self.max_epochs * self.steps_per_epoch

    @property
    def exhausted(self) -> bool:
        """Whether the score has stood still for as long as the recipe waits."""
        return 0 < self.recipe.patience <= self.stale

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
        if self.step >= last or self.exhausted:
            logger.info("nothing left to do: %d of %d steps are done", self.step, self.total_steps)
            return
        if self.processes.first:
            remove_leftovers(models)
            write_metadata(
                self.folder,
                task=self.task,
                network=self.network.config,  # type: ignore[arg-type]
                preprocessing=self.preprocessing,
                roi_size=self.dataset.patch_size,
                phantom=self.phantom,
                init=self.init,
                channel_dropout=0.0 if self.dataset.augmentation is None else self.dataset.augmentation.channel_dropout,
            )
        journal = Journal(
            self.folder,
            scores=score_names(self.task),
            total_steps=self.total_steps,
            rows=self.rows,
            active=self.processes.first,
            tracker=self.tracker,
            settings=asdict(self.recipe) | {"task": self.task.name, "patch_size": self.dataset.patch_size},
        )
        with journal, Interruption() as interruption:
            self._loop(journal, interruption, last)

    def _loop(self, journal: Journal, interruption: Interruption, last: int) -> None:
        saved = started = time.monotonic()
        for batch in self._batches(self.step, last):
            loss, stop = self._train_step(batch, stop=interruption.wished)
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
                if self.exhausted:
                    logger.info("the score has not risen by %g in %d validations: enough", PLATEAU, self.stale)
                    break
            # A single process acts on a wish at once; several act on it together, a step later.
            if (stop or (interruption.wished and self.processes.count == 1)) and self.step < last:
                self._save()
                logger.info(
                    "stopped at step %d of %d; to go on, give the same command with --resume",
                    self.step,
                    self.total_steps,
                )
                raise TrainingInterrupted(interruption.number)
        self._save()

    def _batches(self, first: int, last: int) -> Iterator[dict[str, Any]]:
        turns = Turns(first, last, self.recipe.batch_size, rank=self.processes.rank, world_size=self.processes.count)
        return feed(self.dataset, turns, device=self.device, workers=self.recipe.workers)

    def _train_step(self, batch: Mapping[str, Any], *, stop: bool = False) -> tuple[float, bool]:
        """The loss of one step, and whether any process wishes to stop."""
        result = self.stepper(
            batch,
            self.step,
            total_steps=self.total_steps,
            warmup_steps=min(self.recipe.warmup_epochs * self.steps_per_epoch, self.total_steps // 5),
            stop=stop,
        )
        if result.moved:
            self.epoch_losses.append(result.loss)
            self.skipped_in_a_row = 0
        else:
            self._count_skipped(batch)
        return result.loss, result.stop

    def _count_skipped(self, batch: Mapping[str, Any]) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        names = ", ".join(sorted({self.dataset.cases[i].name for i in batch["case"]}))
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
            "learning_rate": self.stepper.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 2),
            "skipped_steps": self.skipped,
        }
        if epoch % self.recipe.validation_interval and epoch != self.max_epochs:
            return row, False
        scores = self.validate(self.validation)
        row |= scores
        row["score"] = score = mean_score(scores)
        rose = math.isnan(score) or score > self.plateau + PLATEAU
        self.stale = 0 if rose else self.stale + 1
        self.plateau = score if rose and math.isfinite(score) else self.plateau
        if not score <= self.best:  # a first score, or none at all, too
            self.best = score if math.isfinite(score) else self.best
            if self.processes.first:
                save_weights(self.folder / "models", self.stepper.average.network.state_dict())
        return row, True

    def validate(self, cases: Sequence[PreparedCase]) -> dict[str, float]:
        """Scores of the averaged weights; the processes share the cases."""
        mine = cases[self.processes.rank :: self.processes.count]
        rows: list[list[float]] = case_scores(
            self.stepper.average.network,
            mine,
            task=self.task,
            roi_size=self.dataset.patch_size,
            overlap=self.recipe.overlap,
            device=self.device,
            autocast=self.stepper.autocast,
        )
        return mean_scores(self.processes.gathered(rows), self.task)

    def _state(self) -> dict[str, Any]:
        return {
            "format": 2,
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.stepper.average.network.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            **{name: module.state_dict() for name, module in self.stepper.beside.items()},
            **{name: getattr(self, name) for name in PLAIN_STATE},
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            self.network.load_state_dict(state["network"])
            self.stepper.average.network.load_state_dict(state["average"])
            for name, module in self.stepper.beside.items():
                module.load_state_dict(state[name])
            self.stepper.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            for name in PLAIN_STATE:
                setattr(self, name, state[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{self.folder}: its checkpoint is of another network or version ({error})") from error

    def _save(self) -> None:
        """Save the state, once a step: prev.pt is worth most where it is an earlier one."""
        if self.processes.first and self.saved != self.step:
            save_state(self.folder / "models", self._state())
        self.saved = self.step

    def measure(self, *, steps: int = 8, cases: int = 3, seconds: float = 0.0) -> tuple[float, float]:
        """Seconds that a step and that a validation take, from real ones; everything is as before afterwards.

        Args:
            steps: at least so many.
            cases: of the validation.
            seconds: for about so long.
        """
        state = copy.deepcopy(self._state())

        def step(batch: Mapping[str, Any]) -> None:
            self._train_step(batch)
            self.step += 1

        batches = self._batches(self.step, self.step + most_measured(steps))
        step_s = time_steps(step, batches, least=steps, seconds=seconds, agree=self.processes.from_first)
        some = self.validation[: cases * self.processes.count]
        start = time.monotonic()
        self.validate(some)
        share = sum(c.image.numel() for c in some) / max(sum(c.image.numel() for c in self.validation), 1)
        validation_s = (time.monotonic() - start) / share if some else 0.0
        self._restore(state)
        return step_s, validation_s


PLAIN_STATE = ("best", "plateau", "stale", "rows", "epoch_losses", "skipped", "skipped_in_a_row")
"""What a state holds besides tensors and the step."""
