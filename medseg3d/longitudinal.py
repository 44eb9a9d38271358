"""How much each label grew or shrank between two time points, and whether that is more than the numbers are sure of.

The interval of a volume has two parts, put together as the root of their squares:

- the rim: half of the voxels inside that touch the outline (down), and half of those outside that touch it (up): each holds a part
  of the structure at most, and all might err in one direction;
- the test-time variation: the largest difference of one member's volume (a model of an ensemble, a flip of the scan) from that of
  their mean, where ``predict --uncertainty`` recorded it.

A change exceeds what is sure where its interval (the root of the squares of both ends that would explain it away) leaves out 0. It
says nothing about how much two scans of one day differ: positioning, contrast and noise are in no single scan.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg3d import __version__
from medseg3d.checks import InputError, some_names
from medseg3d.inference.sidecar import damage, read_sidecar, sidecar_path
from medseg3d.io.rules import require_one_channel
from medseg3d.metrics.lattice import bounding_box
from medseg3d.metrics.text import aligned, json_text
from medseg3d.pairs import Reader, file_of, label_readers, match
from medseg3d.task import Task, load_task
from medseg3d.volume import Volume

log = logging.getLogger(__name__)
VERDICTS = {1: "grew", -1: "shrank", 0: "not more than the interval"}


@dataclass(frozen=True)
class Interval:
    """A volume and what it may be.

    Args:
        volume_ml, low_ml, high_ml: the volume and its interval.
        rim_low_ml, rim_high_ml: the rim's part below and above.
        variation_ml: the part of the test-time variation; None where it is not known.
    """

    volume_ml: float
    low_ml: float
    high_ml: float
    rim_low_ml: float
    rim_high_ml: float
    variation_ml: float | None


@dataclass(frozen=True)
class Longitudinal:
    """What changed.

    Args:
        rows: one per case and label: ``case``, ``label``, for ``a`` and ``b`` ``volume_a_ml`` with ``low_a_ml``, ``high_a_ml``,
            ``rim_low_a_ml``, ``rim_high_a_ml``, ``variation_a_ml`` (None: not available), then ``change_ml`` (B - A) with
            ``change_low_ml``, ``change_high_ml``, ``change_percent`` (of A; None where A is empty), ``exceeds`` and ``verdict``.
        failed: findings, with ``case``.
        only_a, only_b: names at one time point alone.
    """

    rows: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    only_a: list[str]
    only_b: list[str]

    def table(self) -> str:
        """To read on a terminal."""
        lines: list[tuple[str, ...]] = [("case", "label", "A ml", "B ml", "B - A ml", "B - A %", "verdict")]
        for row in self.rows:
            cells = (
                f"{row[v]:.2f} [{row[low]:.2f}, {row[high]:.2f}]"
                for v, low, high in (
                    ("volume_a_ml", "low_a_ml", "high_a_ml"),
                    ("volume_b_ml", "low_b_ml", "high_b_ml"),
                    ("change_ml", "change_low_ml", "change_high_ml"),
                )
            )
            percent = "-" if row["change_percent"] is None else f"{row['change_percent']:+.1f}"
            lines.append((row["case"], row["label"], *cells, percent, row["verdict"]))
        text = [
            aligned(lines),
            "in brackets: the outline's partial voxels and the model's own test-time variation, not scan to scan",
        ]
        if names := sorted(
            {row["case"] for row in self.rows if None in (row["variation_a_ml"], row["variation_b_ml"])}
        ):
            text.append(
                f"test-time variation not available for {some_names(names)}, and not in their intervals: "
                "medseg3d predict --uncertainty records it"
            )
        if self.failed:
            text.append(f"failed: {some_names([f['case'] for f in self.failed])}")
        for names, side in ((self.only_a, "A"), (self.only_b, "B")):
            if names:
                text.append(f"{len(names)} in {side} alone, not compared: {some_names(names)}")
        return "\n".join(text)

    def json(self) -> str:
        """As JSON."""
        found = {"rows": self.rows, "failed": self.failed, "only_a": self.only_a, "only_b": self.only_b}
        return json_text({"medseg3d": __version__, **found})


def longitudinal(
    a: str | Path,
    b: str | Path,
    task: Task | str | Path | None = None,
    *,
    names: Mapping[str, Sequence[int]] | None = None,
) -> Longitudinal:
    """Compare the volumes of labels at two time points. The scans need not lie on one grid.

    Args:
        a: label maps of the first time point: a folder, such as ``medseg3d predict`` writes, or a file.
        b: those of the second, with the same names; two files, or two folders of one, need not have one name.
        task: says which values make which label; a Task, a name, or a YAML file.
        names: instead of a task, ``label: values``; with neither, each value that is there is a label of its own.

    Raises:
        ConfigError: nothing there, or no name in both.
    """
    task = task if task is None or isinstance(task, Task) else load_task(task)
    first, second = (label_readers(Path(place), task) for place in (a, b))
    if len(first) == len(second) == 1 and set(first) != set(second):
        name = f"{next(iter(first))} - {next(iter(second))}"
        first, second = {name: next(iter(first.values()))}, {name: next(iter(second.values()))}
    pairs = match(first, second, None)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for case, readers in pairs.found.items():
        try:
            rows += [{"case": case, **row} for row in _changes(readers, names or (task.labels if task else None))]
        except InputError as error:
            log.error("%s: %s", case, error)
            failed.append({"case": case, **error.finding.as_dict()})
    return Longitudinal(rows, failed, pairs.unmatched_reference, pairs.unmatched_prediction)


def _changes(readers: tuple[Reader, Reader], names: Mapping[str, Sequence[int]] | None) -> list[dict[str, Any]]:
    maps = [reader() for reader in readers]
    for volume, reader in zip(maps, readers, strict=True):
        require_one_channel(volume, what="the label map", file=file_of(reader))
        if len(volume.shape) != 3:
            raise InputError("E-DIMENSIONS", "a picture has no volume", file=file_of(reader), fix="give volumes")
    if names is None:
        names = {str(v): [int(v)] for v in np.unique(np.concatenate([np.unique(m.data) for m in maps])) if v}
    ratios = [_ratios(file_of(reader)) for reader in readers]
    rows = []
    for name, values in names.items():
        sides = [volume_interval(m, values, ratios=r.get(name)) for m, r in zip(maps, ratios, strict=True)]
        row: dict[str, Any] = {"label": name}
        for side, found in zip("ab", sides, strict=True):
            row |= {f"{key.removesuffix('_ml')}_{side}_ml": value for key, value in vars(found).items()}
        rows.append({**row, **change(*sides)})
    return rows


def volume_interval(labels: Volume, values: Sequence[int], *, ratios: Sequence[float] | None = None) -> Interval:
    """The volume of a label with its interval.

    Args:
        labels: ``(1, *spatial)``, 3D.
        values: of the label.
        ratios: the volume of each member in that of their mean; None where it is not known.
    """
    mask = np.isin(labels.data[0], list(values))
    voxel_ml = float(abs(np.linalg.det(labels.affine[:3, :3]))) / 1000
    volume = int(np.count_nonzero(mask)) * voxel_ml
    inside, outside = (count * voxel_ml / 2 for count in _rim(mask))
    variation = None if ratios is None else volume * max(abs(ratio - 1) for ratio in ratios)
    low, high = (math.hypot(rim, variation or 0.0) for rim in (inside, outside))
    return Interval(volume, max(0.0, volume - low), volume + high, inside, outside, variation)


def _rim(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """How many voxels inside and outside have a face in the outline."""
    box = bounding_box(mask)
    if not box:
        return 0, 0
    part = np.pad(mask[box], 1)
    inner, outer = ndimage.binary_erosion(part), ndimage.binary_dilation(part)
    count = int(np.count_nonzero(part))
    return count - int(np.count_nonzero(inner)), int(np.count_nonzero(outer)) - count


def change(a: Interval, b: Interval) -> dict[str, Any]:
    """The difference of two volumes, its interval, and whether that leaves out 0."""
    difference = b.volume_ml - a.volume_ml
    low = difference - math.hypot(b.volume_ml - b.low_ml, a.high_ml - a.volume_ml)
    high = difference + math.hypot(b.high_ml - b.volume_ml, a.volume_ml - a.low_ml)
    sign = 1 if low > 0 else -1 if high < 0 else 0
    return {
        "change_ml": difference,
        "change_low_ml": low,
        "change_high_ml": high,
        "change_percent": 100 * difference / a.volume_ml if a.volume_ml else None,
        "exceeds": sign != 0,
        "verdict": VERDICTS[sign],
    }


def _ratios(file: Path) -> dict[str, list[float]]:
    """By label the members' volumes in that of their mean, where the file is as ``predict`` wrote it with what it recorded."""
    sidecar = read_sidecar(sidecar_path(file))
    if sidecar is None or "outputs" not in sidecar:
        return {}
    if changed := damage(sidecar, file.parent, ["labels"]):
        log.warning("%s: %s, so that its recorded test-time variation does not count", file.name, changed)
        return {}
    found = sidecar.get("confidence", {}).get("volume_ratios", {})
    return {name: ratios for name, ratios in found.items() if ratios}
