"""From a task and a folder of data to a trained model: the run directory, and the workflow that trains in it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medseg3d import bundle
from medseg3d.checks import ConfigError, MedSegError
from medseg3d.io.atomic import atomic_write
from medseg3d.planning.for_run import TASK_FILE, task_of_run
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.training.allocation import freed_memory_kept
from medseg3d.training.budget import fit_budget
from medseg3d.training.checkpoint import LAST, remove_leftovers
from medseg3d.training.dataset import dataset_as_dict, dataset_from_dict, fingerprint, prepare
from medseg3d.training.initial import read_source
from medseg3d.training.intensities import shared_statistics, training_statistics
from medseg3d.training.parts import TASK_SETTINGS, task_with
from medseg3d.training.processes import Processes
from medseg3d.training.run_directory import locked, stored_run
from medseg3d.training.sanity import check_once
from medseg3d.training.settings import default_settings, merge_settings, refuse_code, render
from medseg3d.training.shares import usual_shares
from medseg3d.training.source import sample_data, split_data

if TYPE_CHECKING:
    from medseg3d.evaluation import Evaluation
    from medseg3d.training.trainer import Trainer

logger = logging.getLogger(__name__)

MEASURED = 0.03
"""Part of a time budget that goes into measuring how many steps it holds."""
RESERVE = 0.95
"""Part of a time budget that is planned with; the rest is for saving and for a machine that gets busier."""


def train(
    task: str | Path | Task | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    max_time_s: float | None = None,
    resume: bool = False,
    validation_fraction: float = 0.2,
    split: Mapping[str, Sequence[str]] | None = None,
    statistics: Path | None = None,
) -> Path:
    """Train a model; every input is read and checked before the first step.

    Under torchrun every process calls this; the first one reads, checks and writes, and all train.

    Args:
        task: name, YAML file, or Task; None plans one from ``data`` and keeps it in the run's ``configs/task.yaml``.
        data: folder (or CSV) of images and labels in any layout that ``find_cases`` knows; None: the task's sample data.
        output: run directory; default ``runs/NAME``, or ``runs/NAME-sample`` without data.
        overrides: settings by the keys of train.yaml, over those of the task's ``train:`` section.
        epochs: length of the training.
        max_time_s: length of the training in seconds, from now to the trained model. It becomes a number of epochs once, from a
            few measured steps; the training then follows steps, never the clock.
        resume: go on where the run directory's last checkpoint stands; where there is none, begin.
        validation_fraction: part of the cases that is kept for validation.
        split: names of the cases under ``training`` and ``validation``, instead of a split by ``validation_fraction``.
        statistics: a file through which trainings share the intensity statistics of all cases (``shared_statistics``), such as
            the folds of a cross-validation, whose models can then be an ensemble; None takes those of this run's training
            cases. A run that goes on keeps its own.

    Returns:
        The run directory: a MONAI bundle.

    Raises:
        ConfigError: an unknown task or setting, no data, or a run directory that cannot be used.
        InputError: data that do not fit the task.
        TrainingInterrupted: after Ctrl-C, with everything saved.
    """
    began = time.monotonic()
    if epochs is not None and max_time_s is not None:
        raise ConfigError("give epochs or a time budget, not both")
    processes = Processes.join()
    values: dict[str, Any] | None = None
    with ExitStack() as held:
        try:
            if processes.first:
                changes = [overrides or {}, {} if epochs is None else {"epochs": epochs}]
                values = _begin(
                    task, data, output, changes, resume, max_time_s, validation_fraction, split, statistics, held
                )
        finally:
            values = processes.from_first(values)
        if values is None:
            raise ConfigError("the first process could not begin; its message says why")
        folder = Path(values["bundle_root"])
        if max_time_s is not None and processes.from_first(resume and (folder / "models" / LAST).exists()):
            logger.info("the run goes on to the %d epochs that were planned when it began", values["epochs"])
            max_time_s = None
        deadline = None if max_time_s is None else began + max_time_s
        with freed_memory_kept():
            _run_workflow(folder, values, resume=resume, deadline=deadline, processes=processes)
    return folder


def _begin(
    task: str | Path | Task | None,
    data: str | Path | None,
    output: str | Path | None,
    changes: Sequence[Mapping[str, Any]],
    resume: bool,
    max_time_s: float | None,
    validation_fraction: float,
    split: Mapping[str, Sequence[str]] | None,
    shared: Path | None,
    held: ExitStack,
) -> dict[str, Any]:
    """Read and check everything, write the run directory; returns the values of its train.yaml. ``held`` keeps lock and cases."""
    task, planned = task_of_run(task, data, output, resume=resume, budget_s=max_time_s)
    refuse_code("task", task.as_dict())
    phantom = data is None
    source, sample_settings = sample_data(task) if data is None else (Path(data), {})
    folder = Path(output or Path("runs", f"{task.name}-sample" if phantom else task.name)).resolve()
    stored = stored_run(folder, resume=resume)
    if stored is None:
        settings = merge_settings(task, task.train, sample_settings, *map(_absolute_paths, changes))
    else:
        begun = Task.from_dict(stored.get("task") or {})  # of an earlier version, it may lack keys
        if replace(begun, numbered=task.numbered) != task:
            raise ConfigError(
                f"{folder} was begun with another version of task {task.name!r}; give another output folder (-o)"
            )
        # As if they were given again: MONAI runs train.yaml, and what this one holds may come from elsewhere.
        defaults = default_settings(task)
        before = {k: v for k, v in stored.items() if k in defaults and v != defaults[k]}
        settings = merge_settings(task, before, *map(_absolute_paths, changes))
        refuse_code("statistics", stored.get("statistics"))
    dataset, parts = split_data(source, task, validation_fraction, split, folder if stored else None)
    if len(dataset.numbering) > 1:  # so that scans which are numbered alike need no dataset.json beside them
        task = replace(task, numbered=dataset.numbering)
    chosen = task_with(task, **{name: settings[name] for name in TASK_SETTINGS})
    if stored is None:
        check_once(dataset, parts, chosen, cache=settings["cache"])
    if stored is not None:
        statistics = stored.get("statistics")
    elif shared is not None:
        statistics = shared_statistics(shared, dataset, chosen)
    else:
        statistics = training_statistics(dataset, parts["training"], chosen)
    preprocessing = Preprocessing.from_task(chosen, statistics)
    prepared = {
        part: prepare(
            dataset,
            cases,
            task=chosen,
            preprocessing=preprocessing,
            cache=settings["cache"],
            overflow=folder / "cache",
            in_memory_gb=settings["in_memory_gb"],
        )
        for part, cases in parts.items()
    }
    values = settings | {
        "bundle_root": str(folder),
        "dataset_dir": str(dataset.root),
        "task": task.as_dict(),
        "statistics": None if statistics is None else list(statistics),
        "phantom": phantom,
        "shares": settings["shares"] or usual_shares(),  # kept, so that a run goes on with them on any machine
        "init": None if settings["fine_tune"] is None else dict(read_source(settings["fine_tune"]).origin),
    }
    refuse_code("init", values["init"])
    held.enter_context(locked(folder))
    held.push(lambda *_: prepared.clear())
    for place in (folder, folder / "configs", folder / "docs"):
        remove_leftovers(place)
    bundle.create(
        folder,
        train_config=render(values),
        data={**dataset_as_dict(dataset, parts), "fingerprint": fingerprint(dataset.cases)},
        task=chosen,
        network=settings["network"],
        preprocessing=preprocessing,
        phantom=phantom,
        channel_dropout=settings["channel_dropout"],
        init=values["init"],
    )
    if planned is not None:
        atomic_write(folder / "configs" / TASK_FILE, planned)
    return values


def _absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that name folders, as seen from anywhere; weights may also have a name on a hub."""
    folders = {k: Path(settings[k]) for k in ("cache", "fine_tune") if settings.get(k) is not None}
    places = {k: str(p.absolute()) for k, p in folders.items() if k == "cache" or p.exists()}
    return {**settings, **places}


