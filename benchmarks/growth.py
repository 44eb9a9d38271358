"""How prediction grows: a plot and the slopes, from what ``python -m benchmarks.predict --only growth --json FILE`` measured.

    python -m benchmarks.growth FILE [--svg docs/growth.svg]

Windows are linear in voxels and in classes, and a straight line says how steep; one pass over the volume has a quadratic part,
for its attention sees keys from everywhere, and a parabola says how large it is.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from medseg3d.report.curves import line_chart

STYLE = """<style>text{font:11px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ddd}
polyline{fill:none;stroke-width:2}</style><rect width="100%" height="100%" fill="white"/>"""
SIDES = {"bf16": "windows", "whole_bf16": "one pass"}


def points(figures: dict[str, float], pattern: str) -> dict[float, float]:
    """Value by size, of the keys that a pattern with one group matches."""
    found = ((re.fullmatch(pattern, key), value) for key, value in figures.items())
    return dict(sorted((float(match[1]), value) for match, value in found if match))


def slopes(figures: dict[str, float]) -> dict[str, float]:
    """Seconds and bytes per voxel and per class, and the part that is quadratic in voxels."""
    out = {}
    for side, name in SIDES.items():
        seconds = points(figures, rf"growth_{side}_([\d.]+)_megavoxels_seconds")
        sizes, times = np.array(list(seconds)), np.array(list(seconds.values()))
        square, line, _ = np.polyfit(sizes, times, 2)
        key = name.replace(" ", "_")
        out[f"{key}_seconds_per_megavoxel"] = float(np.polyfit(sizes, times, 1)[0])
        out[f"{key}_quadratic_share_at_{sizes[-1]:g}_megavoxels"] = float(
            square * sizes[-1] ** 2 / (square * sizes[-1] ** 2 + line * sizes[-1])
        )
        peaks = points(figures, rf"growth_{side}_([\d.]+)_megavoxels_peak_gb")
        out[f"{key}_bytes_per_voxel"] = float(np.polyfit(list(peaks), list(peaks.values()), 1)[0] * 1000)
    seconds = points(figures, r"growth_([\d]+)_classes_seconds")
    out["seconds_per_class"] = float(np.polyfit(list(seconds), list(seconds.values()), 1)[0])
    return out


def chart(figures: dict[str, float], *, what: str, title: str) -> str:
    """A line per side over megavoxels, as an ``svg`` element by itself."""
    rows: dict[float, dict[str, float]] = {}
    for side, name in SIDES.items():
        for size, value in points(figures, rf"growth_{side}_([\d.]+)_megavoxels_{what}").items():
            rows.setdefault(size, {"megavoxels": size})[name] = value
    drawn = line_chart([rows[s] for s in sorted(rows)], list(SIDES.values()), x="megavoxels", title=title)
    return drawn[drawn.index("<svg") : drawn.index("</svg>") + 6]


def class_chart(figures: dict[str, float]) -> str:
    """Seconds over the number of classes, windows, as an ``svg`` element by itself."""
    found = points(figures, r"growth_([\d]+)_classes_seconds")
    rows = [{"classes": size, "windows": value} for size, value in found.items()]
    drawn = line_chart(rows, ["windows"], x="classes", title="seconds by classes (windows)")
    return drawn[drawn.index("<svg") : drawn.index("</svg>") + 6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what benchmarks.predict wrote with --json")
    parser.add_argument("--svg", type=Path, help="write the plot here")
    options = parser.parse_args()
    figures = {k: v for k, v in json.loads(options.file.read_text()).items() if k.startswith("growth_")}
    for key, value in slopes(figures).items():
        print(f"  {key:50} {value:10.4g}")
    if options.svg is not None:
        titles = {"seconds": "seconds (blue: windows, orange: one pass)", "peak_gb": "peak memory, GB (the same)"}
        charts = [chart(figures, what=what, title=title) for what, title in titles.items()] + [class_chart(figures)]
        placed = "".join(f'<g transform="translate({i * 450})">{c}</g>' for i, c in enumerate(charts))
        sized = placed.replace('<svg class="chart"', '<svg width="440" height="236"')
        options.svg.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="1350" height="236">{STYLE}{sized}</svg>\n'
        )


if __name__ == "__main__":
    main()
