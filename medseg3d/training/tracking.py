"""MLflow and Weights & Biases, for those who keep their experiments there: the same numbers as metrics.csv, and no paths."""

from __future__ import annotations

import importlib
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.checks import ConfigError
from medseg3d.io.atomic import atomic_write

logger = logging.getLogger(__name__)

TRACKERS = ("mlflow", "wandb")


class Tracker:
    """One run in a tracker; a run that is resumed goes on in the same one. Where the tracker fails, the training goes on.

    Args:
        name: one of ``TRACKERS``. Where it sends the numbers is its own business: ``MLFLOW_TRACKING_URI``, ``WANDB_MODE``.
        folder: the run directory; ``logs/NAME.id`` remembers the tracker's run.
        settings: of the training, logged once.

    Raises:
        ConfigError: the tracker is not installed.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._broken = False
        try:
            self._module: Any = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"logger {name!r} needs the package {name}, which is not installed ({error}); pip install {name}, "
                "or train without it: metrics.csv and TensorBoard are written in any case"
            ) from None
        self._id = folder / "logs" / f"{name}.id"
        before = self._id.read_text(encoding="utf-8").strip() if self._id.exists() else None
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        if name == "mlflow":
            run = self._module.start_run(run_id=before, run_name=None if before else folder.name)
            if before is None:
                self._module.log_params(plain)
                atomic_write(self._id, str(run.info.run_id))
        else:
            ident = before or secrets.token_hex(8)
            self._run = self._module.init(
                project="medseg3d", name=folder.name, id=ident, resume="allow", dir=str(folder / "logs"), config=plain
            )
            atomic_write(self._id, ident)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers of a step."""
        self._try(
            lambda: (self._module.log_metrics if self.name == "mlflow" else self._run.log)(dict(values), step=step)
        )

    def close(self) -> None:
        """End the tracker's run."""
        self._try(self._module.end_run if self.name == "mlflow" else self._run.finish)

    def _try(self, send: Any) -> None:
        if self._broken:
            return
        try:
            send()
        except Exception as error:  # whatever a server does, it must not cost a training
            self._broken = True
            logger.warning("%s takes no more numbers (%s); the training goes on without it", self.name, error)
