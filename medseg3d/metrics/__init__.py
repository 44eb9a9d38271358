"""Overlap and surface metrics on plain numpy arrays.

from medseg3d.metrics import dice, surface_distances

surfaces = surface_distances(reference, prediction, spacing_mm=(5.0, 0.7, 0.7))
print(dice(reference, prediction), surfaces.hausdorff(95), surfaces.nsd(tolerance_mm=2))
"""

from medseg3d.metrics.case import measure_case
from medseg3d.metrics.interval import mean_interval
from medseg3d.metrics.lesions import Lesion, LesionRule, LesionScores, lesion_scores
from medseg3d.metrics.overlap import EMPTIES, Overlap, dice, overlap
from medseg3d.metrics.surface import DEFINITIONS, SurfaceDistances, surface_distances

__all__ = [
    "DEFINITIONS",
    "EMPTIES",
    "Lesion",
    "LesionRule",
    "LesionScores",
    "Overlap",
    "SurfaceDistances",
    "dice",
    "lesion_scores",
    "mean_interval",
    "measure_case",
    "overlap",
    "surface_distances",
]
