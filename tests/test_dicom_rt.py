from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from medseg3d.checks import InputError, collected
from medseg3d.io import dicom_rt
from medseg3d.io.colours import label_colour
from medseg3d.io.contours import area, filled, outlines
from medseg3d.io.dicom_rt import read_rtstruct, write_rtstruct
from medseg3d.io.readback import centroids_mm
from medseg3d.io.segments import segments_of
from medseg3d.task import load_task
from medseg3d.volume import placed
from tests import dicom_series
from tests.dicom_labels import ACQUISITIONS, scan

ORGANS = load_task("organ_ct")
SEGMENTS = segments_of(ORGANS)
BRATS = load_task("brats")


def refused(code: str, match: str = ""):
    """Expects an InputError with this code."""
    return pytest.raises(InputError, match=rf"(?s){match}.*\[{code}\]")


def mask_of(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


# Contours --------------------------------------------------------------------------------------------------------------


def test_the_outline_of_a_pixel_is_its_border():
    (corners,) = outlines(mask_of(".. .#"))
    assert corners.tolist() == [[0.5, 0.5], [0.5, 1.5], [1.5, 1.5], [1.5, 0.5]]
    assert area(corners) == 1


def test_straight_borders_have_corners_alone():
    (corners,) = outlines(np.ones((5, 7), bool))
    assert sorted(map(tuple, corners)) == [(-0.5, -0.5), (-0.5, 6.5), (4.5, -0.5), (4.5, 6.5)]


def test_a_hole_is_joined_by_a_channel_that_is_walked_in_both_directions():
    ring = mask_of("##### ##### ##.## ##### #####")
    (corners,) = outlines(ring)
    assert area(corners) == ring.sum() == 24
    steps = [(tuple(a), tuple(b)) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    assert ((1.5, -0.5), (1.5, 1.5)) in steps
    assert ((1.5, 2.5), (1.5, -0.5)) in steps  # along the hole's upper border and back


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("#. .#", 2),  # pixels that touch at a corner are two parts
        ("##. #.# .##", 2),
        ("### #.# ###", 1),
        ("##### #.#.# #####", 1),  # two holes beside each other
        ("####### #.....# #.###.# #.#.#.# #.###.# #.....# #######", 2),  # an island with a hole in a hole
        ("#### #..# ##.# ####", 1),
        ("##### #.### ##.## ###.# #####", 1),  # holes that touch at corners
        ("....", 0),
    ],
)
def test_what_outlines_enclose_is_the_mask(text, parts):
    mask = mask_of(text)
    polygons = outlines(mask)
    assert len(polygons) == parts
    assert (filled(polygons, mask.shape) == mask).all()
    assert sum(area(corners) for corners in polygons) == mask.sum()


def test_any_mask_comes_back():
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.random(rng.integers(1, 12, 2)) < rng.random()
        polygons = outlines(mask)
        assert (filled(polygons, mask.shape) == mask).all()
        assert sum(area(corners) for corners in polygons) == mask.sum()


def test_filling_counts_crossings_and_clips_at_the_edge():
    outer = np.array([[-0.5, -0.5], [-0.5, 4.5], [4.5, 4.5], [4.5, -0.5]])
    inner = np.array([[1.5, 1.5], [2.5, 1.5], [2.5, 2.5], [1.5, 2.5]])
    assert filled([outer, inner], (5, 5)).sum() == 24
    assert filled([outer], (3, 3)).all()
    assert not filled([outer + 9], (3, 3)).any()
    triangle = np.array([[0, -0.4], [0, 8.4], [4.2, 4]])  # slanted borders
    assert filled([triangle], (5, 9)).sum(axis=1).tolist() == [9, 7, 5, 3, 1]


# Structure sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_what_is_written_reads_back_to_the_same_voxels_at_the_same_place(tmp_path, acquisition):
    given = scan(tmp_path / "in", acquisition)
    path = write_rtstruct(tmp_path / "out" / "case.dcm", given.labels, SEGMENTS, given.files)
    read = read_rtstruct(path, given.files)
    assert [(s.value, s.name) for s in read.segments] == [(s.value, s.name) for s in SEGMENTS]
    assert (placed(read.labels, given.labels.grid).data == given.labels.data).all()
    for value, place in centroids_mm(given.labels).items():
        assert centroids_mm(read.labels)[value] == pytest.approx(place, abs=0.03 if acquisition == "jitter" else 1e-3)
    assert (
        placed(read_rtstruct(path, given.files, task=ORGANS).labels, given.labels.grid).data == given.labels.data
    ).all()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("acquisition", ["axial", "sagittal", "oblique"])
