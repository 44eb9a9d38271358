"""medseg3d's metrics as a MONAI metric, so that a bundle's evaluator reports the numbers of ``medseg3d evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from medseg3d.metrics.case import measure_case
from medseg3d.metrics.overlap import Empty
from medseg3d.metrics.surface import Definition


class CaseMetric(CumulativeIterationMetric):
    """One column of ``measure_case``, over all cases that an evaluator sees.

    ``y`` and ``y_pred`` are label maps ``(B, 1, *spatial)``, or one binary channel per label ``(B, labels, *spatial)`` in
    the labels' order, without background.

    Args:
        labels: ``name: values``, as in a task.
        metric: the column, such as ``dice``, ``hd95_mm``, ``assd_mm`` or ``nsd``.
        spacing_mm: of the voxels along the array axes; None takes it from the reference's affine, a MetaTensor's.
        definition, tolerance_mm, empty: as for ``measure_case``.
        percentile: of the Hausdorff distance, for a metric such as ``hd95_mm``.

    Raises:
        ValueError: a metric that ``measure_case`` does not give with these options.
    """

    def __init__(
        self,
        labels: Mapping[str, Sequence[int]],
        metric: str = "dice",
        *,
        spacing_mm: Sequence[float] | None = None,
        definition: Definition = "surface",
        percentile: float = 95,
        tolerance_mm: float | None = None,
        empty: Empty = "nan",
    ) -> None:
        super().__init__()
        self.labels = {str(name): tuple(int(v) for v in values) for name, values in labels.items()}
        self.metric = metric
        self.spacing_mm = None if spacing_mm is None else tuple(float(s) for s in spacing_mm)
        self.options: dict[str, Any] = {
            "definition": definition,
            "percentile": percentile,
            "tolerance_mm": tolerance_mm,
            "empty": empty,
        }
        nothing = np.zeros((1, 1), np.uint8)
        known = [
            k for k, v in measure_case(nothing, nothing, {"": [1]}, (1, 1), **self.options)[0].items() if _is_number(v)
        ]
        if metric not in known:
            raise ValueError(f"metric {metric!r} is none of {', '.join(known)}")

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The metric of each case and label ``(B, labels)``; NaN where it does not count, inf where a distance is missing."""
        if y is None:
            raise ValueError("the metric compares with a reference; give y")
        if y.shape != y_pred.shape:
            raise ValueError(
                f"y of shape {tuple(y.shape)}, y_pred of shape {tuple(y_pred.shape)}; they must be the same"
            )
        if y.shape[1] not in (1, len(self.labels)):
            raise ValueError(
                f"{y.shape[1]} channels; give a label map in one, or one channel for each of {len(self.labels)} labels"
            )
        spacings = kwargs.get("spacing", self.spacing_mm)
        found = []
        for i in range(y.shape[0]):
            spacing = _spacing_mm(y, i) if spacings is None else spacings
            found.append(
                [_counted(row, self.metric, self.options["empty"]) for row in self._rows(y[i], y_pred[i], spacing)]
            )
        return torch.tensor(found, dtype=torch.float64)

    def _rows(self, reference: Tensor, prediction: Tensor, spacing_mm: Sequence[float]) -> list[dict[str, Any]]:
        a, b = (np.asarray(torch.as_tensor(x).as_subclass(Tensor).cpu()) for x in (reference, prediction))
        if len(a) == len(self.labels) and (len(a) > 1 or {*np.unique(a), *np.unique(b)} <= {0, 1}):
            pairs = zip(self.labels, a > 0.5, b > 0.5, strict=True)
            return [row for name, x, z in pairs for row in measure_case(x, z, {name: [1]}, spacing_mm, **self.options)]
        whole = [np.rint(x[0]).astype(np.int64) if x.dtype.kind == "f" else x[0] for x in (a, b)]
        return measure_case(whole[0], whole[1], self.labels, spacing_mm, **self.options)

    def aggregate(self, reduction: str = "mean") -> Tensor:
        """The mean over finite values, as ``medseg3d evaluate`` takes it.

        Args:
            reduction: ``mean`` (of the labels' means, a scalar), ``mean_batch`` (of each label) or ``none`` (every case).

        Raises:
            ValueError: another reduction, or nothing to reduce.
        """
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError("no case has been measured yet")
        if reduction == "none":
            return values
        if reduction not in ("mean", "mean_batch"):
            raise ValueError(f"reduction {reduction!r} is none of mean, mean_batch, none")
        labels = torch.where(values.isfinite(), values, torch.nan).nanmean(dim=0)
        return labels if reduction == "mean_batch" else labels.nanmean()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _counted(row: Mapping[str, Any], metric: str, empty: Empty) -> float:
    return float("nan") if row["status"] == "tn" and empty == "nan" else float(row[metric])


def _spacing_mm(y: Tensor, index: int) -> tuple[float, ...]:
    if not isinstance(y, MetaTensor):
        raise ValueError("y is no MetaTensor, so it does not say its spacing; give spacing_mm")
    affine = np.asarray(y.affine, dtype=np.float64)
    affine = affine[index] if affine.ndim == 3 else affine
    axes = y.ndim - 2
    return tuple(np.linalg.norm(affine[:-1, :axes], axis=0).tolist())
