"""Cases from a CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from medseg3d.checks import ConfigError, InputError
from medseg3d.io.images import image_stem
from medseg3d.io.matching import channel_missing
from medseg3d.io.parts import LABEL_TAILS, Parts, duplicate, must_exist
from medseg3d.task import Task
from medseg3d.task_rules import plain_name


def read_table(file: Path, task: Task, labels: bool) -> tuple[dict[str, Parts], list[str]]:
    """The cases of a CSV: columns ``name`` (optional), ``image`` or one per channel, ``label``; and the columns left out."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a table ({error})") from None
    head = text.partition("\n")[0]
    rows = list(csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=head.count)))
    columns = [c for c in (rows[0] if rows else {}) if c]
    by_plain = {plain_name(c): c for c in columns}
    channels = {channel: c for c in columns if (channel := task.channel_named(c)) is not None}
    image = by_plain.get("image")
    label = next((by_plain[t] for t in ("class", *sorted(LABEL_TAILS)) if t in by_plain), None)
    if image is None and (missing := [c for c in task.channels if c not in channels]):
        raise channel_missing(missing, [f"column {c!r}" for c in columns], task, file)
    if labels and label is None:
        raise ConfigError(f"{file}: no column 'label' among {', '.join(columns)}; training needs one")
    cases: dict[str, Parts] = {}
    for number, row in enumerate(rows, start=2):
        cells = [row[image]] if image is not None else [row[channels[c]] for c in task.channels]
        if not all(cells) or (labels and not row[str(label)]):
            message = f"line {number} has an empty cell; every case needs its files"
            raise InputError("E-FILE-MISSING", message, file=file, fix="fill it or remove the line")
        paths = [file.parent / str(c).strip() for c in cells]
        name = (row.get(by_plain.get("name", "")) or image_stem(paths[0])).strip()
        if name in cases:
            raise duplicate(name, f"line {number}", str(file))
        if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
            raise InputError("E-CASE-NAME", f"line {number}: the name {name!r} cannot be a file name", file=file)
        parts = cases[name] = Parts(name, where=paths[0])
        for path in paths:
            must_exist(path, file)
        if image is not None:
            parts.whole = paths
        else:
            parts.channels = dict(zip(task.channels, paths, strict=True))
        if labels and task.kind == "classification":
            known = task.label_named(row[str(label)])
            if known is None:
                message = f"line {number}: class {row[str(label)]!r} is none of {', '.join(task.labels)}"
                raise InputError(
                    "E-LABEL-NAME", message, file=file, fix="correct the name or add it to aliases in the task"
                )
            parts.class_index = list(task.labels).index(known)
        elif labels:
            parts.label = file.parent / row[str(label)].strip()
            must_exist(parts.label, file)
    used = {image, label, by_plain.get("name"), *channels.values()}
    return cases, [c for c in columns if c not in used]
