"""A scan and its label maps to scroll through in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.io import read_volume
from medseg3d.io.rules import require_grid
from medseg3d.report.case import data_element, stage
from medseg3d.report.html import page
from medseg3d.report.planes import PREDICTION, REFERENCE, Contour, three_planes
from medseg3d.report.scene import make_scene
from medseg3d.report.sprites import viewer_data

HEIGHT = 720
COLOURMAPS = ("blue", "warm")
"""What ipyniivue calls colours near those of our own contours: of the reference, and of the prediction."""


class Viewer:
    """Our own viewer as a notebook shows it: a page in a frame."""

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html)}" style="width:100%;height:{HEIGHT}px;border:0"></iframe>'


def view(
    image: str | Path,
    *,
    reference: str | Path | None = None,
    prediction: str | Path | None = None,
    labels: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """Show a scan with its label maps in a notebook.

    Args:
        image: file of the scan.
        reference: file of a label map on its grid.
        prediction: file of another.
        labels: ``name: values``; by default every value is a label of its own.

    Returns:
        The ipyniivue widget where ipyniivue is installed, which reads the files whole; else the viewer of the reports.

    Raises:
        InputError: a file that cannot be read, or label maps on another grid.
    """
    maps = {name: path for name, path in (("reference", reference), ("prediction", prediction)) if path is not None}
    try:
        from ipyniivue import NiiVue
    except ImportError:
        return _own(image, maps, labels)
    colours = dict(zip(("reference", "prediction"), COLOURMAPS, strict=True))
    widget = NiiVue()
    layers = [{"path": str(path), "colormap": colours[name], "opacity": 0.5} for name, path in maps.items()]
    widget.load_volumes([{"path": str(image)}, *layers])
    return widget


def _own(image: str | Path, maps: Mapping[str, str | Path], labels: Mapping[str, Sequence[int]] | None) -> Viewer:
    scan = read_volume(image, nonfinite="zero")
    volumes = {name: read_volume(path, labels=True) for name, path in maps.items()}
    for name, volume in volumes.items():
        require_grid(volume.grid, scan.grid, what=f"the {name}", than="the scan", file=Path(maps[name]))
    scene = make_scene(scan, [f"channel {i}" for i in range(scan.channels)], **volumes)
    if labels is None:
        values = sorted({int(v) for volume in volumes.values() for v in np.unique(volume.data)} - {0})
        labels = {str(v): [v] for v in values}
    point = tuple(n // 2 for n in scene.shape)
    drawn = (("reference", scene.reference, REFERENCE), ("prediction", scene.prediction, PREDICTION))
    contours = [Contour(data, colour) for _, data, colour in drawn if data is not None]
    pixels = three_planes(scene, point, contours=contours, marks=False)
    data = data_element(1, viewer_data(scene, point, labels, budget=2_000_000))
    return Viewer(page("scan", f'<section class="case" id="case-1">{stage(1, pixels, "Three planes")}{data}</section>'))
