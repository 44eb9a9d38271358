"""The gaps between the slices of a DICOM stack: even, straight and upright, or refused with the place where they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import Finding, InputError, some_names
from medseg3d.io.dicom_slices import Slice
from medseg3d.volume import SHEAR_TOLERANCE

GAP_TOLERANCE_MM = 0.05
"""How far a gap between slices may be from the mean: tables are read and rounded; or ``GAP_TOLERANCE`` of it, if more."""
GAP_TOLERANCE = 0.01
LINE_TOLERANCE = 0.1
"""How far a slice may lie from its place on the regular stack, in spacings."""


def single_step(only: Slice, where: Path) -> tuple[float, Finding]:
    """How far from a slice on its own the next would be, mm, and the warning that says so.

    Raises:
        InputError: ``E-NO-GEOMETRY`` where the header does not say.
    """
    step = next((v for v in (only.between, only.thickness) if v is not None and math.isfinite(v) and abs(v) > 0), None)
    if step is None:
        message = "a single slice, and neither SpacingBetweenSlices nor SliceThickness says how thick it is"
        raise InputError("E-NO-GEOMETRY", message, file=where, fix="export the series again")
    message = f"a single slice; its thickness of {abs(step):g} mm is what the header says"
    return abs(step), Finding("W-SINGLE-SLICE", "warning", str(where), message, "is the series complete?")


def check_tilt(slices: Sequence[Slice], normal: NDArray[np.float64], where: Path) -> None:
    """Raise ``E-TILT`` where slices slide sideways along the stack."""
    places = np.array([s.position for s in slices])
    whole = places[-1] - places[0]
    along = float(whole @ normal)
    sideways = float(np.linalg.norm(whole - along * normal))
    if sideways > SHEAR_TOLERANCE * along and sideways > GAP_TOLERANCE_MM:
        angle = math.degrees(math.atan2(sideways, along))
        message = f"the stack leans by {angle:.2f} degrees against its slices (gantry tilt): its voxels are no boxes"
        fix = "resample it to a box with the scanner's software or dcm2niix, whose file named Tilt can be read"
        raise InputError("E-TILT", message, file=where, fix=fix)


def check_gaps(slices: Sequence[Slice], normal: NDArray[np.float64], where: Path) -> None:
    """Raise ``E-MISSING-SLICE`` where gaps are multiples of one, ``E-SPACING`` where they differ otherwise."""
    places = np.array([s.position for s in slices])
    along = (places - places[0]) @ normal
    gaps = np.diff(along)
    mean = float(along[-1] / (len(slices) - 1))
    line = places[0] + np.outer(np.arange(len(slices)), (places[-1] - places[0]) / (len(slices) - 1))
    off = np.linalg.norm(places - line, axis=1)
    even = np.abs(gaps - mean).max() <= max(GAP_TOLERANCE_MM, GAP_TOLERANCE * mean)
    if even and off.max() <= max(GAP_TOLERANCE_MM, LINE_TOLERANCE * mean):
        return
    least = float(gaps.min())
    times = np.rint(gaps / least)
    if times.max() > 1 and (np.abs(gaps - times * least) <= np.maximum(GAP_TOLERANCE_MM, GAP_TOLERANCE * gaps)).all():
        raise _missing(slices, places, times, least, where)
    if even:
        worst = int(off.argmax())
        message = f"{slices[worst].name} lies {off[worst]:.2f} mm beside the line through the other slices"
    else:
        message = f"gaps between slices from {least:.3f} to {gaps.max():.3f} mm; a volume has one"
    fix = "part the stacks, or resample them to one spacing with the scanner's software"
    raise InputError("E-SPACING", message, file=where, fix=fix)


def _missing(slices: Sequence[Slice], places: Any, times: Any, least: float, where: Path) -> InputError:
    """Where slices are missing, in words."""
    number = int((times - 1).sum())
    words = []
    for i in np.flatnonzero(times > 1):
        before, after = slices[int(i)], slices[int(i) + 1]
        for k in range(1, int(times[i])):
            there = places[i] + (places[i + 1] - places[i]) * k / times[i]
            words.append(f"({in_words(there)}) mm between {before.name} and {after.name}")
    plural = "slices are" if number > 1 else "slice is"
    message = (
        f"{number} {plural} missing from a stack {least:g} mm apart, at patient position (LPS) {some_names(words, 3)}"
    )
    return InputError("E-MISSING-SLICE", message, file=where, fix="copy or export the series again, all of it")


def in_words(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Numbers for a message."""
    return ", ".join(f"{v:.6g}" for v in values)
