"""A first look at a file: three planes as one picture, and quick statistics, without a reference."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg3d.checks import InputError
from medseg3d.io import atomic_write, read_volume
from medseg3d.io.colours import label_colour
from medseg3d.io.rules import require_grid
from medseg3d.report.intensity import Intensity, sample
from medseg3d.report.planes import Contour, three_planes
from medseg3d.report.scene import Scene, make_scene
from medseg3d.volume import Volume

MOST_CONTOURS = 24
"""Labels up to which each has a contour of its own colour."""
MOST_VALUES = 256
"""Different whole numbers, 0 among them, up to which a file is taken for a label map."""


def preview(path: str | Path, output: str | Path, *, labels: str | Path | None = None) -> dict[str, Any]:
    """Write three planes of a scan as one PNG, and say what is in the file.

    The planes go through the middle, or through the largest cross-sections of what is labelled. Pictures follow the
    radiological convention: the patient's right is on the left.

    Args:
        path: a scan in any format that ``read_volume`` knows; a label map is shown in colours.
        output: the PNG file.
        labels: label map on the scan's grid, drawn as contours.

    Returns:
        ``shape``, ``channels``, ``dtype``, ``spacing_mm``, ``orientation``, ``oblique_degrees``, ``size_mm``,
        ``intensities`` (one entry per channel: ``min``, ``p1``, ``median``, ``mean``, ``p99``, ``max``), with a label map
        ``labels`` (one entry per value: ``voxels``, and in 3D ``volume_ml``), and ``warnings``.

    Raises:
        InputError: a file that cannot be read, or labels on another grid.
    """
    volume, warnings = _read(path)
    is_map = labels is None and is_label_map(volume.data)
    marked = read_volume(labels, labels=True) if labels is not None else volume if is_map else None
    if marked is not None:
        require_grid(marked.grid, volume.grid, what="the label map", than="the scan", file=labels)
    scene = _write_picture(volume, marked, output, is_map=is_map)
    return {**statistics(volume, scene, marked), "warnings": warnings}


def draw(image: Volume, labels: Volume, output: str | Path) -> None:
    """Write three planes of a scan with the contours of its labels as one PNG, as ``preview`` does of files.

    Args:
        image: the scan.
        labels: on its grid.
        output: the PNG file.
    """
    _write_picture(image, labels, output, is_map=False)


def _write_picture(volume: Volume, marked: Volume | None, output: str | Path, *, is_map: bool) -> Scene:
    scene = make_scene(volume, [f"channel {i}" for i in range(volume.channels)], prediction=marked)
    shown = scene
    point = _largest_section(scene.prediction, scene.shape)
    contours: list[Contour] = []
    if is_map:
        shown = _painted(scene)
    elif scene.prediction is not None:
        values = [int(v) for v in np.unique(scene.prediction) if v != 0]
        if len(values) <= MOST_CONTOURS:
            contours = [Contour(scene.prediction == value, label_colour(value)) for value in values]
        else:
            contours = [Contour(scene.prediction, label_colour(1))]
    pixels = three_planes(shown, point, contours=contours, agreement=False, marks=False)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    atomic_write(output, file.getvalue())
    return scene


def _read(path: str | Path) -> tuple[Volume, list[str]]:
    """A scan; what is not a number is shown as 0 and said."""
    try:
        return read_volume(path), []
    except InputError as error:
        if error.finding.code != "E-NONFINITE":
            raise
        return read_volume(path, nonfinite="zero"), [error.finding.message]


def _largest_section(marked: NDArray[Any] | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Along each axis the slice with most labelled voxels; the middle where there are none."""
    if marked is None or not marked.any():
        return tuple(n // 2 for n in shape)
    axes = [tuple(a for a in range(3) if a != axis) for axis in range(3)]
    return tuple(int(np.count_nonzero(marked, axis=others).argmax()) for others in axes)


def _painted(scene: Scene) -> Scene:
    """A label map in colours."""
    assert scene.prediction is not None
    values, chosen = np.unique(scene.prediction, return_inverse=True)
    colours = np.array([label_colour(int(value)) if value > 0 else (0, 0, 0) for value in values], dtype=np.uint8)
    painted = colours[chosen.reshape(scene.prediction.shape)]
    channels = {name: painted[..., c] for c, name in enumerate(("red", "green", "blue"))}
    shown = {name: Intensity.of(values, ct=False) for name, values in channels.items()}
    return replace(scene, channels=channels, shown=shown, colour=True)


def _intensities(channel: NDArray[Any]) -> dict[str, float]:
    values = sample(channel)
    first, median, last = np.percentile(values, (1, 50, 99)) if values.size else (math.nan,) * 3
    found = {
        "min": channel.min(),
        "p1": first,
        "median": median,
        "mean": channel.mean(),
        "p99": last,
        "max": channel.max(),
    }
    return {name: float(value) for name, value in found.items()}


def is_label_map(data: NDArray[Any]) -> bool:
    """Whether values look like those of a label map: one channel of a few whole numbers from 0, mostly 0 or few at all."""
    if len(data) != 1 or data.dtype.kind not in "iu" or data.min() != 0:
        return False
    values = np.unique(data[0][tuple(slice(None, None, 2) for _ in data.shape[1:])])
    return len(values) <= MOST_VALUES // 8 or (len(values) <= MOST_VALUES and float((data == 0).mean()) > 0.5)


def statistics(volume: Volume, scene: Scene, marked: Volume | None) -> dict[str, Any]:
    """What is in a file, as JSON types."""
    spatial = len(volume.shape) == 3
    found: dict[str, Any] = {
        "shape": list(volume.shape),
        "channels": volume.channels,
        "dtype": str(volume.data.dtype),
        "spacing_mm": [round(s, 6) for s in volume.spacing_mm],
        "size_mm": [round(n * s, 3) for n, s in zip(volume.shape, volume.spacing_mm, strict=True)],
        "orientation": "".join(volume.axcodes) if spatial else None,
        "oblique_degrees": round(scene.oblique, 3),
        "intensities": [_intensities(channel) for channel in volume.data],
    }
    if marked is not None:
        voxel_ml = float(np.prod(marked.spacing_mm)) / 1000 if spatial else None
        values, counts = np.unique(marked.data, return_counts=True)
        found["labels"] = {
            str(v): {"voxels": int(n), **({} if voxel_ml is None else {"volume_ml": round(int(n) * voxel_ml, 6)})}
            for v, n in zip(values, counts, strict=True)
            if v != 0
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The statistics to read on a terminal."""

    def numbers(values: Any) -> str:
        return " x ".join(f"{v:g}" for v in values)

    oblique = f", oblique by {found['oblique_degrees']:.1f} degrees" if found["oblique_degrees"] > 0.05 else ""
    axes = f", axes {found['orientation']}{oblique}" if found["orientation"] else ""
    lines = [
        *(f"warning: {warning}" for warning in found["warnings"]),
        f"size {numbers(found['shape'])}, {found['channels']} x {found['dtype']}",
        f"spacing {numbers(found['spacing_mm'])} mm, extent {numbers(found['size_mm'])} mm{axes}",
    ]
    for i, values in enumerate(found["intensities"]):
        said = ", ".join(f"{k} {v:.6g}" for k, v in values.items())
        lines.append(f"intensities{f' of channel {i}' if found['channels'] > 1 else ''}: {said}")
    for value, entry in found.get("labels", {}).items():
        volume = f", {entry['volume_ml']:.2f} ml" if "volume_ml" in entry else ""
        lines.append(f"label {value}: {entry['voxels']} voxels{volume}")
    return "\n".join(lines)
