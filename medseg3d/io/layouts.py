"""The ways in which data sets lie on disk: each function turns one into cases of files, by names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medseg3d.checks import ConfigError, InputError
from medseg3d.io.channels import is_rgb, numbered_channels, numbering
from medseg3d.io.dicom_magic import is_dicom
from medseg3d.io.images import image_stem, image_suffix, is_picture
from medseg3d.io.matching import Names
from medseg3d.io.parts import NUMBERED, Parts, duplicate, is_label_name, must_exist, split_tail
from medseg3d.task import Task
from medseg3d.task_rules import plain_name

IMAGE_FOLDERS = ("imagestr", "images", "image", "imgs", "img", "scans", "volumes")
LABEL_FOLDERS = ("labelstr", "labels", "label", "masks", "mask", "segmentations", "annotations")
DEPTH = 3
"""How deep folders of cases may lie: BraTS has HGG/ and LGG/ between."""


def image_files(folder: Path, *, dicom: bool = False) -> list[Path]:
    """The image files directly inside a folder, hidden ones left out, by name; with ``dicom`` files of DICOM, too."""
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    return [p for p in files if image_suffix(p) or (dicom and is_dicom(p))]


def subfolder(root: Path, names: Iterable[str]) -> Path | None:
    """The folder of one of these names (case does not count) inside ``root``.

    Raises:
        ConfigError: where there are two.
    """
    found = sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in set(names))
    if len(found) > 1:
        raise ConfigError(f"{root}: {found[0].name} and {found[1].name} could both be meant; keep one of them")
    return found[0] if found else None


def flat(files: Sequence[Path], task: Task, names: Names | None) -> dict[str, Parts]:
    """Cases of the files of one folder: one file each, numbered channels, or channels (and labels) by their endings."""
    cases: dict[str, Parts] = {}

    def case(name: str, path: Path) -> Parts:
        return cases.setdefault(name, Parts(name, where=path))

    if numbers := _numbered(files, task, names):
        order = numbered_channels(names, task, files[0].parent)
        for path, (name, number) in numbers.items():
            if is_rgb(task) and is_picture(path):
                case(name, path).whole.append(path)
            else:
                _put(case(name, path), order[number], path)
                cases[name].numbered = True
        return cases
    stems = {image_stem(p) for p in files}
    label_heads = {}  # stem of a label file -> its case
    for stem in stems:
        if (cut := split_tail(stem, is_label_name)) and any(s != stem and _starts_with(s, cut[0]) for s in stems):
            label_heads[stem] = cut[0]
    for path in files:
        stem = image_stem(path)
        if stem in label_heads:
            _put_label(case(label_heads[stem], path), path)
            continue
        channel = split_tail(stem, lambda tail: task.channel_named(tail) is not None)
        one_file = task.in_channels == 1 or (is_rgb(task) and is_picture(path))
        if channel is None or (one_file and (channel[0] not in label_heads.values() or stem in label_heads.values())):
            case(stem, path).whole.append(path)
        else:
            _put(case(channel[0], path), str(task.channel_named(channel[1])), path)
    return cases


def _starts_with(stem: str, head: str) -> bool:
    return stem == head or any(stem.startswith(head + separator) for separator in "_-. ")


def _numbered(files: Sequence[Path], task: Task, names: Names | None) -> dict[Path, tuple[str, int]]:
    """Case and channel of nnU-Net's ``NAME_0000``, where the files are named so; otherwise nothing."""
    found = {p: (m[1], int(m[2])) for p in files if (m := NUMBERED.fullmatch(image_stem(p)))}
    used = {number for _, number in found.values()}
    if len(found) < len(files) or 0 not in used:
        return {}
    expected = range(max(len(numbering(names, task)), task.in_channels))
    return found if used <= set(expected) else {}


def _put(parts: Parts, channel: str, path: Path) -> None:
    if channel in parts.channels:
        message = (
            f"case {parts.name!r} has two files for channel {channel}: {parts.channels[channel].name} and {path.name}"
        )
        parts.refuse(InputError("E-CHANNEL-AMBIGUOUS", message, file=path.parent, fix="keep one of them"))
    elif channel:
        parts.channels[channel] = path


def _put_label(parts: Parts, path: Path) -> None:
    if parts.label is not None:
        message = f"case {parts.name!r} has two label files: {parts.label.name} and {path.name}"
        parts.refuse(InputError("E-LABEL-AMBIGUOUS", message, file=path.parent, fix="keep one of them"))
    else:
        parts.label = path


def case_folders(root: Path) -> list[Path]:
    """The folders up to ``DEPTH`` below ``root`` that hold image files, each a case."""
    found: list[Path] = []

    def search(folder: Path, depth: int) -> None:
        for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))):
            if image_files(sub):
                found.append(sub)
            elif depth > 1:
                search(sub, depth - 1)

    search(root, DEPTH)
    return found


