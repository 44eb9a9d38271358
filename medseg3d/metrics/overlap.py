"""How far two masks overlap: Dice, IoU, sensitivity, specificity, precision, volumes, from one count of voxels.

Empty masks have conventions of their own (``status``), so that no case leaves a mean unseen:

======  =========  ==========  =========================================================
status  reference  prediction  Dice and IoU
======  =========  ==========  =========================================================
ok      something  something   as defined
miss    something  nothing     0
fp      nothing    something   0
tn      nothing    nothing     NaN, or 1 with ``empty="one"`` (the BraTS convention)
======  =========  ==========  =========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "miss", "fp", "tn"]
Empty = Literal["nan", "one"]
EMPTIES: tuple[Empty, ...] = ("nan", "one")


def status_of(reference: bool, prediction: bool) -> Status:
    """Name the four cases by whether each mask holds anything."""
    if reference:
        return "ok" if prediction else "miss"
    return "fp" if prediction else "tn"


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a pair of masks, and the ratios made of them.

    Args:
        tp: voxels in both. fp: in the prediction alone. fn: in the reference alone. tn: in neither.
        empty: what a ratio is where both masks are empty: ``nan`` or ``one``. Where one mask has voxels, a ratio
            of 0 / 0 (sensitivity without a reference, precision without a prediction) is NaN either way.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    empty: Empty = "nan"

    def __post_init__(self) -> None:
        if self.empty not in EMPTIES:
            raise ValueError(f"empty={self.empty!r} is none of {', '.join(EMPTIES)}")

    @property
    def status(self) -> Status:
        return status_of(self.tp + self.fn > 0, self.tp + self.fp > 0)

    def _ratio(self, numerator: int, denominator: int) -> float:
        if denominator:
            return numerator / denominator
        return 1.0 if self.status == "tn" and self.empty == "one" else float("nan")

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|)."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """|A and B| / |A or B|, the Jaccard index."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def sensitivity(self) -> float:
        """|A and B| / |A|, with A the reference; also called recall."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def precision(self) -> float:
        """|A and B| / |B|, with B the prediction."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def specificity(self) -> float:
        """Part of the voxels outside the reference that the prediction leaves out; depends on the field of view."""
        return self.tn / (self.tn + self.fp) if self.tn + self.fp else float("nan")

    @property
    def relative_volume_difference(self) -> float:
        """(|B| - |A|) / |A|, with A the reference: 0.1 is a tenth too large, -1 a miss; NaN without a reference."""
        if self.tp + self.fn:
            return (self.fp - self.fn) / (self.tp + self.fn)
        return 0.0 if self.status == "tn" and self.empty == "one" else float("nan")

    def volumes_ml(self, spacing_mm: Sequence[float]) -> tuple[float, float]:
        """Volumes of reference and prediction in ml, from the 3D voxels' spacing.

        Raises:
            ValueError: not three spacings: a picture has no volume.
        """
        if len(spacing_mm) != 3:
            raise ValueError(f"spacing_mm {spacing_mm} must be 3 numbers; {len(spacing_mm)}D masks have no volume")
        voxel_ml = float(np.prod(spacing_mm)) / 1000
        return (self.tp + self.fn) * voxel_ml, (self.tp + self.fp) * voxel_ml


def as_mask(array: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """The array as booleans.

    Raises:
        ValueError: values besides 0 and 1, or not 2 or 3 axes: most often a whole label map.
    """
    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise ValueError(f"{name} of shape {array.shape} must have 2 or 3 axes; take one channel, as in {name}[0]")
    if array.dtype == np.bool_:
        return array
    mask = array != 0
    if not np.array_equal(mask, array):
        found = ", ".join(f"{v:g}" for v in np.unique(array)[:5])
        raise ValueError(f"{name} holds the values {found}; a mask holds 0 and 1, so compare first, as in {name} == 1")
    return mask


def overlap(reference: NDArray[Any], prediction: NDArray[Any], *, empty: Empty = "nan") -> Overlap:
    """Count what two masks share.

    Args:
        reference: mask ``(*spatial)``, 2D or 3D.
        prediction: mask of the same shape.
        empty: what Dice and IoU are where both are empty.

    Raises:
        ValueError: arrays that are no masks or differ in shape.
    """
    a, b = as_mask(reference, "reference"), as_mask(prediction, "prediction")
    if a.shape != b.shape:
        raise ValueError(f"reference of shape {a.shape}, prediction of shape {b.shape}; bring both to one grid first")
    both, first, second = (int(np.count_nonzero(x)) for x in (a & b, a, b))
    return Overlap(both, second - both, first - both, a.size - first - second + both, empty)


def dice(reference: NDArray[Any], prediction: NDArray[Any], *, empty: Empty = "nan") -> float:
    """2 |A and B| / (|A| + |B|) of two masks; see ``overlap``."""
    return overlap(reference, prediction, empty=empty).dice
