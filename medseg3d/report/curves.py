"""Curves and strips of points as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito (2008), told apart with any colour vision."""
DASHES = ("", "6 3", "2 2", "8 3 2 3", "", "6 3", "2 2")
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 24, 34


def line_chart(
    rows: Sequence[Mapping[str, float]],
    series: Sequence[str],
    *,
    x: str = "epoch",
    title: str,
    unit_range: bool = False,
    width: int = 440,
    height: int = 230,
) -> str:
    """Lines over epochs, with axes and a legend.

    Args:
        rows: of metrics.csv; what is missing in a row is left out of its line.
        series: columns to draw.
        x: column along the bottom.
        title: of the chart.
        unit_range: the scale runs from 0 to 1; else from 0, or the lowest value below it, to the highest.
        width: of the picture.
        height: of the picture.

    Returns:
        An ``svg`` element; empty text where there is nothing to draw.
    """
    lines = {
        name: [(row[x], row[name]) for row in rows if x in row and math.isfinite(row.get(name, math.nan))]
        for name in series
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs = [p[0] for points in lines.values() for p in points]
    ys = [p[1] for points in lines.values() for p in points]
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0] if unit_range else nice_ticks(min(0.0, *ys), max(ys))
    x_ticks = [t for t in nice_ticks(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    low, high, first, last = ticks[0], ticks[-1], min(xs), max(*xs, min(xs) + 1)
    inner_w, inner_h = width - LEFT - RIGHT, height - TOP - BOTTOM

    def at(px: float, py: float) -> tuple[float, float]:
        return LEFT + (px - first) / (last - first) * inner_w, TOP + (high - py) / (high - low) * inner_h

    parts = [f'<text class="title" x="{LEFT}" y="12">{escape(title)}</text>']
    for tick in ticks:
        y = at(first, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        px = at(tick, low)[0]
        parts.append(f'<text x="{px:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{width - RIGHT}" y="{height - 4}" text-anchor="end">{escape(x)}</text>')
    for i, points in enumerate(lines.values()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        places = [at(*p) for p in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-dasharray="{dash}"/>')
        if len(points) <= 40:
            parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.2" fill="{colour}"/>' for px, py in places]
    names = "; ".join(f"{name} ends at {points[-1][1]:.3g}" for name, points in lines.items())
    svg = (
        f'<svg class="chart" viewBox="0 0 {width} {height + 6}" role="img" aria-label="{escape(title)}: {escape(names)}">'
        f"{''.join(parts)}</svg>"
    )
    return f"<figure>{svg}<figcaption>{_legend(list(lines))}</figcaption></figure>"


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    return " ".join(
        f'<span class="key"><svg viewBox="0 0 26 8" width="26" height="8"><line x1="0" x2="26" y1="4" y2="4" '
        f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-dasharray="{DASHES[i % len(DASHES)]}"/></svg>'
        f"{escape(name.removeprefix('dice_'))}</span>"
        for i, name in enumerate(names)
    )


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``."""
    if not high > low:
        high = low + 1
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def strip(
    points: Sequence[tuple[str, float]],
    mean: float,
    interval: tuple[float, float] | None,
    *,
    low: float = 0.0,
    high: float = 1.0,
    width: int = 150,
) -> str:
    """Every case as a point on a line from ``low`` to ``high``, with the mean and its interval.

    Args:
        points: name of the case and value.
        mean: drawn as a bar across.
        interval: its confidence limits.
        low: left end.
        high: right end.
        width: of the picture.
    """

    def at(value: float) -> float:
        return 6 + (min(max(value, low), high) - low) / ((high - low) or 1) * (width - 12)

    parts = [f'<line class="grid" x1="6" x2="{width - 6}" y1="14" y2="14"/>']
    parts += [
        f'<line class="grid" x1="{at(t):.1f}" x2="{at(t):.1f}" y1="10" y2="18"/>' for t in (low, (low + high) / 2, high)
    ]
    for i, (name, value) in enumerate(points):
        if math.isfinite(value):
            y = 14 + (i % 3 - 1) * 3
            parts.append(
                f'<circle cx="{at(value):.1f}" cy="{y}" r="3"><title>{escape(name)}: {value:.3g}</title></circle>'
            )
    if interval is not None and all(map(math.isfinite, interval)):
        parts.append(f'<line class="interval" x1="{at(interval[0]):.1f}" x2="{at(interval[1]):.1f}" y1="25" y2="25"/>')
    if math.isfinite(mean):
        parts.append(f'<line class="mean" x1="{at(mean):.1f}" x2="{at(mean):.1f}" y1="4" y2="28"/>')
    size = f'viewBox="0 0 {width} 30" width="{width}" height="30"'
    return f'<svg class="strip" {size} role="img" aria-label="all cases">{"".join(parts)}</svg>'
