"""What the phantoms are made of: points of a grid in mm, smooth noise, ellipsoids and tubes. Pure functions of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vector = Sequence[float] | Array
"""One number per axis or channel."""

AXIS_DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
"""RAS+ direction that an array axis of this name points to."""


def rotation(degrees: Vector) -> Array:
    """The rotation by these angles about the fixed x, y and z axis, in this order, ``(3, 3)``."""
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[b, a] = np.sin(angle) * (1 if axis != 1 else -1)
        step[a, b] = -step[b, a]
        out = step @ out
    return out


def centred_affine(
    axcodes: str,
    spacing_mm: Vector,
    shape: Sequence[int],
    centre_mm: Vector,
    degrees: Vector,
) -> Array:
    """The affine (RAS+ mm) of a grid whose middle lies at ``centre_mm``.

    Args:
        axcodes: direction of each array axis, such as ``"LPS"``.
        spacing_mm: voxel size along each array axis.
        shape: voxels along each array axis.
        centre_mm: world position of the middle of the grid.
        degrees: rotation of the axes away from those directions, about x, y and z.
    """
    affine = np.eye(4)
    directions = np.array([AXIS_DIRECTIONS[code] for code in axcodes], dtype=np.float64).T
    affine[:3, :3] = rotation(degrees) @ directions * np.asarray(spacing_mm)
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine.astype(np.float32).astype(np.float64)  # what a NIfTI sform can hold


def shape_covering(axcodes: str, spacing_mm: Vector, extent_mm: Vector) -> tuple[int, ...]:
    """Voxels along each array axis that cover ``extent_mm`` (left-right, posterior-anterior, inferior-superior)."""
    world = [int(np.argmax(np.abs(AXIS_DIRECTIONS[code]))) for code in axcodes]
    return tuple(int(np.ceil(extent_mm[w] / s)) for w, s in zip(world, spacing_mm, strict=True))


def grid_points(shape: Sequence[int], affine: Array) -> Array:
    """World position of every voxel centre, mm, ``(voxels, 3)`` in C order."""
    index = np.indices(tuple(shape)).reshape(len(shape), -1).T
    return index @ affine[:-1, :-1].T + affine[:-1, -1]


def waves(rng: np.random.Generator, points: Array, wavelength_mm: float, count: int = 14) -> Array:
    """Smooth noise of mean 0 and deviation 1: a sum of plane waves, so that its value depends on the place and not on the grid.

    Args:
        rng: draws directions, lengths (within 30 % of ``wavelength_mm``) and phases.
        points: ``(N, d)`` mm.
        wavelength_mm: typical distance between neighbouring crests.
        count: number of waves.

    Shape:
        ``(N,)``.
    """
    direction = rng.normal(size=(count, points.shape[1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = wavelength_mm * rng.uniform(0.7, 1.3, size=(count, 1))
    phase = rng.uniform(0, 2 * np.pi, size=count)
    total = np.zeros(len(points))
    for vector, start in zip(2 * np.pi * direction / length, phase, strict=True):
        total += np.cos(points @ vector + start)
    return total * np.sqrt(2 / count)


def ellipsoid_mm(points: Array, centre: Vector, radii: Vector) -> Array:
    """Depth below the surface of an ellipsoid, mm (about): positive inside, negative outside, ``(N,)``."""
    level = np.linalg.norm((points - np.asarray(centre)) / np.asarray(radii), axis=1)
    return (1 - level) * min(radii)


def tube_mm(points: Array, path: Sequence[Vector], radius: float) -> Array:
    """Depth below the surface of a tube along a polyline, mm: positive inside, ``(N,)``."""
    nodes = np.asarray(path, dtype=np.float64)
    distance = np.full(len(points), np.inf)
    for start, end in pairwise(nodes):
        along = end - start
        share = np.clip((points - start) @ along / (along @ along), 0, 1)
        distance = np.minimum(distance, np.linalg.norm(points - start - share[:, None] * along, axis=1))
    return radius - distance


def coverage(depth_mm: Array, width_mm: float) -> Array:
    """Share of a voxel ``width_mm`` wide that lies inside a surface ``depth_mm`` away: the partial volume effect."""
    return np.clip(depth_mm / width_mm + 0.5, 0, 1)


def paint(values: Array, share: Array, tissue: Vector) -> Array:
    """Lay ``share`` (N,) of a tissue with one value per channel over ``values`` (C, N); returns the mixture."""
    colour = np.asarray(tissue, dtype=np.float64)
    return values + share * ((colour[:, None] if colour.ndim == 1 else colour) - values)
