"""What a data set is like: sizes, voxels, intensities, and the structures in it. The same for the same files, on any machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import Finding, collected
from medseg3d.inspection.case import Facts, in_threads, tell_if_constant, tell_if_empty
from medseg3d.io.case_reading import read_image, read_label
from medseg3d.io.dataset import Case, DataSet
from medseg3d.planning.thickness import thickness_mm
from medseg3d.task import Task
from medseg3d.volume import Volume

LOOKED_AT = 100
"""Cases that are read; of larger data sets so many, spread evenly over the names."""
FOR_THICKNESS = 12
"""Of these, cases whose structures' thickness is measured."""
SAMPLED = 20_000
"""Voxels of each channel of a case that its percentiles come from, evenly spread."""


@dataclass(frozen=True)
class ChannelValues:
    """Intensities of one channel of a case.

    Args:
        low, median, high: percentiles 0.5, 50 and 99.5.
        minimum, mean, std: of the voxels that are not 0.
        whole: whether every value is a whole number.
    """

    low: float
    median: float
    high: float
    minimum: float
    mean: float
    std: float
    whole: bool


@dataclass(frozen=True)
class Structure:
    """One label of a case.

    Args:
        volume_ml: of it; for pictures, thousands of pixels.
        share: of the image's voxels.
        offset: of its centre from the image's, per RAS axis, as part of the image's size.
        thickness_mm: the local thickness below which a tenth of it lies; None where it was not measured.
    """

    volume_ml: float
    share: float
    offset: tuple[float, ...]
    thickness_mm: float | None = None


@dataclass(frozen=True)
class CaseMeasures:
    """What is kept of one case; axes in RAS order.

    Args:
        name: of the case.
        shape, spacing_mm: of the image.
        content: part of the image that the box about its non-zero voxels takes.
        values: by channel of the task.
        structures: by label, those that the case has.
        labelled: part of the image that the box about all labels takes.
        facts: what ``medseg3d check`` compares cases by.
    """

    name: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    content: float
    values: tuple[ChannelValues, ...]
    structures: dict[str, Structure]
    labelled: float
    facts: Facts


