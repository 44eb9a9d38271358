"""What is in a label map, label by label, as a table for radiomics: volume, surface, diameters, intensities."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d import __version__
from medseg3d.checks import ConfigError, Finding, InputError, some_names
from medseg3d.io import atomic_write, find_cases, read_image
from medseg3d.io.rules import require_grid, require_one_channel
from medseg3d.metrics.shape import diameters, surface_area
from medseg3d.metrics.text import aligned, json_text, short
from medseg3d.pairs import Reader, label_readers, scan_readers
from medseg3d.task import Task, load_task
from medseg3d.volume import Volume

log = logging.getLogger(__name__)
PERCENTILES = {"p10": 10.0, "median": 50.0, "p90": 90.0}
SHOWN = ("voxels", "volume_ml", "surface_area_mm2", "area_mm2", "outline_mm", "longest_axial_mm", "longest_3d_mm")
"""Columns of the table on a terminal, where there are such."""


@dataclass(frozen=True)
class Statistics:
    """What was measured in a folder of label maps.

    Args:
        rows: one per case and label, ``case`` and the keys of ``label_statistics``.
        failed: findings of the cases that could not be measured, with ``case``.
    """

    rows: list[dict[str, Any]]
    failed: list[dict[str, Any]]

    def table(self) -> str:
        """The main numbers, to read on a terminal."""
        columns = [key for key in SHOWN if self.rows and key in self.rows[0]]
        columns += [key for key in (self.rows[0] if self.rows else ()) if key.endswith("_mean")]
        lines: list[tuple[str, ...]] = [("case", "label", *columns)]
        for row in self.rows:
            cells = (str(v) if isinstance(v, int) else short(v, 2) for v in (row[key] for key in columns))
            lines.append((row["case"], row["label"], *cells))
        text = [aligned(lines)] if self.rows else []
        if self.failed:
            text.append(f"failed: {some_names([f['case'] for f in self.failed])}")
        return "\n".join(text)

    def json(self) -> str:
        return json_text({"medseg3d": __version__, "rows": self.rows, "failed": self.failed})


def label_statistics(
    labels: Volume, names: Mapping[str, Sequence[int]], *, image: Volume | None = None, channels: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Measure every label of a label map.

    Args:
        labels: ``(1, *spatial)`` of whole numbers.
        names: ``label: values``; labels may share values.
        image: on the same grid; None leaves intensities out.
        channels: what the image's channels are called in the columns; default ``channel_0`` and so on.

    Returns:
        One row per label. ``label``, ``voxels``; in 3D ``volume_ml``, ``surface_area_mm2``, ``sphericity`` (1: a ball),
        ``longest_axial_mm``, ``across_axial_mm``, ``longest_3d_mm``, ``axial_slice`` (index of the voxels' slice with the longest
        diameter, from 0); in 2D ``area_mm2``, ``outline_mm``, ``longest_mm``, ``across_mm`` (``medseg3d.metrics.shape`` has
        the definitions). For each channel ``CHANNEL_mean``, ``_std``, ``_min``, ``_p10``, ``_median``, ``_p90``, ``_max`` in the
        image's own units, HU for CT. A label that is not there has 0 voxels, volume and area, and NaN else.

    Raises:
        InputError: ``E-GRID`` for an image on another grid, ``E-CHANNEL-COUNT`` for a label map of several channels.
    """
    require_one_channel(labels, what="the label map")
    if image is not None:
        require_grid(labels.grid, image.grid, what="the label map", than="the scan")
    values = sorted({value for ids in names.values() for value in ids})
    index_of = np.zeros(max(int(labels.data.max(initial=0)), *values, 0) + 1, np.int32)
    index_of[values] = np.arange(1, len(values) + 1)
    found = index_of[labels.data[0]]
    boxes = ndimage.find_objects(found, max_label=len(values))
    channels = list(channels) or [f"channel_{i}" for i in range(0 if image is None else image.channels)]
    rows = []
    for name, ids in names.items():
        indices = [int(index_of[value]) for value in ids]
        mine = [boxes[i - 1] for i in indices if boxes[i - 1]]
        box = tuple(
            slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*mine, strict=True)
        ) or tuple(slice(0, 1) for _ in labels.shape)
        mask = np.isin(found[box], indices)
        row = {"label": name, "voxels": int(mask.sum()), **_shape(mask, labels, box)}
        if image is not None:
            for channel, data in zip(channels, image.data, strict=True):
                row |= {f"{channel}_{key}": value for key, value in _intensities(data[box][mask]).items()}
        rows.append(row)
    return rows


