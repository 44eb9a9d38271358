"""How label maps are scored: one definition for all cases of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medseg3d.checks import ConfigError
from medseg3d.metrics.case import measure_case, percentile_name
from medseg3d.metrics.lesions import LesionRule
from medseg3d.metrics.overlap import EMPTIES, Empty
from medseg3d.metrics.surface import DEFINITION_VERSION, DEFINITIONS, Definition
from medseg3d.volume import Volume


@dataclass(frozen=True)
class ScoreRule:
    """What ``medseg3d.metrics.measure_case`` is told, checked before any work.

    Args:
        definition: of the surface metrics.
        percentile: of the Hausdorff distance, of lesions too.
        tolerance_mm: of the normalised surface Dice, which is left out without it.
        empty: ``nan`` or ``one``: what ratios are where both masks are empty.
        lesions: score lesion by lesion, too, by this rule.

    Raises:
        ConfigError: for an option that cannot be.
    """

    definition: Definition = "surface"
    percentile: float = 95
    tolerance_mm: float | None = None
    empty: Empty = "nan"
    lesions: LesionRule | None = None

    def __post_init__(self) -> None:
        if self.definition not in DEFINITIONS:
            raise ConfigError(f"definition {self.definition!r} is none of {', '.join(DEFINITIONS)}")
        if self.empty not in EMPTIES:
            raise ConfigError(f"empty {self.empty!r} is none of {', '.join(EMPTIES)}")
        if not 0 < self.percentile <= 100:
            raise ConfigError(
                f"percentile {self.percentile} must lie in (0, 100]; 95 gives HD95, 100 the full distance"
            )
        if self.tolerance_mm is not None and not self.tolerance_mm >= 0:
            raise ConfigError(f"tolerance_mm {self.tolerance_mm} must be 0 or more, in mm")
        if self.lesions is not None:
            object.__setattr__(self, "lesions", replace(self.lesions, percentile=self.percentile))

    @property
    def columns(self) -> list[str]:
        """The metrics that are averaged over cases, each once."""
        distance = percentile_name(self.percentile)
        names = ["dice", "iou", "sensitivity", "specificity", "precision", distance, "hd_mm", "assd_mm", "masd_mm"]
        names += ["nsd"] * (self.tolerance_mm is not None) + ["relative_volume_difference"]
        names += ["lesion_dice", f"lesion_{distance}", "lesion_f1"] * (self.lesions is not None)
        return list(dict.fromkeys(names))

    def rows(self, reference: Volume, prediction: Volume, labels: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
        """The scores of a case, a row per label; both label maps lie on one grid."""
        return measure_case(
            reference.data[0],
            prediction.data[0],
            labels,
            reference.spacing_mm,
            definition=self.definition,
            percentile=self.percentile,
            tolerance_mm=self.tolerance_mm,
            empty=self.empty,
            lesions=self.lesions,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"definition": self.definition, "definition_version": DEFINITION_VERSION, **asdict(self)}
