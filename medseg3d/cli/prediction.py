"""From scans to segmentations: predict, verify."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from medseg3d.checks import ConfigError
from medseg3d.cli.exits import OK, SOME_FAILED, of_cases
from medseg3d.cli.parser import add_json, given_flags
from medseg3d.cli.values import names, numbers, sizes


def published_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--task", help="what published weights were trained for, such as brats-segformer3d")
    sub.add_argument(
        "--attention-scale",
        choices=("sqrt_num_heads", "sqrt_head_dim"),
        help="of published SegFormer3D weights: the 2024 release's (default), or that of its code after November 2025",
    )


def predict_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    models = sub.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--bundle", type=Path, metavar="DIR", help="a MONAI bundle of someone else, whose config is code; needs --trust"
    )
    add("--trust", action="store_true", help="run the code of --bundle, which may do what any program may")
    models.add_argument(
        "--model",
        type=Path,
        action="append",
        metavar="RUN",
        help="run directory of a training, or published weights with --task; given several times, an ensemble",
    )
    published_options(sub)
    add(
        "-i",
        "--input",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of scans or DICOM studies, or one file",
    )
    add(
        "--series",
        action="append",
        default=[],
        metavar="[CHANNEL=]NUMBER",
        help="DICOM series, as medseg3d info numbers them, instead of what the task's rules find; may be repeated",
    )
    add(
        "--channels",
        type=numbers,
        metavar="0000=NAME,...",
        help="what numbered scans (NAME_0000) are, where neither a dataset.json beside them nor the model says it",
    )
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    add(
        "--format",
        type=names,
        action="extend",
        dest="formats",
        default=["nifti"],
        metavar="FORMATS",
        help="of DICOM scans besides NIfTI: seg, rtstruct, or both with a comma; they name the patient, as DICOM must",
    )
    add(
        "--seg-kind",
        choices=("BINARY", "LABELMAP"),
        default="BINARY",
        help="of DICOM SEG; few viewers read LABELMAP yet",
    )
    add("--probabilities", action="store_true", help="write the probabilities of every label, too")
    add(
        "--uncertainty",
        action="store_true",
        help="write where the models (of one model: the flips of --tta, which this switches on) disagree",
    )
    add(
        "--statistics",
        action="store_true",
        help="write statistics.csv: volume, surface, diameters, intensities per label",
    )
    add("--preview", action="store_true", help="write a picture of each case: three planes with the labels' contours")
    add(
        "--roi-subset",
        "--roi_subset",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="keep these labels alone; the others become background",
    )
    add(
        "--layout",
        choices=("flat", "bids"),
        default="flat",
        help="bids: the results under the names of BIDS derivatives, too (links in OUT/bids)",
    )
    results = sub.add_mutually_exclusive_group()
    results.add_argument("--per-label", action="store_true", help="write a mask for each label, too: NAME/LABEL.nii.gz")
    results.add_argument("--ml", action="store_true", help="all labels in one file, as without it: for habit's sake")
    add("--overwrite", action="store_true", help="do again what is done; default: skip it, redo what is stale")
    add("--part", metavar="K/N", help="the K-th of N shares of the cases, for job arrays")
    add(
        "--mode",
        choices=("windows", "whole", "auto"),
        help="default windows; whole: one pass over the volume; auto: the cheaper",
    )
    add("--tta", action="store_true", default=None, help="average over the flips that the task's anatomy allows")
    add(
        "--missing",
        action="append",
        metavar="CHANNEL",
        help="the scans lack this channel; for models trained with channel_dropout; may be repeated",
    )
    add("--dense", action="store_true", help="full logits on the network grid before the way back, as MONAI does")
    add(
        "--roi",
        dest="roi_size",
        type=sizes,
        metavar="D,H,W",
        help="window in voxels of the network's grid (x,y,z of RAS+); default: the model's",
    )
    add("--overlap", type=float, help="of neighbouring windows, 0 to below 1; default: the model's")
    add("--precision", choices=("auto", "bf16", "float32"), default="auto")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    add(
        "--nonfinite", choices=("error", "zero"), default="error", help="voxels that are NaN or infinite; default error"
    )
    add("--max-ram", type=float, metavar="GB", help="keep the process below this, or refuse and say what would fit")
    add("--max-vram", type=float, metavar="GB", help="the same for the GPU's memory")
    add_json(sub)


_OF_THE_VERB = {
    *("model", "task", "attention_scale", "bundle", "trust", "input", "output", "preview", "ml"),
    *("json", "quiet", "debug", "run"),
}


def library_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of ``predict`` that ``predict_folder`` takes as they are, under the same names."""
    return {name: value for name, value in vars(options).items() if name not in _OF_THE_VERB}


