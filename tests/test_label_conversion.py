"""``medseg3d convert`` of a DICOM SEG or RTSTRUCT gives the label map that it was made from."""

from __future__ import annotations

import json

import pytest

from medseg3d.cli import main
from medseg3d.io import read_volume
from medseg3d.io.dicom_rt import write_rtstruct
from medseg3d.io.dicom_seg import write_seg
from medseg3d.io.segments import segments_of
from medseg3d.task import load_task
from medseg3d.volume import placed
from tests import dicom_series
from tests.dicom_labels import scan

SEGMENTS = segments_of(load_task("organ_ct"))


@pytest.fixture
def given(tmp_path):
    made = scan(tmp_path / "in", "oblique")
    write_seg(tmp_path / "case.seg.dcm", made.labels, SEGMENTS, made.files)
    write_rtstruct(tmp_path / "case.rtstruct.dcm", made.labels, SEGMENTS, made.files)
    return made


def convert(tmp_path, name, *more):
    return main(["convert", "-i", str(tmp_path / name), "-o", str(tmp_path / "out"), *map(str, more)])


@pytest.mark.parametrize("name", ["case.seg.dcm", "case.rtstruct.dcm"])
def test_on_the_images_the_whole_grid_comes_back(tmp_path, given, name):
    assert convert(tmp_path, name, "--images", tmp_path / "in") == 0
    labels = read_volume(tmp_path / "out" / "case.nii.gz", labels=True)
    assert labels.grid.differs_from(given.labels.grid) is None
    assert (labels.data == given.labels.data).all()
    described = json.loads((tmp_path / "out" / "case.json").read_text())
    assert described["kind"] == ("SEG" if "seg" in name else "RTSTRUCT")
    assert [(s["value"], s["name"]) for s in described["segments"]] == [(s.value, s.name) for s in SEGMENTS]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "case.ctbl",
        "case.json",
        "case.label.txt",
        "case.nii.gz",
    ]


def test_without_images_a_seg_comes_on_its_own_planes(tmp_path, given):
    assert convert(tmp_path, "case.seg.dcm") == 0
    labels = read_volume(tmp_path / "out" / "case.nii.gz", labels=True)
    assert labels.shape == (40, 36, 6)
    assert (placed(labels, given.labels.grid).data == given.labels.data).all()


def test_contours_need_their_images(tmp_path, given, capsys):
    assert convert(tmp_path, "case.rtstruct.dcm") == 5
    assert "give their folder: --images FOLDER [E-SOURCE]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["case.seg.dcm", "case.rtstruct.dcm"])
def test_other_images_are_refused(tmp_path, given, capsys, name):
    dicom_series.save_all(dicom_series.slices(FrameOfReferenceUID=dicom_series.uid("elsewhere")), tmp_path / "other")
    assert convert(tmp_path, name, "--images", tmp_path / "other") == 5
    assert "another frame of reference than the images" in capsys.readouterr().err
    dicom_series.save_all(dicom_series.slices(), tmp_path / "axial")
    assert convert(tmp_path, name, "--images", tmp_path / "axial") == 5
    said = capsys.readouterr().err
    assert "E-GRID" in said or "E-CONTOUR" in said
    assert not (tmp_path / "out").exists()
