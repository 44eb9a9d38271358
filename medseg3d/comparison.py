"""Two evaluations of the same cases, pair by pair: which is better, by how much, and how sure that is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d import __version__
from medseg3d.checks import ConfigError, some_names
from medseg3d.metrics.interval import mean_interval
from medseg3d.metrics.text import aligned, json_text, short
from medseg3d.pairs import read_rows

LARGER_IS_BETTER = (
    "dice",
    "iou",
    "sensitivity",
    "specificity",
    "precision",
    "nsd",
    "lesion_dice",
    "lesion_f1",
    "correct",
)
EMPTY = "both masks empty"
SETTINGS = ("definition", "definition_version", "percentile", "tolerance_mm", "empty", "lesions", "label_ids")
"""What two evaluations must have in common for their numbers to mean the same."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        rows: one per label and metric: ``label``, ``metric``, ``n`` (pairs of finite values), ``mean_a``, ``mean_b``,
            ``difference`` (mean of B - A), ``ci_low`` and ``ci_high`` (95 % interval of it), ``median_difference``, ``p``
            (Wilcoxon signed rank), ``p_holm`` (the same after Holm's correction for all labels of the metric),
            ``wins_a``, ``wins_b``, ``ties`` (cases; an infinite distance loses against a finite one, and a mask invented against
            one rightly left empty, though neither pair has a difference), ``n_inf_a``, ``n_inf_b``.
        summary: ``a`` and ``b`` (their names), ``n_cases`` in common, ``only_a`` and ``only_b`` (names), the settings.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    def table(self) -> str:
        """Differences with intervals and wins, to read on a terminal."""
        lines: list[tuple[str, ...]] = [
            ("label", "metric", "pairs", "A", "B", "B - A [95 % CI]", "p (Holm)", "A wins", "B wins", "ties")
        ]
        for row in self.rows:
            digits = 2 if row["metric"].endswith("_mm") else 4
            change = short(row["difference"], digits)
            if not math.isnan(row["ci_low"]):
                change += f" [{short(row['ci_low'], digits)}, {short(row['ci_high'], digits)}]"
            means = (short(row["mean_a"], digits), short(row["mean_b"], digits))
            wins = (str(row[key]) for key in ("wins_a", "wins_b", "ties"))
            p = "-" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.3g}"
            lines.append((row["label"], row["metric"], str(row["n"]), *means, change, p, *wins))
        text = [f"A: {self.summary['a']}", f"B: {self.summary['b']}", aligned(lines)]
        if infinite := sum(row["n_inf_a"] + row["n_inf_b"] for row in self.rows):
            text.append(
                f"{infinite} infinite distances (a mask missed or invented) count in the wins, not in the means"
            )
        for key, side in (("only_a", "A"), ("only_b", "B")):
            if names := self.summary[key]:
                text.append(f"{len(names)} cases in {side} alone, not compared: {some_names(names)}")
        return "\n".join(text)

    def json(self) -> str:
        """Summary and rows as JSON: inf is the text ``"inf"``, NaN is null."""
        return json_text({**self.summary, "rows": self.rows})


