"""Distances between the surfaces of two masks, in mm, by a definition that is named.

======== =========================== ============================== =============================
id       points of a surface         weight of a point              percentile
======== =========================== ============================== =============================
surface  voxel corners that the      area of the surface through    max of the two directions, by
         surface passes              the 2 x 2 x 2 voxels there     cumulated area
voxel    centres of the inner edge   1                              max of the two directions,
         voxels (6- / 4-connected)                                  linear (``np.percentile``)
pooled   as ``voxel``                1                              both directions as one list
mesh     nodes of an elastic net     as ``surface``                 as ``surface``
         through the same corners
======== =========================== ============================== =============================

``surface`` is the definition of Nikolov et al. (arXiv 1809.04430, surface-distance), ``voxel`` is what MONAI computes,
``pooled`` what medpy computes. ``mesh`` (``medseg3d.metrics.net``) takes the terraces of thick slices for the slopes that they
stand for, at up to three times the work; where no voxel is longer than twice its width it is ``surface``.

With d the distance of a point to the other surface and w its weight:

- HD_p: the smallest d up to which a surface has p percent of its weight (``surface``); HD is p = 100.
- ASSD = (sum w d of both surfaces) / (sum w of both). MASD = mean of the two weighted means.
- NSD at a tolerance = weight within it / weight, of both surfaces together.

Outside the array is background, so an object cut by the border has a surface there. In 2D corners, edges and
lengths take the place of corners, faces and areas; the code is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medseg3d.metrics.area import area_of_codes
from medseg3d.metrics.lattice import corners, inner_edge, lay_out
from medseg3d.metrics.nearest import distances_mm
from medseg3d.metrics.net import nodes, refined
from medseg3d.metrics.overlap import Status, as_mask, status_of

Definition = Literal["surface", "voxel", "pooled", "mesh"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
DEFINITION_VERSION = 1
"""Goes up when a definition's numbers change."""
TOLERANCE_SLACK = 1e-6
"""A distance counts as within a tolerance up to this part beyond it: headers hold 0.2 mm as 0.20000000298."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Each surface point's distance to the other surface; every metric reads it.

    Where one mask is empty its arrays are empty, and the distances of the other are inf. Where both are, HD, ASSD
    and MASD are 0 and NSD is NaN; ``status`` is ``tn``, and means leave such cases out and count them.

    Args:
        definition: one of ``DEFINITIONS``.
        reference_mm: distances of the reference's points to the prediction's surface, ascending.
        reference_weight: their weights (``surface``: mm2, in 2D mm).
        prediction_mm: distances of the prediction's points to the reference's surface, ascending.
        prediction_weight: their weights.
    """

    definition: Definition
    reference_mm: Floats
    reference_weight: Floats
    prediction_mm: Floats
    prediction_weight: Floats

    @property
    def status(self) -> Status:
        return status_of(self.reference_mm.size > 0, self.prediction_mm.size > 0)

    def hausdorff(self, percentile: float = 100) -> float:
        """Hausdorff distance, or its percentile, in mm; which one is never left open: HD95 is ``hausdorff(95)``.

        Raises:
            ValueError: a percentile outside (0, 100].
        """
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile {percentile} must lie in (0, 100]; 95 gives HD95, 100 the full distance")
        if self.status != "ok":
            return 0.0 if self.status == "tn" else float("inf")
        if self.definition == "pooled":
            return float(np.percentile(np.concatenate((self.reference_mm, self.prediction_mm)), percentile))
        if self.definition == "voxel":
            return float(max(np.percentile(d, percentile) for d in (self.reference_mm, self.prediction_mm)))
        return max(
            _weighted_percentile(self.reference_mm, self.reference_weight, percentile),
            _weighted_percentile(self.prediction_mm, self.prediction_weight, percentile),
        )

    def assd(self) -> float:
        """Average symmetric surface distance, mm: the mean over both surfaces together."""
        if self.status != "ok":
            return 0.0 if self.status == "tn" else float("inf")
        total = (self.reference_mm * self.reference_weight).sum() + (self.prediction_mm * self.prediction_weight).sum()
        return float(total / (self.reference_weight.sum() + self.prediction_weight.sum()))

    def masd(self) -> float:
        """Mean average surface distance, mm: the mean of the two surfaces' means."""
        if self.status != "ok":
            return 0.0 if self.status == "tn" else float("inf")
        first = (self.reference_mm * self.reference_weight).sum() / self.reference_weight.sum()
        second = (self.prediction_mm * self.prediction_weight).sum() / self.prediction_weight.sum()
        return float((first + second) / 2)

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: the part of both surfaces within ``tolerance_mm`` of the other, 0 to 1.

        Raises:
            ValueError: a negative tolerance.
        """
        if not tolerance_mm >= 0:
            raise ValueError(f"tolerance_mm {tolerance_mm} must be 0 or more, in mm")
        limit = tolerance_mm * (1 + TOLERANCE_SLACK)
        within = self.reference_weight[self.reference_mm <= limit].sum()
        within += self.prediction_weight[self.prediction_mm <= limit].sum()
        total = self.reference_weight.sum() + self.prediction_weight.sum()
        return float(within / total) if total else float("nan")


def surface_distances(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    definition: Definition = "surface",
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks, once for every metric.

    Args:
        reference: mask ``(*spatial)``, 2D or 3D.
        prediction: mask of the same shape.
        spacing_mm: distance of neighbouring voxel centres along each array axis, in the axes' order.
        definition: one of ``DEFINITIONS``.

    Raises:
        ValueError: arrays that are no masks or differ in shape, a spacing that does not fit, an unknown definition.
    """
    a, b = as_mask(reference, "reference"), as_mask(prediction, "prediction")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"reference of shape {a.shape}, prediction of shape {b.shape}; bring both to one grid first")
    if spacing.shape != (a.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm {spacing_mm} must be {a.ndim} positive numbers, one for each array axis")
    if definition not in DEFINITIONS:
        raise ValueError(f"definition {definition!r} is none of {', '.join(DEFINITIONS)}")
    lattice, flat_a, flat_b = lay_out(a, b, spacing)
    if definition in ("surface", "mesh"):
        area = area_of_codes(lattice.spacing_mm)
        (on_a, codes_a), (on_b, codes_b) = corners(flat_a, lattice), corners(flat_b, lattice)
        weight_a, weight_b = area[codes_a], area[codes_b]
    else:
        on_a, on_b = inner_edge(flat_a, lattice), inner_edge(flat_b, lattice)
        weight_a, weight_b = np.ones(on_a.size), np.ones(on_b.size)
    if definition == "mesh" and (fine := refined(lattice)) is not None:
        on_a, on_b = nodes(on_a, codes_a, lattice, fine), nodes(on_b, codes_b, lattice, fine)
        lattice = fine
    reference_mm, prediction_mm = distances_mm(on_a, on_b, lattice), distances_mm(on_b, on_a, lattice)
    return SurfaceDistances(definition, *_ascending(reference_mm, weight_a), *_ascending(prediction_mm, weight_b))


def _ascending(distance_mm: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Sort by distance; points that lie on the other surface need none."""
    away = distance_mm > 0
    order = np.concatenate((np.flatnonzero(~away), np.flatnonzero(away)[np.argsort(distance_mm[away])]))
    return distance_mm[order], weight[order]


def _weighted_percentile(distance_mm: Floats, weight: Floats, percentile: float) -> float:
    """The smallest distance (ascending) up to which the weights come to ``percentile`` percent of their sum."""
    cumulated = np.cumsum(weight)
    wanted = (
        cumulated[-1] * percentile / 100 * (1 - 1e-12)
    )  # 19 of 20 equal areas are 95 %, whatever their sum rounds to
    return float(distance_mm[min(int(np.searchsorted(cumulated, wanted)), distance_mm.size - 1)])
