"""Where the voxels of a NIfTI file lie: the sform where its code is set, else the qform (nifti1.h, methods 3 and 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from medseg3d.checks import InputError, tell
from medseg3d.volume import AXIS_CODES, SHEAR_TOLERANCE, Grid, Volume

GEOMETRY = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
GEOMETRY_ROWS = ("srow_x", "srow_y", "srow_z", "pixdim")
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the three low bits of ``xyzt_units``: not said (taken as mm), metre, millimetre, micrometre."""


def fields_of(header: Any) -> dict[str, Any]:
    """The geometry fields of a nibabel header as plain values, to carry and to write back."""
    fields: dict[str, Any] = {key: header[key].item() for key in (*GEOMETRY, "xyzt_units")}
    return fields | {key: [float(v) for v in header[key]] for key in GEOMETRY_ROWS}


def _qform(fields: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """The affine of the qform in the file's unit, or None where its quaternion is none."""
    b, c, d = (fields[f"quatern_{key}"] for key in "bcd")
    rest = 1 - (b * b + c * c + d * d)
    if not rest >= -1e-5:
        return None
    a = math.sqrt(max(rest, 0.0))
    affine = np.eye(4)
    rotation: NDArray[np.float64] = quat2mat([a, b, c, d])
    sizes = np.abs(fields["pixdim"][1:4]) * (1, 1, -1 if fields["pixdim"][0] < 0 else 1)
    affine[:3, :3] = rotation * sizes
    affine[:3, 3] = [fields[f"qoffset_{key}"] for key in "xyz"]
    return affine


def _sform(fields: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array([*(fields[f"srow_{key}"] for key in "xyz"), [0.0, 0.0, 0.0, 1.0]])


def _chosen(fields: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """The affine in mm that counts, unchecked, or None where neither form is set or the quaternion is none."""
    affine = _sform(fields) if fields["sform_code"] > 0 else _qform(fields) if fields["qform_code"] > 0 else None
    if affine is not None:
        affine[:3] *= MM_PER_UNIT.get(fields["xyzt_units"] & 7, 1.0)
    return affine


def voxel_to_mm(
    fields: Mapping[str, Any], shape: tuple[int, ...], path: Path, *, assume_orientation: str | None = None
) -> NDArray[np.float64]:
    """The affine that the fields give by the book, voxel index to RAS+ mm; every doubt is an error.

    Args:
        fields: as ``fields_of`` gives them.
        shape: of the 2 or 3 spatial axes; the affine is ``(d + 1, d + 1)``.
        path: the file, for the message.
        assume_orientation: of a file without a form, such as ``RAS``.

    Raises:
        InputError: ``E-SPACING``, ``E-NO-ORIENTATION``, ``E-AFFINE`` or ``E-SHEAR``.
    """
    sizes = fields["pixdim"][1 : len(shape) + 1]
    if not all(math.isfinite(s) and s != 0 for s in sizes):
        message = f"voxel sizes (pixdim) {sizes}; every one is a positive number of mm"
        raise InputError("E-SPACING", message, file=path, fix="correct the header; tools that read 1 mm are guessing")
    if fields["sform_code"] <= 0 and fields["qform_code"] <= 0:
        if assume_orientation is not None and len(shape) == 3:
            return _assumed(fields, shape, assume_orientation, path)
        message = "neither sform nor qform is set, so left, right, front and back are unknown and readers differ"
        raise InputError(
            "E-NO-ORIENTATION",
            message,
            file=path,
            fix="export it with its orientation; where you know it: medseg3d convert --assume-orientation RAS",
        )
    affine = _chosen(fields)
    form = "sform" if fields["sform_code"] > 0 else "qform"
    fix = "correct the header"
    if affine is None:
        raise InputError("E-AFFINE", "the qform's quaternion is longer than 1", file=path, fix=fix)
    if not np.isfinite(affine).all():
        raise InputError("E-AFFINE", f"the {form} holds NaN or infinity", file=path, fix=fix)
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if norms.min() == 0 or abs(np.linalg.det(affine[:3, :3] / norms)) < 1e-3:
        message = f"the {form} {np.round(affine[:3, :3], 6).tolist()} is singular: voxels would lie in a plane"
        raise InputError("E-AFFINE", message, file=path, fix=fix)
    if len(shape) == 2:
        return _plane(affine)
    shear = Grid((1, 1, 1), affine).shear
    if shear > SHEAR_TOLERANCE:
        message = f"the axes are sheared, {math.degrees(math.acos(min(shear, 1))):.2f} degrees apart instead of 90"
        raise InputError("E-SHEAR", message, file=path, fix="resample it to an orthogonal grid (gantry tilt?)")
    return affine


def _assumed(fields: Mapping[str, Any], shape: tuple[int, ...], codes: str, path: Path) -> NDArray[np.float64]:
    """Axes along the directions named, the centre of the image at 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    scale = MM_PER_UNIT.get(fields["xyzt_units"] & 7, 1.0)
    for axis, code in enumerate(codes):
        world = next(w for w, pair in enumerate(AXIS_CODES) if code in pair)
        step = (1 if code == AXIS_CODES[world][1] else -1) * scale * abs(fields["pixdim"][axis + 1])
        affine[world, axis] = step
        affine[world, 3] = -step * (shape[axis] - 1) / 2
    message = f"neither sform nor qform is set; its axes are taken as {codes}, and its centre as 0"
    tell("W-ASSUMED-ORIENTATION", message, file=path, fix="look at it: are left and right as they should be?")
    return affine


def _plane(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 3 x 3 affine of a file of two axes; a plane that is not axial keeps its spacing alone."""
    axes = affine[:3, :2]
    out = np.eye(3)
    if np.abs(axes[2]).max() <= SHEAR_TOLERANCE * np.linalg.norm(axes, axis=0).min():
        out[:2, :2], out[:2, 2] = axes[:2], affine[:2, 3]
    else:
        out[:2, :2] = np.diag(np.linalg.norm(axes, axis=0))
    return out


def tell_about_geometry(fields: Mapping[str, Any], affine: NDArray[Any], shape: tuple[int, ...], path: Path) -> None:
    """Say what is legal but likely to be read otherwise elsewhere."""
    unit = fields["xyzt_units"] & 7
    scale = MM_PER_UNIT.get(unit, 1.0)
    if scale != 1:
        message = f"the header's unit is {'metre' if unit == 1 else 'micrometre'}; converted to mm"
        tell("W-UNITS", message, file=path, fix="most tools take the numbers as mm; is the unit right?")
    spacing = Grid(shape, affine).spacing_mm
    sizes = [scale * s for s in fields["pixdim"][1 : len(shape) + 1]]
    if min(sizes) < 0:
        message = f"negative voxel sizes in pixdim ({_mm(sizes)}) are taken without their sign"
        tell("W-PIXDIM", message, file=path, fix="correct the header")
    elif fields["sform_code"] > 0 and fields["qform_code"] <= 0 and not np.allclose(sizes, spacing, rtol=0.01):
        message = f"pixdim says {_mm(sizes)} mm, the sform {_mm(spacing)} mm; the sform counts"
        tell("W-PIXDIM", message, file=path, fix="correct pixdim: some tools believe it")
    if fields["sform_code"] <= 0 or fields["qform_code"] <= 0 or len(shape) != 3:
        return
    fix = "make the two agree, so that every tool shows the image in one place"
    qform = _qform(fields)
    if qform is None:
        tell("W-FORMS", "the qform's quaternion is longer than 1; the sform counts", file=path, fix=fix)
        return
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*(n - 1 for n in shape), 1]
    qform[:3] *= scale
    apart = float(np.linalg.norm((corners @ (qform - affine).T)[:, :3], axis=1).max())
    if not apart <= 0.1 * min(spacing):
        codes = f"codes {fields['sform_code']} and {fields['qform_code']}"
        message = (
            f"sform and qform ({codes}) lie up to {apart:.2f} mm apart; the sform counts, some viewers show the other"
        )
        tell("W-FORMS", message, file=path, fix=fix)


def _mm(sizes: Iterable[float]) -> str:
    return " x ".join(f"{s:g}" for s in sizes)


def put_geometry(header: Any, volume: Volume) -> None:
    """The fields of ``volume.header`` where they describe its affine, else both forms from the affine."""
    fields = volume.header
    if all(key in fields for key in (*GEOMETRY, *GEOMETRY_ROWS, "xyzt_units")):
        affine = _chosen(fields)
        if affine is not None and len(volume.shape) == 2:
            affine = _plane(affine)
        if affine is not None and np.allclose(affine, volume.affine, rtol=1e-5, atol=1e-4):
            for key in (*GEOMETRY, *GEOMETRY_ROWS, "xyzt_units"):
                header[key] = fields[key]
            return
    affine = volume.affine
    if len(volume.shape) == 2:
        affine = np.eye(4)
        affine[:2, :2], affine[:2, 3] = volume.affine[:2, :2], volume.affine[:2, 2]
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
