"""What a data set says of itself before any voxel is read: its channels, its labels and how many axes it has."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg3d.checks import ConfigError, InputError
from medseg3d.io.headers import read_image_header
from medseg3d.io.images import PICTURE_SUFFIXES, RGB, image_stem, image_suffix, read_volume
from medseg3d.io.layouts import IMAGE_FOLDERS, LABEL_FOLDERS, case_folders, image_files, subfolder
from medseg3d.io.matching import TAILS_SINCE_2023, TAILS_TO_2021, Names, read_names
from medseg3d.io.parts import LABEL_TAILS, NUMBERED, is_label_name, split_tail
from medseg3d.task import Task, load_task
from medseg3d.task_rules import plain_name

LOOKED_AT = 128
"""Label maps that are read for their values, where nothing names them; spread evenly."""
PICTURES = 16
"""Pictures that are read to see whether they have colours."""
IMAGE = "image"
"""What a channel is called that nothing names."""


@dataclass(frozen=True)
class Files:
    """Files by their names alone.

    Args:
        images: of every channel.
        labels: the label maps.
        channels: what distinguishes the images of a case from one another; empty for one image per case.
    """

    images: Sequence[Path]
    labels: Sequence[Path]
    channels: Sequence[str] = ()


def name_of(data: str | Path) -> str:
    """A name for a task, from that of its data's folder or file."""
    return re.sub(r"[^a-z0-9]+", "_", Path(data).resolve().name.lower().removesuffix(".csv")).strip("_") or "task"


def declared_task(data: str | Path) -> Task:
    """A task with the names of a data set; its patch and its other numbers are still to be chosen.

    Names come from a ``dataset.json``, from the endings of file names, the columns of a CSV or the folders of classes; label
    values that nothing names are looked up in the label maps.

    Args:
        data: folder or CSV in a layout that ``find_cases`` knows.

    Raises:
        ConfigError: no data, or names that cannot be a task.
        InputError: a ``dataset.json`` or label map that cannot be read.
    """
    data = Path(data)
    if not data.exists():
        raise ConfigError(f"{data} does not exist; give a folder of scans with labels, or a CSV")
    folder, name = data if data.is_dir() else data.parent, name_of(data)
    if data.is_dir() and (classes := _classes(data)):
        first = image_files(data / classes[0])[0]
        labels = {label: (i,) for i, label in enumerate(classes)}
        patch = _unit_patch(first)
        pictures = [p for c in classes for p in image_files(data / c)]
        return Task(name, _unnamed(pictures), labels, patch, kind="classification")
    names = read_names(folder / "dataset.json") if (folder / "dataset.json").is_file() else None
    files = _files(data, names)
    if not files.images:
        raise ConfigError(f"no images in {data}; give a folder with images and labels, or a CSV")
    patch = _unit_patch(files.images[0])
    tails = set(map(plain_name, files.channels))
    if names is None and tails & (TAILS_TO_2021 | TAILS_SINCE_2023):
        brats = load_task("brats")
        return Task(name, brats.channels, brats.labels, patch, brats.ids, brats.aliases, brats.write, dicom=brats.dicom)
    if names is not None and names.channels:
        channels: Mapping[str, Sequence[str]] = dict.fromkeys(names.channels, ())
    else:
        channels = dict.fromkeys(files.channels, ()) or _unnamed(files.images)
    named = {n: ids for n, ids in names.labels.items() if any(ids)} if names is not None else {}
    values = named or _values(files.labels, data)
    try:
        return Task(name, channels, values, patch, write=_painting(values), ignore=names.ignore if names else None)
    except ConfigError as error:
        raise ConfigError(
            f"the names in {names.file if names else data} make no task ({error}); write the task by hand"
        ) from None


def _unit_patch(image: Path) -> tuple[int, ...]:
    """As many ones as the image has axes."""
    header = read_image_header(image)
    if header.grid is None:
        finding = header.findings[-1]
        raise InputError(finding.code, finding.message, file=finding.file, fix=finding.fix)
    return (1,) * header.grid.spatial_dims


