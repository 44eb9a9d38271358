"""Size and shape of masks, against numbers worked out by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from medseg3d.metrics.shape import diameters, surface_area


def box(shape, *sizes):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(2, 2 + n) for n in sizes)] = True
    return mask


def test_the_area_of_a_box_of_unit_voxels() -> None:
    """6 x 4 x 3 voxels: faces 2 (5*3 + 5*2 + 3*2), edges 4 (5 + 3 + 2) cut at sqrt(1/2), 8 corners cut to sqrt(3)/8."""
    area = surface_area(box((12, 10, 9), 6, 4, 3), (1, 1, 1))
    assert area == pytest.approx(62 + 40 * sqrt(0.5) + sqrt(3))


def test_the_area_of_a_box_of_thick_voxels() -> None:
    """6 x 4 x 3 voxels of 1 x 1 x 3 mm: the cut edges are sqrt(0.5^2 + 1.5^2) mm wide across the slices."""
    area = surface_area(box((12, 10, 9), 6, 4, 3), (1, 1, 3))
    faces = 2 * (5 * 3 + 5 * 2 * 3 + 3 * 2 * 3)
    edges = 4 * ((5 + 3) * sqrt(2.5) + 2 * 3 * sqrt(0.5))
    corner = sqrt(0.25**2 + 2 * 0.75**2) / 2
    assert area == pytest.approx(faces + edges + 8 * corner)


def test_the_length_of_an_outline_and_of_nothing() -> None:
    """5 x 3 pixels of 2 mm: straight 2 (4 + 2) * 2 mm, four corners of sqrt(2) mm."""
    assert surface_area(box((9, 9), 5, 3), (2, 2)) == pytest.approx(24 + 4 * sqrt(2))
    assert surface_area(np.zeros((3, 3, 3), bool), (1, 1, 1)) == 0
    with pytest.raises(ValueError, match="2 positive numbers"):
        surface_area(box((9, 9), 5, 3), (2, 0))


def test_one_row_of_voxels_is_as_long_as_they_are() -> None:
    """10 voxels of 0.8 mm, 3 mm thick: 8 mm long, 0.8 mm wide, whatever the axis of the slices is called."""
    mask = box((14, 6, 6), 10, 1, 1)
    found = diameters(mask, np.diag([0.8, 0.8, 3.0]), slice_axis=2)
    assert found.longest_axial_mm == pytest.approx(8)
    assert found.across_mm == pytest.approx(0.8)
    assert found.longest_3d_mm == pytest.approx(8)
    assert found.slice_index == 2
    turned = diameters(mask.transpose(2, 0, 1), np.diag([3.0, 0.8, 0.8]), slice_axis=0)
    assert turned == found


def test_a_box_goes_from_corner_to_corner() -> None:
    """30 x 40 voxels of 1 mm in plane: from a cut of one short face to one of the other, 29 and 40 mm apart."""
    mask = box((40, 50, 9), 30, 40, 5)
    found = diameters(mask, np.diag([1.0, 1.0, 2.0]), slice_axis=2)
    assert found.longest_axial_mm == pytest.approx(sqrt(29**2 + 40**2))
    # 5 slices of 2 mm: 8 mm between the middles of the first and the last.
    assert found.longest_3d_mm == pytest.approx(sqrt(29**2 + 40**2 + 8**2))


def test_the_largest_slice_counts_and_an_l_reaches_beyond_itself() -> None:
    """Slice 3 holds an L of 11 and 11 voxels: from the corner's voxel, one end is the cut at (10.5, 0), the other at (-0.5, 10)."""
    mask = np.zeros((15, 15, 6), bool)
    mask[1:3, 1:3, 1] = True
    mask[1:12, 1, 3] = True
    mask[1, 1:12, 3] = True
    found = diameters(mask, np.eye(3), slice_axis=2)
    assert found.slice_index == 3
    assert found.longest_axial_mm == pytest.approx(sqrt(11**2 + 10**2))
    # Along the normal (10, 11) / sqrt(221) it reaches from the cut at (0, -0.5) to that at (0, 10.5).
    assert found.across_mm == pytest.approx(11 * 11 / sqrt(221))


def test_oblique_axes_and_pictures() -> None:
    mask = box((14, 6, 6), 10, 1, 1)
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    found = diameters(mask, turn @ np.diag([0.8, 0.8, 3.0]), slice_axis=2)
    assert found.longest_axial_mm == pytest.approx(8)
    flat = diameters(mask[..., 2], np.diag([0.5, 0.5]))
    assert flat.longest_axial_mm == pytest.approx(5)
    assert np.isnan(flat.longest_3d_mm)
    assert flat.slice_index is None


def test_nothing_has_no_diameter() -> None:
    found = diameters(np.zeros((4, 4, 4), bool), np.eye(3), slice_axis=0)
    assert np.isnan([found.longest_axial_mm, found.across_mm, found.longest_3d_mm]).all()
    with pytest.raises(ValueError, match="slice_axis"):
        diameters(np.zeros((4, 4, 4), bool), np.eye(3))


def test_all_cuts_of_a_random_mask_agree_with_brute_force() -> None:
    mask = np.random.default_rng(3).random((9, 8, 7)) < 0.1
    steps = np.diag([0.7, 1.1, 2.0])
    inside = np.pad(mask, 1)
    cuts = []
    for axis in range(3):
        near = np.moveaxis(inside, axis, 0)
        for place in np.argwhere(near[1:] != near[:-1]).astype(float):
            place[0] += 0.5
            rest = iter(place[1:])
            cuts.append([place[0] if a == axis else next(rest) for a in range(3)])
    points = (np.array(cuts) - 1) @ steps
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    found = diameters(mask, steps, slice_axis=2)
    assert found.longest_3d_mm == pytest.approx(distance.max())
    same = (points[:, None, 2] == points[None, :, 2]) & (points[:, 2] % 2 == 0)[:, None]
    assert found.longest_axial_mm == pytest.approx(distance[same].max())