def test_contours_enclose_the_area_of_the_mask_in_the_patient(tmp_path, acquisition):
    """From the tags alone: area in mm2, plane, and image of each contour."""
    given = scan(tmp_path / "in", acquisition)
    dataset = pydicom.dcmread(write_rtstruct(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files))
    images = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, given.files)}
    normal = np.cross(*np.reshape(next(iter(images.values())).ImageOrientationPatient, (2, 3)).astype(float))
    for roi in dataset.ROIContourSequence:
        mm2 = 0.0
        for contour in roi.ContourSequence:
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            assert len(points) == contour.NumberOfContourPoints
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            beside = (points - np.array(image.ImagePositionPatient, float)) @ normal
            assert np.abs(beside).max() < 1e-3
            mm2 += np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0) @ normal / 2
        voxels = int((given.labels.data == roi.ReferencedROINumber).sum())
        assert abs(mm2) == pytest.approx(voxels * 0.8 * 0.7, abs=0.05)


def test_regions_have_names_colours_codes_and_references(tmp_path):
    given = scan(tmp_path / "in")
    dataset = pydicom.dcmread(write_rtstruct(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files, model="m-1"))
    image = pydicom.dcmread(given.files[0])
    assert dataset.StudyInstanceUID == image.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert "m-1" in dataset.StructureSetDescription
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == [s.name for s in SEGMENTS]
    assert {roi.ReferencedFrameOfReferenceUID for roi in dataset.StructureSetROISequence} == {image.FrameOfReferenceUID}
    assert [c.ROIDisplayColor for c in dataset.ROIContourSequence] == [list(label_colour(v)) for v in range(1, 6)]
    (kidney,) = dataset.RTROIObservationsSequence[2].RTROIIdentificationCodeSequence
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert len(series.ContourImageSequence) == 8
    assert len(dataset.ROIContourSequence[1].get("ContourSequence", ())) == 0  # no spleen


def test_a_label_map_without_a_label_is_a_file_without_contours(tmp_path):
    given = scan(tmp_path / "in")
    empty = given.labels.with_data(np.zeros_like(given.labels.data))
    read = read_rtstruct(write_rtstruct(tmp_path / "case.dcm", empty, SEGMENTS, given.files), given.files)
    assert not read.labels.data.any()
    assert len(read.segments) == 5


# Nothing wrong gets a name ---------------------------------------------------------------------------------------------


def flipped(axis):
    return lambda labels, planes: (labels.with_data(np.flip(labels.data, axis + 1)), planes)


def shifted(labels, planes):
    return labels.with_data(np.roll(labels.data, 1, axis=3)), planes


def moved_mm(labels, planes):
    """Everything one row further down in the patient."""
    return labels, replace(planes, positions=planes.positions + planes.orientation[3:] * planes.spacing_mm[0])


def swapped(labels, planes):
    return labels.with_data(np.array([0, 3, 2, 1, 4, 5], np.uint8)[labels.data]), planes


@pytest.mark.parametrize("corrupt", [flipped(0), flipped(1), flipped(2), shifted, moved_mm, swapped])
@pytest.mark.parametrize("acquisition", ["axial", "oblique"])
def test_a_file_that_holds_something_else_is_an_error_and_not_left_behind(tmp_path, monkeypatch, corrupt, acquisition):
    given = scan(tmp_path / "in", acquisition)
    path = tmp_path / "out" / "case.dcm"
    write_rtstruct(path, given.labels, SEGMENTS, given.files)
    before = path.read_bytes()
    make = dicom_rt._structure_set
    monkeypatch.setattr(dicom_rt, "_structure_set", lambda labels, planes, *rest: make(*corrupt(labels, planes), *rest))
    with refused("E-READ-BACK"):
        write_rtstruct(path, given.labels, SEGMENTS, given.files)
    assert path.read_bytes() == before
    with refused("E-READ-BACK"):
        write_rtstruct(tmp_path / "new" / "case.dcm", given.labels, SEGMENTS, given.files)
    assert [p.name for p in tmp_path.rglob("*.dcm") if "in" not in p.parts] == ["case.dcm"]


