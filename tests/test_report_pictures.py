"""Pictures of reports: planes the right way round, the largest error found, the viewer's data within their budget."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import zlib

import numpy as np
import pytest
from PIL import Image

from medseg3d.report import focus as focus_module
from medseg3d.report.curves import line_chart, nice_ticks, strip
from medseg3d.report.focus import find_focus
from medseg3d.report.intensity import CT_KNOTS, Intensity
from medseg3d.report.planes import (
    BOTH,
    PREDICTION,
    REFERENCE,
    Contour,
    draw_contours,
    plane_picture,
    three_planes,
    view_box,
)
from medseg3d.report.scene import PLANES, cut, make_scene
from medseg3d.report.scores import case_scores, columns_of, interval, shown
from medseg3d.report.source import without_paths
from medseg3d.report.sprites import mosaic, mosaic_columns, reduce_cells, viewer_data
from medseg3d.volume import Volume

AXIAL, CORONAL, SAGITTAL = PLANES


# --- planes


def test_a_plane_has_right_on_the_left_and_anterior_or_superior_at_the_top():
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # x to the right, y to anterior, z to superior
    axial, coronal, sagittal = (cut(data, plane, 1) for plane in PLANES)
    assert axial.tolist() == [
        [data[1, 2, 1], data[0, 2, 1]],
        [data[1, 1, 1], data[0, 1, 1]],
        [data[1, 0, 1], data[0, 0, 1]],
    ]
    assert coronal.shape == (4, 2)
    assert coronal[0].tolist() == [data[1, 1, 3], data[0, 1, 3]]  # superior row: right, left
    assert sagittal.shape == (4, 3)
    assert sagittal[0].tolist() == [data[1, 2, 3], data[1, 1, 3], data[1, 0, 3]]  # superior row: anterior to posterior


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_the_same_patient_looks_the_same_in_all_48_orientations(axes, flips):
    shape, spacing = (4, 5, 6), (1.0, 2.0, 3.0)
    world = np.zeros(shape, np.float32)
    world[3, 4, 5] = 100  # the most right, anterior, superior voxel
    affine = np.diag([*spacing, 1.0])
    stored, columns, origin = world.transpose(axes), affine[:3, :3][:, list(axes)], np.zeros(3)
    for axis in range(3):
        if flips[axis]:
            stored = np.flip(stored, axis)
            origin += columns[:, axis] * (stored.shape[axis] - 1)
            columns[:, axis] *= -1
    volume = Volume(stored[None].copy(), np.block([[columns, origin[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]]))
    scene = make_scene(volume, ["a"], reference=volume.with_data((volume.data > 0).astype(np.uint8)))
    assert scene.spacing_mm == spacing
    for plane in PLANES:
        picture = cut(scene.channels["a"], plane, scene.shape[plane.normal] - 1)
        assert picture[0, 0] == 100
        assert np.count_nonzero(picture) == 1
        assert scene.reference is not None
        assert cut(scene.reference, plane, scene.shape[plane.normal] - 1)[0, 0] == 1


def test_letters_say_where_the_sides_are():
    assert [plane.letters for plane in PLANES] == ["RLAP", "RLSI", "APSI"]


def test_a_flat_picture_is_shown_as_it_is():
    data = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    scene = make_scene(Volume(data, np.eye(3)), ["a"])
    assert [plane.name for plane in scene.planes] == ["axial"]
    assert not scene.letters
    assert cut(scene.channels["a"], AXIAL, 0).tolist() == data[0].tolist()


def test_a_plane_picture_has_expected_pixels():
    data = np.zeros((2, 2, 1), np.uint8)
    data[1, 1, 0], data[0, 0, 0] = 255, 51
    scene = make_scene(Volume(data[None], np.eye(4)), ["a"])
    picture = plane_picture(scene, AXIAL, (0, 0, 0), (2, 2))
    assert picture[..., 0].tolist() == [[255, 0], [0, 51]]
    assert (picture[..., 0] == picture[..., 2]).all()


def test_millimetres_are_as_long_across_as_down():
    volume = Volume(np.zeros((1, 40, 60, 10), np.int16), np.diag([1.0, 0.5, 6.0, 1.0]))  # 40 x 30 x 60 mm
    scene = make_scene(volume, ["a"])
    picture = three_planes(scene, (20, 30, 5), width=40 * 5 + 40 * 5 + 30 * 5 + 12, height=10_000)
    assert picture.shape == (300, 562, 3)  # 5 pixels a mm; the coronal plane is 60 mm tall
    tall = three_planes(scene, (20, 30, 5), width=10_000, height=120)
    assert tall.shape == (120, 80 + 80 + 60 + 12, 3)


def test_contours_lie_on_both_sides_of_an_edge_and_are_white_where_they_agree():
    reference, prediction = np.zeros((8, 12), bool), np.zeros((8, 12), bool)
    reference[:, :4] = True  # edges between columns 3 and 4
    prediction[:4, :4] = True  # the same in the upper half,
    prediction[4:, :8] = True  # another in the lower half
    picture = np.full((8, 12, 3), 80, np.uint8)
    draw_contours(picture, [(reference, REFERENCE), (prediction, PREDICTION)])
    assert [tuple(p) for p in picture[1, 2:6]] == [(40, 40, 40), BOTH, BOTH, (40, 40, 40)]
    assert [tuple(p) for p in picture[6, 3:5]] == [REFERENCE, REFERENCE]
    assert [tuple(p) for p in picture[6, 7:9]] == [PREDICTION, PREDICTION]
    assert tuple(picture[1, 11]) == (80, 80, 80)


def test_a_contour_stands_where_its_voxel_is():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[3, 3, 2] = 1  # right, anterior: top left of the axial plane
    scene = make_scene(Volume(np.zeros((1, 4, 4, 4), np.int16), np.eye(4)), ["a"])
    picture = plane_picture(scene, AXIAL, (0, 0, 2), (40, 40), contours=[Contour(labels, REFERENCE)])
    marked = np.argwhere((picture == REFERENCE).all(-1))
    assert marked.min(0).tolist() == [0, 0]
    assert marked.max(0).tolist() == [10, 10]


def test_what_is_shown_around_a_box_stays_in_the_scan():
    scene = make_scene(Volume(np.zeros((1, 200, 200, 20), np.int8), np.diag([1.0, 1.0, 5.0, 1.0])), ["a"])
    box = view_box(scene, ((100, 110), (0, 10), (9, 10)))
    assert box == ((75, 135), (0, 35), (4, 16))


# --- where the largest error is


def test_the_focus_is_the_error_farthest_from_the_other_mask():
    reference, prediction = np.zeros((20, 20, 10), np.uint8), np.zeros((20, 20, 10), np.uint8)
    reference[5:10, 5:10, 3:6] = prediction[5:10, 5:10, 3:6] = 1
    prediction[9, 9, 3:6] = 0  # one voxel away
    prediction[15, 7, 4] = 1  # six voxels away
    found = find_focus(reference, prediction, {"a": [1], "b": [2]}, (1, 1, 1))
    assert (found.label, found.point, found.status) == ("a", (15, 7, 4), "ok")
    assert found.box == ((5, 16), (5, 10), (3, 6))


def test_spacing_decides_what_is_far():
    reference, prediction = np.zeros((20, 5, 20), np.uint8), np.zeros((20, 5, 20), np.uint8)
    reference[2, 2, 2] = prediction[2, 2, 2] = 1
    prediction[8, 2, 2] = prediction[2, 2, 6] = 1
    assert find_focus(reference, prediction, {"a": [1]}, (1, 1, 1)).point == (8, 2, 2)
    assert find_focus(reference, prediction, {"a": [1]}, (1, 1, 3)).point == (2, 2, 6)


def test_the_table_decides_which_label_is_worst_and_a_miss_comes_first():
    reference, prediction = np.zeros((9, 9, 9), np.uint8), np.zeros((9, 9, 9), np.uint8)
    reference[1:4, 1:4, 1:4] = 2
    reference[6, 6, 6] = prediction[6, 7, 6] = 1
    rows = [{"label": "a", "status": "ok", "hd_mm": 1.0}, {"label": "b", "status": "miss", "hd_mm": math.inf}]
    found = find_focus(reference, prediction, {"a": [1], "b": [2]}, (1, 1, 1), rows)
    assert (found.label, found.status, found.point) == ("b", "miss", (2, 2, 2))  # the middle of what was missed


@pytest.mark.parametrize("equal", [True, False])
def test_without_an_error_the_planes_go_through_the_label_or_the_middle(equal):
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:4, 1:4, 1:4] = equal
    found = find_focus(labels, labels, {"a": [1]}, (1, 1, 1))
    assert (found.status, found.point) == (("equal", (2, 2, 2)) if equal else ("tn", (4, 4, 4)))


def test_large_boxes_are_searched_in_blocks_and_hit_an_error_all_the_same(monkeypatch):
    reference, prediction = np.zeros((40, 41, 42), np.uint8), np.zeros((40, 41, 42), np.uint8)
    reference[1:30, 1:30, 1:30] = prediction[1:30, 1:30, 1:30] = 1
    prediction[39, 40, 41] = prediction[31, 5, 5] = 1
    whole = find_focus(reference, prediction, {"a": [1]}, (1, 1, 1))
    monkeypatch.setattr(focus_module, "BLOCK_VOXELS", 500)
    assert find_focus(reference, prediction, {"a": [1]}, (1, 1, 1)).point == whole.point == (39, 40, 41)


# --- intensities and the viewer's data


def test_ct_codes_are_fine_where_windows_are_narrow():
    shown_as = Intensity.of(np.array([-1000.0, 0.0, 1500.0]))
    assert shown_as.unit == "HU"
    assert shown_as.codes(np.array([-1024, -200, 300, 3071, 9999])).tolist() == [0, 40, 208, 255, 255]
    assert (CT_KNOTS[2][0] - CT_KNOTS[1][0]) / (CT_KNOTS[2][1] - CT_KNOTS[1][1]) < 3  # HU a code
    assert shown_as.grey(np.array([-160, 40, 240])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_a_constant_scan_can_be_shown(value):
    data = np.full((3, 3, 3), value, np.float32)
    assert Intensity.of(data).grey(data).max() == 0


def test_a_dark_volume_of_bytes_fills_the_window_and_a_picture_stays_as_it_is() -> None:
    dark = np.arange(80, dtype=np.uint8).reshape(4, 4, 5)
    assert Intensity.of(dark).grey(dark).max() == 255
    assert Intensity.of(dark).codes(dark).max() == 79
    assert Intensity.of(dark + 100).window == Intensity.of(dark.reshape(16, 5, 1)).window == (0, 255)


def test_cells_are_means_by_area():
    assert reduce_cells(np.array([[[0]], [[100]], [[200]]], np.uint8), (1, 1, 1)).item() == 100
    three = np.array([0, 90, 180], np.uint8).reshape(3, 1, 1)
    assert reduce_cells(three, (2, 1, 1)).ravel().tolist() == [30, 150]  # 1 + 1/2 voxels each


def test_the_mosaic_holds_slices_row_by_row():
    stack = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    picture = mosaic(stack)
    columns = mosaic_columns(2, 3, 5)
    for z in range(5):
        row, column = divmod(z, columns)
        assert (picture[3 * row : 3 * row + 3, 2 * column : 2 * column + 2] == stack[:, :, z].T).all()


@pytest.mark.parametrize(
    ("shape", "spacing", "channels"),
    [
        ((200, 220, 150), (1, 1, 1), 1),
        ((150, 150, 100), (1, 1, 1), 4),
        ((300, 320, 14), (0.5, 0.5, 6), 1),
        ((9, 8, 7), (1, 1, 1), 1),
    ],
)
def test_the_viewers_data_fit_any_size_even_noise(shape, spacing, channels):
    rng = np.random.default_rng(0)
    image = Volume(rng.integers(0, 1000, (channels, *shape), dtype=np.int16), np.diag([*spacing, 1.0]))
    labels = image.with_data((rng.random((1, *shape)) > 0.6).astype(np.uint8))
    scene = make_scene(image, [f"c{i}" for i in range(channels)], reference=labels, prediction=labels)
    text = viewer_data(scene, (1, 1, 1), {"a": [1]}, budget=200_000)
    assert 0 < len(text) <= 200_000
    data = json.loads(text)
    assert len(data["channels"]) == channels
    x, y, z = data["image"]
    for channel in data["channels"]:
        with Image.open(io.BytesIO(base64.b64decode(channel["webp"]))) as picture:
            columns = mosaic_columns(x, y, z)
            assert picture.size == (x * columns, y * -(-z // columns))


def test_small_label_maps_arrive_voxel_for_voxel():
    rng = np.random.default_rng(1)
    shape = (7, 9, 5)
    image = Volume(np.full((1, *shape), 50, np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
    first = image.with_data(rng.choice([0, 2, 900], (1, *shape)).astype(np.uint16))
    scene = make_scene(image, ["a"], reference=first, prediction=first.with_data(first.data[:, ::-1].copy()))
    data = json.loads(viewer_data(scene, (1, 1, 1), {"low": [2], "both": [2, 900]}))
    assert data["box"] == [[0, 7], [0, 9], [0, 5]]
    assert data["names"] == [["low", [1]], ["both", [1, 2]]]
    assert data["labels"]["shape"] == [7, 9, 5]
    for side, expected in (("reference", first.data[0]), ("prediction", first.data[0, ::-1])):
        found = np.frombuffer(zlib.decompress(base64.b64decode(data["labels"][side])), np.uint8)
        indices = np.select([expected == 2, expected == 900], [1, 2])
        assert (found.reshape(5, 9, 7).transpose(2, 1, 0) == indices).all()


def test_text_in_the_data_cannot_end_its_element():
    scene = make_scene(Volume(np.ones((1, 3, 3, 3), np.uint8), np.eye(4)), ["</script><b>"])
    text = viewer_data(scene, (0, 0, 0), {"<!--": [1]})
    assert "<" not in text
    assert json.loads(text)["channels"][0]["name"] == "</script><b>"


# --- curves and numbers


def test_ticks_are_round_and_cover_the_values():
    assert nice_ticks(0, 1.5) == [0, 0.5, 1.0, 1.5]
    assert nice_ticks(3, 3) == [3, 3.2, 3.4, 3.6, 3.8, 4.0]


def test_a_chart_draws_what_there_is():
    rows = [{"epoch": 1.0, "loss": 1.0}, {"epoch": 2.0, "loss": math.nan}, {"epoch": 3.0, "loss": 0.0}]
    chart = line_chart(rows, ["loss", "absent"], title="<loss>")
    assert '<polyline points="46.0,24.0 428.0,196.0"' in chart
    assert "&lt;loss&gt;" in chart
    assert "absent" not in chart
    assert line_chart(rows, ["absent"], title="") == ""


def test_a_strip_puts_the_mean_and_every_case():
    drawn = strip([("a", 0.5), ("b", math.nan)], 0.5, (0.25, 0.75), width=112)
    assert drawn.count("<circle") == 1
    assert 'class="mean" x1="56.0"' in drawn
    assert 'class="interval" x1="31.0" x2="81.0"' in drawn


def test_cases_come_worst_first_and_both_empty_does_not_count():
    rows = [
        {"case": "good", "status": "ok", "dice": 0.9},
        {"case": "bad", "status": "ok", "dice": 0.8},
        {"case": "bad", "status": "miss", "dice": 0.0},
        {"case": "empty", "status": "tn", "dice": math.nan},
    ]
    assert list(case_scores(rows)) == ["bad", "good", "empty"]
    assert case_scores(rows)["bad"] == pytest.approx(0.4)


def test_numbers_are_short_and_honest():
    assert [shown(0.98765), shown(12.345, "hd95_mm"), shown(123.45, "volume_reference_ml")] == [
        "0.988",
        "12.35",
        "123.5",
    ]
    assert [shown(math.inf, "hd95_mm"), shown(math.nan)] == ["∞", ""]
    assert interval({"ci_low": 0.1, "ci_high": "0.2"}) == (0.1, 0.2)
    assert interval({"mean": 1}) is None
    assert columns_of([{"dice": 1.0, "hd90_mm": 2.0, "hd_mm": 3.0, "volume_prediction_ml": math.nan}]) == [
        "dice",
        "hd90_mm",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/scans/doe/x.nii.gz: is damaged", "…: is damaged"),
        (r"C:\Users\Doe\x.nii is damaged", "… is damaged"),
        ("sizes 3 and 4 differ (../a/b.nii)", "sizes 3 and 4 differ (…)"),
        ("value 4; task 'a' has 0, 1", "value 4; task 'a' has 0, 1"),
    ],
)
def test_messages_lose_their_paths(text, expected):
    assert without_paths(text) == expected
