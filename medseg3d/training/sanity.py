"""What is odd about prepared cases, said before training starts; what cannot be trained on at all was refused when it was read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg3d.checks import Finding, some_names
from medseg3d.task import Task
from medseg3d.training.cache import PreparedCase

SPACING_RATIO = 3.0
"""Voxel sizes that differ by more than this between cases are worth a word."""
PADDED_SHARE = 0.5
"""Part of a patch that may be padding without a word."""


def look(training: Sequence[PreparedCase], validation: Sequence[PreparedCase], task: Task) -> list[Finding]:
    """Warnings about the two parts of a training: absent classes, constant or small images, spacings far apart."""
    found = [*_absent(training, "training", task), *_absent(validation, "validation", task)]
    cases = [*training, *validation]
    if constant := [case.name for case in cases if _is_constant(case)]:
        found.append(
            Finding(
                "W-CONSTANT",
                "warning",
                None,
                f"{len(constant)} of {len(cases)} cases have a channel without any contrast: {some_names(constant)}",
                "look at these scans; a channel that is missing belongs left out of the task, or trained with channel_dropout",
            )
        )
    patch = np.array(task.patch_size)
    covered = {case.name: np.minimum(case.image.shape[1:], patch).prod() / patch.prod() for case in training}
    if small := [name for name, share in covered.items() if share < PADDED_SHARE]:
        found.append(
            Finding(
                "W-SMALLER-THAN-PATCH",
                "warning",
                None,
                f"{len(small)} of {len(training)} training cases fill less than half of a patch of {tuple(task.patch_size)} "
                f"voxels: {some_names(small)}; the rest is zeros, and costs time",
                "choose a smaller patch_size",
            )
        )
    spacings = np.array([case.grid.source.spacing_mm for case in cases])
    if len(cases) > 1 and (ratio := float((spacings.max(0) / spacings.min(0)).max())) > SPACING_RATIO:
        low, high = (", ".join(f"{v:.3g}" for v in ends) for ends in (spacings.min(0), spacings.max(0)))
        found.append(
            Finding(
                "W-SPACING",
                "warning",
                None,
                f"voxel sizes differ by a factor of {ratio:.1f} between cases: from ({low}) to ({high}) mm",
                "check that none is wrong"
                + ("" if task.spacing_mm else "; give the task a spacing_mm, so that all cases are brought to one"),
            )
        )
    return found


def _absent(cases: Sequence[PreparedCase], part: str, task: Task) -> list[Finding]:
    """Labels (or classes) that no case of a part has."""
    if not cases:
        return []
    if task.kind == "classification":
        seen = {list(task.labels)[c.class_index] for c in cases if c.class_index is not None}
    else:
        codes = {int(code) for c in cases if c.target is not None for code in np.unique(c.target.numpy())}
        values = {i + 1: v for i, v in enumerate(task.values)}
        names = list(task.labels)
        seen = {
            name
            for code in codes - {0}
            for i, name in enumerate(names)
            if (values.get(code) in task.labels[name] if task.regions else code == i + 1)
        }
    absent = [name for name in task.labels if name not in seen]
    if not absent:
        return []
    what = "cannot be learned" if part == "training" else "cannot be scored"
    return [
        Finding(
            f"W-ABSENT-{part.upper()}",
            "warning",
            None,
            f"no {part} case has {', '.join(absent)}, which {what}",
            "add cases that have it, split otherwise, or take it out of the task",
        )
    ]


def _is_constant(case: PreparedCase) -> bool:
    """Whether a channel holds one value alone; most images say no at their first slices."""
    return any(bool((channel == channel.reshape(-1)[0]).all()) for channel in case.image)
