"""Three planes of a scan as one picture, with contours, letters, and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg3d.report.scene import OBLIQUE_DEGREES, Plane, Scene, cut

REFERENCE, PREDICTION, BOTH = (0x3D, 0xA5, 0xFF), (0xFF, 0x9D, 0x00), (0xFF, 0xFF, 0xFF)
"""Blue, orange, and white where the two coincide: told apart with any colour vision, and in grey by their brightness."""
GAP = 6
"""Pixels between two planes."""
MARK = (0xFF, 0xE0, 0x4D)
Box = tuple[tuple[int, int], ...]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Contour:
    """A mask whose edge is drawn.

    Args:
        mask: ``(x, y, z)`` of labels; every change of value is an edge.
        colour: red, green, blue.
    """

    mask: NDArray
    colour: tuple[int, int, int]


def edges(cells: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the value changes towards the next column, and towards the next row."""
    across = np.zeros(cells.shape, dtype=bool)
    down = np.zeros(cells.shape, dtype=bool)
    across[:, :-1] = cells[:, 1:] != cells[:, :-1]
    down[:-1] = cells[1:] != cells[:-1]
    return across, down


def draw_contours(
    picture: NDArray[np.uint8], contours: Sequence[tuple[NDArray, tuple[int, int, int]]], *, agreement: bool = True
) -> None:
    """Draw the edges of masks two pixels wide, one on each side.

    Args:
        picture: ``(rows, columns, 3)``, changed in place.
        contours: masks ``(rows, columns)`` and their colours; of two edges at one place the later one is seen.
        agreement: edges that all masks share are white.
    """
    found = [edges(mask) for mask, _ in contours]
    shared = [np.logical_and.reduce([f[i] for f in found]) for i in (0, 1)] if agreement and len(found) > 1 else None
    layers = [
        ((across & ~shared[0], down & ~shared[1]) if shared else (across, down), colour)
        for (across, down), (_, colour) in zip(found, contours, strict=True)
    ]
    if shared:
        layers.append(((shared[0], shared[1]), BOTH))
    bands = [(_band(*edge), colour) for edge, colour in layers]
    halo = np.logical_or.reduce([_grown(band) for band, _ in bands])
    picture[halo] //= 2
    for band, colour in bands:
        picture[band] = colour


def _band(across: NDArray[np.bool_], down: NDArray[np.bool_]) -> NDArray[np.bool_]:
    band = across | down
    band[:, 1:] |= across[:, :-1]
    band[1:] |= down[:-1]
    return band


