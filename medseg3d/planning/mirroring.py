"""Along which axes a mirrored image is one that could be: judged by the names of labels, and by where they lie."""

from __future__ import annotations

import re

import numpy as np

from medseg3d.planning.fingerprint import Fingerprint

SIDES = (
    "left|right|sinister|sinistra|dexter|dextra|lt|rt|l|r",
    "anterior|posterior|front|back|ventral|dorsal",
    "superior|inferior|upper|lower",
)
"""Words in the names of labels that tell the two ends of an axis apart, by RAS axis."""
ONE_SIDED = 0.15
"""A structure whose centre lies this part of the image's size to one side, in every case, is on that side by anatomy."""


def choose_mirror_axes(fingerprint: Fingerprint) -> tuple[tuple[int, ...], str]:
    """The axes to mirror, and why: in volumes left-right at most, in pictures, which have no patient's axes, both.

    None where a label's name has a side; none of those along which a label lies on one side in every case.
    """
    task = fingerprint.task
    picture = task.spatial_dims == 2
    words = "|".join(SIDES) if picture else SIDES[0]
    for label in task.labels:
        if side := re.search(rf"(?<![a-z])({words})(?![a-z])", label.lower()):
            return (), f"none: {label} has a side in its name ({side[0]})"
    kept: list[int] = []
    lying = ""
    for axis in (0, 1) if picture else (0,):
        sided = _one_sided(fingerprint, axis)
        if sided is None:
            kept.append(axis)
        else:
            lying = f"{sided} lies on one side in every case"
    if not kept:
        return (), f"none: {lying}"
    if lying:
        return tuple(kept), f"along the other, {lying}"
    if picture:
        return tuple(kept), "no label has a side, in name or place"
    return tuple(kept), "left-right: no label has a side, in name or place; up and down, front and back always differ"


def _one_sided(fingerprint: Fingerprint, axis: int) -> str | None:
    """A label that lies on one side of the image in every case."""
    for label in fingerprint.task.labels:
        offsets = np.array([s.offset[axis] for s in fingerprint.structures(label)])
        if len(offsets) and abs(offsets.mean()) > ONE_SIDED and (offsets * offsets.mean() > 0).all():
            return label
    return None
