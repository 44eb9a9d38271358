"""What info and check say of DICOM SEG and RTSTRUCT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg3d.cli import main
from medseg3d.io import write_rtstruct, write_seg
from medseg3d.io.dicom import find_series, read_series
from medseg3d.io.dicom_label_objects import describe_labels
from medseg3d.io.segments import Code, Segment, codes_of
from tests.dicom_series import save_all, slices

LIVER = Segment(1, "liver", *codes_of(["liver"]))
KIDNEY = Segment(3, "left kidney", *codes_of(["left_kidney"]))
OWN = Segment(5, "thing", *codes_of(["thing"]))
SEGMENTS = (LIVER, KIDNEY, OWN)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A series in a subfolder, and beside it a binary SEG, a label map and an RTSTRUCT of it."""
    folder = tmp_path / "study"
    save_all(slices(), folder / "ct")
    series = find_series(folder / "ct").choose()
    data = np.zeros((1, 40, 36, 8), np.uint8)
    data[0, 5:20, 5:20, 2:6] = 1  # 15 x 15 x 4 voxels
    data[0, 22:30, 5:20, 2:6] = 3  # 8 x 15 x 4
    labels = read_series(series).with_data(data)
    write_seg(folder / "a.seg.dcm", labels, SEGMENTS, series.files)
    write_seg(folder / "b.labelmap.dcm", labels, SEGMENTS, series.files, kind="LABELMAP")
    write_rtstruct(folder / "c.rtstruct.dcm", labels, SEGMENTS, series.files)
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "numbers", "voxels"),
    [
        ("a.seg.dcm", "SEG", [1, 2, 3], [900, 480, 0]),  # a binary SEG is numbered from 1
        ("b.labelmap.dcm", "SEG, label map", [1, 3, 5], [900, 480, 0]),
        ("c.rtstruct.dcm", "RTSTRUCT", [1, 3, 5], [None, None, None]),
    ],
)
def test_segments_are_listed(study: Path, capsys, name: str, kind: str, numbers: list, voxels: list) -> None:
    assert main(["info", str(study / name), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["series"], said["findings"]) == ([], [])
    (found,) = said["segmentations"]
    assert (found["file"], found["kind"]) == (name, kind)
    assert [s["number"] for s in found["segments"]] == numbers
    assert [s["voxels"] for s in found["segments"]] == voxels
    assert [s["name"] for s in found["segments"]] == ["liver", "left kidney", "thing"]
    assert found["segments"][1]["code"] == {"scheme": "SCT", "value": "64033007", "meaning": "Kidney"}
    assert [s["modifier"] for s in found["segments"]] == [None, "Left", None]


def test_info_and_check_of_a_study(study: Path, capsys) -> None:
    """The label map is no image with a damaged header, and none of the files keeps the series from being found."""
    for verb in ("info", "check"):
        assert main([verb, str(study)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"{study}: DICOM, 1 series" in lines or f"1 DICOM series in {study}" in lines
        start = lines.index("a.seg.dcm: DICOM SEG, 3 segments")
        assert [line.split() for line in lines[start + 2 : start + 5]] == [
            ["1", "liver", "SCT", "10200004", "(Liver)", "900"],
            ["2", "left", "kidney", "SCT", "64033007", "(Kidney,", "Left)", "480"],
            ["3", "thing", "-", "0"],
        ]
        assert "b.labelmap.dcm: DICOM SEG, label map, 3 segments" in lines
        assert "c.rtstruct.dcm: DICOM RTSTRUCT, 3 regions" in lines
        assert not any("error" in line and "no error" not in line for line in lines)


def test_check_tells_what_is_wrong(study: Path, tmp_path: Path, capsys) -> None:
    dataset = pydicom.dcmread(study / "a.seg.dcm")
    dataset.SegmentationType, dataset.SegmentationFractionalType, dataset.MaximumFractionalValue = (
        "FRACTIONAL",
        "PROBABILITY",
        1,
    )
    dataset.save_as(tmp_path / "fractional.dcm")
    whole = (study / "b.labelmap.dcm").read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole[:-2000])
    for name, code in (("fractional.dcm", "[E-SEG-FRACTIONAL]"), ("short.dcm", "[E-CORRUPT]")):
        assert main(["check", str(tmp_path / name)]) == 5
        assert code in capsys.readouterr().out


def test_an_empty_segmentation_is_told(study: Path, capsys) -> None:
    series = find_series(study / "ct").choose()
    empty = read_series(series).with_data(np.zeros((1, 40, 36, 8), np.uint8))
    write_seg(study / "d.seg.dcm", empty, SEGMENTS, series.files)
    assert main(["check", str(study / "d.seg.dcm")]) == 0
    assert "[I-EMPTY-LABEL]" in capsys.readouterr().out


def test_a_name_cannot_write_on_the_terminal(study: Path) -> None:
    dataset = pydicom.dcmread(study / "a.seg.dcm")
    dataset.SegmentSequence[0].SegmentLabel = "a\x1b[31mb"
    dataset.save_as(study / "a.seg.dcm")
    found = describe_labels(study / "a.seg.dcm")
    assert [row[1] for row in found.rows()][1] == found.as_dict()["segments"][0]["name"] == "a [31mb"
    assert found.segments[0].type == Code("SCT", "10200004", "Liver")
