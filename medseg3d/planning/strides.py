"""How far the network steps along each axis: slices that lie far apart are kept apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg3d.networks.strides import DEFAULT, Strides, per_axis, stage_strides, total_strides
from medseg3d.planning.fingerprint import Fingerprint

ANISOTROPIC = 2.0
"""An axis whose voxels, or logits, are more than so many times the smallest is one of slices."""
ACROSS = 2
"""Logits that should lie across the thinnest structure: with fewer, two of its sides cannot be told apart."""


def choose_strides(
    fingerprint: Fingerprint, spacing_mm: Sequence[float] | NDArray[np.float64], least: Strides | None = None
) -> tuple[Strides, str]:
    """The strides of the network's stages, and the reason where they are not the usual ones.

    Across slices the first stage steps as far as keeps its logits shorter than twice those in the plane, and two of them across
    the thinnest structure. Later stages halve an axis of slices once tokens in the plane have become half as large.

    Args:
        fingerprint: of the data set.
        spacing_mm: of the network's grid in the plane; across slices that of the scans counts.
        least: strides that those of the first stage are not to fall below.
    """
    dims = fingerprint.task.spatial_dims
    usual = stage_strides(None, dims)
    median = np.array(fingerprint.spacing_mm)
    slices = median > ANISOTROPIC * median.min()
    if not slices.any():
        return usual, ""
    grid = np.where(slices, median, np.asarray(spacing_mm))
    logit = DEFAULT[0] * grid
    plane = float(logit[~slices].max())
    longest = ANISOTROPIC * plane
    if fingerprint.thinnest is not None:
        longest = min(longest, fingerprint.thinnest[1] / ACROSS)
    stem = list(per_axis(DEFAULT[0], dims))
    for axis in np.flatnonzero(slices):
        stem[axis] = max([s for s in (1, 2, 4) if s * median[axis] <= longest], default=1)
        stem[axis] = max(stem[axis], least[0][axis] if least else 1)
    if tuple(stem) == usual[0]:
        return usual, ""
    stages, token = [tuple(stem)], grid * stem
    for stage in usual[1:]:
        halved = token <= ANISOTROPIC * token.min() * (1 + 1e-6)
        stages.append(tuple(s if h else 1 for s, h in zip(stage, halved, strict=True)))
        token = token * stages[-1]
    lengths = " x ".join(f"{n:.3g}" for n in grid * stem)
    apart = " x ".join(f"{n:.3g}" for n in logit)
    return tuple(stages), f"slices are thick: logits of {lengths} mm, where steps of {DEFAULT[0]} would give {apart} mm"


def voxel_work(strides: Strides) -> float:
    """How much a network works per voxel, in that of one with the usual strides: by its tokens."""
    return DEFAULT[0] ** len(strides[0]) / math.prod(strides[0])


def least_patch(strides: Strides) -> tuple[int, ...]:
    """The smallest patch: below it the deepest stage sees less than one voxel."""
    return total_strides(strides)[-1]
