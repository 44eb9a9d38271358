"""2D images: nuclei under the microscope with their label maps, and single cells of three shapes to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .shapes import Array, coverage, paint, waves
from .write import write_png

NUCLEI_IMAGES = 24
NUCLEI_SIZES = ((96, 128), (128, 96), (104, 120), (96, 128))
"""Rows and columns, in turn."""
NUCLEI_SEED = 27100

SHAPES = ("elongated", "round", "star")
IMAGES_PER_SHAPE = 40
SHAPE_SIZE = (64, 64)
SHAPES_SEED = 16100

FLUORESCENCE = ((0.06, 0.07, 0.10), (0.45, 0.62, 0.85))
STAINED = ((0.90, 0.76, 0.84), (0.42, 0.28, 0.58))
"""Red, green and blue of ground and nucleus under the two kinds of microscope."""
DEBRIS_MIX = 0.55
"""How far debris, which is no nucleus, goes from the ground's colour to that of a nucleus."""
LEAST_GAP = 2.0
"""Pixels between two nuclei."""


def pixel_points(size: tuple[int, int]) -> Array:
    """Row and column of every pixel, ``(pixels, 2)``."""
    return np.indices(size).reshape(2, -1).T.astype(np.float64)


def blob(points: Array, centre: Array, radii: Array, angle: float, dents: Array, phases: Array) -> Array:
    """Depth below the outline of a turned ellipse with dents, pixels (about): positive inside, ``(N,)``.

    ``dents[i]`` is the relative depth of a wave that goes around ``i + 2`` times, ``phases[i]`` where it starts.
    """
    c, s = np.cos(angle), np.sin(angle)
    offset = (points - centre) @ np.array([[c, -s], [s, c]]) / radii
    around = np.arctan2(offset[:, 1], offset[:, 0])
    waviness = sum(d * np.cos(k * around + f) for k, (d, f) in enumerate(zip(dents, phases, strict=True), start=2))
    return (1 + waviness - np.linalg.norm(offset, axis=1)) * float(np.min(radii))


def to_pixels(values: Array, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Values 0..1 ``(3, N)`` to an RGB image ``(rows, cols, 3)``."""
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8).T.reshape(*size, 3)


def nuclei(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """RGB image and label (1 nucleus) number ``number``; fluorescence where it is even, stained tissue where odd."""
    rng = np.random.default_rng((NUCLEI_SEED, number))
    size = NUCLEI_SIZES[number % len(NUCLEI_SIZES)]
    p = pixel_points(size)
    ground, colour = (np.array(c) * rng.normal(1, 0.06, size=3) for c in (STAINED if number % 2 else FLUORESCENCE))
    values = np.repeat(ground[:, None], len(p), axis=1) * (1 + 0.05 * waves(rng, p, 22))
    for _ in range(rng.integers(2, 6)):  # out-of-focus debris
        smudge = blob(p, rng.uniform((0, 0), size), rng.uniform(3, 9, 2), 0, np.zeros(1), np.zeros(1))
        values = paint(values, DEBRIS_MIX * coverage(smudge, 6), colour)
    texture = 1 + 0.10 * waves(rng, p, 7)
    taken = np.full(len(p), -np.inf)
    for _ in range(rng.integers(14, 40)):
        radii = rng.uniform(5.5, 11) * rng.uniform(0.8, 1.2, size=2)
        dents, phases = rng.uniform(0, (0.10, 0.07, 0.04)), rng.uniform(0, 2 * np.pi, size=3)
        depth = blob(p, rng.uniform((0, 0), size), radii, rng.uniform(0, np.pi), dents, phases)
        brightness = rng.uniform(0.7, 1.15)
        if (np.minimum(depth, taken) > -LEAST_GAP).any():
            continue
        mixed = ground + brightness * (colour - ground)
        values = paint(values, coverage(depth, 2), mixed[:, None] * texture)
        taken = np.maximum(taken, depth)
    values += rng.normal(0, 0.02, size=values.shape)
    return to_pixels(values, size), (taken > 0).astype(np.uint8).reshape(size)


def shape(name: str, number: int) -> NDArray[np.uint8]:
    """RGB image of one cell of shape ``name`` on textured ground."""
    rng = np.random.default_rng((SHAPES_SEED, SHAPES.index(name), number))
    p = pixel_points(SHAPE_SIZE)
    ground, colour = (np.array(c) * rng.normal(1, 0.03, size=3) for c in STAINED)
    values = ground[:, None] * (1 + 0.05 * waves(rng, p, rng.uniform(6, 20)))
    area_radius = rng.uniform(12, 15)
    stretch = rng.uniform(1.7, 2.1) if name == "elongated" else rng.uniform(1, 1.12)
    radii = area_radius * np.array([stretch, 1 / stretch])
    dents = np.zeros(6)
    if name == "star":
        dents[rng.integers(3, 6)] = rng.uniform(0.32, 0.42)
    centre = rng.uniform(27, 36, size=2)
    depth = blob(p, centre, radii, rng.uniform(0, np.pi), dents, rng.uniform(0, 2 * np.pi, size=6))
    values = paint(values, coverage(depth, 2), colour[:, None] * (1 + 0.06 * waves(rng, p, 9)))
    return to_pixels(values + rng.normal(0, 0.02, size=values.shape), SHAPE_SIZE)


def write_nuclei(folder: Path) -> None:
    """Write ``images/`` and ``labels/`` with files of the same names."""
    for number in range(NUCLEI_IMAGES):
        image, label = nuclei(number)
        write_png(folder / "images" / f"nuclei_{number:02d}.png", image)
        write_png(folder / "labels" / f"nuclei_{number:02d}.png", label)


def write_shapes(folder: Path) -> None:
    """Write one folder of images per class."""
    for name in SHAPES:
        for number in range(IMAGES_PER_SHAPE):
            write_png(folder / name / f"{name}_{number:02d}.png", shape(name, number))
