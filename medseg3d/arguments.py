"""What each verb of the command line takes, and how values are written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.checks import ConfigError

DESCRIPTION = """Segmentation of medical volumes with SegFormer.

  medseg3d train --task brats                      train, segment and score on built-in sample data
  medseg3d train --task brats --data FOLDER        the same on your scans
  medseg3d train --data FOLDER                     the same with a task planned from them
  medseg3d predict --model runs/brats -i IN -o OUT segment a folder
  medseg3d evaluate --reference A --prediction B   score a folder
  medseg3d report runs/brats                       one HTML file to look at
"""
EXIT_CODES = """exit codes: 0 all well, 1 unexpected error, 2 wrong usage or config, 3 some cases failed, 4 all cases failed,
5 input refused, 6 model refused, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM)"""


def seconds(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``1h30m`` as seconds."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 30m or 1h30m")
    return total


def gigabytes(text: str) -> float:
    """``8GB``, ``8`` or ``512MB`` as 10^9 bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|G|MB|M)?", text.strip(), re.IGNORECASE)
    size = float(match[1]) / (1000 if (match[2] or "g").lower().startswith("m") else 1) if match else 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 8GB")
    return size


def setting(text: str) -> tuple[str, Any]:
    """``key=value`` with the value read as YAML."""
    import yaml

    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} must have the form key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"the value of {text!r} is not valid YAML") from None


def label(text: str) -> tuple[str, list[int]]:
    """``NAME=1,2`` as a name and its values."""
    name, sign, values = text.partition("=")
    try:
        ids = [int(value) for value in values.split(",")]
    except ValueError:
        ids = []
    if not sign or not name.strip() or not ids:
        raise argparse.ArgumentTypeError(f"{text!r} must have the form NAME=1 or NAME=1,2")
    return name.strip(), ids


def sizes(text: str) -> tuple[int, ...]:
    """``96,96,64`` as numbers of voxels."""
    try:
        found = tuple(int(part) for part in re.split("[,x]", text))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must have the form 96,96,64, or 512,512 for pictures")
    return found


def names(text: str) -> list[str]:
    """``A,B`` as names."""
    return [name.strip() for name in text.split(",") if name.strip()]


Verb = Callable[[argparse.Namespace], int]


def build_parser(verbs: Iterable[Verb]) -> argparse.ArgumentParser:
    """The whole command line; each verb's name and help are those of its function."""
    parser = argparse.ArgumentParser(
        prog="medseg3d",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"medseg3d {__version__}")
    added = parser.add_subparsers(metavar="VERB", required=True)
    for run in verbs:
        words = (run.__doc__ or "").strip().replace("%", "%%")
        sub = added.add_parser(run.__name__, help=words, description=words, epilog=EXIT_CODES)
        OPTIONS[run.__name__](sub)
        sub.add_argument("--debug", action="store_true", help="show the stack trace of an error")
        sub.add_argument("--quiet", action="store_true", help="warnings and errors alone")
        sub.set_defaults(run=run)
    return parser


def _json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON for a program to read")


def _models(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--get", metavar="NAME", help="fetch these weights and check them")
    add("--from", dest="file", type=Path, metavar="FILE", help="install them from a file fetched by other means")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="default: runs/NAME for the model of a task, else weights/NAME",
    )
    add("--list", type=Path, metavar="YAML", help="a list of your own in place of the one that comes with medseg3d")
    _json(sub)