# Reading what others write ---------------------------------------------------------------------------------------------


def drawn(tmp_path, rois: dict[str, list[list[tuple[float, float, float]]]], kind: str = "CLOSED_PLANAR"):
    """A structure set with contours given as (column, row, slice) on the axial series."""
    given = scan(tmp_path / "in")
    empty = given.labels.with_data(np.zeros_like(given.labels.data))
    segments = [replace(SEGMENTS[0], value=n, name=name) for n, name in enumerate(rois, start=1)]
    path = write_rtstruct(tmp_path / "others.dcm", empty, segments, given.files)
    dataset = pydicom.dcmread(path)
    del dataset.RTROIObservationsSequence
    for item, contours in zip(dataset.ROIContourSequence, rois.values(), strict=True):
        item.ContourSequence = []
        for points in contours:
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            mm = np.array(dicom_series.ORIGIN) + np.array(points) * (0.7, 0.8, 3)
            contour.ContourData = [f"{v:.5f}" for v in mm.ravel()]
            item.ContourSequence.append(contour)
    dataset.save_as(path)
    return path, given.files


def square(low: float, high: float, level: float = 2) -> list[tuple[float, float, float]]:
    return [(low, low, level), (high, low, level), (high, high, level), (low, high, level)]


def test_a_hole_may_be_a_contour_of_its_own(tmp_path):
    path, files = drawn(tmp_path, {"liver": [square(4.5, 14.5), square(7.5, 9.5)]})
    data = read_rtstruct(path, files).labels.data[0]
    assert data.sum() == 100 - 4
    assert data[5, 5, 2] == 1
    assert data[8, 8, 2] == 0


def test_contours_between_the_planes_are_refused(tmp_path):
    path, files = drawn(tmp_path, {"liver": [square(4.5, 14.5, level=2.4)]})
    with refused("E-CONTOUR", match="1.2 mm beside the nearest image"):
        read_rtstruct(path, files)


def test_regions_that_overlap_are_refused_or_are_those_of_a_task(tmp_path):
    rois = {"TC": [square(6.5, 10.5)], "WT": [square(4.5, 14.5)], "ET": [square(7.5, 8.5)]}
    path, files = drawn(tmp_path, rois)
    with refused("E-OVERLAP", match="shares 16 voxels"):
        read_rtstruct(path, files)
    values, counts = np.unique(read_rtstruct(path, files, task=BRATS).labels.data, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 40 * 36 * 8 - 100, 1: 84, 2: 15, 3: 1}


def test_names_decide_and_the_patient_s_outline_is_background(tmp_path):
    path, files = drawn(tmp_path, {"External": [square(0, 30)], "Spleen": [square(4.5, 14.5)]})
    with collected():
        data = read_rtstruct(path, files, task=ORGANS).labels.data
    assert (data == 2).sum() == 100 == np.count_nonzero(data)


def test_points_and_open_lines_are_left_out_with_a_word(tmp_path):
    path, files = drawn(tmp_path, {"liver": [square(4.5, 14.5)]}, kind="OPEN_PLANAR")
    with collected() as found:
        assert not read_rtstruct(path, files).labels.data.any()
    assert [f.code for f in found] == ["W-CONTOUR"]


def test_images_of_another_frame_of_reference_are_refused(tmp_path):
    path, _ = drawn(tmp_path, {"liver": [square(4.5, 14.5)]})
    with refused("E-SOURCE", match="frame of reference"):
        read_rtstruct(path, dicom_series.slices(FrameOfReferenceUID=dicom_series.uid("elsewhere")))


def test_other_and_damaged_files_are_refused(tmp_path):
    given = scan(tmp_path / "in")
    with refused("E-NOT-RTSTRUCT"):
        read_rtstruct(given.files[0], given.files)
    path = write_rtstruct(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files)
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    dataset.save_as(path)
    with refused("E-CORRUPT"):
        read_rtstruct(path, given.files)
    del dataset.StructureSetROISequence
    dataset.save_as(path)
    with refused("E-CORRUPT"):
        read_rtstruct(path, given.files)
