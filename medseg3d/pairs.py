"""Which prediction belongs to which reference, and whether the two can be compared."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from medseg3d.checks import ConfigError, InputError, some_names
from medseg3d.io import Case, find_cases, read_label, read_volume
from medseg3d.io.dicom_magic import is_dicom
from medseg3d.io.images import SUFFIXES, image_suffix
from medseg3d.io.rules import foreign_values, require_grid, require_one_channel
from medseg3d.task import Task
from medseg3d.volume import Volume, joined, placed

log = logging.getLogger(__name__)

BESIDE = ("_probabilities", "_uncertainty", "_preview")
"""What ``predict`` adds to the name of a case for what it writes beside the labels."""
SEG_SUFFIXES = (".seg.dcm", ".labelmap.dcm", ".dcm")
"""That the name of a DICOM segmentation may end in; what it is, its content says."""
T = TypeVar("T")
Reader = Callable[[], Volume]


@dataclass(frozen=True)
class SegReader:
    """Reads a DICOM segmentation, which may cover a part of its images alone, with the values of a task."""

    path: Path
    task: Task | None

    def __call__(self) -> Volume:
        from medseg3d.io.dicom_seg_reading import read_seg

        return read_seg(self.path, task=self.task).labels


@dataclass(frozen=True)
class Pairs(Generic[T]):
    """What two folders have in common, by name.

    Args:
        found: name -> reference and prediction, in the order of the names.
        unmatched_reference: names without a prediction.
        unmatched_prediction: names without a reference.
    """

    found: dict[str, tuple[T, T]]
    unmatched_reference: list[str]
    unmatched_prediction: list[str]


def match(references: Mapping[str, T], predictions: Mapping[str, T], cases: Collection[str] | None) -> Pairs[T]:
    """Match by name; with ``cases``, these names alone.

    Raises:
        ConfigError: where no name is in both.
    """
    chosen = {name for name in (*references, *predictions) if cases is None or name in cases}
    both = sorted(chosen & set(references) & set(predictions))
    alone = sorted(chosen - set(predictions)), sorted(chosen - set(references))
    if not both:
        raise ConfigError(
            f"no prediction ({some_names(alone[1])}) has the name of a reference ({some_names(alone[0])}); "
            "a prediction must be named as its reference, whatever the suffix"
        )
    for names, side in zip(alone, ("prediction", "reference"), strict=True):
        if names:
            log.warning("%d without a %s, not scored: %s", len(names), side, some_names(names))
    return Pairs({name: (references[name], predictions[name]) for name in both}, *alone)


def find_pairs(
    reference: Path, prediction: Path, task: Task | None, *, cases: Collection[str] | None = None
) -> Pairs[Reader]:
    """Match the label maps of two folders by file name without suffix.

    Args:
        reference: a folder of label maps, or a data set as ``find_cases`` knows them (its ``labelsTr`` too), whose values
            are then mapped to the task's. Label maps may be DICOM segmentations, whose segments are mapped to the task's
            labels; beside another file of the same name they are not read.
        prediction: a folder of label maps.
        task: what the values mean; without one ``reference`` is read as plain files, with the values in them.
        cases: names to take alone.

    Returns:
        For each name two functions that read the reference and the prediction.

    Raises:
        ConfigError: a folder that does not exist or holds no image, or no name in common.
    """
    return match(_references(reference, task), label_readers(prediction, task), cases)


def label_readers(place: Path, task: Task | None) -> dict[str, Reader]:
    """What reads each label map of a folder, or one file, by its name without suffix; not what ``predict`` writes beside them.

    Raises:
        ConfigError: a folder that does not exist or holds no image.
    """
    files = _label_files(place, "prediction")
    beside = {name for name in files for end in BESIDE if name.endswith(end) and name.removesuffix(end) in files}
    return {name: _reader(paths, task) for name, paths in files.items() if name not in beside}


def scan_readers(place: Path) -> dict[str, Reader]:
    """The same for scans of one file each."""
    return {name: partial(_read, paths, labels=False) for name, paths in _label_files(place, "image").items()}


def file_of(reader: Reader) -> Path:
    """The file that a reader of ``find_pairs`` reads."""
    if isinstance(reader, SegReader):
        return reader.path
    assert isinstance(reader, partial)
    what = reader.args[0]
    return Path(what.label if isinstance(what, Case) else what[0])


def _references(folder: Path, task: Task | None) -> dict[str, Reader]:
    if task is None and (folder / "labelsTr").is_dir():
        folder = folder / "labelsTr"
    root = folder.parent if folder.name == "labelsTr" else folder
    is_data_set = root.is_file() or (root / "dataset.json").is_file() or (folder / "labelsTr").is_dir()
    is_nested = folder.is_dir() and any(p.is_dir() for p in folder.iterdir()) and not any(map(_stem, folder.iterdir()))
    if task is None or (not is_data_set and not is_nested):
        return {name: _reader(paths, task) for name, paths in _label_files(folder, "reference").items()}
    data = find_cases(root, task, labels=True)
    log.info("%s", data.describe())
    return {case.name: partial(read_label, case, data, task, None) for case in data.cases}


def _label_files(folder: Path, what: str) -> dict[str, list[Path]]:
    if folder.is_file() and (stem := _stem(folder)):
        return {stem: [folder]}
    if not folder.is_dir():
        raise ConfigError(f"{what} folder {folder} does not exist")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if stem := _stem(path):
            files.setdefault(stem, []).append(path)
    if not files:
        raise ConfigError(
            f"{what} folder {folder} holds no image; known are {', '.join(SUFFIXES)} and DICOM segmentations"
        )
    return files


def _stem(path: Path) -> str | None:
    """The file's name without its image suffix; None for other files."""
    if path.name.startswith(".") or not path.is_file():
        return None
    if suffix := image_suffix(path):
        return path.name[: -len(suffix)]
    suffix = next((s for s in SEG_SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)] if _is_seg(path) else None