def _download(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--task", required=True, help="name of a task with a public data set, such as hippocampus")
    sub.add_argument("-o", "--output", type=Path, default=Path("data"), metavar="FOLDER", help="default: data")


def _check(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("data", type=Path, metavar="DATA", help="data set in any layout, folder of scans (also DICOM), or one file")
    add("--task", help="what the data are for: name or .yaml file; without it files are looked at one by one")
    add("--strict", action="store_true", help="warnings count as errors")
    _json(sub)


def _plan(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("data", type=Path, metavar="DATA", help="labelled cases: MSD, nnU-Net, BraTS or plain folders, or a .csv")
    add("-o", "--output", type=Path, metavar="FILE", help="write the task here, such as task.yaml; default: print it")
    add("--budget", type=seconds, metavar="TIME", help="what the training may take, as 30m or 2h; becomes epochs")
    add("--memory", type=gigabytes, default=8.0, metavar="SIZE", help="what it may take of memory; default 8GB")
    add("--no-measure", dest="measure", action="store_false", help="guess what a step takes instead of measuring two")
    _json(sub)


def _train(sub: argparse.ArgumentParser) -> None:
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


def _published(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--task", help="what published weights were trained for, such as brats-segformer3d")
    sub.add_argument(
        "--attention-scale",
        choices=("sqrt_num_heads", "sqrt_head_dim"),
        help="of published SegFormer3D weights: the 2024 release's (default), or that of its code after November 2025",
    )


def _predict(sub: argparse.ArgumentParser) -> None:
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
    _published(sub)
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
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    add(
        "--format",
        type=names,
        action="extend",
        dest="formats",
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
    add("--tta", action="store_true", help="average over the flips that the task's anatomy allows")
    add(
        "--missing",
        action="append",
        metavar="CHANNEL",
        help="the scans lack this channel; for models trained with channel_dropout; may be repeated",
    )
    add("--dense", action="store_true", help="full logits on the network grid before the way back, as MONAI does")
    add(
        "--roi",
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
    _json(sub)


def given_options(verb: str, options: argparse.Namespace) -> set[str]:
    """Names of the options of a verb that are not at their defaults."""
    sub = argparse.ArgumentParser(add_help=False)
    OPTIONS[verb](sub)
    return {name for name, value in vars(options).items() if value != sub.get_default(name)}


def _verify(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("file", type=Path, metavar="FILE", help="a label map that predict wrote, with its sidecar beside it")
    add("--model", type=Path, action="append", metavar="RUN", help="where the model lies now; all of an ensemble")
    _published(sub)
    add("-i", "--input", type=Path, metavar="FOLDER", help="where the scans lie now")
    add("--device", help="cpu, cuda or cuda:N")
    _json(sub)


def _evaluate(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--reference", type=Path, required=True, metavar="FOLDER", help="label maps, or a data set's folder")
    add("--prediction", type=Path, required=True, metavar="FOLDER")
    add("--task", help="name or .yaml file: what the values mean")
    add("--model", type=Path, metavar="RUN", help="take the task of this model instead")
    add("--labels", type=label, action="append", metavar="NAME=IDS", help="instead of a task, as liver=1 or tumour=2,3")
    add("-o", "--output", type=Path, metavar="FOLDER", help="write per_case.csv and summary.json here")
    add("--nnunet", type=Path, metavar="JSON", help="write the scores as nnU-Net's summary.json, too")
    add("--by", metavar="COLUMN", help="summarise subgroups by this column of --by-csv")
    add("--by-csv", type=Path, metavar="FILE", help="table with a column 'case'")
    add("--lesions", action="store_true", help="score lesion by lesion, too, as BraTS does")
    add("--definition", default="surface", choices=("surface", "voxel", "pooled", "mesh"), help="of surface distances")
    add("--percentile", type=float, default=95, help="of the Hausdorff distance; default 95")
    add("--tolerance-mm", type=float, help="of the normalised surface Dice, which is left out without it")
    add("--empty", choices=("nan", "one"), default="nan", help="both masks empty: left out of means, or 1")
    _json(sub)


def _values(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--task", help="name or .yaml file: what the values mean; default: each value is a label of its own")
    add("--model", type=Path, metavar="RUN", help="take the task of this model instead")
    add("--labels", dest="names", type=label, action="append", metavar="NAME=IDS", help="instead of a task, as liver=1")


def _statistics(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("labels", type=Path, metavar="LABELS", help="folder of label maps, or one")
    add("--images", type=Path, metavar="FOLDER", help="the scans, found by name: intensities, too (HU of a CT)")
    _values(sub)
    add("-o", "--output", type=Path, metavar="CSV", help="write a table with a line per case and label")
    _json(sub)


def _compare(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("a", type=Path, metavar="A", help="output folder of an evaluation; with --longitudinal label maps, or one")
    add("b", type=Path, metavar="B", help="another of the same cases; differences are B - A")
    add("--label", action="append", dest="labels", metavar="NAME", help="compare this label alone; may be repeated")
    add("--metric", action="append", dest="metrics", metavar="COLUMN", help="compare this column; may be repeated")
    add(
        "--longitudinal",
        action="store_true",
        help="two time points: each label's volume, its change, and how sure that is",
    )
    _values(sub)
    _json(sub)


def _report(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("source", type=Path, metavar="FOLDER", help="run directory, or the output folder of evaluate")
    add("-o", "--output", type=Path, metavar="FILE", help="default: report.html in FOLDER")
    add("--data", type=Path, metavar="FOLDER", help="data set with scans and references; for a run: where it lies now")
    add("--images", type=Path, metavar="FOLDER", help="for an evaluation: the scans alone")
    add("--reference", type=Path, metavar="FOLDER", help="for an evaluation: the reference label maps")
    add("--prediction", type=Path, metavar="FOLDER", help="for an evaluation: predictions; default: FOLDER itself")
    add("--task", help="for an evaluation with a task of your own: its .yaml file")
    add("--channel", action="append", dest="channels", metavar="NAME", help="show this channel; may be repeated")
    add("--cases", type=int, default=20, metavar="N", help="pictures of the N worst cases; default 20")
    add("--anonymous", action="store_true", help="number the cases instead of naming them")


def _preview(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("file", type=Path, metavar="FILE", help="a scan or a label map")
    add("--labels", type=Path, metavar="FILE", help="a label map to draw on it")
    add("-o", "--output", type=Path, metavar="PNG", help="default: NAME_preview.png in the current folder")
    _json(sub)


def _dicom(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--timepoint", type=int, metavar="N", help="of a DICOM series of several volumes, the N-th; from 1")
    add("--force", action="store_true", help="read DICOM data sets without their preamble, too")


def _convert(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("-i", "--input", type=Path, required=True, metavar="DICOM", help="folder of DICOM files, or one file")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    add("--series", metavar="NUMBER", help="this one alone: number or id as medseg3d info shows them, or its UID")
    add("--images", type=Path, metavar="FOLDER", help="of a SEG or RTSTRUCT: the DICOM images that it was drawn on")
    add("--assume-orientation", metavar="CODE", help="of NIfTI files that do not say how they lie, such as RAS")
    _dicom(sub)
    _json(sub)


def _info(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", type=Path, metavar="PATH", help="folder of DICOM or image files, or one file")
    _dicom(sub)
    _json(sub)


def _export(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("model", type=Path, metavar="RUN", help="run directory of a training")
    add("--to", required=True, choices=("bundle", "onnx", "pt2", "safetensors", "hf"))
    add("-o", "--output", type=Path, metavar="FILE", help="file, or folder for hf; default: the run's name here")
    _json(sub)


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "tasks": _json,
    "models": _models,
    "download": _download,
    "check": _check,
    "plan": _plan,
    "train": _train,
    "predict": _predict,
    "verify": _verify,
    "evaluate": _evaluate,
    "statistics": _statistics,
    "compare": _compare,
    "report": _report,
    "preview": _preview,
    "convert": _convert,
    "info": _info,
    "export": _export,
    "doctor": _json,
}
