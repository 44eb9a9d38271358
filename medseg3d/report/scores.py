"""The scores as tables: per label with intervals, per case sortable, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medseg3d.metrics.summary import LESION_COUNTS
from medseg3d.report.curves import strip
from medseg3d.report.focus import distance_of

STATUS_WORDS = {"ok": "", "miss": "missed", "fp": "invented", "tn": "both empty"}
NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "NSD",
    "assd_mm": "ASSD mm",
    "volume_reference_ml": "reference ml",
    "volume_prediction_ml": "prediction ml",
    "difference_ml": "difference ml",
    "n_lesions_found": "lesions found",
    "lesion_dice": "lesion Dice",
    "lesion_f1": "lesion F1",
}
WORST_LABELS = 12
"""Labels listed under a case's picture; the table of all cases has the rest."""
MANY_LABELS = 14
"""Labels above which their table scrolls."""


def number(value: Any) -> float:
    """What JSON and CSV hold as a float: ``inf`` may be text, NaN null."""
    try:
        return math.nan if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return math.nan


def shown(value: float, column: str = "dice") -> str:
    """A number as people read it: empty for NaN, ∞ for an infinite distance."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    digits = 3 if not column.endswith(("_mm", "_ml")) else 1 if abs(value) >= 100 else 2
    return f"{value:.{digits}f}"


def exact(value: float) -> str:
    """A number as the sorting script reads it."""
    return "" if math.isnan(value) else "Infinity" if value == math.inf else f"{value:.6g}"


def table(heads: Sequence[str], rows: Sequence[str], *, text: int = 1, kind: str = "", ident: str = "") -> str:
    """A table whose first ``text`` columns hold words; ``kind`` ``sortable`` makes the heads buttons."""
    sortable = kind == "sortable"
    cells = "".join(
        f'<th scope="col"{" class=text" if i < text else ""}>{f"<button type=button>{h}</button>" if sortable else h}</th>'
        for i, h in enumerate(heads)
    )
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' id="{ident}"' if ident else ""
    return f"<table{attributes}><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def case_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean Dice of each case over its labels, worst first; a case without any Dice comes last."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(str(row["case"]), [])
        if "correct" in row:
            found[str(row["case"])].append(number(row["correct"]))
        elif row.get("status") != "tn" and not math.isnan(number(row.get("dice"))):
            found[str(row["case"])].append(number(row["dice"]))
    means = {case: sum(values) / len(values) if values else math.nan for case, values in found.items()}
    return dict(sorted(means.items(), key=lambda item: (math.isnan(item[1]), item[1], item[0])))


def distance_column(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The Hausdorff percentile that the table has, such as ``hd95_mm``."""
    keys = [k for k in (rows[0] if rows else ()) if k.startswith("hd") and k.endswith("_mm")]
    return next((k for k in keys if k != "hd_mm"), keys[0] if keys else None)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns worth showing: those that hold numbers."""
    distance = distance_column(rows)
    wanted = [
        "dice",
        *([distance] if distance else []),
        "nsd",
        "assd_mm",
        "volume_reference_ml",
        "volume_prediction_ml",
    ]
    found = [c for c in wanted if any(not math.isnan(number(row.get(c))) for row in rows)]
    found += ["difference_ml"] if "volume_prediction_ml" in found else []
    return found + (["n_lesions_found", "lesion_dice"] if rows and "n_lesions" in rows[0] else [])


def name_of(column: str) -> str:
    if column.startswith("lesion_hd"):
        return f"lesion {name_of(column.removeprefix('lesion_'))}"
    return NAMES.get(column) or column.removesuffix("_mm").upper() + " mm"


def value_of(row: Mapping[str, Any], column: str) -> float:
    if column == "difference_ml":
        return number(row.get("volume_prediction_ml")) - number(row.get("volume_reference_ml"))
    return number(row.get(column))


def interval(found: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % confidence interval that a statistic carries, if any."""
    low, high = number(found.get("ci_low")), number(found.get("ci_high"))
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def label_table(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """One row per label: counts, mean with interval, median, and every case as a point."""
    labels: Mapping[str, Any] = summary.get("labels", {})
    if not labels:
        return ""
    distance = distance_column(rows)
    metrics = [m for m in ("dice", distance, "nsd") if m and any(m in found for found in labels.values())]
    low = 0.5 if all(not number(row.get("dice")) < 0.5 for row in rows) else 0.0
    heads = ["label", "cases", "missed", "invented"]
    for metric in metrics:
        bounded = any(interval(found.get(metric) or {}) for found in labels.values())
        heads += [f"{name_of(metric)}<br>mean{' [95 % CI]' if bounded else ''}", "median"]
        heads += [f"every case, {low:g} to 1"] if metric == "dice" else []
    body = []
    for label, found in labels.items():
        cells = [f'<td class="text">{escape(label)}</td>', f"<td>{found.get('n_total', '')}</td>"]
        for key, kind in (("n_miss", "miss"), ("n_fp", "fp")):
            count = found.get(key, "")
            cells.append(f'<td class="{kind}">{count}</td>' if count else f"<td>{count}</td>")
        for metric in metrics:
            values = found.get(metric) or {}
            mean, limits = number(values.get("mean")), interval(values)
            said = shown(mean, metric) + (
                f" [{shown(limits[0], metric)}, {shown(limits[1], metric)}]" if limits else ""
            )
            infinite = values.get("n_inf")
            said += f" (+ {infinite} ∞)" if infinite else ""
            cells += [f'<td data-value="{exact(mean)}">{said}</td>', _cell(number(values.get("median")), metric)]
            if metric == "dice":
                points = [(str(r["case"]), number(r.get("dice"))) for r in rows if r.get("label") == label]
                cells.append(f'<td data-value="{exact(mean)}">{strip(points, mean, limits, low=low)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="{"scroll" if len(labels) > MANY_LABELS else "wide"}">{table(heads, body, kind="sortable")}</div>'
    )


def case_table(rows: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> str:
    """Every case and label, sortable, with a filter; rows of the worst cases first.

    Args:
        rows: of per_case.csv, in the order wanted.
        links: case -> id of its section in the page.
    """
    columns, remarks = columns_of(rows), _has_remarks(rows)
    body = []
    for row in rows:
        case, label, status = str(row["case"]), str(row.get("label", "")), str(row.get("status", ""))
        named = f'<a href="#{links[case]}">{escape(case)}</a>' if case in links else escape(case)
        cells = [f'<td class="text" data-value="{escape(case)}">{named}</td><td class="text">{escape(label)}</td>']
        if remarks:
            cells.append(f'<td class="text {escape(status)}">{escape(STATUS_WORDS.get(status, status))}</td>')
        cells += [_cell_of(row, column) for column in columns]
        body.append(f'<tr data-label="{escape(label)}">{"".join(cells)}</tr>')
    labels = list(dict.fromkeys(str(row.get("label", "")) for row in rows))
    options = "".join(f"<option>{escape(label)}</option>" for label in labels)
    choice = (
        '<p class="filter-line"><label>label <select class="filter" data-table="cases"><option value="">all</option>'
        f"{options}</select></label></p>"
        if len(labels) > 1
        else ""
    )
    words = ["case", "label", *(["remark"] if remarks else [])]
    whole = table([*words, *map(name_of, columns)], body, text=len(words), kind="sortable", ident="cases")
    return f'{choice}<div class="scroll">{whole}</div>'


def one_case_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The labels of one case, worst first."""
    columns = columns_of(rows)
    if not columns:
        return ""

    def badness(row: Mapping[str, Any]) -> tuple[float, float]:
        dice, distance = number(row.get("dice")), distance_of(row)
        return (2 if math.isnan(dice) else dice, 0 if math.isnan(distance) else -distance)

    few, remarks = len(rows) <= WORST_LABELS, _has_remarks(rows)
    listed = rows if few else sorted(rows, key=badness)[:WORST_LABELS]
    body = []
    for row in listed:
        status = str(row.get("status", ""))
        cells = [f'<td class="text">{escape(str(row.get("label", "")))}</td>']
        if remarks:
            cells.append(f'<td class="text {escape(status)}">{escape(STATUS_WORDS.get(status, status))}</td>')
        cells += [_cell_of(row, column) for column in columns]
        body.append(f"<tr>{''.join(cells)}</tr>")
    more = "" if few else f'<p class="soft">and {len(rows) - WORST_LABELS} more in the table of all cases</p>'
    words = ["label", *([""] if remarks else [])]
    return f'<div class="wide">{table([*words, *map(name_of, columns)], body, text=len(words))}</div>{more}'


def class_tables(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The confusion matrix of a classification, and its cases, the wrong ones first."""
    confusion: Mapping[str, Mapping[str, int]] = summary.get("confusion", {})
    heads = ["reference \\ predicted", *map(escape, next(iter(confusion.values()), {}))]
    matrix = [
        f'<tr><td class="text">{escape(name)}</td>{"".join(f"<td>{n}</td>" for n in row.values())}</tr>'
        for name, row in confusion.items()
    ]
    body = []
    for row in rows:
        right = number(row.get("correct")) == 1
        words = "".join(
            f'<td class="text">{escape(str(row.get(k, "")))}</td>' for k in ("case", "reference", "predicted")
        )
        body.append(f'<tr>{words}<td class="text {"" if right else "miss"}">{"" if right else "wrong"}</td></tr>')
    cases = table(["case", "reference", "predicted", "remark"], body, text=4, kind="sortable", ident="cases")
    return f'{table(heads, matrix)}<h2>All cases</h2><div class="scroll">{cases}</div>'


def _has_remarks(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(STATUS_WORDS.get(str(row.get("status", "")), "?") for row in rows)


def _cell_of(row: Mapping[str, Any], column: str) -> str:
    if column != "n_lesions_found":
        return _cell(value_of(row, column), column)
    total, found, false = (int(number(row.get(key))) for key in LESION_COUNTS)
    wrong = f', <span class="fp">{false} false</span>' if false else ""
    kind = ' class="miss"' if found < total else ""
    return f'<td data-value="{found}"><span{kind}>{found} of {total}</span>{wrong}</td>'


def _cell(value: float, column: str) -> str:
    sign = "+" if column == "difference_ml" and value > 0 else ""
    return f'<td data-value="{exact(value)}">{sign}{shown(value, column)}</td>'
