"""The task of a training that was started without one: planned once, kept where the training keeps its results."""

from __future__ import annotations

import logging
from pathlib import Path

from medseg3d.checks import ConfigError
from medseg3d.io.atomic import atomic_write
from medseg3d.io.cases import with_ignored
from medseg3d.planning.declared import name_of
from medseg3d.planning.plan import Plan, plan
from medseg3d.task import Task, load_task

logger = logging.getLogger(__name__)

TASK_FILE = "task.yaml"
"""In ``configs/`` of a run directory, and in the folder of a cross-validation."""


def name_of_run(task: str | Path | Task | None, data: str | Path | None) -> str:
    """What a run is called: after its task, or after its data.

    Raises:
        ConfigError: neither is given, or the task does not exist.
    """
    if task is not None:
        return (task if isinstance(task, Task) else load_task(task)).name
    if data is None:
        raise ConfigError(
            "nothing says what to train: give --task NAME, or --data FOLDER to have a task planned for it"
        )
    return name_of(data)


def task_of_run(
    task: str | Path | Task | None,
    data: str | Path | None,
    output: str | Path | None,
    *,
    resume: bool = False,
    budget_s: float | None = None,
) -> tuple[Task, str | None]:
    """The task that is given; without one that of the run which goes on, or else one that is planned now.

    Args:
        task, data, output: of the training.
        resume: whether it goes on.
        budget_s: what it may take.

    Returns:
        The task, and the text to keep in the run's ``TASK_FILE`` where it was planned now.

    Raises:
        ConfigError: neither a task nor data.
        InputError: data that no task can be planned for.
    """
    name = name_of_run(task, data)
    if task is not None:
        return _given(task, data), None
    kept = Path(output or Path("runs", name)) / "configs" / TASK_FILE
    if resume and kept.exists():
        return load_task(kept), None
    planned = _planned(data, budget_s)
    return planned.task, planned.text


def task_of_folds(
    task: str | Path | Task | None, data: str | Path | None, folder: Path, *, budget_s: float | None = None
) -> Task:
    """The same for a cross-validation in ``folder``, whose folds (on whatever machine) share the task that is kept there."""
    if task is not None:
        return _given(task, data)
    kept = folder / TASK_FILE
    if not kept.exists():
        atomic_write(kept, _planned(data, budget_s).text)
    return load_task(kept)


def _given(task: str | Path | Task, data: str | Path | None) -> Task:
    found = task if isinstance(task, Task) else load_task(task)
    return found if data is None else with_ignored(found, data)


def _planned(data: str | Path | None, budget_s: float | None) -> Plan:
    assert data is not None  # name_of_run has seen to it
    planned = plan(data, budget_s=budget_s)
    logger.info("no task given; planned from the data:\n\n%s\n", planned.summary())
    return planned
