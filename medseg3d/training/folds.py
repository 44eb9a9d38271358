"""Which case is in which fold: patients (or sites) stay together, labels and sizes are spread evenly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from medseg3d.checks import ConfigError
from medseg3d.io import Case, DataSet, read_label
from medseg3d.io.split import subject_of
from medseg3d.task import Task

SIZES = ("small", "middle", "large")
"""Thirds of the cases by the volume of all labels together, which are spread like labels."""


def traits_of(dataset: DataSet, task: Task) -> dict[str, tuple[str, ...]]:
    """What is to be spread evenly: of each case its class, or the labels it has and the third its size lies in.

    Raises:
        InputError: for a label map that cannot be read.
    """
    if task.kind == "classification":
        names = list(task.labels)
        return {case.name: (names[case.class_index or 0],) for case in dataset.cases}
    present: dict[str, list[str]] = {}
    volumes: dict[str, float] = {}
    for case in dataset.cases:
        label = read_label(case, dataset, task, None)
        values = set(np.unique(label.data).tolist())
        present[case.name] = [name for name, ids in task.labels.items() if values & set(ids)]
        volumes[case.name] = float(np.isin(label.data, task.values).sum()) * float(np.prod(label.spacing_mm))
    ranks = {name: rank for rank, name in enumerate(sorted(volumes, key=lambda n: (volumes[n], n)))}
    third = {name: SIZES[rank * len(SIZES) // len(ranks)] for name, rank in ranks.items()}
    return {name: (*labels, third[name]) for name, labels in present.items()}


def groups_of(cases: Sequence[Case], column: Mapping[str, str] | None = None) -> dict[str, str]:
    """The patient of each case, by its name, or what a table's column says.

    Raises:
        ConfigError: where the table leaves a case out.
    """
    if column is None:
        return {case.name: subject_of(case.name) for case in cases}
    if absent := [case.name for case in cases if case.name not in column]:
        raise ConfigError(f"the table gives {len(absent)} cases no group, {absent[0]!r} for one; fill in its line")
    return {case.name: column[case.name] for case in cases}


def assign_folds(
    groups: Mapping[str, str], traits: Mapping[str, Sequence[str]], folds: int, seed: int = 0
) -> dict[str, int]:
    """The fold (from 1) of each case, by names, groups and traits alone: the same on any machine.

    Groups go one by one to the fold that lacks most of their rarest trait (iterative stratification; Sechidis et al.,
    doi:10.1007/978-3-642-23808-6_10, with groups for examples).

    Args:
        groups: by case, what must stay together.
        traits: by case, what is to be spread.
        folds: how many.
        seed: another one gives other folds.

    Raises:
        ConfigError: fewer groups than folds, or fewer than two folds.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    if folds < 2:
        raise ConfigError(f"folds {folds} must be at least 2")
    if len(members) < folds:
        raise ConfigError(
            f"{folds} folds need at least {folds} patients (or groups), and there are {len(members)} in {len(groups)} cases; "
            f"use fewer folds{f', at most {len(members)}' if len(members) > 1 else ''}, or add data"
        )
    names = sorted({trait for found in traits.values() for trait in found})
    counts = {
        group: np.array([len(cases), *(sum(t in traits[c] for c in cases) for t in names)], dtype=float)
        for group, cases in members.items()
    }
    needed = np.tile(sum(counts.values()) / folds, (folds, 1))
    order = sorted(members, key=lambda g: hashlib.sha256(f"{seed}:{g}".encode()).digest())
    # The largest first: a late large one could no longer be balanced.
    order.sort(key=lambda g: -len(members[g]))
    found: dict[str, int] = {}
    while order:
        left = np.sum([counts[g] for g in order], axis=0)
        rarest = min((i for i in range(len(left)) if left[i] > 0), key=lambda i: (left[i], -i))
        group = next(g for g in order if counts[g][rarest] > 0)
        fold = max(range(folds), key=lambda f: (needed[f][rarest], needed[f][0], -f))
        needed[fold] -= counts[group]
        order.remove(group)
        found |= dict.fromkeys(members[group], fold + 1)
    return _without_empty_folds(found, members, folds)


def _without_empty_folds(found: dict[str, int], members: Mapping[str, Sequence[str]], folds: int) -> dict[str, int]:
    """Very uneven groups can leave a fold without any: it gets the smallest group of the fold that has most."""
    for fold in range(1, folds + 1):
        while fold not in found.values():
            of_fold = {f: [g for g, cases in members.items() if found[cases[0]] == f] for f in set(found.values())}
            rich = max(of_fold, key=lambda f: (len(of_fold[f]), -f))
            smallest = min(of_fold[rich], key=lambda g: (len(members[g]), g))
            found |= dict.fromkeys(members[smallest], fold)
    return found


def warnings_about(assignment: Mapping[str, int], traits: Mapping[str, Sequence[str]], task: Task) -> list[str]:
    """Labels that a fold trains without, because all cases that have them are in it."""
    words = []
    for label in task.labels:
        within = {assignment[name] for name, found in traits.items() if label in found}
        if not within:
            words.append(f"no case has {label}, which cannot be learned")
        elif len(within) == 1:
            fold = next(iter(within))
            words.append(
                f"all cases with {label} are in fold {fold}, whose network trains without any; add cases or use fewer folds"
            )
    return words
