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
MLFLOW_TAGS = {"mlflow.user": "", "mlflow.source.name": "medseg3d", "mlflow.source.git.commit": ""}
"""In place of the account's name, the program's path and the state of whatever repository it was called in."""
WANDB_SETTINGS = {
    "console": "off",  # what is logged names cases and folders
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
}
"""Nothing of the machine, the account, the command line and the terminal."""


class Tracker:
    """One run in a tracker; a run that is resumed goes on in the same one. Where the tracker fails later, the training goes on.

    It gets the numbers and the settings, and nothing of the machine, the account, paths or what is logged.

    Args:
        name: one of ``TRACKERS``. Where it sends the numbers is its own business: ``MLFLOW_TRACKING_URI``, ``WANDB_MODE``.
        folder: the run directory; ``logs/NAME.id`` remembers the tracker's run.
        settings: of the training, logged once.

    Raises:
        ConfigError: the tracker is not installed, or does not take a new run.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._broken = False
        try:
            self._module: Any = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"logger {name!r} needs the package {name}, which is not installed ({error}); pip install 'medseg3d[trackers]', "
                "or train without it: metrics.csv and TensorBoard are written in any case"
            ) from None
        self._folder = folder
        file = folder / "logs" / f"{name}.id"
        before = file.read_text(encoding="utf-8").strip() if file.exists() else None
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        try:
            ident = (self._mlflow if name == "mlflow" else self._wandb)(before, plain)
        except Exception as error:  # no server, no account, a folder of another version
            if before is not None:
                self._fail(error)
                return
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"{name} takes no new run ({reason}); mend that and give --resume, or go on without it: --resume --set logger=null"
            ) from None
        atomic_write(file, ident)

    def _mlflow(self, before: str | None, settings: Mapping[str, Any]) -> str:
        name = None if before else self._folder.name
        run = self._module.start_run(run_id=before, run_name=name, tags=MLFLOW_TAGS)
        if before is None:
            self._module.log_params(settings)
        return str(run.info.run_id)

    def _wandb(self, before: str | None, settings: Mapping[str, Any]) -> str:
        ident = before or secrets.token_hex(8)
        place = self._folder / "logs"
        place.mkdir(parents=True, exist_ok=True)
        known = getattr(self._module.Settings, "model_fields", WANDB_SETTINGS)
        private = {key: value for key, value in WANDB_SETTINGS.items() if key in known}
        options = {"project": "medseg3d", "name": self._folder.name, "id": ident, "resume": "allow"}
        self._run = self._module.init(**options, dir=str(place), config=settings, settings=private)
        return ident

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers of a step."""
        self._try(
            lambda: (self._module.log_metrics if self.name == "mlflow" else self._run.log)(dict(values), step=step)
        )

    def close(self) -> None:
        """End the tracker's run."""
        self._try(lambda: self._module.end_run() if self.name == "mlflow" else self._run.finish())

    def _try(self, send: Any) -> None:
        if self._broken:
            return
        try:
            send()
        except Exception as error:  # whatever a server does, it must not cost a training
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._broken = True
        logger.warning("%s takes no more numbers (%s); the training goes on without it", self.name, error)