def _grown(band: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = band.copy()
    grown[1:] |= band[:-1]
    grown[:-1] |= band[1:]
    grown[:, 1:] |= band[:, :-1]
    grown[:, :-1] |= band[:, 1:]
    return grown


def crop(data: NDArray, box: Box) -> NDArray:
    """The part of ``(x, y, z)`` data in a box."""
    return data[tuple(slice(*side) for side in box)]


def plane_picture(
    scene: Scene,
    plane: Plane,
    point: Sequence[int],
    size: tuple[int, int],
    *,
    channel: str | None = None,
    box: Box | None = None,
    contours: Sequence[Contour] = (),
    agreement: bool = True,
) -> NDArray[np.uint8]:
    """One plane through a point, without letters.

    Args:
        scene: what is shown.
        plane: which of its planes.
        point: voxel that the plane goes through.
        size: rows and columns of the picture.
        channel: name; the first one by default. Of colour pictures all are shown.
        box: the part that is shown; everything by default.
        contours, agreement: as for ``draw_contours``.

    Shape:
        ``(rows, columns, 3)`` uint8.
    """
    box = box or tuple((0, n) for n in scene.shape)
    index = point[plane.normal] - box[plane.normal][0]
    names = list(scene.channels) if scene.colour else [channel or next(iter(scene.channels))]
    greys = []
    for name in names:
        values = cut(crop(scene.channels[name], box), plane, index)
        grey = Image.fromarray(np.ascontiguousarray(scene.shown[name].grey(values)))
        greys.append(np.asarray(grey.resize(size[::-1], Image.Resampling.BICUBIC)))
    picture = np.stack(greys * (3 // len(greys)), axis=-1)
    if contours:
        rows, columns = ((np.arange(n) + 0.5) / n for n in size)
        masks = []
        for contour in contours:
            cells = cut(crop(contour.mask, box), plane, index)
            nearest = np.ix_((rows * cells.shape[0]).astype(int), (columns * cells.shape[1]).astype(int))
            masks.append((cells[nearest], contour.colour))
        draw_contours(picture, masks, agreement=agreement)
    return picture


def three_planes(
    scene: Scene,
    point: Sequence[int],
    *,
    channel: str | None = None,
    box: Box | None = None,
    contours: Sequence[Contour] = (),
    agreement: bool = True,
    width: int = 1080,
    height: int = 400,
    marks: bool = True,
) -> NDArray[np.uint8]:
    """All planes through a point side by side, at one scale, with letters, slice numbers and a scale bar.

    Args:
        scene, point, channel, box, contours, agreement: as for ``plane_picture``.
        width: most columns of the picture.
        height: most rows of the picture.
        marks: show at the borders where the point is.

    Shape:
        ``(rows, columns, 3)`` uint8; a millimetre is as long across as down, whatever the voxels.
    """
    box = box or tuple((0, n) for n in scene.shape)
    planes = scene.planes
    extent = [(stop - start) * mm for (start, stop), mm in zip(box, scene.spacing_mm, strict=True)]
    across, down = sum(extent[p.across] for p in planes), max(extent[p.down] for p in planes)
    scale = min((width - GAP * (len(planes) - 1)) / across, height / down)
    sizes = [tuple(max(1, round(extent[a] * scale)) for a in (p.down, p.across)) for p in planes]
    tall = max(rows for rows, _ in sizes)
    whole = Image.new("RGB", (sum(c for _, c in sizes) + GAP * (len(planes) - 1), tall), "white")
    left = 0
    for plane, (rows, columns) in zip(planes, sizes, strict=True):
        pixels = plane_picture(
            scene, plane, point, (rows, columns), channel=channel, box=box, contours=contours, agreement=agreement
        )
        panel = Image.new("RGB", (columns, tall))
        top = (tall - rows) // 2
        panel.paste(Image.fromarray(pixels), (0, top))
        at = [(point[a] + 0.5 - box[a][0]) / (box[a][1] - box[a][0]) for a in (plane.across, plane.down)]
        spot = (columns * (1 - at[0]), top + rows * (1 - at[1]))
        _annotate(panel, scene, plane, point, scale, spot if marks else None)
        whole.paste(panel, (left, 0))
        left += columns + GAP
    return np.asarray(whole)


def _annotate(
    panel: Image.Image,
    scene: Scene,
    plane: Plane,
    point: Sequence[int],
    scale: float,
    spot: tuple[float, float] | None,
) -> None:
    draw = ImageDraw.Draw(panel)
    width, height = panel.size
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)

    def write(place: tuple[float, float], text: str, anchor: str, with_font: Font = small) -> None:
        left, top, right, bottom = draw.textbbox(place, text, with_font, anchor)
        draw.rectangle((left - 3, top - 3, right + 3, bottom + 3), "black")  # outlined letters blur on white bone
        draw.text(place, text, "white", with_font, anchor)

    if spot is not None:
        tick = 12
        for ends in (
            ((spot[0], 0), (spot[0], tick)),
            ((spot[0], height - tick), (spot[0], height)),
            ((0, spot[1]), (tick, spot[1])),
            ((width - tick, spot[1]), (width, spot[1])),
        ):
            draw.line(ends, MARK, 2)
    if scene.letters:
        left, right, top, bottom = tuple(plane.letters)
        write((5, height / 2), left, "lm", font)
        write((width - 5, height / 2), right, "rm", font)
        write((width / 2, 4), top, "mt", font)
        write((width / 2, height - 4), bottom, "mb", font)
    number, count = point[plane.normal] + 1, scene.shape[plane.normal]
    if count > 1:
        tilted = " (oblique)" if scene.oblique > OBLIQUE_DEGREES else ""
        write((5, 4), f"{plane.name}{tilted} {number}/{count}", "lt")
    if scene.letters:
        bar = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm * scale <= width * 0.3), None)
        if bar:
            line = (width - 6 - bar * scale, height - 8, width - 6, height - 8)
            write((width - 6, height - 14), f"{bar} mm", "rb")
            draw.line(line, "black", 4)
            draw.line(line, "white", 2)


def view_box(scene: Scene, box: Box, *, share: float = 0.4, margin_mm: float = 15, least_mm: float = 60) -> Box:
    """The part of a scan to show around a box: some surroundings, never a postage stamp.

    Args:
        scene: what is shown.
        box: around what matters.
        share: of the box's size that is added on each side.
        margin_mm: least that is added on each side.
        least_mm: least size of what is shown.
    """
    out = []
    for (start, stop), mm, n in zip(box, scene.spacing_mm, scene.shape, strict=True):
        size = stop - start
        wanted = max(size + 2 * max(share * size, margin_mm / mm), least_mm / mm)
        first = round((start + stop - wanted) / 2)
        out.append((max(0, first), min(n, first + int(np.ceil(wanted)))))
    return tuple(out)