def _run_workflow(
    folder: Path, values: dict[str, Any], *, resume: bool, deadline: float | None, processes: Processes
) -> None:
    """Run ``configs/train.yaml`` as MONAI does, with its wrapping of our errors taken off."""
    from monai.bundle import ConfigWorkflow

    monai_log = logging.getLogger("monai.bundle.workflows")
    level = monai_log.level
    monai_log.setLevel(logging.ERROR)
    config = folder / "configs" / "train.yaml"
    try:
        workflow = ConfigWorkflow(str(config), logging_file=False, resume=resume)
        workflow.initialize()
        if deadline is not None:
            plan = processes.from_first(_plan(workflow.trainer, deadline - time.monotonic()))
            if processes.first:
                atomic_write(config, render(values | plan))
            processes.from_first(None)  # none reads before the first has written
            workflow = ConfigWorkflow(str(config), logging_file=False, resume=resume)
            workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MedSegError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
    finally:
        monai_log.setLevel(level)


def _plan(trainer: Trainer, seconds: float) -> dict[str, int]:
    """The length of a training that fits into ``seconds``: measured once, stored, never measured again."""
    began = time.monotonic()
    step_s, validation_s = trainer.measure(seconds=MEASURED * seconds)
    left = (seconds - (time.monotonic() - began)) * RESERVE
    plan = fit_budget(left, step_s, validation_s, trainer.steps_per_epoch, trainer.recipe.validation_interval)
    logger.info(
        "%.3f s a step and %.1f s a validation: %d epochs of %d steps, a validation every %d epochs",
        step_s,
        validation_s,
        plan["epochs"],
        plan["steps_per_epoch"],
        plan["validation_interval"],
    )
    return plan


def validate(folder: str | Path, *, names: Sequence[str] | None = None) -> Evaluation | None:
    """Segment (or classify) a run's validation cases with its best weights and score them on the scans' own grids.

    All of them together also calibrate the expected Dice of later predictions (``calibrate``).

    Args:
        folder: run directory.
        names: of some of the validation cases; None takes all.

    Returns:
        The evaluation, also written to ``validation/`` in the run directory; None without validation cases.
    """
    from medseg3d.evaluation import evaluate
    from medseg3d.inference.folder import predict_folder
    from medseg3d.training.calibration import calibrate

    folder = Path(folder)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    task = Task.from_dict(metadata["medseg3d"]["task"])
    root = yaml.safe_load((folder / "configs" / "train.yaml").read_text(encoding="utf-8"))["dataset_dir"]
    _, parts = dataset_from_dict(bundle.read_data(folder), root)
    cases = [c for c in parts["validation"] if names is None or c.name in names]
    if not cases:
        return None
    out = folder / "validation"
    predict_folder(folder, root, out, cases=cases)
    evaluation = evaluate(root, out, task, output=out, cases=[c.name for c in cases])
    if names is None and task.kind == "segmentation":
        calibrate(folder, evaluation)
    return evaluation
