"""A folder of scans in, a folder of segmentations out; one bad case never ends the run."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medseg3d.checks import ConfigError, Finding, InputError, some_names
from medseg3d.inference.batch import Batch
from medseg3d.inference.bids import write_bids
from medseg3d.inference.channels import numbered_as, require_numbering
from medseg3d.inference.claims import Claims
from medseg3d.inference.dicom_outputs import dicom_kinds
from medseg3d.inference.extras import Draw, Extras, kept_labels
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.provenance import Model, hint, models_of, options_of, precision_of
from medseg3d.inference.results import FolderResult, output_files
from medseg3d.inference.sidecar import Origin
from medseg3d.inference.summary import write_summary
from medseg3d.io.case_names import comparable, one_file
from medseg3d.io.cases import Case, find_cases
from medseg3d.io.colours import write_colours
from medseg3d.io.segments import segments_of
from medseg3d.io.values import NonFinite
from medseg3d.task import Task
from medseg3d.termination import terminable

__all__ = ["FolderResult", "predict_folder"]
logger = logging.getLogger(__name__)
LAYOUTS = ("flat", "bids")
STALE_AFTER_S = 3600.0
"""A temporary file that nothing was written to for so long belongs to a process that was killed."""


def predict_folder(
    model: Model,
    input: str | Path,
    output: str | Path,
    *,
    task: Task | None = None,
    cases: Sequence[Case] | None = None,
    series: Sequence[str] = (),
    channels: Mapping[int, str] | None = None,
    probabilities: bool = False,
    uncertainty: bool = False,
    overwrite: bool = False,
    part: str | None = None,
    dense: bool = False,
    roi_size: Sequence[int] | None = None,
    overlap: float | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    nonfinite: NonFinite = "error",
    formats: Sequence[str] = ("nifti",),
    seg_kind: str = "BINARY",
    roi_subset: Sequence[str] = (),
    statistics: bool = False,
    per_label: bool = False,
    draw: Draw | None = None,
    layout: str = "flat",
    progress: bool = True,
    **options: Any,
) -> FolderResult:
    """Predict every case of a folder.

    Each case becomes ``NAME.nii.gz`` (``NAME.png`` for a picture) on its own grid; with ``probabilities`` also
    ``NAME_probabilities.nii.gz`` (float32; ``.npy`` for a picture), and with ``uncertainty`` ``NAME_uncertainty.nii.gz``.
    Beside it lies a sidecar, ``NAME.nii.gz.json``, with the hashes of what it was made from. Classification gives
    ``NAME.classes.json`` per case and one ``predictions.csv``. ``predictions.json`` sums up what the folder holds, with the
    Dice to expect of each case and those to look at first. Names and colours of the labels lie in ``labels.label.txt``
    (ITK-SNAP) and ``labels.ctbl`` (3D Slicer).

    A second call skips what is done, and does again what is stale: where the input, the weights, an option or the file
    written has changed. Any number of processes may work on one folder at the same time. While one case is computed the
    next is read and the last one written.

    Args:
        model: run directory or bundle, several of them as an ensemble, or a ``Predictor``, whose own options then count.
        input: folder with scans, in any layout that ``find_cases`` knows.
        output: folder to write to; made where it is missing.
        task: whose channel names the scans go by, if not those of the model's task.
        cases: predict these, and look for none in ``input``.
        series: of DICOM, ``NUMBER`` or ``CHANNEL=NUMBER``: these series, instead of what the task's rules find.
        channels: which channel each number of numbered scans is (nnU-Net's ``NAME_0000``), where neither a ``dataset.json`` beside
            them nor the model says it.
        probabilities: write probabilities too.
        uncertainty: write where the models of an ensemble disagree; of one model, where its flips do (``tta``, which this
            switches on).
        overwrite: do everything again.
        part: ``K/N``: the K-th of N shares, for job arrays; K counts from 1.
        dense, roi_size, overlap, batch_size, device, precision, options: as for ``Predictor``; None leaves the model's
            own. With a memory budget (``max_ram``) cases are not read ahead.
        nonfinite: what NaN and infinity in a scan are: ``"error"``, or ``"zero"``, which is told in the sidecar.
        formats: of DICOM scans besides NIfTI, which is always written: ``seg`` for ``NAME.seg.dcm`` (``NAME.labelmap.dcm``),
            ``rtstruct`` for ``NAME.rtstruct.dcm``. Both carry the patient's identity, as DICOM must.
        seg_kind: of DICOM SEG: ``BINARY`` or ``LABELMAP``.
        roi_subset: labels to keep; the others become background in all that is made of labels. Probabilities and the Dice to
            expect are of all labels.
        statistics: measure each label (``medseg3d.statistics``) into ``statistics.csv`` and the sidecars.
        per_label: write a mask of 0 and 1 for each label, too: ``NAME/LABEL.nii.gz``.
        draw: draws the scan and its labels into ``NAME_preview.png``, as ``medseg3d.report.draw`` does.
        layout: ``bids`` lays the results out under the names of BIDS derivatives, too: hard links in ``bids/``.
        progress: show a bar on a terminal.

    Raises:
        ConfigError: nothing to predict, or an option that cannot be.
        InputError: where no case can be predicted, for the reason of the first.
        ModelError: for a model that cannot be used.
        KeyboardInterrupt: on Ctrl-C and SIGTERM, when what was being written is finished; there are no half files.
    """
    share = None if part is None else _share(part)
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    options |= {"roi_size": roi_size, "overlap": overlap, "batch_size": batch_size, "device": device}
    options |= {"precision": precision, "dense": dense}
    if uncertainty and not isinstance(model, Predictor) and len(_directories(model)) == 1:
        logger.info("one model: the uncertainty is the disagreement among the flips of each scan (--tta)")
        options["tta"] = True
    if isinstance(model, Predictor):
        predictor, asked = model, {}
    else:
        predictor, asked = Predictor.from_bundle(model, **options), options
    if uncertainty:
        _check_members(predictor)
    task = task or predictor.task
    if list(task.channels) != list(predictor.task.channels):
        raise ConfigError(
            f"task {task.name!r} has the channels {', '.join(task.channels)}, and the model was trained with "
            f"{', '.join(predictor.task.channels)}; give the model's own task"
        )
    if channels:
        task = numbered_as(task, channels, missing=predictor.missing)
    output, root = Path(output), Path(input)
    refused: dict[str, Finding] = {}
    if cases is None:
        data_set = find_cases(input, task, labels=False, missing=predictor.missing, series=series)
        logger.info("%s", data_set.describe())
        if channels:
            require_numbering(data_set, task)
        cases, refused = data_set.cases, dict(data_set.refused)
    if not cases and not refused:
        raise ConfigError(f"{input} holds no case to predict; see the README for the layouts that are found")
    root = root if root.is_dir() else root.parent
    kinds: tuple[str, ...] = ()
    if predictor.task.kind == "segmentation":
        wanted = {"labels": True, "probabilities": probabilities, "uncertainty": uncertainty}
        kinds = tuple(kind for kind, asked_for in wanted.items() if asked_for)
    kinds += dicom_kinds(formats, seg_kind, predictor.task, cases)
    given = predictor.given.without_missing(task)
    kept = kept_labels(predictor.task, roi_subset)
    extras = Extras(
        predictor.task, output, list(given.channels), kept, statistics=statistics, per_label=per_label, draw=draw
    )
    cases, refused = _without_collisions(cases, refused, output, kinds)
    names = [case.name for case in cases]
    mine = set(sorted([*names, *refused])[share] if share else [*names, *refused])
    own = [case for case in cases if case.name in mine]
    result = FolderResult(output, failed={name: why for name, why in refused.items() if name in mine})
    claims = Claims(output)
    models = models_of(model)
    if len({m["weights_sha256"] for m in models}) < len(models):
        logger.warning("some of the models have the same weights: they cannot disagree, and are averaged twice")
    origin = Origin(
        root,
        models,
        {**options_of(predictor, asked), "nonfinite": nonfinite, **extras.options},
        {"device": predictor.device.type, "precision": precision_of(predictor)},
        _hints(model, root, output),
    )
    bar = tqdm(total=len(own), desc="predict", unit="case", disable=not (progress and sys.stderr.isatty()))
    batch = Batch(
        predictor,
        given,
        output,
        origin,
        claims,
        result,
        kinds=kinds,
        extras=extras,
        overwrite=overwrite,
        finished=bar.update,
    )
    try:
        with terminable(), bar:
            _remove_stale_temporaries(output)
            batch.run(own, ahead=options.get("max_ram") is None)
            done = [
                output_files(case, output)["labels"] for case in own if case.name in {*result.done, *result.skipped}
            ]
            if layout == "bids" and "labels" in kinds:
                mine_now = [case for case in own if case.name in {*result.done, *result.skipped}]
                if twice := write_bids(mine_now, output, predictor.task):
                    logger.warning("%s have the BIDS name of another case, and are not in bids/", some_names(twice))
            if "labels" in kinds and any(path.suffix == ".gz" for path in done):
                write_colours(segments_of(predictor.task), output, "labels")
    finally:
        try:
            result.triage = write_summary(output, claims, predictor.task, names, refused, root)["triage"]
        except (InputError, OSError) as error:
            logger.warning("the summary could not be written: %s", error)
        claims.close()
    if result.skipped:
        logger.info("%d of %d cases were done before and are skipped", len(result.skipped), len(own))
    if result.elsewhere:
        logger.info("left to other processes, which hold them: %s", ", ".join(result.elsewhere))
    return result


def _share(part: str) -> slice:
    """The slice of a sorted list that ``K/N`` stands for."""
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"part {part!r} must be K/N with K from 1 to N, such as 2/8")
    return slice(int(match[1]) - 1, None, int(match[2]))


def _without_collisions(
    cases: Sequence[Case], refused: dict[str, Finding], output: Path, kinds: Sequence[str]
) -> tuple[list[Case], dict[str, Finding]]:
    """Before any work: no two results in one file (names compare as on systems without case), and none over a scan.

    Raises:
        InputError: where no case is left.
    """
    scans = {file.path.resolve() for case in cases for file in case.images}
    taken: dict[str, list[Case]] = {}
    found: dict[int, Finding] = {}
    for case in cases:
        for kind, path in output_files(case, output).items():
            if kind in (kinds or ("labels",)):
                taken.setdefault(comparable(path.name), []).append(case)
            if kind in kinds and path.resolve() in scans:
                message = f"the result of case {case.name!r} would replace a scan"
                found[id(case)] = Finding("E-OVERWRITE", "error", str(path), message, "give another output folder")
    for same in taken.values():
        for case in same[1:] and same:
            found.setdefault(id(case), one_file([c.name for c in same], str(case.images[0].path)))
    refused = dict(refused)
    for case in cases:
        if id(case) in found:
            refused[case.name] = found[id(case)]
            logger.error("case %s is refused: %s", case.name, found[id(case)])
    kept = [case for case in cases if id(case) not in found]
    if cases and not kept:
        first = found[id(cases[0])]
        raise InputError(first.code, first.message, file=first.file, fix=first.fix)
    return kept, refused


def _directories(model: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(model)] if isinstance(model, (str, Path)) else [Path(directory) for directory in model]


def _check_members(predictor: Predictor) -> None:
    """Refuse uncertainty, before any work, where nothing can disagree."""
    task = predictor.task
    if task.kind != "segmentation":
        raise ConfigError(f"task {task.name!r} is one of {task.kind}; uncertainty maps are for segmentation")
    if predictor.members == 1:
        raise ConfigError(
            f"uncertainty compares several models or flips, and task {task.name!r} allows no flips (mirror_axes); "
            "give several models (--model A --model B)"
        )


def _hints(model: Model, root: Path, output: Path) -> dict[str, Any]:
    """Where models and inputs lie as seen from the output folder, as far as that may be told."""
    models = [None] if isinstance(model, Predictor) else [hint(directory, output) for directory in _directories(model)]
    return {"models": models, "input": hint(root, output)}


def _remove_stale_temporaries(output: Path) -> None:
    """Half files of processes that were killed; those of living ones are younger."""
    for path in output.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                path.unlink()