def predict(options: argparse.Namespace) -> int:
    """Segment every case of a folder; labels lie on each scan's own grid."""
    if options.bundle is not None:
        return _predict_bundle(options)
    if options.trust:
        raise ConfigError("--trust belongs to --bundle; the models of medseg3d hold no code")
    from medseg3d.inference.folder import predict_folder
    from medseg3d.published import model_directories
    from medseg3d.report import draw

    given = library_options(options) | {"draw": draw if options.preview else None}
    with model_directories(options.model, options.task, options.attention_scale) as models:
        result = predict_folder(models, options.input, options.output, **given)
    done = [*result.done, *result.skipped]
    failed = {name: str(why) for name, why in result.failed.items()}
    if options.json:
        kinds = {"done": result.done, "skipped": result.skipped, "elsewhere": result.elsewhere, "failed": failed}
        print(json.dumps({**kinds, "triage": result.triage}, indent=2))
    else:
        print(f"{len(done)} of {len(done) + len(failed)} cases are segmented in {options.output}")
        if worst := result.worst():
            print(worst)
        for line in result.failures():
            print(f"failed: {line}", file=sys.stderr)
    return of_cases(done, failed)


def _predict_bundle(options: argparse.Namespace) -> int:
    """The same with a MONAI bundle of someone else."""
    from medseg3d.foreign_bundle import predict_bundle

    allowed = {"bundle", "trust", "input", "output", "device", "overwrite", "json", "ml"}
    given = given_flags(predict_options, options)
    if refused := [flag for name, flag in given.items() if name not in allowed]:
        raise ConfigError(f"{refused[0]} is for the models of medseg3d, not for a bundle of someone else")
    places = (options.bundle, options.input, options.output)
    result = predict_bundle(*places, trust=options.trust, device=options.device, overwrite=options.overwrite)
    done = [*result.done, *result.skipped]
    failed = {name: str(why) for name, why in result.failed.items()}
    if options.json:
        print(json.dumps({"done": result.done, "skipped": result.skipped, "failed": failed}, indent=2))
    else:
        print(f"{len(done)} of {len(done) + len(failed)} cases are segmented in {options.output}")
        for name, why in failed.items():
            print(f"failed: {name}: {why}", file=sys.stderr)
    return of_cases(done, failed)


def verify_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("file", type=Path, metavar="FILE", help="a label map that predict wrote, with its sidecar beside it")
    add("--model", type=Path, action="append", metavar="RUN", help="where the model lies now; all of an ensemble")
    published_options(sub)
    add("-i", "--input", type=Path, metavar="FOLDER", help="where the scans lie now")
    add("--device", help="cpu, cuda or cuda:N")
    add_json(sub)


def verify(options: argparse.Namespace) -> int:
    """Predict one result again from its sidecar, and compare."""
    from medseg3d.inference.verify import verify as predict_again
    from medseg3d.published import model_directories

    with model_directories(options.model or [], options.task, options.attention_scale) as models:
        verification = predict_again(options.file, model=models or None, input=options.input, device=options.device)
    print(json.dumps(verification.as_dict(), indent=2) if options.json else verification)
    return OK if verification.identical and not verification.changed else SOME_FAILED
