"""The command line: one function per verb; everything heavy is imported inside it (DESIGN.md, decision 4)."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg3d.arguments import build_parser, given_options, train_settings
from medseg3d.checks import ConfigError, InputError, MedSegError, out_of_memory
from medseg3d.termination import terminable

OK, UNEXPECTED, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 1, 3, 4, 130


def tasks(options: argparse.Namespace) -> int:
    """List the tasks that come with medseg3d."""
    from medseg3d.task import load_task, task_names

    found = [load_task(name) for name in task_names()]
    if options.json:
        print(json.dumps([task.as_dict() for task in found], indent=2))
        return OK
    for task in found:
        labels = ", ".join(task.labels)
        print(f"{task.name:18} {task.spatial_dims}D {task.kind}: {' + '.join(task.channels)} -> {labels}")
    return OK


def models(options: argparse.Namespace) -> int:
    """List weights that can be had, with their licences; fetch one, or install it from a file."""
    from medseg3d.zoo import install, named, table, zoo

    entries = zoo(options.list)
    if options.get is None:
        print(json.dumps([e.as_dict() for e in entries], indent=2) if options.json else table(entries))
        return OK
    entry = named(entries, options.get)
    folder = install(entry, options.output, file=options.file)
    if options.json:
        print(json.dumps(entry.as_dict() | {"folder": str(folder)}, indent=2))
        return OK
    whole = (folder / "configs").is_dir()
    print(f"weights: {folder}\nlicence: {entry.licence}")
    print(
        f"next: medseg3d {f'predict --model {folder} -i IN -o OUT' if whole else f'train --task NAME --init {folder}'}"
    )
    return OK


def download(options: argparse.Namespace) -> int:
    """Fetch a task's public data set (Medical Segmentation Decathlon), with its checksum."""
    from medseg3d.download import download as fetch

    folder = fetch(options.task, options.output)
    print(f"data: {folder}\nnext: medseg3d train --task {options.task} --data {folder}")
    return OK


def check(options: argparse.Namespace) -> int:
    """Look for what is wrong in a data set, a folder of scans or a file, before it is used."""
    from medseg3d.inspection import inspect
    from medseg3d.task import load_task

    found = inspect(options.data, load_task(options.task) if options.task else None)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
    refused = found.count("error") + (found.count("warning") if options.strict else 0)
    return InputError.exit_code if refused else OK


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
    task = options.task or found.folder / "task.yaml"  # where none is given it was planned, and is kept there
    given = {"data": found.data, "prediction": found.predictions, "task": task}
    report = write_report(found.folder, found.folder / "report.html", **given)
    print(f"report:        {report}  (open it in a browser)")
    models = " ".join(f"--model {run}" for run in found.runs)
    print(f"next, new scans by all folds together: medseg3d predict {models} -i FOLDER -o FOLDER")
    return OK


def predict(options: argparse.Namespace) -> int:
    """Segment every case of a folder; labels lie on each scan's own grid."""
    if options.bundle is not None:
        return _predict_bundle(options)
    if options.trust:
        raise ConfigError("--trust belongs to --bundle; the models of medseg3d hold no code")
    from medseg3d.inference.folder import predict_folder
    from medseg3d.published import model_directories
    from medseg3d.report import draw

    with model_directories(options.model, options.task, options.attention_scale) as models:
        result = predict_folder(
            models,
            options.input,
            options.output,
            series=options.series,
            formats=options.formats or ["nifti"],
            seg_kind=options.seg_kind,
            roi_subset=options.roi_subset,
            statistics=options.statistics,
            per_label=options.per_label,
            draw=draw if options.preview else None,
            layout=options.layout,
            probabilities=options.probabilities,
            uncertainty=options.uncertainty,
            overwrite=options.overwrite,
            part=options.part,
            dense=options.dense,
            roi_size=options.roi,
            overlap=options.overlap,
            precision=options.precision,
            device=options.device,
            mode=options.mode,
            nonfinite=options.nonfinite,
            tta=options.tta or None,
            missing=options.missing,
            max_ram=options.max_ram,
            max_vram=options.max_vram,
        )
    failed = {name: str(why) for name, why in result.failed.items()}
    good = len(result.done) + len(result.skipped)
    if options.json:
        kinds = {"done": result.done, "skipped": result.skipped, "elsewhere": result.elsewhere, "failed": failed}
        print(json.dumps({**kinds, "triage": result.triage}, indent=2))
    else:
        print(f"{good} of {good + len(failed)} cases are segmented in {options.output}")
        if worst := result.worst():
            print(worst)
        for line in result.failures():
            print(f"failed: {line}", file=sys.stderr)
    if not failed:
        return OK
    return SOME_FAILED if good else ALL_FAILED


