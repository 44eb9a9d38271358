"""What a run tells while it trains: metrics.csv, TensorBoard, a bar on a terminal or plain lines elsewhere."""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from medseg3d.io.atomic import atomic_write
from medseg3d.training.tracking import Tracker

logger = logging.getLogger(__name__)

COLUMNS = ("epoch", "step", "loss", "learning_rate", "seconds", "skipped_steps")


class Journal:
    """Keeps the rows of ``metrics.csv``, one per epoch, and shows them.

    Args:
        folder: the run directory.
        scores: names of the validation's columns.
        total_steps: of the whole run.
        rows: of the epochs before, where a run goes on.
        active: whether this process writes; of a group of processes only the first does.
        tracker: ``mlflow`` or ``wandb``, which gets the numbers too.
        settings: of the training, for the tracker.

    Raises:
        ConfigError: the tracker is not installed, or does not take a new run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scores: Sequence[str],
        total_steps: int,
        rows: Sequence[Mapping[str, Any]] = (),
        active: bool = True,
        tracker: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / "metrics.csv"
        self.columns = [*COLUMNS, *scores, "score"]
        self.rows = [dict(row) for row in rows]
        self.active = active
        self.total_steps = total_steps
        self._tracker = Tracker(tracker, folder, settings or {}) if active and tracker else None
        self._board = SummaryWriter(folder / "logs", purge_step=len(self.rows) + 1) if active else None
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.close()
        if self._bar is not None:
            self._bar.close()

    def step(self, step: int, loss: float) -> None:
        """Show that ``step`` steps are done."""
        if not self.active or not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm(total=self.total_steps, initial=step - 1, unit="step", desc="training")
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update(step - self._bar.n)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's row, write the table again and show the row."""
        self.rows.append(dict(row))
        if not self.active:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        atomic_write(self.path, text.getvalue())
        numbers = {n: row[n] for n in self.columns[2:] if row.get(n) is not None and math.isfinite(row[n])}
        for name, value in numbers.items():
            if self._board is not None:
                self._board.add_scalar(name, value, row["epoch"])
        if self._tracker is not None:
            self._tracker.log(numbers, row["epoch"])
        scores = "".join(
            f"  {name} {row[name]:.3f}" for name in self.columns[len(COLUMNS) :] if row.get(name) is not None
        )
        logger.info(
            "epoch %d: loss %.4f%s  (step %d of %d)", row["epoch"], row["loss"], scores, row["step"], self.total_steps
        )
