"""The colour of each label, and the files that tell ITK-SNAP and 3D Slicer about it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

from medseg3d.io.atomic import atomic_write
from medseg3d.io.segments import Segment

LABEL_COLOURS = (
    (0xE6, 0x9F, 0x00),
    (0x56, 0xB4, 0xE9),
    (0xF0, 0xE4, 0x42),
    (0x00, 0x9E, 0x73),
    (0xCC, 0x79, 0xA7),
    (0xD5, 0x5E, 0x00),
)
"""Of the labels 1 to 6: Okabe and Ito (2008), told apart with any colour vision."""
GOLDEN_RATIO = 0.618033988749895
"""Steps of it around the colour circle never come near an earlier place."""
FIRST_HUE = 0.4
SHADES = ((0.6, 0.98), (0.88, 0.77), (0.64, 0.76))
"""Saturation and brightness that the labels from 7 on take in turn; chosen so that the first 14 labels lie at least 24 apart
in CIELab and the first 24 at least 18."""
ITKSNAP_HEADER = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def label_colour(value: int) -> tuple[int, int, int]:
    """The colour of a label value from 1 on: red, green and blue, 0 to 255; the same in every file and picture."""
    if 1 <= value <= len(LABEL_COLOURS):
        return LABEL_COLOURS[value - 1]
    turn = value - len(LABEL_COLOURS) - 1
    saturation, brightness = SHADES[turn % len(SHADES)]
    red, green, blue = colorsys.hsv_to_rgb((FIRST_HUE + turn * GOLDEN_RATIO) % 1, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def palette() -> list[int]:
    """Red, green and blue of the values 0 (black) to 255, for indexed pictures."""
    return [part for value in range(256) for part in (label_colour(value) if value else (0, 0, 0))]


def write_colours(segments: Sequence[Segment], folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write the colours of label maps for viewers: ``NAME.label.txt`` for ITK-SNAP, ``NAME.ctbl`` for 3D Slicer.

    Raises:
        InputError: where they cannot be written.
    """
    itksnap, slicer = Path(folder) / f"{name}.label.txt", Path(folder) / f"{name}.ctbl"
    return atomic_write(itksnap, itksnap_text(segments)), atomic_write(slicer, slicer_text(segments))


def itksnap_text(segments: Sequence[Segment]) -> str:
    """A label description file; ITK-SNAP reads it with Segmentation > Import Label Descriptions."""
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for segment in segments:
        red, green, blue = label_colour(segment.value)
        name = " ".join(segment.name.replace('"', "'").split())
        lines.append(f'{segment.value:5d}   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "{name}"')
    return ITKSNAP_HEADER + "\n".join(lines) + "\n"


def slicer_text(segments: Sequence[Segment]) -> str:
    """A colour table; 3D Slicer loads it beside a label map, and takes no blanks in names."""
    lines = ["# Color table file", f"# {len(segments) + 1} values", "0 background 0 0 0 0"]
    for segment in segments:
        red, green, blue = label_colour(segment.value)
        lines.append(f"{segment.value} {'_'.join(segment.name.split())} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"
