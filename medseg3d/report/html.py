"""A run or an evaluation as one HTML file: no server, no network, no paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from tqdm import tqdm

from medseg3d import __version__
from medseg3d.checks import ConfigError
from medseg3d.io import atomic_write
from medseg3d.processors import usable_cores
from medseg3d.report import scores
from medseg3d.report.case import case_section
from medseg3d.report.curves import line_chart
from medseg3d.report.groups import group_table
from medseg3d.report.lesions import lesion_table
from medseg3d.report.source import Source, read_source, without_paths
from medseg3d.task import Task

PARTS = {"css": "report.css", "table_js": "table.js", "slices_js": "slices.js", "viewer_js": "viewer.js"}
"""Placeholders of page.html and the files that fill them."""
MOST_LINES = 6
"""Lines in one chart; of more labels their mean alone is drawn."""
LEGEND = (
    '<p class="legend"><span><i class="swatch" style="background:#3da5ff"></i>reference</span>'
    '<span><i class="swatch" style="background:#ff9d00"></i>prediction</span>'
    '<span><i class="swatch" style="background:#fff"></i>both at the same place</span>'
    '<span><i class="swatch" style="background:#ffe04d"></i>ticks: the largest error</span></p>'
)
CONVENTION = (
    "Radiological convention: the patient's right (R) is on the left of axial and coronal pictures, anterior (A) on the left of "
    "sagittal ones; L left, P posterior, S superior, I inferior. Slices are counted from the feet, the back and the left."
)

FLAT = "In pictures without a scale one pixel counts as one mm."


def write_report(
    source: str | Path,
    output: str | Path,
    *,
    data: str | Path | None = None,
    images: str | Path | None = None,
    reference: str | Path | None = None,
    prediction: str | Path | None = None,
    task: Task | str | Path | None = None,
    channels: Sequence[str] | None = None,
    cases: int = 20,
    anonymous: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write what there is to see of a run or an evaluation into one HTML file that needs no network and no server.

    A case whose files cannot be read is said to have no picture, and does not end the report.

    Args:
        source: run directory, or folder with ``per_case.csv`` and ``summary.json``.
        output: the HTML file; a folder gets ``report.html``.
        data: folder of the data set: for a run where it is now (default: where it was trained), for an evaluation the
            data set with scans and references.
        images: for an evaluation, folder of the scans alone.
        reference: for an evaluation, folder of the reference label maps.
        prediction: for an evaluation, folder of the predicted label maps; default ``source``.
        task: for an evaluation, what the values mean, where its task does not come with medseg3d.
        channels: of the scans to show, by the task's names; the pictures show the first. Default: the first four.
        cases: how many cases get pictures and a viewer, the worst first.
        anonymous: number the cases instead of naming them.
        workers: cases at a time; None takes the processor's cores.
        progress: show a bar on a terminal.

    Returns:
        The file written.

    Raises:
        ConfigError: a source that is no run and no evaluation, an unknown channel, a folder that does not exist.
    """
    output = Path(output)
    if output.is_dir() or not output.suffix:
        output = output / "report.html"
    folders = {"data": data, "images": images, "reference": reference, "prediction": prediction}
    paths = {name: None if folder is None else Path(folder) for name, folder in folders.items()}
    found = read_source(Path(source), task=task, **paths)
    if found.task is not None and (unknown := [c for c in channels or () if c not in found.task.channels]):
        raise ConfigError(f"channel {unknown[0]!r} is none of {', '.join(found.task.channels)}")
    order = scores.case_scores(found.rows)
    names = {case: f"case {i:02d}" for i, case in enumerate(sorted(order), 1)} if anonymous else {}
    chosen = [case for case in order if case in found.cases][: max(0, cases)]

    def draw(rank: int) -> str:
        case, task = chosen[rank - 1], found.task
        assert task is not None  # a source without a task has no cases
        rows = [row for row in found.rows if str(row["case"]) == case]
        name = names.get(case, case)
        return case_section(found.cases[case], task, rows, rank=rank, name=name, channels=channels, anonymous=anonymous)

    with ThreadPoolExecutor(min(workers or usable_cores(), max(1, len(chosen)))) as pool:
        drawn = pool.map(draw, range(1, len(chosen) + 1))
        sections = list(tqdm(drawn, total=len(chosen), desc="report", disable=None if progress else True))
    body = _page(found, order, {case: f"case-{i}" for i, case in enumerate(chosen, 1)}, sections, names)
    return atomic_write(output, page(found.title, body))


def page(title: str, body: str) -> str:
    """A whole HTML file around a body, with its style and scripts inside."""
    own = files("medseg3d.report")
    parts = {name: (own / file).read_text(encoding="utf-8") for name, file in PARTS.items()}
    skeleton = Template((own / "page.html").read_text(encoding="utf-8"))
    return skeleton.substitute(parts, title=escape(title), body=body)