def _unnamed(images: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Red, green and blue for pictures in colours, else one channel."""
    pictures = [p for p in images if image_suffix(p) in PICTURE_SUFFIXES]
    some = [pictures[i * len(pictures) // PICTURES] for i in range(PICTURES)] if pictures else []
    if any(read_volume(p).channels == len(RGB) for p in dict.fromkeys(some)):
        return dict.fromkeys(RGB, ())
    return {IMAGE: ()}


def _files(data: Path, names: Names | None) -> Files:
    if data.is_file():
        return _of_table(data)
    if names is not None and names.training is not None:
        entries = [
            (e["image"] if isinstance(e["image"], list) else [e["image"]], e.get("label")) for e in names.training
        ]
        images = [data / str(i) for these, _ in entries for i in these]
        there = [p for p in images if p.is_file()] or image_files(images[0].parent) if images else []
        return Files(there, [data / str(label) for _, label in entries if label])
    image_folder, label_folder = subfolder(data, IMAGE_FOLDERS), subfolder(data, LABEL_FOLDERS)
    if image_folder is not None and label_folder is not None:
        return _beside(image_files(image_folder), image_files(label_folder))
    if image_folder is None and (folders := case_folders(data)):
        return _nested(folders)
    files = image_files(image_folder or data)
    heads = {p: cut[0] for p in files if (cut := split_tail(image_stem(p), is_label_name))}
    return _beside([p for p in files if p not in heads], list(heads))


def _beside(images: Sequence[Path], labels: Sequence[Path]) -> Files:
    """Channels are what the names of images have beyond those of label maps."""
    stems = {image_stem(p) for p in labels}
    stems |= {cut[0] for s in stems if (cut := split_tail(s, is_label_name))}
    tails = set()
    for path in images:
        stem = image_stem(path)
        if stem in stems or ((number := NUMBERED.fullmatch(stem)) and number[2] == "0000" and number[1] in stems):
            continue
        if cuts := [s for s in stems if stem.startswith(s) and stem[len(s)] in "_-. "]:
            tails.add(stem[len(max(cuts, key=len)) :].strip("_-. "))
    numbered = any(re.fullmatch(r"\d{4}", tail) for tail in tails)
    return Files(images, labels, sorted(tails | {"0000"} if numbered else tails))


def _nested(folders: Sequence[Path]) -> Files:
    images, labels, tails = [], [], []
    for folder in folders:
        of_case = []
        for path in image_files(folder):
            stem = image_stem(path)
            inside = stem.startswith(folder.name) and len(stem) > len(folder.name)
            tail = stem[len(folder.name) :].strip("_-. ") if inside else stem
            if is_label_name(tail) or split_tail(tail, is_label_name):
                labels.append(path)
            else:
                images.append(path)
                of_case.append(tail)
        tails.append(of_case)
    common = sorted(set(tails[0]).intersection(*tails[1:]))
    return Files(images, labels, common if len(common) > 1 else ())


def _of_table(file: Path) -> Files:
    """The columns that name files: ``image`` or one per channel, and the label."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a table ({error})") from None
    rows = list(csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=text.partition("\n")[0].count)))
    columns = [c for c in (rows[0] if rows else {}) if c and image_suffix(str(rows[0][c]).strip())]
    label = [c for c in columns if plain_name(c) in LABEL_TAILS]
    channels = [c for c in columns if c not in label]
    if not label or not channels:
        raise ConfigError(f"{file}: needs a column of images and a column 'label' with label maps")

    def paths(chosen: Sequence[str]) -> list[Path]:
        return [file.parent / str(row[c]).strip() for row in rows for c in chosen if row[c]]

    alone = [plain_name(c) for c in channels] == [IMAGE]
    return Files(paths(channels), paths(label[:1]), () if alone else channels)


def _classes(root: Path) -> list[str]:
    """The classes of pictures that lie in a folder per class."""
    if subfolder(root, IMAGE_FOLDERS) is not None or (root / "dataset.json").is_file() or image_files(root):
        return []
    folders = {p.name: image_files(p) for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    filled = {name: files for name, files in folders.items() if files}
    everything = [p for files in filled.values() for p in files]
    pictures = all(image_suffix(p) in PICTURE_SUFFIXES for p in everything)
    labelled = any(split_tail(image_stem(p), is_label_name) or is_label_name(image_stem(p)) for p in everything)
    return list(filled) if len(filled) > 1 and pictures and not labelled else []


def _values(labels: Sequence[Path], data: Path) -> dict[str, tuple[int, ...]]:
    """Labels named after their values, from the label maps."""
    if not labels:
        raise ConfigError(f"no label maps in {data}; a plan needs what is to be learned")
    step = max(1, -(-len(labels) // LOOKED_AT))
    values = sorted({int(v) for p in labels[::step] for v in np.unique(read_volume(p, labels=True).data)} - {0})
    if not values:
        raise InputError(
            "E-EMPTY-LABEL", "no label map holds anything but background", file=data, fix="check the labels"
        )
    if len(values) == 1:
        return {"foreground": (values[0],)}
    return {f"label_{v}": (v,) for v in values}


def _painting(labels: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """For regions, large ones first, each with a value that no smaller one has."""
    order = sorted(labels, key=lambda name: -len(labels[name]))
    if len({v for ids in labels.values() for v in ids}) == sum(map(len, labels.values())):
        return {}
    write = {}
    for i, name in enumerate(order):
        later = {v for other in order[i + 1 :] for v in labels[other]}
        write[name] = next((v for v in labels[name] if v not in later), labels[name][0])
    return write