def _is_seg(path: Path) -> bool:
    """Whether a file is a DICOM segmentation; pydicom is asked about DICOM files alone, as its import takes long."""
    if not is_dicom(path):
        return False
    from medseg3d.io.dicom_seg_reading import is_seg

    return is_seg(path)


def _reader(paths: Sequence[Path], task: Task | None) -> Reader:
    images = [path for path in paths if image_suffix(path)]
    if len(images) != 1 and len(paths) > 1:
        return partial(_read, paths)
    return SegReader(paths[0], task) if not images else partial(_read, images)


def _read(paths: Sequence[Path], *, labels: bool = True) -> Volume:
    if len(paths) > 1:
        message = f"{len(paths)} files have this name: {', '.join(p.name for p in paths)}"
        raise InputError("E-DUPLICATE-CASE", message, file=paths[0], fix="keep one of them")
    return read_volume(paths[0], labels=labels)


def read_pair(reference: Reader, prediction: Reader, task: Task | None) -> tuple[Volume, Volume]:
    """Read two label maps that can be compared; with a task, their values must be among its own.

    Raises:
        InputError: ``E-CHANNEL-COUNT``, ``E-DIMENSIONS``, ``E-GRID``, ``E-LABEL-VALUE``, or what reading them raises.
    """
    pair = _on_one_grid((reference(), prediction()), (reference, prediction))
    for volume, what in zip(pair, ("the reference", "the prediction"), strict=True):
        require_one_channel(volume, what=what)
        known = () if task is None else (0, *task.values, *(() if task.ignore is None else (task.ignore,)))
        if task is not None and (wrong := foreign_values(volume.data, known, task, what=what)) is not None:
            raise wrong
    require_grid(pair[1].grid, pair[0].grid, what="the prediction", than="the reference")
    if task is None or task.ignore is None or not (unjudged := pair[0].data == task.ignore).any():
        return pair
    # What nobody has judged counts for neither side.
    first, second = (volume.with_data(np.where(unjudged, 0, volume.data)) for volume in pair)
    return first, second


def _on_one_grid(pair: tuple[Volume, Volume], readers: tuple[Reader, Reader]) -> tuple[Volume, Volume]:
    """Put DICOM segmentations, which leave planes without a label away, back where their voxels lie on the other's grid."""
    is_seg = [isinstance(reader, SegReader) for reader in readers]
    if not any(is_seg) or len(pair[0].shape) != len(pair[1].shape):
        return pair
    first, second = (volume.grid for volume in pair)
    grid = joined(first, second) if all(is_seg) else second if is_seg[0] else first
    try:
        return placed(pair[0], grid), placed(pair[1], grid)
    except ValueError as error:
        message = f"the DICOM segmentation lies on other voxels than the label map it is compared with: {error}"
        raise InputError("E-GRID", message, fix="compare label maps that were made on the same images") from None


def class_pairs(reference: Path, prediction: Path, task: Task, cases: Collection[str] | None) -> Pairs[str]:
    """The classes of a data set, and those that ``predictions.csv`` gives the same cases.

    Raises:
        ConfigError: no such table, or one without the columns ``case`` and ``predicted``.
    """
    labels = list(task.labels)
    data = find_cases(reference, task, labels=True)
    classes = {case.name: labels[case.class_index] for case in data.cases if case.class_index is not None}
    file = prediction / "predictions.csv" if prediction.is_dir() else prediction
    rows = read_rows(file, "medseg3d predict writes it for a classification task")
    if rows and (missing := [c for c in ("case", "predicted") if c not in rows[0]]):
        raise ConfigError(f"{file} has no column {missing[0]!r}; it needs case and predicted")
    return match(classes, {row["case"]: row["predicted"] for row in rows}, cases)


def read_groups(file: Path, column: str) -> dict[str, str]:
    """The value that a table gives each case in ``column``; cases without one are left out.

    The cases' names stand in the column ``case`` or ``name``, or else in the first; an image suffix does not count.

    Raises:
        ConfigError: a table that cannot be read, has no such column, or names a case twice.
    """
    rows = read_rows(file, "it should hold the cases' names and the column to group them by")
    columns = list(rows[0]) if rows else []
    if column not in columns:
        raise ConfigError(f"{file} has no column {column!r}; it has {', '.join(columns) or 'nothing'}")
    key = next((c for wanted in ("case", "name") for c in columns if c.strip().lower() == wanted), columns[0])
    groups: dict[str, str] = {}
    for row in rows:
        name = row[key].strip()
        name = name.removesuffix(image_suffix(Path(name)) or "")
        if name in groups:
            raise ConfigError(f"{file} names the case {name!r} twice in column {key!r}; keep one line of it")
        groups[name] = row[column].strip()
    return {name: value for name, value in groups.items() if value}


def read_rows(file: Path, wanted: str) -> list[dict[str, str]]:
    """The lines of a table with commas, semicolons or tabs; ``wanted`` says what the file is for, should it be missing.

    Raises:
        ConfigError: a file that does not exist or is no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no {file}; {wanted}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as a table: {error}") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [{k: v or "" for k, v in row.items() if k is not None} for row in reader]
