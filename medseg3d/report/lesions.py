"""The scores lesion by lesion: how many were found, and how well."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from medseg3d.metrics.summary import LESION_COUNTS
from medseg3d.report.scores import exact, interval, name_of, number, shown, table


def lesion_table(summary: Mapping[str, Any]) -> str:
    """One row per label: lesions, found, missed and false ones, and the means over cases; nothing where none were scored."""
    rule, labels = summary.get("lesions"), summary.get("labels") or {}
    if not rule or not any("n_lesions" in found for found in labels.values()):
        return ""
    metrics = [m for m in next(iter(labels.values())) if m.startswith("lesion_")]
    heads = ["label", "lesions", "found", "missed", "false", *(f"{name_of(m)}<br>mean [95 % CI]" for m in metrics)]
    body = []
    for label, found in labels.items():
        total, hit, false = (int(found.get(key) or 0) for key in LESION_COUNTS)
        cells = [f'<td class="text">{escape(label)}</td>', _count(total), _count(hit)]
        cells += [_count(total - hit, kind="miss"), _count(false, kind="fp")]
        for metric in metrics:
            values = found.get(metric) or {}
            mean, limits = number(values.get("mean")), interval(values)
            bounds = f" [{shown(limits[0], metric)}, {shown(limits[1], metric)}]" if limits else ""
            cells.append(f'<td data-value="{exact(mean)}">{shown(mean, metric)}{bounds}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<h3>Lesion by lesion</h3><div class="wide">{table(heads, body, kind="sortable")}</div>'
        f'<p class="soft">{escape(_rule_words(rule))}</p>'
    )


def _count(count: int, *, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind and count else ""
    return f'<td{attribute} data-value="{count}">{count}</td>'


def _rule_words(rule: Mapping[str, Any]) -> str:
    """The rule that the lesions were told apart by."""
    dilation = int(number(rule.get("dilation_voxels")))
    near = f"joined and found within {dilation} voxels" if dilation else "apart where they do not touch"
    return (
        f"Lesions are connected components, {near}; those of the reference up to {number(rule.get('smallest_mm3')):g} mm³ do not "
        f"count; a missed or false one counts as Dice 0 and {number(rule.get('penalty_mm')):g} mm."
    )
