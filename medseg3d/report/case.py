"""The section of one case: a picture of the largest error, its scores, and the viewer."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg3d.checks import InputError
from medseg3d.io.rules import require_grid
from medseg3d.report import scores
from medseg3d.report.focus import Focus, distance_of, find_focus
from medseg3d.report.planes import PREDICTION, REFERENCE, Contour, three_planes, view_box
from medseg3d.report.scene import Scene, make_scene
from medseg3d.report.source import CaseFiles, why
from medseg3d.report.sprites import viewer_data
from medseg3d.task import Task

log = logging.getLogger(__name__)

CASE_BYTES = 295_000
"""Most bytes of a case in the page, with picture, table and viewer."""
PICTURE_BYTES = 100_000
MOST_CHANNELS = 4


def case_section(
    files: CaseFiles,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    rank: int,
    name: str,
    channels: Sequence[str] | None = None,
    anonymous: bool = False,
) -> str:
    """One case as HTML, at most ``CASE_BYTES`` long; what cannot be read is said.

    Args:
        files: the scan and its label maps.
        task: what their channels and values mean.
        rows: the case's rows of per_case.csv.
        rank: its place among the worst, from 1.
        name: shown as its title.
        channels: to show; the first four by default.
        anonymous: say of what went wrong the code alone: a message may hold the case's name.
    """
    start = f'<section class="case" id="case-{rank}"><h3><span class="number">{rank}.</span> {escape(name)}</h3>'
    end = f"{scores.one_case_table(rows)}</section>"
    try:
        scene, focus = _scene(files, task, channels, rows)
        shown, data = _picture_and_data(scene, focus, task, rows, rank, CASE_BYTES - len((start + end).encode()))
    except InputError as error:
        log.error("%s: %s", name, error)
        reason = error.finding.code if anonymous else why(error)
        return f'{start}<p class="soft">No picture: {escape(reason)}</p>{end}'
    except Exception:  # whatever it is, the other cases are shown; the trace goes to the log
        log.exception("%s", name)
        return f'{start}<p class="soft">No picture: an unexpected error</p>{end}'
    return start + shown + end + data


def _picture_and_data(
    scene: Scene, focus: Focus, task: Task, rows: Sequence[Mapping[str, Any]], rank: int, budget: int
) -> tuple[str, str]:
    """What stands above the table, and the viewer's data, in ``budget`` bytes."""
    contours = [
        Contour(np.isin(data, task.labels[focus.label]), colour)
        for data, colour in ((scene.reference, REFERENCE), (scene.prediction, PREDICTION))
        if data is not None
    ]
    box = view_box(scene, focus.box)
    pixels = three_planes(scene, focus.point, box=box, contours=contours, width=1200, height=440)
    picture = stage(rank, pixels, f"Planes through the largest error of {focus.label}, with contours")
    shown = f"<p>{escape(_sentence(focus, rows))}</p>{picture}"
    left = budget - len((shown + data_element(rank, "")).encode())
    return shown, data_element(rank, viewer_data(scene, focus.point, task.labels, focus=focus.label, budget=left))


def stage(rank: int, pixels: NDArray[np.uint8], alt: str) -> str:
    """A picture that a click turns into the viewer."""
    return (
        f'<div class="stage" data-for="data-{rank}"><img src="data:image/jpeg;base64,{_jpeg(pixels)}" alt="{escape(alt)}">'
        '<button type="button" hidden>Scroll through the slices</button><div class="viewer" hidden></div></div>'
    )


def data_element(rank: int, data: str) -> str:
    """The viewer's data of the stage of the same rank."""
    return f'<script type="application/json" id="data-{rank}">{data}</script>'


def _scene(
    case: CaseFiles, task: Task, channels: Sequence[str] | None, rows: Sequence[Mapping[str, Any]]
) -> tuple[Scene, Focus]:
    image = case.image()
    reference, prediction = case.pair()
    require_grid(image.grid, reference.grid, what="the scan", than="its labels")
    scene = make_scene(
        image, list(task.channels), reference=reference, prediction=prediction, ct=task.intensity == "ct" or None
    )
    if not scene.colour:
        scene = scene.with_channels(channels or list(task.channels)[:MOST_CHANNELS])
    assert scene.reference is not None and scene.prediction is not None  # both were given
    return scene, find_focus(scene.reference, scene.prediction, task.labels, scene.spacing_mm, rows)


def _sentence(focus: Focus, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the picture shows."""
    if focus.status == "tn":
        return f"{focus.label}: empty in reference and prediction."
    if focus.status == "equal":
        return f"{focus.label}: reference and prediction are the same."
    if focus.status in ("miss", "fp"):
        what = (
            "missed: the prediction has none of it"
            if focus.status == "miss"
            else "invented: the reference has none of it"
        )
        return f"{focus.label} was {what}."
    row = next((row for row in rows if row.get("label") == focus.label), {})
    distance = distance_of(row)
    far = f" (Hausdorff distance {scores.shown(distance, 'hd_mm')} mm)" if math.isfinite(distance) else ""
    return f"Through the largest error of {focus.label}{far}."


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    """A picture as base64 text, in full colour resolution so that contours stay sharp."""
    for quality in (88, 75, 60, 40, 20):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
        if file.tell() * 4 / 3 <= PICTURE_BYTES:
            break
    return base64.b64encode(file.getvalue()).decode("ascii")
