"""From a folder of scans to its cases: layouts are recognised, names matched, doubts refused."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medseg3d.checks import ConfigError, Finding, InputError, some_names
from medseg3d.io.channels import numbering, resolve
from medseg3d.io.dataset import Case, ChannelFile, DataSet
from medseg3d.io.dicom_places import dicom_files, holds_dicom, is_dicom_data
from medseg3d.io.images import SUFFIXES
from medseg3d.io.layouts import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    add_labels,
    case_folders,
    class_folders,
    flat,
    image_files,
    listed,
    nested,
    subfolder,
)
from medseg3d.io.matching import IGNORE, Names, brats_labels, match_labels, read_names
from medseg3d.io.parts import Parts
from medseg3d.io.split import split_cases, subject_of
from medseg3d.io.table import read_table
from medseg3d.task import Task

__all__ = ["Case", "ChannelFile", "DataSet", "find_cases", "split_cases", "subject_of", "with_ignored"]
logger = logging.getLogger(__name__)


def find_cases(
    root: str | Path,
    task: Task,
    *,
    labels: bool,
    csv: str | Path | None = None,
    missing: Collection[str] = (),
    series: Sequence[str] = (),
) -> DataSet:
    """Find the cases of a data set and match its names to the task's.

    Known are MSD and nnU-Net (``dataset.json``), BraTS of every year and other data with a folder per case, two folders
    ``images/`` and ``labels/``, a CSV, one folder per class for classification, and without labels any folder of images
    or of DICOM studies, or one image; for tasks of two axes each DICOM file is an image. Where a ``dataset.json`` lies in
    the folder (or above it), its names of channels and labels count in every layout; without one, label values are the
    task's own.

    As in nnU-Net, an image of ``training`` or ``imagesTr`` without a label is an error. In the other layouts it is left
    out with a note, as long as others have theirs. Labels without an image are left out with a note.

    Args:
        root: the folder, or a CSV, or (without ``labels``) one image.
        task: what channels and labels are called.
        labels: whether labels (or classes) are needed: for training and evaluation, not for prediction.
        csv: a table of the cases; its paths are relative to it.
        missing: channels of the task that need not be there; the cases found have the others.
        series: DICOM series for channels, instead of the task's rules: ``NUMBER`` or ``CHANNEL=NUMBER``.

    Raises:
        ConfigError: where there is nothing to be found; the message says what was looked for.
        InputError: where names are missing, unknown or ambiguous, or files are missing.
    """
    root = Path(root)
    given = replace(task, channels={c: aliases for c, aliases in task.channels.items() if c not in missing})
    if csv is not None or root.suffix.lower() == ".csv":
        file = root if csv is None else Path(csv)
        parts, left_out = read_table(file, given, labels)
        notes = [f"column {c!r} is not used" for c in left_out]
        return _data_set(file, "CSV", parts, given, _names_near(file.parent), labels=labels, notes=notes)
    if not labels and task.spatial_dims == 3 and is_dicom_data(root):
        from medseg3d.io.dicom_cases import find_dicom_cases  # pydicom is loaded where there is DICOM

        return find_dicom_cases(root, given, series)
    if series:
        raise ConfigError(f"a series is chosen ({', '.join(series)}), but {root} is no folder of DICOM")
    if root.is_file() and not labels:
        return _data_set(root, "one image", flat([root], task, None), given, _names_near(root.parent), labels=False)
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder; give a folder of scans" + ("" if labels else ", or one image"))
    if task.kind == "classification" and labels:
        return _data_set(root, "a folder per class", class_folders(root, task, True), task, None, labels=True)
    names = _names_near(root)
    if labels:
        return _labelled(root, task, names)
    found = _unlabelled(root, task, given, names)
    if task.spatial_dims == 3 and holds_dicom(root):
        note = "there is DICOM, too, which is left out; give its own folder to read it"
        return replace(found, notes=(*found.notes, note))
    return found


def _names_near(folder: Path) -> Names | None:
    """The ``dataset.json`` of a folder, or of the data set whose ``imagesTr`` or similar it is."""
    inside = folder.name.lower() in (*IMAGE_FOLDERS, "imagests")
    for place in (folder, folder.parent) if inside else (folder,):
        if (place / "dataset.json").is_file():
            return read_names(place / "dataset.json")
    return None


def with_ignored(task: Task, data: str | Path) -> Task:
    """A task that ignores the voxels which the ``dataset.json`` of a data set calls so, where it says nothing of them itself.

    Raises:
        InputError: a ``dataset.json`` that cannot be read.
    """
    data = Path(data)
    if task.kind != "segmentation" or task.ignore is not None or task.label_named(IGNORE) is not None:
        return task
    names = _names_near(data if data.is_dir() else data.parent)
    if names is None or names.ignore is None:
        return task
    value = names.ignore if names.ignore not in task.values else max(task.values) + 1
    logger.info(
        "%s calls label %d %r: these voxels are neither trained on nor scored", names.file, names.ignore, IGNORE
    )
    return replace(task, ignore=value)


def _labelled(root: Path, task: Task, names: Names | None) -> DataSet:
    pictures = task.spatial_dims == 2
    if names is not None and names.training is not None and names.file.parent == root:
        return _data_set(root, "MSD dataset.json", listed(names, task, True), task, names, labels=True, strict=True)
    images, label_folder = subfolder(root, IMAGE_FOLDERS), subfolder(root, LABEL_FOLDERS)
    if images is not None and label_folder is not None:
        parts = flat(image_files(images, dicom=pictures), task, names)
        stray = add_labels(parts, label_folder)
        notes = [f"labels without an image are left out: {some_names(stray)}"] if stray else []
        official = images.name == "imagesTr"
        layout = "nnU-Net imagesTr and labelsTr" if official else f"folders {images.name} and {label_folder.name}"
        return _data_set(root, layout, parts, task, names, labels=True, notes=notes, strict=official)
    if images is not None:
        wanted = ", ".join(f"{n}/" for n in LABEL_FOLDERS)
        raise ConfigError(f"{root}: {images.name}/ is there, but no folder of labels; looked for {wanted}")
    if folders := case_folders(root):
        parts, tails = nested(folders, task)
        return _data_set(root, "a folder per case", parts, task, names, labels=True, tails=tails)
    if files := image_files(root, dicom=pictures):
        return _data_set(root, "one folder", flat(files, task, names), task, names, labels=True)
    raise _nothing(root, labels=True)


def _unlabelled(root: Path, task: Task, given: Task, names: Names | None) -> DataSet:
    pictures = task.spatial_dims == 2
    for folder in (subfolder(root, ("imagests",)), subfolder(root, IMAGE_FOLDERS)):
        if folder is not None and (files := image_files(folder, dicom=pictures)):
            notes = [f"the images in {folder.name}/ are taken"]
            return _data_set(root, folder.name, flat(files, task, names), given, names, labels=False, notes=notes)
    if files := image_files(root, dicom=pictures):
        return _data_set(root, "one folder", flat(files, task, names), given, names, labels=False)
    if task.kind == "classification" and (parts := class_folders(root, task, False)):
        return _data_set(root, "folders of images", parts, given, names, labels=False)
    if folders := case_folders(root):
        parts, _ = nested(folders, task)
        return _data_set(root, "a folder per case", parts, given, names, labels=False)
    if pictures and (files := dicom_files(root)):
        return _data_set(root, "DICOM, a case per file", flat(files, task, names), given, names, labels=False)
    if task.spatial_dims == 3:
        from medseg3d.io.dicom_cases import refuse_broken

        refuse_broken(root)
    raise _nothing(root, labels=False)


def _nothing(root: Path, *, labels: bool) -> ConfigError:
    looked = (
        "a dataset.json (MSD, nnU-Net), images/ and labels/, a folder per case (BraTS)" if labels else "images, DICOM"
    )
    return ConfigError(f"no cases in {root}; looked for {looked}, files ending in {', '.join(SUFFIXES)}, or give a CSV")


def _data_set(
    root: Path,
    layout: str,
    cases: Mapping[str, Parts],
    task: Task,
    names: Names | None,
    *,
    labels: bool,
    notes: Sequence[str] = (),
    strict: bool = False,
    tails: Iterable[str] = (),
) -> DataSet:
    notes = list(notes)
    found: list[Case] = []
    called: dict[str, list[str]] = {c: [] for c in task.channels}
    refused: dict[str, Finding] = {}
    first: InputError | None = None
    orphans = [n for n, parts in cases.items() if parts.label is not None and not parts.channels and not parts.whole]
    if orphans:
        notes.append(f"labels without an image are left out: {some_names(sorted(orphans))}")
        cases = {n: parts for n, parts in cases.items() if n not in orphans}
    unlabelled = [n for n in sorted(cases) if labels and task.kind == "segmentation" and cases[n].label is None]
    if unlabelled and (strict or len(unlabelled) == len(cases)):
        message = f"no label for {len(unlabelled)} of {len(cases)} images: {some_names(unlabelled)}"
        raise InputError("E-LABEL-MISSING", message, file=root, fix="add the labels, or take these images out")
    if unlabelled:
        notes.append(f"{len(unlabelled)} images without a label are left out: {some_names(unlabelled)}")
    for name in sorted(set(cases) - set(unlabelled)):
        try:
            case, words = resolve(cases[name], task, names)
        except InputError as error:
            if labels:
                raise
            first = first or error
            refused[name] = error.finding
            continue
        found.append(case)
        for channel, word in words.items():
            if word not in called[channel]:
                called[channel].append(word)
    if first is not None and not found:
        raise first
    if not found:
        raise _nothing(root, labels=labels)
    values, value_names = _label_mapping(root, task, names, set(tails)) if labels else ({}, {})
    if labels and not value_names and task.kind == "segmentation":
        notes.append("nothing names the label values; they are taken as the task's own")
    numbers = numbering(names, task) if any(parts.numbered for parts in cases.values()) else ()
    if numbers and numbers == task.numbered and not (names and names.channels):
        taken = ", ".join(f"{i:04d}={name}" for i, name in enumerate(numbers))
        notes.append(
            f"no dataset.json names the channels; their numbers are taken as {taken}, by the model, task or --channels"
        )
    channel_names = {channel: " or ".join(words) for channel, words in called.items()}
    return DataSet(root, layout, tuple(found), channel_names, values, tuple(notes), refused, value_names, numbers)


def _label_mapping(
    root: Path, task: Task, names: Names | None, tails: set[str]
) -> tuple[dict[int, int], dict[int, str]]:
    """Label value in the files to value of the task, and what the values are called there; by name where names are given."""
    if task.kind == "classification":
        return {}, {}
    ignored = {} if task.ignore is None else {task.ignore: task.ignore}
    if names is not None and names.labels:
        labels = dict(names.labels)
        if names.ignore is not None and task.ignore is not None:
            ignored |= {names.ignore: task.ignore}
        elif names.ignore is not None and task.label_named(IGNORE) is not None:
            labels[IGNORE] = (names.ignore,)  # which the task wants to learn
        elif names.ignore is not None:
            message = f"label {names.ignore} is called {IGNORE!r}: not judged, and task {task.name!r} ignores nothing"
            raise InputError(
                "E-LABEL-NAME", message, file=names.file, fix=f"add ignore: {names.ignore} to the task file"
            )
        called = {v: n for n, ids in labels.items() for v in ids if v != 0 and len(ids) == 1}
        regions = {v: n for n, ids in labels.items() for v in ids if v != 0}
        unjudged = {} if task.ignore is None or names.ignore is None else {names.ignore: IGNORE}
        return ignored | match_labels(labels, task, names.file), regions | called | unjudged
    values, named = brats_labels(tails, task, root) or ({v: v for v in task.values}, {})
    return ignored | values, named
