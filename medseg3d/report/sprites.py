"""The viewer's data: a scan and its label maps in a fixed number of bytes, at any size.

Intensities are 8-bit codes, reduced by area, all slices side by side in one WebP picture per channel. Label maps keep more
resolution: their value at the middle of each cell, deflated. Both fill the same part of the scan.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg3d.report.intensity import CT_PRESETS
from medseg3d.report.planes import Box, crop
from medseg3d.report.scene import OBLIQUE_DEGREES, Scene

LABEL_SHARE = 0.4
"""Most of the budget that the label maps get."""
LABEL_CELLS = 6_000_000
"""Most cells of a label map: what a browser holds easily."""
IMAGE_CELLS = 12_000_000
"""Most cells of a channel, likewise."""
LONGEST = 16_383
"""Most pixels of a WebP picture each way."""
QUALITY = 60
BACKGROUND = 14
"""Codes up to here are air or noise around a body, which is cut away."""

SPECKS = 0.002
"""Part of a slice that may be brighter than background without being a body."""


def viewer_data(
    scene: Scene,
    point: Sequence[int],
    labels: Mapping[str, Sequence[int]],
    *,
    focus: str | None = None,
    budget: int = 200_000,
) -> str:
    """Everything ``viewer.js`` needs, as JSON text of at most ``budget`` bytes.

    Args:
        scene: what is shown.
        point: voxel where the viewer stands at first.
        labels: ``name: values`` of the label maps.
        focus: label whose contours are shown at first; None shows all.
        budget: bytes.
    """
    codes = {name: scene.shown[name].codes(values) for name, values in scene.channels.items()}
    box = body_box(scene, codes)
    values = sorted({int(v) for ids in labels.values() for v in ids})
    data: dict[str, Any] = {
        "shape": scene.shape,
        "box": box,
        "spacing": [round(float(s), 5) for s in scene.spacing_mm],
        "letters": scene.letters,
        "colour": scene.colour,
        "oblique": scene.oblique > OBLIQUE_DEGREES,
        "planes": [plane.name for plane in scene.planes],
        "point": [int(p) for p in point],
        "focus": focus,
        "names": [[name, [values.index(int(v)) + 1 for v in ids]] for name, ids in labels.items()],
        "labels": _label_data(scene, box, values, int(budget * LABEL_SHARE)),
        "presets": CT_PRESETS if any(i.unit == "HU" for i in scene.shown.values()) else {},
    }
    shown = [
        {"name": name, "knots": how.knots, "window": how.window, "unit": how.unit} for name, how in scene.shown.items()
    ]
    left = budget - len(_json({**data, "channels": shown})) - 200 - 40 * len(shown)
    stacks = [crop(code, box) for code in codes.values()]
    if scene.colour:
        stacks, shown = [np.stack(stacks, axis=-1)], shown[:1]
    shape, pictures = fit_pictures(stacks, scene.spacing_mm, left)
    data["image"] = shape
    data["channels"] = [{**how, "webp": _text(picture)} for how, picture in zip(shown, pictures, strict=True)]
    return _json(data)


def body_box(scene: Scene, codes: Mapping[str, NDArray[np.uint8]]) -> Box:
    """Around all that is brighter than air or labelled, with a little margin."""
    if scene.colour:
        return tuple((0, n) for n in scene.shape)
    body = np.logical_or.reduce([code > BACKGROUND for code in codes.values()])
    marked = np.zeros(scene.shape, dtype=bool)
    for mask in (scene.reference, scene.prediction):
        if mask is not None:
            marked |= mask > 0
    box = []
    for axis, n in enumerate(scene.shape):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero((body.mean(axis=others) > SPECKS) | marked.any(axis=others))
        box.append((max(0, int(found[0]) - 2), min(n, int(found[-1]) + 3)) if len(found) else (0, n))
    return tuple(box)


def fit_pictures(
    stacks: Sequence[NDArray[np.uint8]], spacing_mm: Sequence[float], budget: int
) -> tuple[tuple[int, ...], list[bytes]]:
    """The largest pictures of all slices that fit, one per channel, all of one shape.

    Args:
        stacks: codes ``(x, y, z)``, or ``(x, y, z, 3)`` in colour.
        spacing_mm: of the voxels; reduced cells become as cubic as the voxels allow.
        budget: bytes of all pictures as base64 text.

    Returns:
        Cells along x, y, z, and the WebP files.
    """
    full = stacks[0].shape[:3]
    coarse = [_halved(stack, spacing_mm) for stack in stacks]
    cells = float(min(int(np.prod(full)), IMAGE_CELLS, budget * 4 // len(stacks)))
    best: tuple[tuple[int, ...], list[bytes]] | None = None
    for _ in range(12):
        shape = _shape_of(full, spacing_mm, cells)
        pictures = [_webp(mosaic(reduce_cells(stack, shape)), method=2) for stack in coarse]
        size = sum(4 * -(-len(p) // 3) for p in pictures)
        if size <= budget and (best is None or np.prod(shape) > np.prod(best[0])):
            best = shape, pictures
        if shape == full and size <= budget:
            break
        if best is not None and (0.88 * budget < size <= budget or np.prod(shape) <= 1):
            break
        cells = min(
            float(IMAGE_CELLS),
            np.prod(shape) * min(4.0, max(0.1, 0.95 * budget / size)) ** (1.1 if size > budget else 1.0),
        )
    if best is None:
        raise ValueError(f"a picture of {full} cells does not fit {budget} bytes")
    shape = best[0]
    for quality in (92, 80, QUALITY):
        pictures = [_webp(mosaic(reduce_cells(stack, shape)), quality=quality) for stack in coarse]
        if sum(4 * -(-len(p) // 3) for p in pictures) <= budget:
            return shape, pictures
        if shape != full:
            break
    return best


def _shape_of(full: Sequence[int], spacing_mm: Sequence[float], cells: float) -> tuple[int, ...]:
    """At most ``cells`` cells over ``full`` voxels, as cubic as the voxels allow."""
    sizes = [n * mm for n, mm in zip(full, spacing_mm, strict=True)]
    low, high = min(spacing_mm), max(sizes)

    def at(side_mm: float) -> tuple[int, ...]:
        return tuple(max(1, min(n, round(size / side_mm), LONGEST)) for n, size in zip(full, sizes, strict=True))

    if np.prod(at(low)) <= cells:
        return at(low)
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if np.prod(at(middle)) > cells else (low, middle)
    return at(high)


def _halved(stack: NDArray[np.uint8], spacing_mm: Sequence[float]) -> NDArray[np.uint8]:
    """Means of whole blocks until there are few enough voxels to try several sizes quickly."""
    mm = list(spacing_mm)
    while np.prod(stack.shape[:3]) > 2 * IMAGE_CELLS:
        axis = min((a for a in range(3) if stack.shape[a] > 1), key=lambda a: mm[a])
        n = stack.shape[axis]
        first = stack.take(range(0, n, 2), axis)
        second = stack.take([min(i + 1, n - 1) for i in range(0, n, 2)], axis)
        stack = first // 2 + second // 2 + (first & second & 1)
        mm[axis] *= 2
    return stack


def reduce_cells(stack: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """The mean over each cell of a coarser lattice, by area."""
    if tuple(stack.shape[:3]) == tuple(shape):
        return stack
    out: NDArray[Any] = stack
    for axis in np.argsort([m / n for m, n in zip(shape, stack.shape, strict=False)]):
        n, m = stack.shape[axis], shape[axis]
        if n != m:
            out = np.moveaxis(np.tensordot(out.astype(np.float32), _overlaps(n, m), axes=(axis, 0)), -1, axis)
    return (out + 0.5).astype(np.uint8)


def _overlaps(n: int, m: int) -> NDArray[np.float32]:
    """What part of each of ``m`` cells each of ``n`` voxels fills, ``(n, m)``."""
    voxel, cell = np.arange(n)[:, None], np.arange(m) * (n / m)
    part = np.minimum(voxel + 1, cell + n / m) - np.maximum(voxel, cell)
    return (np.clip(part, 0, None) * (m / n)).astype(np.float32)


def mosaic(stack: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All slices ``(x, y)`` side by side in one picture, z first along its rows; x runs across and y down."""
    x, y, z = stack.shape[:3]
    columns = mosaic_columns(x, y, z)
    rows = -(-z // columns)
    tiles = np.zeros((rows * columns, y, x, *stack.shape[3:]), np.uint8)
    tiles[:z] = np.moveaxis(stack, (2, 1), (0, 1))
    tiles = tiles.reshape(rows, columns, y, x, *stack.shape[3:]).swapaxes(1, 2)
    return tiles.reshape(rows * y, columns * x, *stack.shape[3:])


def mosaic_columns(x: int, y: int, z: int) -> int:
    """Slices in a row of the mosaic: about square. viewer.js has the same rule."""
    return max(1, min(z, round((z * y / x) ** 0.5), LONGEST // x))


def _webp(pixels: NDArray[np.uint8], *, quality: int = QUALITY, method: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=method)
    return file.getvalue()


def _label_data(scene: Scene, box: Box, values: Sequence[int], budget: int) -> dict[str, Any] | None:
    maps = {
        side: crop(data, box)
        for side, data in (("reference", scene.reference), ("prediction", scene.prediction))
        if data is not None
    }
    if not maps or not values:
        return None
    full = next(iter(maps.values())).shape
    table = np.zeros(max(values) + 1, np.uint8 if len(values) < 256 else np.uint16)
    table[list(values)] = np.arange(1, len(values) + 1)
    cells = float(min(int(np.prod(full)), LABEL_CELLS))
    while True:
        shape = _shape_of(full, scene.spacing_mm, cells)
        at = np.ix_(*(((np.arange(m) + 0.5) * n / m).astype(int) for m, n in zip(shape, full, strict=True)))
        cut = {}
        for side, data in maps.items():
            known = np.where(data[at] < len(table), data[at], 0)
            cut[side] = table[known].transpose(2, 1, 0).tobytes()
        # Thorough levels take minutes for noise.
        size = sum(4 * -(-len(zlib.compress(data, 4)) // 3) for data in cut.values())
        if size <= budget or np.prod(shape) <= 1:
            return {"shape": shape, "bytes": table.itemsize, **{s: _text(zlib.compress(d, 6)) for s, d in cut.items()}}
        cells = float(np.prod(shape)) * min(0.8, 0.95 * budget / size)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _json(data: Mapping[str, Any]) -> str:
    """Compact JSON that can stand in a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")
