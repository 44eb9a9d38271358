"""Two labels that are swapped: each fits the image of the other better than its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from medseg3d.checks import Finding, collected
from medseg3d.inspection.case import Facts, in_threads
from medseg3d.inspection.outline import edge_ratio
from medseg3d.io.case_reading import read_image, read_label
from medseg3d.io.dataset import DataSet
from medseg3d.task import Task

LOOKED_AT = 8
"""Of the cases on one grid, so many whose labels fit worst are tried in pairs."""
BETTER = 1.05
"""A label fits an image better where the edges along its outline are so many times as strong."""


def swapped_labels(parts: Mapping[str, Sequence[Facts]], task: Task, dataset: DataSet) -> list[Finding]:
    """Pairs of cases on one grid, each of whose labels fits the image of the other better than its own.

    Args:
        parts: the cases of each part.
        task: what they are for.
        dataset: where they come from.
    """
    found = []
    for group in _on_one_grid([facts for cases in parts.values() for facts in cases]):
        worst = sorted(group, key=lambda facts: facts.outline)[:LOOKED_AT]
        labels = in_threads(lambda facts: _label(facts, task, dataset), worst, "reading labels again")
        fits = in_threads(lambda facts: _fits(facts, labels, task), worst, "looking for swapped labels")  # noqa: B023
        for i, j in itertools.combinations(range(len(worst)), 2):
            there, here = fits[j][i], fits[i][j]
            if there > BETTER * worst[j].outline and here > BETTER * worst[i].outline:
                found.append(_finding(worst[i], worst[j], there, here))
    return found


def _label(facts: Facts, task: Task, dataset: DataSet) -> NDArray[Any]:
    with collected():  # what there is to say has been said
        return read_label(facts.case, dataset, task, facts.grid).data[0]


def _fits(facts: Facts, labels: Sequence[NDArray[Any]], task: Task) -> list[float]:
    """How well each label fits the image of a case."""
    with collected():
        image = read_image(facts.case, task).data
    return [edge_ratio(image, values, ignore=task.ignore) for values in labels]


def _finding(a: Facts, b: Facts, there: float, here: float) -> Finding:
    message = (
        f"this label and that of {b.case.name} each fit the other's image better: there edges are {there:.2f} and {here:.2f} times "
        f"as strong along their outlines as around them, and in their own images {a.outline:.2f} and {b.outline:.2f} times"
    )
    return Finding("W-LABEL-SWAPPED", "warning", str(a.case.label), message, "are the two swapped? look at both")


def _on_one_grid(everything: Sequence[Facts]) -> list[list[Facts]]:
    """Cases with a label whose images lie on the same grid; a label on another grid is refused anyway."""
    groups: list[list[Facts]] = []
    for facts in everything:
        if facts.grid is None or math.isnan(facts.outline):
            continue
        for group in groups:
            if (other := group[0].grid) is not None and facts.grid.differs_from(other) is None:
                group.append(facts)
                break
        else:
            groups.append([facts])
    return [group for group in groups if len(group) > 1]