def _shape(mask: NDArray[np.bool_], labels: Volume, box: tuple[slice, ...]) -> dict[str, Any]:
    axes_mm = labels.affine[:-1, :-1]
    size = float(np.count_nonzero(mask)) * float(abs(np.linalg.det(axes_mm)))
    area = surface_area(mask, labels.spacing_mm)
    if mask.ndim == 2:
        flat = diameters(mask, axes_mm)
        return {
            "area_mm2": size,
            "outline_mm": area,
            "longest_mm": flat.longest_axial_mm,
            "across_mm": flat.across_mm,
        }
    upright = labels.grid.to_canonical().axes[2]
    found = diameters(mask, axes_mm, slice_axis=upright)
    ball = math.pi ** (1 / 3) * (6 * size) ** (2 / 3)
    return {
        "volume_ml": size / 1000,
        "surface_area_mm2": area,
        "sphericity": ball / area if area else math.nan,
        "longest_axial_mm": found.longest_axial_mm,
        "across_axial_mm": found.across_mm,
        "longest_3d_mm": found.longest_3d_mm,
        "axial_slice": math.nan if found.slice_index is None else found.slice_index + box[upright].start,
    }


def _intensities(values: NDArray[Any]) -> dict[str, float]:
    keys = ("mean", "std", "min", *PERCENTILES, "max")
    if not values.size:
        return dict.fromkeys(keys, math.nan)
    values = values.astype(np.float64)
    numbers = (
        values.mean(),
        values.std(),
        values.min(),
        *np.percentile(values, list(PERCENTILES.values())),
        values.max(),
    )
    return {key: float(value) for key, value in zip(keys, numbers, strict=True)}


def statistics(
    labels: str | Path,
    task: Task | str | Path | None = None,
    *,
    names: Mapping[str, Sequence[int]] | None = None,
    images: str | Path | None = None,
) -> Statistics:
    """Measure every label map of a folder.

    Args:
        labels: folder of label maps, such as ``medseg3d predict`` writes, or one file.
        task: says which values make which label; a Task, a name, or a YAML file.
        names: instead of a task, ``label: values``; with neither, each value that is there is a label of its own.
        images: the scans, found by name (with a task: in any layout that ``find_cases`` knows), for the intensities.

    Raises:
        ConfigError: nothing there, or images none of which has the name of a label map.
    """
    if task is not None and names is not None:
        raise ConfigError("give either a task or names of values, not both")
    task = task if task is None or isinstance(task, Task) else load_task(task)
    maps = label_readers(Path(labels), task)
    scans = {} if images is None else _scans(Path(images), task)
    if images is not None and not set(maps) & set(scans):
        raise ConfigError(
            f"no scan ({some_names(sorted(scans))}) has the name of a label map ({some_names(sorted(maps))})"
        )
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for case, read in maps.items():
        try:
            if images is not None and case not in scans:
                raise InputError(
                    "E-NO-IMAGE", f"no scan in {images} has the name {case!r}", fix="name it as the labels"
                )
            volume = read()
            given = names or (task.labels if task is not None else _values(volume))
            image = scans[case]() if images is not None else None
            channels = list(task.channels) if task is not None else []
            rows += [{"case": case, **row} for row in label_statistics(volume, given, image=image, channels=channels)]
        except InputError as error:
            log.error("%s: %s", case, error)
            failed.append({"case": case, **error.finding.as_dict()})
        except Exception as error:  # the other cases are measured all the same
            log.exception("%s", case)
            finding = Finding("E-UNEXPECTED", "error", None, f"{type(error).__name__}: {error}")
            failed.append({"case": case, **finding.as_dict()})
    return Statistics(rows, failed)


def _values(volume: Volume) -> dict[str, list[int]]:
    return {str(value): [int(value)] for value in np.unique(volume.data) if value}


def _scans(images: Path, task: Task | None) -> dict[str, Reader]:
    """What reads the scan of each case."""
    if task is None:
        return scan_readers(images)
    data = find_cases(images, task, labels=False)
    log.info("%s", data.describe())
    return {case.name: partial(read_image, case, task, nonfinite="zero") for case in data.cases}


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text with commas; columns in the order in which they first appear, NaN as an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["case", "label"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.8g}"


def write_statistics(rows: Sequence[Mapping[str, Any]], file: str | Path) -> Path:
    """Write rows as a CSV."""
    return atomic_write(file, as_csv(rows))
