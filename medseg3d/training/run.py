"""From a task and a folder of data to a trained model: the run directory, and the workflow that trains in it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from medseg3d import bundle, configs_folder, sample_data_folder
from medseg3d.checks import ConfigError, MedSegError
from medseg3d.io import Case, DataSet, find_cases, split_cases
from medseg3d.io.atomic import atomic_write
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task, load_task
from medseg3d.training.budget import fit_budget
from medseg3d.training.checkpoint import LAST
from medseg3d.training.dataset import dataset_as_dict, dataset_from_dict, fingerprint, prepare, training_statistics
from medseg3d.training.parts import TASK_SETTINGS, task_with
from medseg3d.training.settings import merge_settings, refuse_code, render

if TYPE_CHECKING:
    from medseg3d.evaluation import Evaluation
    from medseg3d.training.trainer import Trainer

logger = logging.getLogger(__name__)

RESERVE = 0.95
"""Part of a time budget that is planned with; the rest is for saving and for a machine that gets busier."""


def train(
    task: str | Path | Task,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    max_time_s: float | None = None,
    resume: bool = False,
    validation_fraction: float = 0.2,
) -> Path:
    """Train a model; every input is read and checked before the first step.

    Args:
        task: name, YAML file, or Task.
        data: folder (or CSV) of images and labels in any layout that ``find_cases`` knows; None: the task's sample data.
        output: run directory; default ``runs/NAME``, or ``runs/NAME-sample`` without data.
        overrides: settings by the keys of train.yaml, over those of the task's ``train:`` section.
        epochs: length of the training.
        max_time_s: length of the training in seconds, from now to the trained model. It becomes a number of epochs once, from a
            few measured steps; the training then follows steps, never the clock.
        resume: go on where the run directory's last checkpoint stands; where there is none, begin.
        validation_fraction: part of the cases that is kept for validation.

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
    task = task if isinstance(task, Task) else load_task(task)
    refuse_code("task", task.as_dict())
    phantom = data is None
    source, sample_settings = _sample(task) if data is None else (Path(data), {})
    folder = Path(output or Path("runs", f"{task.name}-sample" if phantom else task.name)).resolve()
    stored = _stored_run(folder, resume=resume)
    changes = [overrides or {}, {} if epochs is None else {"epochs": epochs}]
    if stored is None:
        settings = merge_settings(task, task.train, sample_settings, *changes)
    else:
        if stored["task"] != task.as_dict():
            raise ConfigError(
                f"{folder} was begun with another version of task {task.name!r}; give another output folder (-o)"
            )
        settings = merge_settings(task, *changes, base={k: stored[k] for k in stored if k in merge_settings(task)})
    chosen = task_with(task, **{name: settings[name] for name in TASK_SETTINGS})
    dataset, parts = _split_data(source, task, validation_fraction, folder if stored else None)
    statistics = training_statistics(dataset, parts["training"], chosen) if stored is None else stored["statistics"]
    preprocessing = Preprocessing.from_task(chosen, statistics)
    held = [prepare(dataset, cases, task=chosen, preprocessing=preprocessing) for cases in parts.values()]
    values = settings | {
        "bundle_root": str(folder),
        "dataset_dir": str(dataset.root),
        "task": task.as_dict(),
        "statistics": None if statistics is None else list(statistics),
        "phantom": phantom,
    }
    with _locked(folder):
        bundle.create(
            folder,
            train_config=render(values),
            data={**dataset_as_dict(dataset, parts), "fingerprint": fingerprint(dataset.cases)},
            task=chosen,
            network=settings["network"],
            preprocessing=preprocessing,
            phantom=phantom,
        )
        planned = stored is not None and (folder / "models" / LAST).exists()
        if max_time_s is not None and planned:
            logger.info("the run goes on to the %d epochs that were planned when it began", settings["epochs"])
            max_time_s = None
        _run_workflow(folder, values, resume=resume, deadline=None if max_time_s is None else began + max_time_s)
    del held
    return folder


