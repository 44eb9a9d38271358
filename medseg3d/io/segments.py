"""What the values of a label map are called in the files that viewers and hospitals read: names and codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from medseg3d.checks import ConfigError, InputError, tell
from medseg3d.task import Task
from medseg3d.task_rules import plain_name

PRIVATE_SCHEME = "99MEDSEG3D"
"""Coding scheme of the names that no other scheme is known for; DICOM PS3.16 leaves those that begin with 99 to all."""
SIDES = ("left", "right")


@dataclass(frozen=True)
class Code:
    """A coded concept of DICOM: a value of a coding scheme, and its meaning in words."""

    scheme: str
    value: str
    meaning: str

    @property
    def family(self) -> str:
        """The coding scheme; SNOMED RT, which older files use, counts as SNOMED CT."""
        return "SCT" if self.scheme == "SRT" else self.scheme

    def same(self, other: Code) -> bool:
        """Whether both mean the same, whatever the words."""
        from pydicom.sr.coding import Code as Known

        return bool(Known(self.value, self.scheme, "") == Known(other.value, other.scheme, ""))


@dataclass(frozen=True)
class Segment:
    """What one value of a label map stands for.

    Args:
        value: in the label map; in a DICOM file the segment's or the region's number.
        name: of the structure.
        category: such as anatomical structure.
        type: the structure itself.
        modifier: its side or part.
        description: more words about it.
    """

    value: int
    name: str
    category: Code
    type: Code
    modifier: Code | None = None
    description: str = ""

    @property
    def coded(self) -> bool:
        """Whether the codes say more than the name."""
        return self.type.scheme != PRIVATE_SCHEME

    def same_code(self, other: Segment) -> bool:
        """Whether the codes of both mean the same; a modifier that one of them lacks contradicts nothing."""
        sides = self.modifier is None or other.modifier is None or self.modifier.same(other.modifier)
        return sides and self.type.same(other.type)


def segments_of(task: Task) -> tuple[Segment, ...]:
    """The values that label maps of the task are painted with, in ascending order, named and coded.

    A value carries its label's name. Where labels are regions that share values, such as WT, TC and ET, each value is a
    part of its own, named as the task's ``ids`` name it, and its description says which regions it belongs to.
    """
    return tuple(_segment(task, value) for value in sorted(set(task.write.values())))


def _segment(task: Task, value: int) -> Segment:
    if task.regions:
        inside = [label for label, ids in task.labels.items() if value in ids]
        names = list(task.ids.get(value, ())) or [" and ".join(inside)]
        description = f"part of {', '.join(inside)}"
    else:
        label = next(label for label, painted in task.write.items() if painted == value)
        names = [label, *task.aliases.get(label, ()), *task.ids.get(value, ())]
        description = ""
    category, kind, modifier = codes_of(names, task.codes)
    return Segment(value, names[0].replace("_", " "), category, kind, modifier, description)


def codes_of(names: Iterable[str], own: Mapping[str, Sequence[str]] | None = None) -> tuple[Code, Code, Code | None]:
    """Category, type and modifier of the first of the names that is known, or a private code.

    Args:
        names: of one structure.
        own: entries that come before those of ``configs/codes.yaml``, in the same form.

    Raises:
        ConfigError: where one of ``own`` has a category or a modifier that there is not.
    """
    names = list(names)
    table = _table()
    mine = {plain_name(name): entry for name, entry in (own or {}).items()}
    for types in (mine, table["types"]):
        for name in names:
            for plain, side in _readings(plain_name(name)):
                if plain in types:
                    return _codes(name, types[plain], side, table)
    spoken = names[0].replace("_", " ")[:64]
    private = Code(PRIVATE_SCHEME, plain_name(names[0])[:64] or "label", spoken)
    return Code(*table["categories"]["tissue"]), private, None


def _codes(
    name: str, entry: Sequence[str], side: str | None, table: Mapping[str, Any]
) -> tuple[Code, Code, Code | None]:
    category, scheme, value, meaning, *part = entry
    modifier = part[0] if part else side
    for kind, word in (("categories", category), ("modifiers", modifier)):
        if word is not None and word not in table[kind]:
            raise ConfigError(f"the code of {name} names {word!r}; known {kind} are {', '.join(table[kind])}")
    found = Code(*table["modifiers"][modifier]) if modifier else None
    return Code(*table["categories"][category]), Code(scheme, value, meaning), found


def _readings(plain: str) -> Iterator[tuple[str, str | None]]:
    """A name as it is, and without its side."""
    yield plain, None
    for side in SIDES:
        yield plain.removeprefix(side) if plain.startswith(side) else plain.removesuffix(side), side


@cache
def _table() -> dict[str, dict[str, Any]]:
    from medseg3d import configs_folder

    table = yaml.safe_load((configs_folder() / "codes.yaml").read_text(encoding="utf-8"))
    return {**table, "types": {plain_name(name): entry for name, entry in table["types"].items()}}


def values_of(task: Task, segments: Sequence[Segment], *, file: Path | None = None) -> dict[int, int]:
    """Which label value of the task each segment of a file stands for: names decide, then codes, then numbers.

    Args:
        task: whose label maps hold these values; what its ``ids`` call background is 0.
        segments: as the file describes them.
        file: for messages.

    Returns:
        The task's value by the number of the segment.

    Raises:
        InputError: ``E-SEGMENT`` for a name and a code that contradict each other, an unknown segment, or two of one label.
    """
    own = {segment.value: segment for segment in segments_of(task)}
    values: dict[int, int] = {}
    for segment in segments:
        what = f"segment {segment.value} ({segment.name!r}, coded {segment.type.meaning!r})"
        value = _value_of(task, own, segment)
        if value is None and segment.value in own:
            value = segment.value
            message = f"{what} is unknown to task {task.name!r}; by its number it is taken for {own[value].name!r}"
            tell("W-SEGMENT", message, file=file, fix="name its segments as the task does")
        if value is None:
            raise _contradiction(f"{what} is no label of task {task.name!r}, by its name, its code or its number", file)
        if value:
            known = own[value]
            label = f"label {value} ({known.name!r}, coded {known.type.meaning!r}) of task {task.name!r}"
            if known.coded and known.type.family == segment.type.family and not known.same_code(segment):
                raise _contradiction(f"{what} contradicts {label}", file)
            if value in values.values():
                raise _contradiction(f"{what} and another segment are both {label}", file)
            if value != segment.value:
                tell("I-SEGMENT", f"{what} is {label}", file=file)
        values[segment.value] = value
    return values


def _contradiction(message: str, file: Path | None) -> InputError:
    fix = "give the task that the file was made for, or name its segments as the task does"
    return InputError("E-SEGMENT", message, file=file, fix=fix)


def _value_of(task: Task, own: Mapping[int, Segment], segment: Segment) -> int | None:
    named = [value for value, known in own.items() if plain_name(known.name) == plain_name(segment.name)]
    label = None if task.regions else task.label_named(segment.name)
    named += [] if label is None else [task.write[label]]
    value = task.id_named(segment.name)
    named += [] if value is None or (value and value not in own) else [value]
    if named:
        return named[0]
    alike = [value for value, known in own.items() if known.coded and known.same_code(segment)]
    if len(alike) == 1:
        return alike[0]
    return 0 if "*" in task.ids.get(0, ()) else None


def regions_of(task: Task, segments: Sequence[Segment]) -> dict[int, str] | None:
    """The label of the task that each segment of a file is, where all are labels and some are regions of several values."""
    labels = {segment.value: task.label_named(segment.name) for segment in segments}
    found = {number: label for number, label in labels.items() if label is not None}
    whole = len(found) == len(segments) and len(set(found.values())) == len(segments)
    several = any(len(task.labels[label]) > 1 for label in found.values())
    return found if task.regions and whole and several else None


def painted(masks: Mapping[str, NDArray[np.bool_]], task: Task, *, file: Path | None = None) -> NDArray[np.uint16]:
    """Regions of a task, which may overlap, as the one label map that the task paints them into.

    Args:
        masks: of labels of the task, of one shape.
        task: its ``write`` gives the order and the values.
        file: for messages.

    Raises:
        InputError: ``E-OVERLAP`` where the map would not give the same regions back.
    """
    out = np.zeros(next(iter(masks.values())).shape, np.uint16)
    for label, value in task.write.items():
        if label in masks:
            out[masks[label]] = value
    for label, mask in masks.items():
        if wrong := int(np.count_nonzero(np.isin(out, task.labels[label]) != mask)):
            message = f"{wrong} voxels of {label!r} contradict the other regions of task {task.name!r}, which lie in each other"
            raise InputError("E-OVERLAP", message, file=file, fix="make the smaller regions parts of the larger ones")
    return out
