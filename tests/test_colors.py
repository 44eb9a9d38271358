from __future__ import annotations

import re

import numpy as np
import pytest
from highdicom.color import CIELabColor

from medseg3d.io.colours import LABEL_COLOURS, itksnap_text, label_colour, slicer_text, write_colours
from medseg3d.io.segments import segments_of
from medseg3d.task import load_task

BTCV = segments_of(load_task("btcv"))


def test_colours_are_told_apart_and_always_the_same():
    colours = [label_colour(value) for value in range(1, 256)]
    assert colours[: len(LABEL_COLOURS)] == list(LABEL_COLOURS)
    assert len(set(colours)) == 255
    assert all(0 <= part <= 255 for colour in colours for part in colour)
    lab = np.array([CIELabColor.from_rgb(*colour).value for colour in colours[:24]], float) / 65535 * (100, 255, 255)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 999 * np.eye(24)
    assert apart[:14, :14].min() > 24
    assert apart.min() > 18
    assert 30 < lab[:, 0].min() < lab[:, 0].max() < 95  # neither black nor white
    assert label_colour(65535) == label_colour(65535)


def test_itksnap_reads_number_colour_and_name():
    lines = [line for line in itksnap_text(BTCV).splitlines() if not line.startswith("#")]
    pattern = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(0|1)\s+(0|1)\s+(0|1)\s+"([^"]*)"')
    found = [pattern.fullmatch(line).groups() for line in lines]
    assert found[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    assert found[6] == ("6", "213", "94", "0", "1", "1", "1", "liver")
    assert [int(f[0]) for f in found] == list(range(14))


def test_slicer_reads_number_name_without_blanks_and_colour():
    lines = [line.split(" ") for line in slicer_text(BTCV).splitlines() if not line.startswith("#")]
    assert lines[0] == ["0", "background", "0", "0", "0", "0"]
    assert lines[9] == ["9", "inferior_vena_cava", *map(str, label_colour(9)), "255"]
    assert {len(line) for line in lines} == {6}


@pytest.mark.parametrize("name", ['a "quoted" name', "two\nlines", "Größe"])
def test_no_name_breaks_a_file(tmp_path, name):
    from dataclasses import replace

    segments = [replace(BTCV[0], name=name), *BTCV[1:]]
    itksnap, slicer = write_colours(segments, tmp_path, "organs")
    assert (itksnap.name, slicer.name) == ("organs.label.txt", "organs.ctbl")
    lines = [line for line in itksnap.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) == 14
    assert all(line.count('"') == 2 for line in lines)
    lines = [line for line in slicer.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(len(line.split()) == 6 for line in lines)
