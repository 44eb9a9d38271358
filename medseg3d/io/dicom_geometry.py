"""Where the slices of a DICOM series lie: sorted along their normal, and refused where they are no regular stack.

Positions here are LPS mm, as DICOM has them (PS3.3 C.7.6.2): x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import Finding, InputError, some_names
from medseg3d.io.dicom_slices import Slice
from medseg3d.io.dicom_spacing import check_gaps, check_tilt, in_words, single_step

SAME_PLACE_MM = 0.005
COSINE_TOLERANCE = 1e-3
"""Direction cosines of one series differ by less."""
PIXEL_TOLERANCE = 1e-4
"""Pixel spacings of one series differ by less, relatively."""
LONE_DEGREES = 20.0
"""A slice turned by more is a scout or a reformat, not a slice of the stack."""
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From LPS to RAS, and back."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their position, evenly spaced.

    Args:
        slices: from the first to the last along the normal.
        affine: ``(4, 4)``, index (column, row, slice) to RAS+ mm.
        findings: what was dropped or assumed.
    """

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    findings: tuple[Finding, ...]


def without_lone(slices: Sequence[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Part the slices of the stack from localizers: so called by their type, or lying across all others.

    Returns:
        The stack, and what is no part of it. Where all are localizers, none is parted.
    """
    named = [s for s in slices if "LOCALIZER" in s.header.words("ImageType")]
    rest = [s for s in slices if "LOCALIZER" not in s.header.words("ImageType")]
    if not rest:
        return list(slices), []
    directed = [s for s in rest if s.orientation is not None and len(s.orientation) == 6]
    normals = {id(s): _normal(s.orientation) for s in directed if s.orientation is not None}
    main = _most_common([s.orientation for s in directed])
    if main is not None:
        least = math.cos(math.radians(LONE_DEGREES))
        across = [s for s in rest if id(s) in normals and abs(normals[id(s)] @ _normal(main)) < least]
        if 2 * len(across) < len(rest) and len(rest) - len(across) > 1:
            named += across
            rest = [s for s in rest if all(s is not a for a in across)]
    return rest, named


def stacked(slices: Sequence[Slice], where: Path, same_pixels: Callable[[Slice, Slice], bool]) -> Stack:
    """Sort slices into a regular stack.

    Args:
        slices: in any order.
        where: the folder or file, for messages.
        same_pixels: whether two slices at one place hold the same values; asked for such alone.

    Raises:
        InputError: ``E-NO-GEOMETRY``, ``E-ORIENTATION``, ``E-MATRIX``, ``E-SPACING``, ``E-DUPLICATE``,
            ``E-TIMEPOINTS``, ``E-TILT`` or ``E-MISSING-SLICE``.
    """
    _check_geometry(slices, where)
    orientation = _check_orientation(slices, where)
    _check_matrix(slices, where)
    pixel_spacing = _check_pixel_spacing(slices, where)
    normal = _normal(orientation)
    places = by_place(slices, normal)
    kept, findings = _without_duplicates(places, where, same_pixels)
    first, last = np.array(kept[0].position), np.array(kept[-1].position)
    if len(kept) == 1:
        step, finding = single_step(kept[0], where)
        findings.append(finding)
        across = normal * step
    else:
        check_tilt(kept, normal, where)
        check_gaps(kept, normal, where)
        across = (last - first) / (len(kept) - 1)
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(orientation[:3], pixel_spacing[1])
    affine[:3, 1] = np.multiply(orientation[3:], pixel_spacing[0])
    affine[:3, 2], affine[:3, 3] = across, first
    return Stack(tuple(kept), RAS @ affine, tuple(findings))


def by_place(slices: Sequence[Slice], normal: NDArray[np.float64] | None = None) -> list[list[Slice]]:
    """The slices at each position along the normal, from the first to the last."""
    if normal is None:
        orientation = _most_common([s.orientation for s in slices])
        normal = _normal(orientation) if orientation is not None else np.array([0.0, 0.0, 1.0])
    along = sorted(((float(np.dot(s.position or (0, 0, 0), normal)), s.instance, s.name, s) for s in slices), key=_key)
    places: list[list[Slice]] = []
    at = -math.inf
    for distance, _, _, s in along:
        if distance - at > SAME_PLACE_MM:
            places.append([])
        places[-1].append(s)
        at = distance
    return places


def _key(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    return entry[:3]


@lru_cache(maxsize=4096)
def _normal(orientation: tuple[float, ...]) -> NDArray[np.float64]:
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / max(float(np.linalg.norm(normal)), 1e-12))


def _most_common(values: Sequence[Any]) -> Any:
    """The value that most are equal to when rounded to the tolerance of cosines; the first of equals."""
    counted = Counter(None if v is None else tuple(round(x, 3) + 0.0 for x in v) for v in values)
    if not counted:
        return None
    most = counted.most_common(1)[0][0]
    return next(v for v in values if (None if v is None else tuple(round(x, 3) + 0.0 for x in v)) == most)


def _check_geometry(slices: Sequence[Slice], where: Path) -> None:
    def usable(values: Sequence[float] | None, number: int) -> bool:
        return values is not None and len(values) == number and all(math.isfinite(v) for v in values)

    what = {
        "position (ImagePositionPatient)": [s for s in slices if not usable(s.position, 3)],
        "orientation (ImageOrientationPatient)": [s for s in slices if not usable(s.orientation, 6)],
        "pixel size (PixelSpacing)": [s for s in slices if not usable(s.pixel_spacing, 2)],
    }
    missing = {name: which for name, which in what.items() if which}
    if not missing:
        return
    names = next(iter(missing.values()))
    if all(len(which) == len(slices) for which in missing.values()):
        which_ones = "the images have"
    else:
        which_ones = f"{some_names([s.name for s in names], 3)} {'has' if len(names) == 1 else 'have'}"
    message = f"{which_ones} no {' and no '.join(missing)}; without it no one knows where the voxels lie"
    fix = "export the series again as the scanner made it; secondary captures and converted files lose this"
    raise InputError("E-NO-GEOMETRY", message, file=where, fix=fix)


def _check_orientation(slices: Sequence[Slice], where: Path) -> tuple[float, ...]:
    """The direction cosines of the stack."""
    main = _most_common([s.orientation for s in slices])
    row, column = np.array(main[:3]), np.array(main[3:])
    off = (abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column))
    if max(off) > COSINE_TOLERANCE:
        message = f"direction cosines {in_words(main)} are not of length 1 and at right angles"
        raise InputError("E-ORIENTATION", message, file=where, fix="export the series again")
    turned = [s for s in slices if np.abs(np.subtract(s.orientation or (), main)).max() > COSINE_TOLERANCE]
    if turned:
        normal = _normal(main)
        angle = max(_degrees_between(s.orientation, main, normal) for s in turned)
        names = some_names([s.name for s in turned], 3)
        message = f"{len(turned)} of {len(slices)} slices are turned against the others by up to {angle:.2g} degrees ({names})"
        fix = "part the stacks into folders of their own; slices that are not parallel make no volume"
        raise InputError("E-ORIENTATION", message, file=where, fix=fix)
    return tuple(float(v) for v in np.mean([s.orientation or main for s in slices], axis=0))


def _degrees_between(a: Any, b: Any, normal: NDArray[np.float64]) -> float:
    cosines = (np.dot(a[:3], b[:3]), np.dot(a[3:], b[3:]), np.dot(_normal(a), normal))
    return max(math.degrees(math.acos(float(np.clip(c, -1, 1)))) for c in cosines)


def _check_matrix(slices: Sequence[Slice], where: Path) -> None:
    sizes = Counter(s.size for s in slices)
    if len(sizes) > 1:
        main = sizes.most_common(1)[0][0]
        other = [s for s in slices if s.size != main]
        rows, columns = other[0].size
        message = (
            f"slices of different size: most have {main[0]} rows and {main[1]} columns, {other[0].name} has {rows} and "
            f"{columns} ({len(other)} of {len(slices)} differ)"
        )
        raise InputError("E-MATRIX", message, file=where, fix="take out what is no part of the stack")


def _check_pixel_spacing(slices: Sequence[Slice], where: Path) -> tuple[float, ...]:
    main = Counter(s.pixel_spacing for s in slices).most_common(1)[0][0] or (0.0, 0.0)
    if min(main) <= 0:
        message = f"PixelSpacing is {in_words(main)}; a pixel has a size"
        raise InputError("E-SPACING", message, file=where, fix="export the series again")
    other = [s for s in slices if np.abs(np.divide(s.pixel_spacing or 0, main) - 1).max() > PIXEL_TOLERANCE]
    if other:
        message = (
            f"pixels of different size: most have {in_words(main)} mm, {other[0].name} has "
            f"{in_words(other[0].pixel_spacing or ())} mm ({len(other)} of {len(slices)} differ)"
        )
        raise InputError("E-SPACING", message, file=where, fix="take out what is no part of the stack")
    return main


def _without_duplicates(
    places: Sequence[Sequence[Slice]], where: Path, same_pixels: Callable[[Slice, Slice], bool]
) -> tuple[list[Slice], list[Finding]]:
    """One slice of each place, where those at one place are the same."""
    crowded = [place for place in places if len(place) > 1]
    for place in crowded:
        if all(same_pixels(place[0], other) for other in place[1:]):
            continue
        why = _what_differs(place)
        counts = {len(p) for p in places}
        if len(counts) == 1 and len(places) > 1:
            number = counts.pop()
            message = f"{number} images at each of {len(places)} positions{why}: several volumes in one series"
            fix = "choose one with timepoint (--timepoint 1 is the first), or part the series into folders"
            raise InputError("E-TIMEPOINTS", message, file=where, fix=fix)
        names = some_names([s.name for s in place], 3)
        message = f"{len(place)} images with different pixels at one position ({names}){why}"
        fix = "time points, echoes or b-values in one series? part them into folders of their own"
        raise InputError("E-DUPLICATE", message, file=where, fix=fix)
    if not crowded:
        return [place[0] for place in places], []
    dropped = [s.name for place in crowded for s in place[1:]]
    are = "s with the same pixels are" if len(dropped) > 1 else " with the same pixels is"
    message = f"{len(dropped)} slice{are} there more than once and left out: {some_names(dropped, 3)}"
    return [p[0] for p in places], [Finding("W-DUPLICATE", "warning", str(where), message, "take the copies out")]


def _what_differs(place: Sequence[Slice]) -> str:
    names = [key for key in place[0].keys if len({s.keys[key] for s in place}) > 1]
    return f", which differ in {some_names(names, 3)}" if names else ""
