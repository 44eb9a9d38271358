"""A plan as a task file that a person reads: YAML by hand, since no writer of YAML keeps comments."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from medseg3d.task import Task

WIDTH = 132
DEFAULTS = ("ids", "aliases", "dicom", "ignore", "numbered")
"""Left out where empty."""


def render(task: Task, reasons: Mapping[str, str], heading: Sequence[str]) -> str:
    """The text of a task file; ``load_task`` reads the same task back.

    Args:
        task: complete.
        reasons: by key, ``train.KEY`` inside ``train``; each becomes a comment beside its key.
        heading: what the file is, for its first lines.
    """
    values = task.as_dict()
    order = [
        "name",
        "channels",
        "numbered",
        "labels",
        "aliases",
        "ids",
        "ignore",
        "spacing_mm",
        "patch_size",
        "intensity",
        "crop",
        "mirror_axes",
    ]
    order += ["network", "kind", "dicom"]
    if values["write"] != {name: ids[0] for name, ids in values["labels"].items()}:
        order.insert(order.index("ids") + 1, "write")
    lines = [f"# {line}" for words in heading for line in textwrap.wrap(words, WIDTH - 2)]
    for key in order:
        if (key in DEFAULTS and not values[key]) or (key == "kind" and values[key] == "segmentation"):
            continue
        value = {int(k): v for k, v in values[key].items()} if key == "ids" else values[key]
        lines += _entry(key, value, reasons.get(key, ""))
    if values["train"]:
        lines.append("train:")
        for key, value in values["train"].items():
            lines += _entry(key, value, reasons.get(f"train.{key}", ""), "  ")
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, reason: str, indent: str = "") -> list[str]:
    """``key: value  # reason``, with the reason above where the line would be too long."""
    text = yaml.safe_dump({key: value}, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    line = indent + text.strip()[1:-1]
    if not reason:
        return [line]
    if len(line) + len(reason) + 4 <= WIDTH:
        return [f"{line}  # {reason}"]
    return [*(f"{indent}# {part}" for part in textwrap.wrap(f"{key}: {reason}", WIDTH - 2 - len(indent))), line]
