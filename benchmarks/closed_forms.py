"""Shapes given by formulas: which points lie inside, and their surface as points with areas, as fine as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]
Surface = tuple[Floats, Floats]
"""Points ``(n, 3)`` in mm and the area that each stands for in mm2."""


@dataclass(frozen=True)
class Ellipsoid:
    """With its three radii; ``turn`` are its axes."""

    centre: Floats
    radii: Floats
    turn: Floats

    def inside(self, points: Floats) -> NDArray[np.bool_]:
        return np.square((points - self.centre) @ self.turn / self.radii).sum(axis=-1) < 1

    def surface(self, number: int) -> Surface:
        i = np.arange(number) + 0.5  # a spiral with points of equal area on the unit sphere
        height, angle = 1 - 2 * i / number, np.pi * (1 + 5**0.5) * i
        ring = np.sqrt(1 - height**2)
        unit = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
        stretch = self.radii.prod() * np.linalg.norm(unit / self.radii, axis=1)
        return unit * self.radii @ self.turn.T + self.centre, stretch * 4 * np.pi / number


@dataclass(frozen=True)
class Brick:
    """A box with half the lengths of its sides."""

    centre: Floats
    half: Floats
    turn: Floats

    def inside(self, points: Floats) -> NDArray[np.bool_]:
        return (np.abs((points - self.centre) @ self.turn) < self.half).all(axis=-1)

    def surface(self, number: int) -> Surface:
        faces = 4 * self.half.prod() / self.half
        step = np.sqrt(2 * faces.sum() / number)
        points, areas = [], []
        for axis in range(3):
            sides = [h for a, h in enumerate(self.half) if a != axis]
            counts = [int(np.ceil(2 * h / step)) for h in sides]
            lines = [((np.arange(n) + 0.5) / n * 2 - 1) * h for n, h in zip(counts, sides, strict=True)]
            face = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)
            for end in (-self.half[axis], self.half[axis]):
                points.append(np.insert(face, axis, end, axis=1))
                areas.append(np.full(len(face), faces[axis] / len(face)))
        return np.concatenate(points) @ self.turn.T + self.centre, np.concatenate(areas)


@dataclass(frozen=True)
class Drum:
    """An upright cylinder: half its height along the first axis, and its radius."""

    centre: Floats
    half: float
    radius: float

    def inside(self, points: Floats) -> NDArray[np.bool_]:
        own = points - self.centre
        return (np.abs(own[..., 0]) < self.half) & (np.hypot(own[..., 1], own[..., 2]) < self.radius)

    def surface(self, number: int) -> Surface:
        side, end = 4 * np.pi * self.radius * self.half, np.pi * self.radius**2
        step = np.sqrt((side + 2 * end) / number)
        turns, rows, spiral = int(2 * np.pi * self.radius / step), int(2 * self.half / step), int(end / step**2)
        angle, height = (
            x.reshape(-1)
            for x in np.meshgrid(
                (np.arange(turns) + 0.5) / turns * 2 * np.pi,
                ((np.arange(rows) + 0.5) / rows * 2 - 1) * self.half,
                indexing="ij",
            )
        )
        i = np.arange(spiral) + 0.5
        ring, turn = self.radius * np.sqrt(i / spiral), np.pi * (1 + 5**0.5) * i
        caps = [
            np.stack([np.full(spiral, z), ring * np.cos(turn), ring * np.sin(turn)], 1) for z in (-self.half, self.half)
        ]
        wall = np.stack([height, self.radius * np.cos(angle), self.radius * np.sin(angle)], axis=1)
        area = np.concatenate((np.full(len(wall), side / len(wall)), np.full(2 * spiral, end / spiral)))
        return np.concatenate((wall, *caps)) + self.centre, area


@dataclass(frozen=True)
class Ring:
    """A torus: the radius of its middle line, and of its tube."""

    centre: Floats
    radius: float
    tube: float
    turn: Floats

    def inside(self, points: Floats) -> NDArray[np.bool_]:
        own = (points - self.centre) @ self.turn
        return np.square(np.hypot(own[..., 0], own[..., 1]) - self.radius) + own[..., 2] ** 2 < self.tube**2

    def surface(self, number: int) -> Surface:
        density = np.sqrt(number / (self.radius * self.tube))
        turns = [(np.arange(n) + 0.5) / n * 2 * np.pi for n in (int(self.radius * density), int(self.tube * density))]
        along, around = (angle.reshape(-1) for angle in np.meshgrid(*turns, indexing="ij"))
        reach = self.radius + self.tube * np.cos(around)
        points = np.stack([reach * np.cos(along), reach * np.sin(along), self.tube * np.sin(around)], axis=1)
        return points @ self.turn.T + self.centre, reach * self.tube * 4 * np.pi**2 / along.size


Shape = Ellipsoid | Brick | Drum | Ring


FAMILIES = ("sphere", "ellipsoid", "ring", "upright brick", "drum")


def shape_pairs(number: int, slice_mm: float, *, seed: int = 0) -> list[tuple[str, Shape, Shape]]:
    """Shapes as large as organs, each twice: as it is, and as a segmentation gets it.

    Spheres, ellipsoids and rings lie anyhow and are off by a few mm in place, size and turn. Bricks and drums stand upright,
    whole slices high, and are off by up to two slices at an end and by a few mm across.
    """
    rng = np.random.default_rng(seed)
    pairs: list[tuple[str, Shape, Shape]] = []
    for i in range(number):
        family = FAMILIES[i % len(FAMILIES)]
        turn = Rotation.random(random_state=rng).as_matrix()
        turned = Rotation.from_rotvec(rng.normal(size=3) * 0.06).as_matrix() @ turn
        centre = rng.uniform(-2.5, 2.5, 3)
        shift = rng.normal(size=3)
        moved = centre + shift * rng.uniform(0, 4) / np.linalg.norm(shift)
        size, change = rng.uniform(16, 36, 3), rng.uniform(-3, 3, 3)
        first: Shape
        second: Shape
        if family == "sphere":
            first, second = (
                Ellipsoid(c, np.full(3, r), turn) for c, r in ((centre, size[0]), (moved, size[0] + change[0]))
            )
        elif family == "ellipsoid":
            first, second = Ellipsoid(centre, size, turn), Ellipsoid(moved, size + change, turned)
        elif family == "ring":
            first = Ring(centre, size[0] * 0.5 + 12, size[1] * 0.2 + 4, turn)
            second = Ring(moved, first.radius + change[0] * 0.7, first.tube + change[1] * 0.7, turned)
        else:
            slices = int(rng.integers(6, 15))
            bottom, top = (int(n) for n in rng.integers(-2, 3, 2))
            ends = np.array([[0, slices], [bottom, slices + top]]) - slices // 2 - 0.5
            middle, half = ends.mean(axis=1) * slice_mm, np.diff(ends)[:, 0] / 2 * slice_mm
            centre[0], moved[0] = middle
            if family == "drum":
                first, second = Drum(centre, half[0], size[1]), Drum(moved, half[1], size[1] + change[1])
            else:
                sides, flat = size[1:], np.eye(3)
                first = Brick(centre, np.array([half[0], *sides]), flat)
                second = Brick(moved, np.array([half[1], *(sides + change[1:])]), flat)
        pairs.append((family, first, second))
    return pairs


def masks(pair: Sequence[Shape], spacing_mm: tuple[float, ...], *, extent_mm: float = 56) -> list[NDArray[np.bool_]]:
    """Both shapes as masks of the voxels whose centres lie inside."""
    axes = [np.arange(-np.ceil(extent_mm / s), np.ceil(extent_mm / s) + 1) * s for s in spacing_mm]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return [shape.inside(points) for shape in pair]


def true_hausdorff_mm(pair: Sequence[Shape], percentile: float, *, points: int = 300_000) -> float:
    """The percentile of the distances between the two surfaces, by area, the larger of the two directions."""
    (first, first_area), (second, second_area) = (shape.surface(points) for shape in pair)
    found = []
    for here, area, there in ((first, first_area, second), (second, second_area, first)):
        distance = cKDTree(there).query(here[::10], workers=-1)[0]
        order = np.argsort(distance)
        part = np.cumsum(area[::10][order])
        found.append(float(distance[order][np.searchsorted(part, part[-1] * percentile / 100)]))
    return max(found)
