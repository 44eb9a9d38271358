"""What must hold within a task: its values, and how its names are compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from medseg3d.checks import ConfigError

if TYPE_CHECKING:
    from medseg3d.task import Task

INTENSITIES = ("zscore", "ct", "range", "minmax_slices")
"""zscore: per channel, mean 0 and deviation 1 over its non-zero part. ct: clipped to the 0.5 and 99.5 percentile of the
labelled voxels of the training set and scaled by their mean and deviation. range: the type's range to 0..1.
minmax_slices: each slice of the last axis to 0..1 (the published SegFormer3D recipe)."""
KINDS = ("segmentation", "classification")
SLICES = ("sagittal", "coronal", "axial", "thickest")
"""What slices a 2D network sees volumes in: those across left-right, posterior-anterior or inferior-superior (the first three,
in this order), or those along whose normal a scan's voxels are largest, its own thick slices."""
MOST_NEIGHBOURS = 8
DICOM_RULE = {"modality": str, "description": str, "without": str, "contrast": bool}


def plain_name(name: str) -> str:
    """Lower case, letters and digits alone: how names are compared."""
    return re.sub(r"[\W_]", "", name.casefold())


def check_task(task: Task) -> None:
    """Refuse a task whose values contradict each other.

    Raises:
        ConfigError: with the value and the rule.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"task {task.name!r}: {message}")

    if not task.channels:
        refuse("no channels; name at least one")
    if not task.labels:
        refuse("no labels; name at least one")
    if len(task.patch_size) not in (2, 3) or min(task.patch_size) < 1:
        refuse(f"patch_size {task.patch_size} must be 2 or 3 positive sizes")
    if task.spacing_mm is not None and (len(task.spacing_mm) != task.network_dims or min(task.spacing_mm) <= 0):
        refuse(f"spacing_mm {task.spacing_mm} must be {task.network_dims} positive numbers, as patch_size has axes")
    if task.intensity not in INTENSITIES:
        refuse(f"intensity {task.intensity!r} is none of {', '.join(INTENSITIES)}")
    if task.kind not in KINDS:
        refuse(f"kind {task.kind!r} is none of {', '.join(KINDS)}")
    if any(a not in range(task.network_dims) for a in task.mirror_axes):
        refuse(f"mirror_axes {task.mirror_axes} must lie in 0..{task.network_dims - 1}, the axes of patch_size")
    _check_slices(task, refuse)
    known = [task.channel_named(name) for name in task.numbered]
    if task.numbered and (wrong := [c for c in task.channels if known.count(c) != 1]):
        refuse(
            f"numbered {list(task.numbered)} must name each channel once; {wrong[0]!r} is there {known.count(wrong[0])} times"
        )
    if set(task.write) != set(task.labels):
        refuse(f"write names {sorted(task.write)}, labels names {sorted(task.labels)}; they must be the same")
    if task.kind == "segmentation":
        if any(i < 1 or i > 65535 for ids in task.labels.values() for i in ids):
            refuse(f"label ids must lie in 1..65535 (0 is background), got {dict(task.labels)}")
        _check_painting(task, refuse)
        if task.ignore is not None and (task.ignore in task.values or not 1 <= task.ignore <= 65535):
            refuse(f"ignore {task.ignore} must lie in 1..65535 and be no value of a label (labels have {task.values})")
    if unknown := sorted(set(task.aliases) - set(task.labels)):
        refuse(f"aliases name {unknown[0]!r}, which is no label; labels are {', '.join(task.labels)}")
    if unknown_ids := sorted(set(task.ids) - {0, *task.values}):
        refuse(f"ids name the value {unknown_ids[0]}, which no label holds; values are {task.values}")
    _check_dicom(task, refuse)
    for name, code in task.codes.items():
        if task.label_named(name) is None and task.id_named(name) is None:
            refuse(f"codes name {name!r}, which is no label; labels are {', '.join(task.labels)}")
        if len(code) not in (4, 5):
            refuse(f"the code of {name} is {list(code)}; it must be category, scheme, value, meaning and maybe a side")
    labels = {name: (name, *task.aliases.get(name, ())) for name in task.labels}
    for what, names in (
        ("channel", {c: (c, *aliases) for c, aliases in task.channels.items()}),
        ("label", labels),
        ("value", {str(value): aliases for value, aliases in task.ids.items()}),
    ):
        seen: dict[str, str] = {}
        for key, aliases in names.items():
            for alias in aliases:
                if seen.setdefault(plain_name(alias), key) != key:
                    refuse(f"the name {alias!r} means both {what} {seen[plain_name(alias)]!r} and {key!r}")


def _check_slices(task: Task, refuse: Callable[[str], NoReturn]) -> None:
    if task.slices is not None:
        if task.slices not in SLICES:
            refuse(f"slices {task.slices!r} is none of {', '.join(SLICES)}")
        if task.network_dims != 2:
            refuse(f"patch_size {task.patch_size} must be the 2 sizes of a slice, since slices: {task.slices} is given")
        if task.kind != "segmentation":
            refuse(f"slices: {task.slices} is for segmentation; a class belongs to a whole scan")
    most = 0 if task.slices is None else MOST_NEIGHBOURS
    if not 0 <= task.neighbours <= most:
        hint = "" if task.slices else f"; without slices ({', '.join(SLICES)}) there are none"
        refuse(f"neighbours {task.neighbours} must lie in 0..{most}{hint}")


def _check_dicom(task: Task, refuse: Callable[[str], NoReturn]) -> None:
    for channel, rule in task.dicom.items():
        if unknown := sorted(set(rule) - set(DICOM_RULE)):
            refuse(f"the dicom rule of {channel} has the key {unknown[0]!r}; known are {', '.join(DICOM_RULE)}")
        for key, value in rule.items():
            if not isinstance(value, DICOM_RULE[key]):
                refuse(f"the dicom rule of {channel} has {key}: {value!r}, which is no {DICOM_RULE[key].__name__}")
        for key in ("description", "without"):
            try:
                re.compile(rule.get(key, ""))
            except re.error as error:
                refuse(f"the dicom rule of {channel} has {key}: {rule[key]!r}, no regular expression ({error})")


def _check_painting(task: Task, refuse: Callable[[str], NoReturn]) -> None:
    """Painting a label map's regions must give a map with the same regions (DESIGN.md, decision 5)."""
    for value in task.values:
        inside = [name for name in task.write if value in task.labels[name]]
        painted = task.write[inside[-1]]
        again = [name for name in task.write if painted in task.labels[name]]
        if again != inside:
            refuse(
                f"value {value} lies in {inside}, but is written as {painted}, which reads back as {again}; "
                "list write from large to small regions and give each a value of its own"
            )
