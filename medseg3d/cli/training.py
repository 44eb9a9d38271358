"""From labelled cases to a model: plan, train."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medseg3d.checks import ConfigError, InputError
from medseg3d.cli.exits import OK
from medseg3d.cli.parser import add_json
from medseg3d.cli.values import gigabytes, seconds, setting


def plan_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("data", type=Path, metavar="DATA", help="labelled cases: MSD, nnU-Net, BraTS or plain folders, or a .csv")
    add("-o", "--output", type=Path, metavar="FILE", help="write the task here, such as task.yaml; default: print it")
    add("--budget", type=seconds, metavar="TIME", help="what the training may take, as 30m or 2h; becomes epochs")
    add("--memory", type=gigabytes, default=8.0, metavar="SIZE", help="what it may take of memory; default 8GB")
    add("--no-measure", dest="measure", action="store_false", help="guess what a step takes instead of measuring two")
    add_json(sub)


def plan(options: argparse.Namespace) -> int:
    """Look at a data set and write a task for it, with the reason for every number."""
    from medseg3d.io.atomic import atomic_write
    from medseg3d.planning import plan as plan_for

    planned = plan_for(options.data, budget_s=options.budget, memory_gb=options.memory, measure_step=options.measure)
    if options.output:
        atomic_write(options.output, planned.text)
    print(json.dumps(planned.as_dict(), indent=2) if options.json else planned.summary())
    if not options.json:
        file = options.output or "TASK.yaml"
        written = f"task: {options.output}" if options.output else "with -o TASK.yaml this is written to a file"
        print(f"\n{written}\nnext: medseg3d train --task {file} --data {options.data}")
    return InputError.exit_code if any(f.severity == "error" for f in planned.findings) else OK


def train_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--task", help="name (see: medseg3d tasks) or a .yaml file; default: planned from --data (see: medseg3d plan)")
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="MSD, nnU-Net, BraTS or plain folders, or a .csv; default: sample data",
    )
    add("-o", "--output", type=Path, metavar="FOLDER", help="run directory; default: runs/TASK")
    add("--epochs", type=int, metavar="N", help="length of the training")
    add("--max-time", type=seconds, metavar="TIME", help="length of the training as 90s, 30m or 1h30m")
    add("--set", type=setting, action="append", default=[], metavar="KEY=VALUE", help="change a key of train.yaml")
    add("--resume", action="store_true", help="go on where the run directory's last checkpoint stands")
    add(
        "--init",
        "--fine-tune",
        dest="fine_tune",
        metavar="WEIGHTS",
        help="begin with these: a run directory, published weights (file, folder), a name on the Hugging Face hub",
    )
    add("--folds", type=int, metavar="N", help="cross-validation: a run directory per fold in the output folder")
    add("--fold", type=int, metavar="K", help="train this fold alone (from 1), for several machines")
    add("--group-by", metavar="COLUMN", help="cases with the same value stay in one fold; default: patients, by name")
    add("--group-csv", type=Path, metavar="FILE", help="table with columns 'case' and COLUMN")
    add("--cache", type=Path, metavar="FOLDER", help="keep prepared cases here, for other runs too")
    add("--logger", choices=("mlflow", "wandb"), help="send the numbers there, too")
    add("--compile", action="store_true", help="torch.compile the network")


def train_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options of ``train`` change, by the keys of train.yaml."""
    if options.folds is None and (options.fold or options.group_by or options.group_csv):
        raise ConfigError("--fold, --group-by and --group-csv belong to a cross-validation; give --folds N, too")
    flags = {"fine_tune": options.fine_tune, "cache": options.cache, "logger": options.logger}
    flags |= {"compile": options.compile or None}
    return {**dict(options.set), **{k: str(v) if isinstance(v, Path) else v for k, v in flags.items() if v is not None}}


def train(options: argparse.Namespace) -> int:
    """Train a network, segment the validation cases and score them."""
    from medseg3d.report import write_report
    from medseg3d.training.processes import Processes
    from medseg3d.training.run import train as run_training
    from medseg3d.training.run import validate

    if options.folds is not None:
        return _train_folds(options)
    run = run_training(
        options.task,
        options.data,
        options.output,
        overrides=train_settings(options),
        epochs=options.epochs,
        max_time_s=options.max_time,
        resume=options.resume,
    )
    if not Processes.leave().first:
        return OK
    evaluation = validate(run)
    if evaluation is not None:
        phantom = " (phantoms, not patients)" if options.data is None else ""
        print(f"\nvalidation cases, not seen in training{phantom}:\n{evaluation.table()}\n")
        print(f"predictions:   {run / 'validation'}")
        print(f"scores:        {run / 'validation' / 'summary.json'}, per_case.csv")
    print(f"report:        {write_report(run, run / 'report.html')}  (open it in a browser)")
    print(f"model:         {run}  (a MONAI bundle)")
    print(f"curves:        {run / 'metrics.csv'}, tensorboard --logdir {run}")
    if options.data is None:
        print(f"next, your own scans: medseg3d train --task {options.task} --data FOLDER")
    else:
        print(f"next, new scans: medseg3d predict --model {run} -i FOLDER -o FOLDER")
    return OK


def _train_folds(options: argparse.Namespace) -> int:
    """The folds of a cross-validation, or one of them."""
    from medseg3d.report import write_report
    from medseg3d.training.crossval import cross_validate
    from medseg3d.training.processes import Processes

    found = cross_validate(
        options.task,
        options.data,
        options.output,
        folds=options.folds,
        fold=options.fold,
        group_by=options.group_by,
        group_csv=options.group_csv,
        overrides=train_settings(options),
        epochs=options.epochs,
        max_time_s=options.max_time,
    )
    if not Processes.leave().first:
        return OK
    if found.evaluation is None:
        left = ", ".join(map(str, found.open))
        print(
            f"folds left: {left}; the same command without --fold trains them, with --fold K one of them, on any machine"
        )
        return OK
    phantom = " (phantoms, not patients)" if options.data is None else ""
    print(f"\nevery case by the network that did not see it{phantom}:\n{found.evaluation.table()}\n")
    for label, chosen in found.rules.items():
        print(f"cleaning of {label}: {chosen.rule}" + (f" (Dice {chosen.before:.4f} before)" if chosen.rule else ""))
    print(f"scores:        {found.folder / 'summary.json'}, per_case.csv, cross_validation.json")
    given = {"data": found.data, "prediction": found.predictions, "task": found.task}
    report = write_report(found.folder, found.folder / "report.html", **given)
    print(f"report:        {report}  (open it in a browser)")
    models = " ".join(f"--model {run}" for run in (found.runs if found.ensemble else found.runs[:1]))
    who = (
        "all folds together" if found.ensemble else "one fold (they scale intensities differently, and are no ensemble)"
    )
    print(f"next, new scans by {who}: medseg3d predict {models} -i FOLDER -o FOLDER")
    return OK
