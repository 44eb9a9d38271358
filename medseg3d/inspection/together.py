"""What shows only where cases are seen together: leakage, copies, absent classes, names and voxel sizes that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg3d.checks import Finding, some_names
from medseg3d.inspection.case import Facts
from medseg3d.io.case_names import names_of
from medseg3d.io.split import subject_of
from medseg3d.task import Task

SPACING_FACTOR = 4.0
"""A voxel size so many times the median, or less than so small a part of it, is told of."""


def compare(parts: Mapping[str, Sequence[Facts]], task: Task, root: Path) -> list[Finding]:
    """Findings about cases of a data set as a whole.

    Args:
        parts: the cases of each part: ``training``, ``validation`` and others.
        task: what they are for.
        root: of the data set, for findings about all of it.
    """
    everything = [facts for cases in parts.values() for facts in cases]
    return [
        *copies(parts),
        *_same_label(everything),
        *_absent(parts, task, root),
        *_spacings(everything),
        *_padded(everything, task, root),
        *names_of([(facts.case.name, facts.file) for facts in everything]),
    ]


def copies(parts: Mapping[str, Sequence[Facts]]) -> list[Finding]:
    """The same image, or the same patient, in two parts; and the same image twice in one."""
    placed = [(part, facts) for part, cases in parts.items() for facts in cases]
    found: list[Finding] = []
    twins: set[frozenset[str]] = set()
    for group in _groups((facts.content, (part, facts)) for part, facts in placed):
        (part, first), *others = group
        for other_part, other in others:
            twins.add(frozenset((part, other_part, first.case.name, other.case.name)))
            message = f"the same image as {_apart(first.file, other.file)}, voxel for voxel"
            if part == other_part:
                fix = "keep one of the two: the other adds nothing"
                found.append(Finding("W-SAME-CONTENT", "warning", other.file, message, fix))
            else:
                message += f"; that one is in the {part} part, this in the {other_part} part"
                fix = f"keep one of the two: scores on {other_part} cases that were trained on mean nothing"
                found.append(Finding("E-LEAKAGE", "error", other.file, message, fix))
    for group in _groups((subject_of(facts.case.name), (part, facts)) for part, facts in placed):
        part, first = group[0]
        for other_part, other in group[1:]:
            key = frozenset((part, other_part, first.case.name, other.case.name))
            if part != other_part and key not in twins:
                message = (
                    f"a scan of the same patient as {first.case.name} by its name; that one is in the {part} part, "
                    f"this in the {other_part} part"
                )
                fix = "put all scans of one patient into one part"
                if "test" in (part, other_part):  # whose cases may be numbered anew
                    fix = "is it another patient? then nothing is wrong"
                    found.append(Finding("W-LEAKAGE", "warning", other.file, message, fix))
                else:
                    found.append(Finding("E-LEAKAGE", "error", other.file, message, fix))
    return found


def _apart(file: str, other: str) -> str:
    """The end of a path that tells it from another."""
    parts, others = Path(file).parts, Path(other).parts
    for length in range(1, min(len(parts), len(others)) + 1):
        if parts[-length:] != others[-length:]:
            return Path(*parts[-length:]).as_posix()
    return file


def _groups(keyed: Iterable[tuple[str | None, tuple[str, Facts]]]) -> list[list[tuple[str, Facts]]]:
    """The entries that share a key with another."""
    by_key: dict[str, list[tuple[str, Facts]]] = {}
    for key, entry in keyed:
        if key is not None:
            by_key.setdefault(key, []).append(entry)
    return [group for group in by_key.values() if len(group) > 1]


def _same_label(everything: Sequence[Facts]) -> list[Finding]:
    found: list[Finding] = []
    for group in _groups((facts.label_content, ("", facts)) for facts in everything):
        (_, first), *others = group
        for _, other in others:
            if other.content != first.content:
                message = f"the same label as that of {first.case.name}, voxel for voxel, for another image"
                fix = "is one of them a copy by mistake?"
                found.append(Finding("W-SAME-LABEL", "warning", str(other.case.label), message, fix))
    return found


def _absent(parts: Mapping[str, Sequence[Facts]], task: Task, root: Path) -> list[Finding]:
    """Classes that cannot be learned, or not be scored."""
    found: list[Finding] = []
    for part, code, severity, so in (
        ("training", "E-CLASS-ABSENT", "error", "it cannot be learned"),
        ("validation", "W-CLASS-ABSENT", "warning", "it cannot be scored there"),
    ):
        labelled = [facts for facts in parts.get(part, ()) if facts.voxels]
        if not labelled or len(labelled) < len(parts[part]):
            continue  # without labels, or with some that cannot be read, nothing is known
        absent = [
            name for name, ids in task.labels.items() if not any(facts.voxels.get(i) for facts in labelled for i in ids)
        ]
        if absent and not any(f.code == "E-CLASS-ABSENT" for f in found):
            message = f"no {part} case ({len(labelled)}) holds {some_names(absent)}, so {so}"
            fix = "add cases that do, take the label out of the task, or look whether its value is another here"
            found.append(Finding(code, severity, str(root), message, fix))  # type: ignore[arg-type]
    return found


def _spacings(everything: Sequence[Facts]) -> list[Finding]:
    known = [(facts, facts.grid) for facts in everything if facts.grid is not None]
    if len(known) < 3:
        return []
    sizes = np.array([[grid.spacing_mm[a] for a in grid.to_canonical().axes] for _, grid in known])
    median = np.median(sizes, axis=0)
    found: list[Finding] = []
    for (facts, _), size in zip(known, sizes, strict=True):
        if (np.maximum(size / median, median / size) > SPACING_FACTOR).any():
            here, usual = (" x ".join(f"{v:g}" for v in s) for s in (size, median))
            message = f"voxels of {here} mm, where {usual} mm is the median of the data set"
            fix = "is it the same kind of scan, and is the header right?"
            found.append(Finding("W-SPACING", "warning", facts.file, message, fix))
    return found


def _padded(everything: Sequence[Facts], task: Task, root: Path) -> list[Finding]:
    small = sorted((facts for facts in everything if facts.covered < 1), key=lambda facts: facts.covered)
    if not small:
        return []
    patch = " x ".join(map(str, task.patch_size))
    message = (
        f"{len(small)} of {len(everything)} cases are smaller than the patch of {patch} voxels and are padded: "
        f"{small[0].case.name} fills {small[0].covered:.0%} of it"
    )
    return [Finding("I-PADDED", "info", str(root), message, "a smaller patch_size costs less time")]