def _run_workflow(folder: Path, values: dict[str, Any], *, resume: bool, deadline: float | None) -> None:
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
            plan = _plan(workflow.trainer, deadline - time.monotonic())
            atomic_write(config, render(values | plan))
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
    step_s, validation_s = trainer.measure()
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


def _sample(task: Task) -> tuple[Path, dict[str, Any]]:
    """The sample data of a task, and the settings that suit them."""
    samples = yaml.safe_load((configs_folder() / "sample.yaml").read_text(encoding="utf-8"))
    if task.name not in samples:
        raise ConfigError(
            f"task {task.name!r} has no sample data; give --data FOLDER (tasks with sample data: {', '.join(samples)})"
        )
    settings = dict(samples[task.name])
    folder = sample_data_folder() / settings.pop("folder")
    logger.info("no data given: training on the sample phantoms in %s", folder)
    return folder, settings


def _stored_run(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """The train.yaml of a run that goes on, or None for a new one.

    Raises:
        ConfigError: the folder holds a training and ``resume`` is not set, or something else altogether.
    """
    config = folder / "configs" / "train.yaml"
    if not config.exists():
        if folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and no run directory; give another output folder")
        return None
    if not resume:
        if (folder / "models" / LAST).exists():
            raise ConfigError(
                f"{folder} holds a training already; go on with --resume, or give another output folder (-o)"
            )
        return None
    try:
        return dict(yaml.safe_load(config.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{config} cannot be read ({error}); give another output folder (-o)") from None


def _split_data(
    source: Path, task: Task, validation_fraction: float, stored_run: Path | None
) -> tuple[DataSet, dict[str, list[Case]]]:
    """The data set and its split: the stored one for a run that goes on, whose data must match."""
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"validation_fraction {validation_fraction} must be at least 0 and below 1")
    found = find_cases(source, task, labels=True)
    logger.info("%s", found.describe())
    root = source if source.is_dir() else source.parent
    found = replace(found, root=root.absolute(), cases=tuple(_absolute(c) for c in found.cases))
    if stored_run is None:
        training, validation = split_cases(found.cases, validation_fraction)
    else:
        values = bundle.read_data(stored_run)
        if fingerprint(found.cases) != values["fingerprint"]:
            raise ConfigError(
                f"{stored_run} was begun with other data than {source} (names, sizes or contents differ); give the same data to go "
                "on, or another output folder (-o) to begin anew"
            )
        by_name = {case.name: case for case in found.cases}
        training, validation = ([by_name[c["name"]] for c in values[p]] for p in ("training", "validation"))
    if not training:
        raise ConfigError(
            f"{len(found.cases)} case in {source} leaves none to train on; give more, or a smaller validation part"
        )
    logger.info("%d cases to train on, %d to validate on", len(training), len(validation))
    parts = {"training": training, "validation": validation}
    # What train.yaml will read back, so that what is loaded now is what it finds loaded.
    return dataset_from_dict(dataset_as_dict(found, parts), found.root)


def _absolute(case: Case) -> Case:
    images = tuple(replace(f, path=f.path.absolute()) for f in case.images)
    return replace(case, images=images, label=None if case.label is None else case.label.absolute())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a run directory, so that two trainings never write to one."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"another training is running in {folder}; wait for it, or give another output folder (-o)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def validate(folder: str | Path, *, names: Sequence[str] | None = None) -> Evaluation | None:
    """Segment (or classify) a run's validation cases with its best weights and score them on the scans' own grids.

    Args:
        folder: run directory.
        names: of some of the validation cases; None takes all.

    Returns:
        The evaluation, also written to ``validation/`` in the run directory; None without validation cases.
    """
    from medseg3d.evaluation import evaluate
    from medseg3d.inference.folder import predict_folder

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
    return evaluate(root, out, task, output=out, cases=[c.name for c in cases])