def _predict_bundle(options: argparse.Namespace) -> int:
    """The same with a MONAI bundle of someone else."""
    from medseg3d.foreign_bundle import predict_bundle

    allowed = {"bundle", "trust", "input", "output", "device", "overwrite", "json", "ml", "quiet", "debug", "run"}
    if given := sorted(given_options("predict", options) - allowed):
        raise ConfigError(
            f"--{given[0].replace('_', '-')} is for the models of medseg3d, not for a bundle of someone else"
        )
    places = (options.bundle, options.input, options.output)
    result = predict_bundle(*places, trust=options.trust, device=options.device, overwrite=options.overwrite)
    failed = {name: str(why) for name, why in result.failed.items()}
    good = len(result.done) + len(result.skipped)
    if options.json:
        print(json.dumps({"done": result.done, "skipped": result.skipped, "failed": failed}, indent=2))
    else:
        print(f"{good} of {good + len(failed)} cases are segmented in {options.output}")
        for name, why in failed.items():
            print(f"failed: {name}: {why}", file=sys.stderr)
    if not failed:
        return OK
    return SOME_FAILED if good else ALL_FAILED


def verify(options: argparse.Namespace) -> int:
    """Predict one result again from its sidecar, and compare."""
    from medseg3d.inference.verify import verify as predict_again
    from medseg3d.published import model_directories

    with model_directories(options.model or [], options.task, options.attention_scale) as models:
        verification = predict_again(options.file, model=models or None, input=options.input, device=options.device)
    print(json.dumps(verification.as_dict(), indent=2) if options.json else verification)
    return OK if verification.identical and not verification.changed else SOME_FAILED


def evaluate(options: argparse.Namespace) -> int:
    """Score predicted label maps against references: Dice, Hausdorff distances and more, per case and label."""
    from medseg3d.evaluation import evaluate as score
    from medseg3d.metrics.lesions import LesionRule

    given = [name for name in ("task", "model", "labels") if getattr(options, name)]
    if len(given) != 1:
        raise ConfigError(
            "evaluate needs to know what the values mean: give one of --task NAME, --model RUN, --labels NAME=IDS"
        )
    evaluation = score(
        options.reference,
        options.prediction,
        options.task or (task_of_model(options.model) if options.model else None),
        labels=dict(options.labels) if options.labels else None,
        by=options.by,
        by_csv=options.by_csv,
        lesions=LesionRule(percentile=options.percentile) if options.lesions else None,
        nnunet=options.nnunet,
        output=options.output,
        definition=options.definition,
        percentile=options.percentile,
        tolerance_mm=options.tolerance_mm,
        empty=options.empty,
        progress=True,
    )
    print(evaluation.json() if options.json else evaluation.table())
    if options.output and not options.json:
        print(f"written: {options.output / 'per_case.csv'}, {options.output / 'summary.json'}")
    failed = len(evaluation.summary["failed"])
    if not failed:
        return OK
    return SOME_FAILED if evaluation.rows else ALL_FAILED


def statistics(options: argparse.Namespace) -> int:
    """Measure label maps for radiomics: volume, surface, longest diameters, intensities, per case and label."""
    from medseg3d.statistics import statistics as measure
    from medseg3d.statistics import write_statistics

    found = measure(options.labels, values_of_labels(options), names=named_values(options), images=options.images)
    if options.output:
        write_statistics(found.rows, options.output)
    print(found.json() if options.json else found.table())
    if options.output and not options.json:
        print(f"written: {options.output}")
    if not found.failed:
        return OK
    return SOME_FAILED if found.rows else ALL_FAILED


def report(options: argparse.Namespace) -> int:
    """Write one HTML file, readable offline, of a run or an evaluation."""
    from medseg3d.report import write_report

    keys = ("data", "images", "reference", "prediction", "task", "channels", "cases", "anonymous")
    given = {key: getattr(options, key) for key in keys}
    file = write_report(options.source, options.output or options.source / "report.html", progress=True, **given)
    print(f"report: {file}")
    return OK


def preview(options: argparse.Namespace) -> int:
    """Three planes of a scan as one PNG, and quick statistics."""
    from medseg3d.io.images import image_stem
    from medseg3d.report import preview as look
    from medseg3d.report.quick_look import table

    output = options.output or Path(f"{image_stem(options.file)}_preview.png")
    found = look(options.file, output, labels=options.labels)
    print(json.dumps(found, indent=2) if options.json else f"{table(found)}\npicture: {output}")
    return OK


def compare(options: argparse.Namespace) -> int:
    """Compare two evaluations of the same cases: paired differences, intervals, wins."""
    from medseg3d.comparison import compare as pair

    if options.longitudinal:
        return _compare_time_points(options)
    if any((options.task, options.model, options.names)):
        raise ConfigError("--task, --model and --labels belong to --longitudinal; evaluations know their labels")
    comparison = pair(options.a, options.b, labels=options.labels, metrics=options.metrics)
    print(comparison.json() if options.json else comparison.table())
    return OK