def _page(
    found: Source,
    order: Mapping[str, float],
    links: Mapping[str, str],
    sections: Sequence[str],
    names: Mapping[str, str],
) -> str:
    summary = found.summary
    rows = sorted(found.rows, key=lambda row: list(order).index(str(row["case"])))
    rows = [{**row, "case": names.get(str(row["case"]), row["case"])} for row in rows]
    parts = [f"<header><h1>{escape(found.title)}</h1>"]
    parts.append(
        f'<p class="soft">medseg3d {__version__}, {date.today().isoformat()}. For research; not a medical device.</p>'
    )
    if found.phantom:
        parts.append('<p class="phantom">Trained and scored on phantoms made by a computer, not on patients.</p>')
    parts += ["</header>", _tiles(summary, len(order))]
    if found.facts:
        facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in found.facts)
        parts.append(f'<dl class="facts">{facts}</dl>')
    parts += [f'<p class="soft">{escape(note)}</p>' for note in found.notes]
    if charts := _charts(found.curves):
        parts.append(f'<h2>Training</h2><div class="charts">{charts}</div>')
    if summary.get("confusion"):
        parts.append(
            f"<h2>Classes</h2>{scores.class_tables(summary, rows)}{group_table(summary, anonymous=bool(names))}"
        )
    elif rows:
        parts.append(f"<h2>Scores</h2>{scores.label_table(summary, rows)}{_method(summary)}")
        parts.append(lesion_table(summary))
        parts.append(group_table(summary, anonymous=bool(names)))
        parts.append(_excluded(summary, names))
        parts.append(f"<h2>All cases, worst first</h2>{scores.case_table(rows, _named(links, names))}")
    if sections:
        some = f" the {len(sections)} worst of {len(order)}" if len(sections) < len(order) else ""
        parts.append(f"<h2>Case by case,{some or ' worst first'}</h2>{LEGEND}")
        flat = found.task is not None and found.task.spatial_dims == 2
        parts.append(f'<p class="soft">{FLAT if flat else CONVENTION}</p>{"".join(sections)}')
    parts.append(
        '<footer class="soft"><p>The viewer shows scans reduced and compressed: it is for finding the way, not for measuring or '
        "diagnosis. All numbers come from the full label maps.</p></footer>"
    )
    return "\n".join(parts)


def _named(links: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {names.get(case, case): link for case, link in links.items()}


def _tiles(summary: Mapping[str, Any], scored: int) -> str:
    """What one wants to know first."""
    labels = summary.get("labels", {})
    tiles = [("cases scored", str(scored), False)] if scored else []
    if "accuracy" in summary:
        tiles.append(("accuracy", scores.shown(scores.number(summary["accuracy"])), False))
    for metric, value in summary.get("mean", {}).items():
        if metric == "dice" or (metric.startswith("hd") and metric != "hd_mm") or metric == "nsd":
            text = scores.shown(scores.number(value), metric)
            if text:
                tiles.append((f"mean {scores.name_of(metric)}", text, False))
    for key, name in (("n_miss", "labels missed"), ("n_fp", "labels invented")):
        if labels:
            count = sum(int(found.get(key) or 0) for found in labels.values())
            tiles.append((name, str(count), count > 0))
    if failed := summary.get("failed"):
        tiles.append(("cases failed", str(len(failed)), True))
    cells = (
        f"<div{' class=bad' if bad else ''}><b>{escape(text)}</b>{escape(name)}</div>" for name, text, bad in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>' if tiles else ""


def _charts(rows: Sequence[Mapping[str, float]]) -> str:
    dice = list(dict.fromkeys(k for row in rows for k in row if k.startswith("dice")))
    series = dice if 0 < len(dice) <= MOST_LINES else ["score"]
    return (
        line_chart(rows, ["loss"], title="Training loss")
        + line_chart(rows, series, title="Validation during training" + (", Dice" if dice else ""), unit_range=True)
        + line_chart(rows, ["learning_rate"], title="Learning rate")
    )


def _method(summary: Mapping[str, Any]) -> str:
    """How the numbers were made."""
    said = []
    if definition := summary.get("definition"):
        said.append(
            f"Surface distances: definition “{definition}”, version {summary.get('definition_version', '?')}, in mm."
        )
    tolerance = scores.number(summary.get("tolerance_mm"))
    if not math.isnan(tolerance):
        said.append(f"NSD at {tolerance:g} mm.")
    if any(
        scores.interval(v)
        for found in summary.get("labels", {}).values()
        for v in found.values()
        if isinstance(v, dict)
    ):
        said.append("Intervals: 95 % confidence of the mean, bootstrap over cases.")
    said.append("∞: a missed or invented label has no distance.")
    if summary.get("empty"):
        said.append(
            f"Both masks empty: {'counted as perfect' if summary['empty'] == 'one' else 'left out of the means'}."
        )
    return f'<p class="soft">{escape(" ".join(said))}</p>'


def _excluded(summary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Cases without scores: never dropped in silence."""
    items = []
    for finding in summary.get("failed", ()):
        name = names.get(str(finding.get("case")), "a case" if names else str(finding.get("case")))
        code = str(finding.get("code", ""))
        # An unexpected error's words are not ours, and any message may hold the name that was left out.
        silent = names or code == "E-UNEXPECTED"
        message = "" if silent else without_paths(str(finding.get("message", ""))) + " "
        items.append(f"<li>{escape(name)}: failed, {escape(message)}[{escape(code)}]</li>")
    for key, side in (("unmatched_reference", "prediction"), ("unmatched_prediction", "reference")):
        if lone := summary.get(key):
            listed = f"{len(lone)} cases" if names else ", ".join(map(str, lone))
            items.append(f"<li>without a {side}: {escape(listed)}</li>")
    return f"<h3>Not scored</h3><ul>{''.join(items)}</ul>" if items else ""
