"""The scores of subgroups, such as the folds of a cross-validation: a line each."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from medseg3d.report.scores import exact, name_of, number, shown, table


def group_table(summary: Mapping[str, Any], *, anonymous: bool = False) -> str:
    """Each subgroup's cases and mean scores; nothing where the cases were not grouped.

    Args:
        summary: of an evaluation.
        anonymous: number the groups, whose names may tell a site; folds keep theirs.
    """
    by: Mapping[str, Any] = summary.get("by") or {}
    groups: Mapping[str, Any] = by.get("groups") or {}
    if not groups:
        return ""
    column = str(by.get("column", "group"))
    hidden = anonymous and column != "fold"
    first = next(iter(groups.values()))
    metrics = [m for m in first.get("mean", {}) if m in ("dice", "nsd") or (m.startswith("hd") and m != "hd_mm")]
    labels = list(first.get("labels", {}))
    heads = ["group" if hidden else escape(column), "cases"]
    heads += [f"mean {name_of(metric)}" for metric in metrics] + [f"Dice {escape(label)}" for label in labels]
    body = []
    for i, (value, found) in enumerate(groups.items(), start=1):
        cells = [f'<td class="text">{i if hidden else escape(str(value))}</td><td>{found.get("n_cases", "")}</td>']
        numbers = [(number(found.get("mean", {}).get(metric)), metric) for metric in metrics]
        if not metrics and "accuracy" in found:
            numbers.append((number(found["accuracy"]), "dice"))
        numbers += [(number((found["labels"][label].get("dice") or {}).get("mean")), "dice") for label in labels]
        cells += [f'<td data-value="{exact(v)}">{shown(v, metric)}</td>' for v, metric in numbers]
        body.append(f"<tr>{''.join(cells)}</tr>")
    if not metrics and "accuracy" in first:
        heads.append("accuracy")
    title = "By group" if hidden else f"By {escape(column)}"
    return f'<h3>{title}</h3><div class="wide">{table(heads, body, kind="sortable")}</div>'