def _compare_time_points(options: argparse.Namespace) -> int:
    """The volumes of labels at two time points."""
    from medseg3d.longitudinal import longitudinal

    if options.labels or options.metrics:
        raise ConfigError("--label and --metric choose from evaluations; for --longitudinal give --labels NAME=IDS")
    found = longitudinal(options.a, options.b, values_of_labels(options), names=named_values(options))
    print(found.json() if options.json else found.table())
    if not found.failed:
        return OK
    return SOME_FAILED if found.rows else ALL_FAILED


def convert(options: argparse.Namespace) -> int:
    """Write DICOM series as NIfTI, each with a JSON of what was found; a SEG or RTSTRUCT as a label map."""
    from medseg3d.io.conversion import convert as to_nifti

    chosen = {
        "series": options.series,
        "timepoint": options.timepoint,
        "force": options.force,
        "images": options.images,
    }
    if options.assume_orientation:
        from medseg3d.io.orienting import assume_orientation

        what, result = "files", assume_orientation(options.input, options.output, options.assume_orientation)
    else:
        what, result = "series", to_nifti(options.input, options.output, **chosen)
    if options.json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        total = len(result.written) + len(result.failed)
        print(f"{len(result.written)} of {total} {what} are converted in {options.output}")
    if not result.failed:
        return OK
    return SOME_FAILED if result.written else ALL_FAILED


def info(options: argparse.Namespace) -> int:
    """Say what is in a folder or file: series, sizes, spacing, orientation, warnings."""
    from medseg3d.io.description import describe

    found = describe(options.path, timepoint=options.timepoint, force=options.force)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
    return OK


def export(options: argparse.Namespace) -> int:
    """Write a model as MONAI bundle, ONNX, torch.export, safetensors or Hugging Face folder, and compare it with the original."""
    from medseg3d.export import export as write

    done = write(options.model, options.to, options.output)
    if options.json:
        print(json.dumps({"path": str(done.path), "difference": done.difference, "sizes": done.sizes}, indent=2))
    else:
        print(f"written: {done}")
    return OK


def values_of_labels(options: argparse.Namespace) -> Any:
    """The task that ``--task`` or ``--model`` gives; None with neither."""
    if sum(map(bool, (options.task, options.model, options.names))) > 1:
        raise ConfigError("what the values mean is said twice: give one of --task NAME, --model RUN, --labels NAME=IDS")
    return options.task or (task_of_model(options.model) if options.model else None)


def named_values(options: argparse.Namespace) -> dict[str, list[int]] | None:
    """The labels that ``--labels`` gives."""
    return dict(options.names) if options.names else None


def doctor(options: argparse.Namespace) -> int:
    """Say what is on this machine: versions, processor, GPU, memory, decoders, and what costs speed."""
    from medseg3d.doctor import diagnose

    found = diagnose()
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
    return OK


def task_of_model(model: Path) -> Any:
    """The task that a model was trained for."""
    from medseg3d.inference.model import load_model

    return load_model(model).task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    # OpenMP's threads spin while they wait; beside other work on the same cores that makes a training step
    # several times as long. It must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = build_parser(VERBS).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings repeat values, which may name the patient
    log = logging.getLogger("medseg3d")
    log.propagate = False
    log.handlers = [LineHandler()]
    log.setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        with terminable():
            return int(options.run(options))
    except MedSegError as error:
        if options.debug:
            raise
        print(f"medseg3d: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("medseg3d: interrupted", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return OK
    except Exception as error:
        if options.debug:
            raise
        if out_of_memory(error):
            print(
                f"medseg3d: error: not enough memory ({str(error).splitlines()[0] if str(error) else 'no more to be had'}); "
                "close other programs; train with a smaller batch_size or patch_size, accumulate=2 or checkpointing=true, "
                "predict with --max-ram",
                file=sys.stderr,
            )
            return UNEXPECTED
        print(
            f"medseg3d: unexpected error: {type(error).__name__}: {error}\nthis is a fault of medseg3d or its set-up; "
            "the same command with --debug shows where",
            file=sys.stderr,
        )
        return UNEXPECTED


VERBS = (
    tasks,
    models,
    download,
    check,
    plan,
    train,
    predict,
    verify,
    evaluate,
    statistics,
    compare,
    report,
    preview,
    convert,
    info,
    export,
    doctor,
)


class LineHandler(logging.StreamHandler):
    """Log lines on standard error, with the level where it is more than information; tqdm bars stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = prefix + record.getMessage()
        bars = sys.modules.get("tqdm")
        if bars is not None:
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