@dataclass(frozen=True)
class Fingerprint:
    """A data set in numbers.

    Args:
        total: cases that there are.
        cases: what was measured of those that were looked at.
        task: the names; its patch and the like mean nothing yet.
    """

    total: int
    cases: tuple[CaseMeasures, ...]
    task: Task = field(repr=False)

    @property
    def shapes(self) -> NDArray[np.float64]:
        """``(cases, axes)`` in voxels."""
        return np.array([c.shape for c in self.cases], dtype=float)

    @property
    def spacings_mm(self) -> NDArray[np.float64]:
        """``(cases, axes)``."""
        return np.array([c.spacing_mm for c in self.cases], dtype=float)

    @property
    def extents_mm(self) -> NDArray[np.float64]:
        """``(cases, axes)``: sizes of the images."""
        return self.shapes * self.spacings_mm

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """The median per axis."""
        return tuple(float(s) for s in np.median(self.spacings_mm, axis=0))

    @property
    def anisotropy(self) -> float:
        """Largest over smallest median spacing."""
        return max(self.spacing_mm) / min(self.spacing_mm)

    def structures(self, label: str) -> list[Structure]:
        """Of a label, in the cases that have it."""
        return [c.structures[label] for c in self.cases if label in c.structures]

    def thickness_mm(self, label: str) -> float | None:
        """Median over cases of the local thickness below which a tenth of a label lies; None where it was not measured."""
        found = [s.thickness_mm for s in self.structures(label) if s.thickness_mm is not None]
        return float(np.median(found)) if found else None

    @property
    def thinnest(self) -> tuple[str, float] | None:
        """The label with the least thickness, and that, in mm."""
        known = [(t, label) for label in self.task.labels if (t := self.thickness_mm(label)) is not None]
        return (min(known)[1], min(known)[0]) if known else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types: percentiles 5, 50 and 95 over cases."""

        def spread(values: Sequence[float] | NDArray[np.float64]) -> list[Any]:
            return (
                np.percentile(np.asarray(values, float), (5, 50, 95), axis=0).round(4).tolist() if len(values) else []
            )

        labels = {}
        for label in self.task.labels:
            found = self.structures(label)
            labels[label] = {
                "cases": len(found),
                "volume_ml": spread([s.volume_ml for s in found]),
                "share": spread([s.share for s in found]),
                "thickness_mm": self.thickness_mm(label),
            }
        channels = {
            channel: {key: spread([getattr(c.values[i], key) for c in self.cases]) for key in ("low", "median", "high")}
            for i, channel in enumerate(self.task.channels)
        }
        return {
            "cases": self.total,
            "looked_at": len(self.cases),
            "shape": spread(self.shapes),
            "spacing_mm": spread(self.spacings_mm),
            "anisotropy": round(self.anisotropy, 3),
            "extent_mm": spread(self.extents_mm),
            "content": spread([c.content for c in self.cases]),
            "labelled_extent": spread([c.labelled for c in self.cases]),
            "channels": channels,
            "labels": labels,
        }


def measure(dataset: DataSet, task: Task) -> tuple[Fingerprint, list[Finding]]:
    """Look at the cases of a data set, several at a time, and say what is odd about each.

    Args:
        dataset: from ``find_cases`` with labels.
        task: with the data set's names.

    Raises:
        InputError: for the first case (by name) that cannot be read.
    """
    chosen = evenly(dataset.cases, LOOKED_AT)
    thick = {c.name for c in evenly(chosen, FOR_THICKNESS)}
    found = in_threads(lambda case: measure_case(case, dataset, task, case.name in thick), chosen, "measuring")
    findings = [f for case in found for f in case.facts.findings]
    return Fingerprint(len(dataset.cases), tuple(found), task), findings


def evenly(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many of the cases, spread evenly."""
    count = min(most, len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def measure_case(case: Case, dataset: DataSet, task: Task, thickness: bool) -> CaseMeasures:
    """What is kept of one case; see ``CaseMeasures``."""
    with collected() as findings:
        image = read_image(case, task)
        label = None if task.kind == "classification" else read_label(case, dataset, task, image.grid)
        for channel, its, data in zip(task.channels, case.images, image.data, strict=True):
            tell_if_constant(data, channel, its.path)
        if label is not None:
            tell_if_empty(label, case.label)
    values = tuple(_values(data) for data in image.data)
    content = _share_of(_box(image.data), image.shape)
    axes = image.grid.to_canonical().axes
    shape, spacing = tuple(image.shape[a] for a in axes), tuple(image.spacing_mm[a] for a in axes)
    facts = Facts(
        case,
        tuple(findings),
        image.grid,
        voxels={} if label is None else _counts(label.data, task),
    )
    structures, labelled = ({}, 1.0) if label is None else _structures(label.canonical(), task, thickness)
    return CaseMeasures(case.name, shape, spacing, content, values, structures, labelled, facts)


def _counts(label: NDArray[Any], task: Task) -> dict[int, int]:
    """Voxels of each value of the task."""
    counts = np.bincount(label[0][_box(label)].ravel(), minlength=max(task.values) + 1)
    return {value: int(counts[value]) for value in task.values}


def _values(data: NDArray[np.float32]) -> ChannelValues:
    flat = data.ravel(order="K")
    some = flat[:: max(1, math.ceil(flat.size / SAMPLED))].astype(np.float64)
    low, median, high = np.percentile(some, (0.5, 50, 99.5))
    inside = some[some != 0] if (some != 0).any() else some
    whole = bool((some == np.round(some)).all())
    return ChannelValues(
        float(low), float(median), float(high), float(inside.min()), float(inside.mean()), float(inside.std()), whole
    )


def _box(data: NDArray[Any]) -> tuple[slice, ...]:
    """About what is not 0 in ``(C, *spatial)``; all of it where everything is."""
    box = []
    for axis in range(1, data.ndim):
        occupied = data.any(axis=tuple(a for a in range(data.ndim) if a != axis))
        found = np.flatnonzero(occupied)
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, data.shape[axis]))
    return tuple(box)


def _share_of(box: Sequence[slice], shape: Sequence[int]) -> float:
    return math.prod((s.stop - s.start) / n for s, n in zip(box, shape, strict=True))


def _widened(box: Sequence[slice], shape: Sequence[int]) -> tuple[slice, ...]:
    """By a voxel on every side that has one, so that a structure's surface is seen."""
    return tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, shape, strict=True))


def _structures(label: Volume, task: Task, thickness: bool) -> tuple[dict[str, Structure], float]:
    """What there is of each label, and the part of the image that the box about them all takes."""
    judged = label.data if task.ignore is None else np.where(label.data == task.ignore, 0, label.data)
    inside = _box(judged)
    box = _widened(inside, label.shape)
    data, shape, found = label.data[0][box], label.shape, {}
    start = [s.start for s in box]
    for name, ids in task.labels.items():
        mask = data == ids[0] if len(ids) == 1 else np.isin(data, ids)
        its = _widened(_box(mask[None]), mask.shape)
        # Beside voxels that nobody has judged, a structure may be thicker than what is drawn of it.
        whole = task.ignore is None or not (data[its] == task.ignore).any()
        mask = mask[its]
        count = int(np.count_nonzero(mask))
        if count:
            axes = range(mask.ndim)
            along = [np.count_nonzero(mask, axis=tuple(b for b in axes if b != a)) for a in axes]
            centre = [float(n @ np.arange(len(n))) / count + its[a].start + start[a] for a, n in enumerate(along)]
            offset = tuple((c - (n - 1) / 2) / n for c, n in zip(centre, shape, strict=True))
            ml = count * math.prod(label.spacing_mm) / 1000
            thin = thickness_mm(mask, label.spacing_mm) if thickness and whole else None
            found[name] = Structure(ml, count / math.prod(shape), offset, thin)
    return found, _share_of(inside, shape) if found else 0.0
