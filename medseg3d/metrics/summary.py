"""From rows of single cases to statistics that say how many cases they are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.metrics.interval import mean_interval
from medseg3d.metrics.overlap import Empty

STATUSES = ("ok", "miss", "fp", "tn")
LESION_COUNTS = ("n_lesions", "n_lesions_found", "n_lesions_false")


def summarise(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], metrics: Sequence[str], *, empty: Empty = "nan"
) -> dict[str, Any]:
    """Statistics per label that leave no case out unseen.

    Args:
        rows: as ``measure_case`` returns them, of all cases.
        labels: names, in the order wanted.
        metrics: keys of the rows to summarise.
        empty: ``nan`` leaves rows where both masks are empty out of the statistics; ``one`` takes them in.

    Returns:
        ``labels``: for each label ``n_total``, ``n_ok``, ``n_miss``, ``n_fp``, ``n_tn``, the sums of the lesion counts where
        the rows have them, and for each metric ``mean``, ``std``
        (over the ``n_used`` finite values) with ``ci_low`` and ``ci_high`` (95 % confidence interval of the mean, see
        ``medseg3d.metrics.interval``), ``n_inf`` (infinite distances, beside the mean) and ``median`` (over both).
        What is missing from ``n_total`` then are rows where the metric says nothing: both masks empty, sensitivity without
        a reference, precision without a prediction. ``mean``: per metric the mean of the labels' means,
        over the ``mean_over`` labels that have one.
    """
    found: dict[str, Any] = {}
    for label in labels:
        mine = [row for row in rows if row["label"] == label]
        counts = {f"n_{status}": sum(row["status"] == status for row in mine) for status in STATUSES}
        used = [row for row in mine if row["status"] != "tn" or empty == "one"]
        counts |= {key: sum(row[key] for row in mine) for key in LESION_COUNTS if mine and key in mine[0]}
        found[label] = {"n_total": len(mine), **counts, **{m: _statistics([row[m] for row in used]) for m in metrics}}
    means = {m: [v for v in (found[label][m]["mean"] for label in labels) if not math.isnan(v)] for m in metrics}
    return {
        "labels": found,
        "mean": {m: _mean(values) for m, values in means.items()},
        "mean_over": {m: len(values) for m, values in means.items()},
    }


def _statistics(values: Sequence[float]) -> dict[str, float | int]:
    known = np.array([v for v in values if not math.isnan(v)], dtype=np.float64)
    finite = known[np.isfinite(known)]
    low, high = mean_interval(finite)
    return {
        "mean": _mean(finite),
        "ci_low": low,
        "ci_high": high,
        "std": float(finite.std(ddof=1)) if finite.size > 1 else float("nan"),
        "median": float(np.median(known)) if known.size else float("nan"),
        "n_used": int(finite.size),
        "n_inf": int(known.size - finite.size),
    }


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