def compare(
    a: str | Path,
    b: str | Path,
    *,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> Comparison:
    """Compare two evaluations of the same cases.

    Args:
        a: folder that ``evaluate`` wrote ``per_case.csv`` and ``summary.json`` to.
        b: another; differences are B - A.
        labels: names to compare alone.
        metrics: columns to compare; None takes Dice, the Hausdorff percentile, ASSD, and NSD and lesion scores where both
            have them.

    Raises:
        ConfigError: a folder without an evaluation, evaluations by different definitions, no case in common, a label or
            metric that does not exist.
    """
    tables, settings = zip(*(_read(Path(folder)) for folder in (a, b)), strict=True)
    for key in SETTINGS:
        first, second = (s.get(key) for s in settings)
        if first != second:
            raise ConfigError(
                f"A was measured with {key} {first!r}, B with {key} {second!r}; evaluate both in the same way first"
            )
    cases = [{case for case, _ in table} for table in tables]
    common = sorted(set(tables[0]) & set(tables[1]))
    if not common:
        raise ConfigError(
            f"no case in common: A has {some_names(sorted(cases[0]))}, B has {some_names(sorted(cases[1]))}"
        )
    found_labels = list(dict.fromkeys(label for _, label in tables[0] if any(label == x for _, x in common)))
    columns = [c for c in tables[0][common[0]] if c in tables[1][common[0]] and c != EMPTY]
    chosen = list(labels or found_labels)
    wanted = list(metrics or [c for c in columns if _by_default(c, settings[0])])
    for given, known, what in ((chosen, found_labels, "label"), (wanted, columns, "metric")):
        if unknown := [x for x in given if x not in known]:
            raise ConfigError(
                f"{what} {unknown[0]!r} is in neither or only one evaluation; both have {', '.join(known)}"
            )
    rows = []
    for metric in wanted:
        pairs = {label: [tuple(t[case, x] for t in tables) for case, x in common if x == label] for label in chosen}
        these = [
            {"label": label, "metric": metric, **_paired(mine, metric, settings[0].get("empty", "nan"))}
            for label, mine in pairs.items()
        ]
        for row, p in zip(these, _holm([row["p"] for row in these]), strict=True):
            row["p_holm"] = p
        rows += these
    rows.sort(key=lambda row: chosen.index(row["label"]))
    summary = {
        "medseg3d": __version__,
        "a": Path(a).name,
        "b": Path(b).name,
        **{key: settings[0].get(key) for key in SETTINGS},
        "n_cases": len(cases[0] & cases[1]),
        "only_a": sorted(cases[0] - cases[1]),
        "only_b": sorted(cases[1] - cases[0]),
    }
    return Comparison(rows, summary)


def _read(folder: Path) -> tuple[dict[tuple[str, str], dict[str, float]], dict[str, Any]]:
    """The numbers of each case and label, and the settings they were made with."""
    lines = read_rows(folder / "per_case.csv", "medseg3d evaluate writes it; give the folder of its output")
    try:
        settings = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'summary.json'} cannot be read: {error}") from None
    table: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        numbers = {key: _number(value) for key, value in line.items() if _is_metric(key)}
        numbers[EMPTY] = float(line.get("status") == "tn")
        table[line["case"], line.get("label", "all")] = numbers
    return table, settings


def _is_metric(column: str) -> bool:
    return column in LARGER_IS_BETTER or column == "relative_volume_difference" or _is_distance(column)


def _is_distance(column: str) -> bool:
    return column.endswith("_mm") and column != "tolerance_mm"


def _by_default(column: str, settings: dict[str, Any]) -> bool:
    distance = f"hd{settings.get('percentile', 95):g}_mm"
    with_tolerance = column == "nsd" and settings.get("tolerance_mm") is not None
    return with_tolerance or column in ("dice", distance, "assd_mm", "lesion_dice", "lesion_f1", "correct")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _paired(pairs: Sequence[tuple[dict[str, float], ...]], metric: str, empty: str) -> dict[str, Any]:
    """Statistics of a metric over pairs of rows; those where both masks are empty twice count as ``evaluate`` counts them."""
    used = [pair for pair in pairs if empty == "one" or not all(row[EMPTY] for row in pair)]
    values = np.array([[row.get(metric, math.nan) for row in pair] for pair in used]).reshape(-1, 2)
    perfect = np.array([[row[EMPTY] for row in pair] for pair in used], dtype=bool).reshape(-1, 2) & np.isnan(values)
    decided = np.where(perfect, 1.0 if metric in LARGER_IS_BETTER else 0.0, values)
    decided = decided[~np.isnan(decided).any(axis=1)]
    loss = -decided if metric in LARGER_IS_BETTER else np.abs(decided)
    finite = values[np.isfinite(values).all(axis=1)]
    change = finite[:, 1] - finite[:, 0]
    low, high = mean_interval(change)
    return {
        "n": len(finite),
        "mean_a": float(finite[:, 0].mean()) if len(finite) else math.nan,
        "mean_b": float(finite[:, 1].mean()) if len(finite) else math.nan,
        "difference": float(change.mean()) if len(finite) else math.nan,
        "ci_low": low,
        "ci_high": high,
        "median_difference": float(np.median(change)) if len(finite) else math.nan,
        "p": _wilcoxon(change),
        "wins_a": int((loss[:, 0] < loss[:, 1]).sum()),
        "wins_b": int((loss[:, 1] < loss[:, 0]).sum()),
        "ties": int((loss[:, 0] == loss[:, 1]).sum()),
        "n_inf_a": int(np.isinf(values[:, 0]).sum()),
        "n_inf_b": int(np.isinf(values[:, 1]).sum()),
    }


def _wilcoxon(change: Any) -> float:
    """Two-sided p of the signed rank test, pairs without a difference left out; 1 where none differs, NaN without pairs."""
    from scipy.stats import wilcoxon

    if not len(change):
        return math.nan
    return float(wilcoxon(change).pvalue) if change.any() else 1.0


def _holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    corrected, highest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        corrected[i] = highest
    return corrected