def nested(folders: Sequence[Path], task: Task) -> tuple[dict[str, Parts], set[str]]:
    """Cases that have a folder each, and the endings that file names have there (BraTS shows its year in them)."""
    cases: dict[str, Parts] = {}
    tails: set[str] = set()
    for folder in folders:
        if folder.name in cases:
            first = cases[folder.name]
            first.refuse(duplicate(folder.name, str(first.where), str(folder)))
            continue
        parts = cases[folder.name] = Parts(folder.name, where=folder)
        for path in image_files(folder):
            stem = image_stem(path)
            if stem.startswith(folder.name) and len(stem) > len(folder.name):
                tail = stem[len(folder.name) :].strip("_-. ")
            else:
                cut = split_tail(stem, lambda t: is_label_name(t) or task.channel_named(t) is not None)
                tail = stem if cut is None else cut[1]
            if cut := split_tail(tail, is_label_name):
                tail = cut[1]
            tails.add(plain_name(tail))
            if is_label_name(tail):
                _put_label(parts, path)
            elif (channel := task.channel_named(tail)) is not None:
                _put(parts, channel, path)
            else:
                parts.whole.append(path)
        if parts.channels:
            parts.whole = []  # other modalities than the task's
    return cases, tails


def listed(names: Names, task: Task, labels: bool) -> dict[str, Parts]:
    """The cases of the ``training`` list of a ``dataset.json``; a file that is listed must exist."""
    cases: dict[str, Parts] = {}
    root = names.file.parent
    for entry in names.training or ():
        files = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
        paths = [root / str(f) for f in files]
        name = image_stem(paths[0])
        if len(paths) > 1 and (cut := split_tail(name, lambda t: t == "0000" or task.channel_named(t) is not None)):
            name = cut[0]
        if name in cases:
            raise duplicate(name, str(cases[name].where), str(paths[0]))
        parts = cases[name] = Parts(name, where=paths[0])
        numbers = list(range(len(paths)))
        if len(paths) == 1 and not paths[0].is_file():  # nnU-Net lists NAME and stores NAME_0000
            pattern = f"{_escaped(name)}_[0-9][0-9][0-9][0-9]{image_suffix(paths[0]) or ''}"
            paths = sorted(paths[0].parent.glob(pattern)) or paths
            numbers = [int(m[2]) for p in paths if (m := NUMBERED.fullmatch(image_stem(p)))]
        for path in paths:
            must_exist(path, names.file)
        if paths == [root / str(files[0])]:
            parts.whole = paths
        else:
            order = numbered_channels(names, task, names.file)
            parts.numbered = any(NUMBERED.fullmatch(image_stem(path)) for path in paths)
            for number, path in zip(numbers, paths, strict=True):
                _put(parts, order[number] if number < len(order) else "", path)
        if labels:
            if not entry.get("label"):
                message = f"case {name!r} is listed under training without a label"
                raise InputError(
                    "E-LABEL-MISSING", message, file=names.file, fix="add its label or take it off the list"
                )
            parts.label = root / str(entry["label"])
            must_exist(parts.label, names.file)
    return cases


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def add_labels(cases: Mapping[str, Parts], folder: Path) -> list[str]:
    """Give each case its label file out of ``folder``: of the same name, or with an ending such as ``_seg``.

    Returns:
        The label files that belong to no case.
    """
    by_stem: dict[str, Path] = {}
    for path in image_files(folder):
        if (stem := image_stem(path)) in by_stem:
            raise duplicate(stem, str(by_stem[stem]), str(path))
        by_stem[stem] = path
    endings = {cut[0]: path for stem, path in by_stem.items() if (cut := split_tail(stem, is_label_name))}
    used = set()
    for parts in cases.values():
        stems = [parts.name, *(image_stem(p) for p in (*parts.whole, *parts.channels.values()))]
        label = next((found[s] for found in (by_stem, endings) for s in stems if s in found), None)
        if label is not None:
            used.add(label)
            _put_label(parts, label)
    return [p.name for p in by_stem.values() if p not in used]


def class_folders(root: Path, task: Task, labels: bool) -> dict[str, Parts]:
    """Images in one folder per class; with ``labels`` the folder's name is the class."""
    cases: dict[str, Parts] = {}
    order = list(task.labels)
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
    for folder in folders:
        label, files = task.label_named(folder.name) if labels else None, image_files(folder)
        if labels and label is None and files:
            fix = f"known are {', '.join(order)}; rename the folder or add the name to aliases in the task file"
            message = f"the folder {folder.name!r} is no class of task {task.name!r}"
            raise InputError("E-LABEL-NAME", message, file=folder, fix=fix)
        for path in files:
            stem = image_stem(path)
            name = stem if stem.startswith(folder.name) else f"{folder.name}_{stem}"
            if name in cases:
                cases[name].refuse(duplicate(name, str(cases[name].where), str(path)))
                continue
            cases[name] = Parts(
                name, whole=[path], class_index=None if label is None else order.index(label), where=path
            )
    if labels and cases and (missing := set(range(len(order))) - {p.class_index for p in cases.values()}):
        message = f"no images of class {order[min(missing)]!r}; classes of task {task.name!r} are {', '.join(order)}"
        raise InputError("E-LABEL-NAME", message, file=root, fix="add a folder of that name with images")
    return cases
