"""Surface distances: closed forms, brute force over the surface elements, invariances, and the packages where installed."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from medseg3d.metrics import DEFINITIONS, SurfaceDistances, dice, measure_case, nearest, surface_distances
from medseg3d.metrics.net import RELAXATION

DATA = Path(os.environ.get("MEDSEG3D_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
AREAS = ("surface", "mesh")  # definitions that weigh by area; where no voxel is long they are the same
SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.8, 1.3, 2.5)]


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    """A mask with one box in it."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def random_pair(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two masks that touch the border, hold single voxels, and share a part."""
    rng = np.random.default_rng(seed)
    a = rng.random(shape) < rng.choice([0.05, 0.3, 0.8])
    b = np.where(rng.random(shape) < 0.5, a, rng.random(shape) < 0.3)
    a.flat[0], b.flat[-1] = True, True
    return a, b


def numbers(found: SurfaceDistances) -> list[float]:
    """Every metric at once."""
    return [
        *(found.hausdorff(p) for p in (50, 95, 100)),
        found.assd(),
        found.masd(),
        *(found.nsd(t) for t in (0, 0.75, 1.9, 4.1)),
    ]


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_box_lies_at_the_shift(spacing: tuple[float, ...], definition: str, axis: int) -> None:
    a = box((20, 20, 20), (4, 12), (4, 12), (4, 12))
    found = surface_distances(a, np.roll(a, 3, axis), spacing, definition=definition)
    # the face across the axis is 3 voxels from its copy; no path to another face is shorter, as the box is 8 long
    assert found.hausdorff() == pytest.approx(3 * spacing[axis], abs=1e-12)
    assert found.nsd(3 * spacing[axis]) == 1
    assert found.nsd(2.9 * spacing[axis]) < 1


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_equal_masks_are_at_distance_zero(definition: str, shape: tuple[int, ...]) -> None:
    a, _ = random_pair(0, shape)
    found = surface_distances(a, a, (2.0, 1.0, 0.5)[: len(shape)], definition=definition)
    assert numbers(found) == [0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_two_voxels(definition: str) -> None:
    a, b = box((9, 9), (1, 2), (1, 2)), box((9, 9), (4, 5), (5, 6))
    found = surface_distances(a, b, (1.0, 1.0), definition=definition)
    assert found.reference_mm.size == (4 if definition in AREAS else 1)
    # corners of a pixel: the farthest from the other pixel is 5 away, the next ones by one pixel less on one axis
    assert found.hausdorff() == 5
    corners = (math.hypot(2, 3) + math.hypot(2, 4) + math.hypot(3, 3) + math.hypot(3, 4)) / 4
    assert found.assd() == pytest.approx(corners if definition in AREAS else 5)


def test_area_of_a_box_and_of_a_single_voxel() -> None:
    a, nothing = box((12, 12, 12), (2, 8), (2, 7), (2, 6)), np.zeros((12, 12, 12), bool)
    x, y, z = 2.0, 1.0, 0.5
    area = surface_distances(a, nothing, (x, y, z)).reference_weight.sum()
    # 6 x 5 x 4 voxels; the cut runs half a voxel outside the outermost centres: faces, edges cut off, corners cut off
    faces = 2 * (4 * 3 * y * z + 5 * 3 * x * z + 5 * 4 * x * y)
    edges = 4 * (5 * x * math.hypot(y, z) + 4 * y * math.hypot(x, z) + 3 * z * math.hypot(x, y)) / 2
    corner = math.sqrt((y * z) ** 2 + (x * z) ** 2 + (x * y) ** 2) / 8
    assert area == pytest.approx(faces + edges + 8 * corner)
    voxel = surface_distances(box((3, 3, 3), (1, 2), (1, 2), (1, 2)), np.zeros((3, 3, 3), bool), (x, y, z))
    assert voxel.reference_weight.sum() == pytest.approx(8 * corner)


def test_length_in_2d_is_that_of_the_octagon() -> None:
    found = surface_distances(box((9, 9), (2, 7), (3, 6)), np.zeros((9, 9), bool), (3.0, 4.0))
    assert found.reference_weight.sum() == pytest.approx(2 * 4 * 3 + 2 * 2 * 4 + 4 * 2.5)  # sides and cut corners


def test_a_slab_lost_at_one_end_weighs_as_its_area() -> None:
    """A column that ends 2 slices of 5 mm early: the sides still agree, only the end does not."""
    a, b = box((30, 12, 12), (5, 25), (1, 11), (1, 11)), box((30, 12, 12), (5, 23), (1, 11), (1, 11))
    found = surface_distances(a, b, (5.0, 1.0, 1.0))
    assert found.hausdorff() == 10
    assert found.hausdorff(75) == 0
    # the shorter column's end lies inside the longer one, 10 x 10 wide: at most 5 mm from its sides
    assert found.prediction_mm.max() == 5
    voxels = surface_distances(a, b, (5.0, 1.0, 1.0), definition="voxel")
    assert voxels.hausdorff() == 10
    assert voxels.assd() > found.assd()


def test_weighted_percentile_takes_area_not_number() -> None:
    equal = SurfaceDistances("surface", np.arange(20.0), np.ones(20), np.zeros(1), np.ones(1))
    assert equal.hausdorff(95) == 18  # 19 of 20 have 95 %
    assert equal.hausdorff(95.1) == 19
    heavy = SurfaceDistances("surface", np.array([0.0, 7.0]), np.array([0.94, 0.06]), np.zeros(1), np.ones(1))
    assert heavy.hausdorff(94) == 0
    assert heavy.hausdorff(95) == 7
    linear = SurfaceDistances("voxel", np.array([0.0, 10.0]), np.ones(2), np.array([1.0, 1.0]), np.ones(2))
    assert linear.hausdorff(95) == pytest.approx(9.5)
    pooled = SurfaceDistances("pooled", np.array([0.0, 10.0]), np.ones(2), np.array([1.0, 1.0]), np.ones(2))
    assert pooled.hausdorff(50) == 1
    assert pooled.hausdorff(100) == 10


def test_assd_pools_and_masd_does_not() -> None:
    found = SurfaceDistances("surface", np.array([1.0]), np.array([3.0]), np.array([5.0]), np.array([1.0]))
    assert found.assd() == (3 * 1 + 1 * 5) / 4
    assert found.masd() == (1 + 5) / 2
    assert found.nsd(1) == 3 / 4


def test_tolerance_forgives_the_rounding_of_a_header() -> None:
    spacing = float(np.float32(0.2))  # 0.20000000298
    a = box((20, 20), (4, 9), (4, 9))
    assert surface_distances(a, np.roll(a, 5, 0), (spacing, spacing)).nsd(1.0) == 1


def test_the_net_takes_terraces_for_the_slope_that_they_are() -> None:
    """Two wedges with a slope of 7 mm per slice of 5 mm, one 8 pixels of 0.7 mm farther on: 3.25 mm across the slope."""
    z, x = np.indices((14, 160))
    a, b = ((x >= 10 * (z - 2) + shift) & (x < 150) & (z >= 2) & (z < 12) for shift in (0, 8))
    true_mm = 8 * 0.7 * 5 / math.hypot(5, 7)
    mesh, terraces = (surface_distances(a, b, (5.0, 0.7), definition=d) for d in ("mesh", "surface"))
    # the slope is 31 % of the contour and farther off than the rest, so these percentiles lie on it
    assert all(abs(mesh.hausdorff(p) - true_mm) < 0.5 for p in (70, 75, 80, 85, 90, 95))
    assert terraces.hausdorff(70) == 0
    assert terraces.hausdorff(95) == 5


@pytest.mark.parametrize("definition", ["surface", "mesh"])
def test_nets_of_cubes_are_the_surface(definition: str) -> None:
    a, b = random_pair(3, (9, 8, 7))
    assert numbers(surface_distances(a, b, (1.0, 1.2, 0.9), definition=definition)) == numbers(
        surface_distances(a, b, (1.0, 1.2, 0.9))
    )


# --- brute force ------------------------------------------------------------------------------------------------------


def edge_points(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the voxels with a background neighbour, one by one."""
    padded = np.pad(mask, 1)
    points = []
    for index in np.argwhere(padded):
        neighbours = [index + step for axis in np.eye(mask.ndim, dtype=int) for step in (axis, -axis)]
        if not all(padded[tuple(n)] for n in neighbours):
            points.append(index * spacing)
    return np.array(points), np.ones(len(points))


def corner_points(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners between unlike voxels, with the length (2D), or the area by the formulas of the shapes there (3D)."""
    padded = np.pad(mask, 1)
    points, weights = [], []
    for index in np.ndindex(*(n - 1 for n in padded.shape)):
        near = {c for c in itertools.product((0, 1), repeat=mask.ndim) if padded[tuple(np.add(index, c))]}
        if 0 < len(near) < 2**mask.ndim:
            points.append((np.array(index) + 0.5) * spacing)
            weights.append(area_of(near, spacing))
    return np.array(points), np.array(weights)


def area_of(near: set[tuple[int, ...]], spacing: np.ndarray) -> float:
    """Area of the surface around edge-connected voxels of a 2 x 2 x 2 block, from a list of the shapes it can take."""
    d = len(spacing)
    if len(near) > 2 ** (d - 1):
        near = set(itertools.product((0, 1), repeat=d)) - near
    side = spacing.prod() / spacing  # area of a voxel's face across each axis

    def piece(*normal: float) -> float:
        return float(np.linalg.norm(np.array(normal) * side))

    total, left = 0.0, set(near)
    while left:
        group = {left.pop()}
        while more := {c for c in left if any(sum(np.abs(np.subtract(c, g))) == 1 for g in group)}:
            group |= more
            left -= more
        degree = {c: sum(sum(np.abs(np.subtract(c, g))) == 1 for g in group) for c in group}
        along = [len({c[a] for c in group}) > 1 for a in range(d)]
        if d == 2:
            total += piece(0.5, 0.5) if len(group) == 1 else piece(*(float(not along[a]) for a in range(2)))
        elif len(group) == 1:  # a triangle
            total += piece(1 / 8, 1 / 8, 1 / 8)
        elif len(group) == 2:  # a rectangle along the pair
            total += piece(*(0.0 if along[a] else 0.5 for a in range(3)))
        elif sum(along) == 2:  # three or four of one face
            flat = [0.0 if along[a] else 1.0 for a in range(3)]
            corner = piece(3 / 8, 3 / 8, 3 / 8)
            total += piece(*flat) if len(group) == 4 else piece(*(f / 2 for f in flat)) + corner
        elif max(degree.values()) == 3:  # a voxel and its three neighbours: a regular hexagon
            total += piece(3 / 4, 3 / 4, 3 / 4)
        else:  # a chain of four that turns twice: a trapezoid, and a triangle at each end
            ends = [c for c in group if degree[c] == 1]
            total += piece(1 / 2, 1 / 2, 1 / 2)
            for end in ends:
                joint = next(g for g in group if sum(np.abs(np.subtract(end, g))) == 1)
                total += piece(*(0.0 if end[a] != joint[a] else 0.25 for a in range(3)))
    return total


def net_points(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of the elastic net, one by one: drawn to their neighbours along the coarse axes, then rounded to cubes."""
    padded, (_, weights) = np.pad(mask, 1), corner_points(mask, spacing)
    d, parts = mask.ndim, np.maximum(1, np.ceil(spacing / spacing.min() / 2 - 1e-6))
    nodes = {}
    for index in np.ndindex(*(n - 1 for n in padded.shape)):
        near = {c: padded[tuple(np.add(index, c))] for c in itertools.product((0, 1), repeat=d)}
        if len(set(near.values())) == 2:
            edges = [(c, e) for c, e in itertools.combinations(near, 2) if sum(np.abs(np.subtract(c, e))) == 1]
            cuts = [np.add(c, e) / 2 - 0.5 for c, e in edges if near[c] != near[e]]
            faces = [
                (axis, 2 * side - 1)
                for axis in range(d)
                for side in (0, 1)
                if len({v for c, v in near.items() if c[axis] == side}) == 2
            ]
            nodes[index] = (np.mean(cuts, axis=0), [np.eye(d, dtype=int)[axis] * way for axis, way in faces])
    offset = {index: start for index, (start, _) in nodes.items()}
    for step in RELAXATION:
        mean = {i: np.mean([offset[tuple(i + way)] + way for way in ways], axis=0) for i, (_, ways) in nodes.items()}
        offset = {i: np.clip(o + step * (mean[i] - o), -0.5, 0.5) for i, o in offset.items()}
    rounded = [np.add(i, np.where(parts > 1, np.rint(o * parts * (1 - 1e-9)) / parts, 0)) for i, o in offset.items()]
    return np.array(rounded) * spacing, weights


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], definition: str) -> list[float]:
    """The definitions as they are written, over all pairs of points."""
    points_of = {"surface": corner_points, "mesh": net_points}.get(definition, edge_points)
    (pa, wa), (pb, wb) = (points_of(m, np.array(spacing)) for m in (a, b))
    every = np.sqrt(((pa[:, None] - pb[None]) ** 2).sum(-1))
    da, db = every.min(1), every.min(0)

    def percentile(p: float) -> float:
        if definition == "pooled":
            return float(np.percentile(np.r_[da, db], p))
        if definition == "voxel":
            return float(max(np.percentile(da, p), np.percentile(db, p)))
        # 1e-9 decides ties as exact arithmetic would
        return max(
            min(x for x in d if w[d <= x + 1e-9].sum() >= w.sum() * p / 100 - 1e-9) for d, w in ((da, wa), (db, wb))
        )

    weight = wa.sum() + wb.sum()
    return [
        *(percentile(p) for p in (50, 95, 100)),
        (da @ wa + db @ wb) / weight,
        (da @ wa / wa.sum() + db @ wb / wb.sum()) / 2,
        *((wa[da <= t].sum() + wb[db <= t].sum()) / weight for t in (0, 0.75, 1.9, 4.1)),
    ]


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(9, 8, 7), (12, 11)])
def test_brute_force_over_all_pairs_of_points(definition: str, seed: int, shape: tuple[int, ...]) -> None:
    a, b = random_pair(seed, shape)
    spacing = SPACINGS[seed % 3][: len(shape)]
    found = numbers(surface_distances(a, b, spacing, definition=definition))
    np.testing.assert_allclose(found, brute_force(a, b, spacing, definition), rtol=0, atol=1e-6)


@pytest.mark.parametrize("inner", [3.0, 9.0])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_blocks_and_transform_are_both_exact(
    monkeypatch: pytest.MonkeyPatch, inner: float, spacing: tuple[float, ...]
) -> None:
    """Balls near and far inside one another, each measured both ways, with nothing found nearby."""
    radius = np.sqrt(((np.indices((24, 24, 24)) - 11.5) ** 2).sum(0))
    a, b = radius < inner, radius < 10
    expected = brute_force(a, b, spacing, "surface")
    calls = []
    transform = nearest.ndimage.distance_transform_edt
    monkeypatch.setattr(nearest, "REACH", 0)
    monkeypatch.setattr(
        nearest.ndimage, "distance_transform_edt", lambda *x, **y: calls.append(1) or transform(*x, **y)
    )
    for voxel_work, transforms in ((0, 2), (math.inf, 0)):
        calls.clear()
        monkeypatch.setattr(nearest, "VOXEL_WORK", voxel_work)
        np.testing.assert_allclose(numbers(surface_distances(a, b, spacing)), expected, rtol=0, atol=1e-6)
        assert len(calls) == transforms


@pytest.mark.parametrize("definition", ["surface", "voxel"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("reach", [1, 2, 12])
def test_what_is_far_is_looked_up_exactly(
    monkeypatch: pytest.MonkeyPatch, definition: str, spacing: tuple[float, ...], reach: int
) -> None:
    """Sparse points in a flat box, and two faces farther apart than bytes count."""
    rng = np.random.default_rng(reach)
    monkeypatch.setattr(nearest, "REACH", reach)
    monkeypatch.setattr("medseg3d.metrics.lattice.REACH", reach)
    monkeypatch.setattr(nearest, "VOXEL_WORK", math.inf)
    a, b = rng.random((2, 3, 39, 37)) < 0.004
    a[0, 0, 0] = b[2, 38, 36] = b[0, 9, 0] = True
    found = numbers(surface_distances(a, b, spacing, definition=definition))
    np.testing.assert_allclose(found, brute_force(a, b, spacing, definition), rtol=0, atol=1e-6)
    ends = np.zeros((2, 300, 2), bool)
    ends[0, 1], ends[1, 298] = True, True
    assert surface_distances(*ends, spacing[:2], definition=definition).hausdorff() == pytest.approx(297 * spacing[0])


# --- invariances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("shape", [(12, 10, 9), (17, 13)])
def test_invariances(definition: str, shape: tuple[int, ...]) -> None:
    d = len(shape)
    a, b = random_pair(7, shape)
    spacing = np.array([2.0, 0.7, 1.1][:d])
    expected = numbers(surface_distances(a, b, spacing, definition=definition))

    def same(x: np.ndarray, y: np.ndarray, s: np.ndarray) -> None:
        np.testing.assert_allclose(numbers(surface_distances(x, y, s, definition=definition)), expected, atol=1e-9)

    same(b, a, spacing)  # symmetry
    same(np.pad(a, 3), np.pad(b, 3), spacing)  # the border of the array is background
    same(np.pad(a, (4, 1)), np.pad(b, (4, 1)), spacing)  # translation
    same(np.asfortranarray(a), np.asfortranarray(b), spacing)  # memory order
    for axis in range(d):
        same(np.flip(a, axis), np.flip(b, axis), spacing)
    for order in itertools.permutations(range(d)):
        same(a.transpose(order), b.transpose(order), spacing[list(order)])
    scaled = surface_distances(a, b, spacing * 3, definition=definition)
    np.testing.assert_allclose([scaled.hausdorff(95), scaled.assd(), scaled.masd()], 3 * np.array(expected)[[1, 3, 4]])
    np.testing.assert_allclose([scaled.nsd(3 * t) for t in (0, 0.75, 1.9, 4.1)], expected[5:])


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("seed", range(5))
def test_order_of_the_metrics(definition: str, seed: int) -> None:
    a, b = random_pair(seed, (11, 10, 9))
    found = surface_distances(a, b, (1.5, 1.0, 0.6), definition=definition)
    rising = [found.hausdorff(p) for p in (1, 10, 50, 90, 95, 99, 100)]
    assert rising == sorted(rising)
    assert 0 <= found.assd() <= rising[-1]
    shares = [found.nsd(t) for t in (0, 0.6, 1, 2, 5, 1e9)]
    assert shares == sorted(shares)
    assert shares[-1] == 1


# --- empties and wrong input ------------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize(
    ("reference", "prediction", "status", "distance", "nsd"),
    [(1, 1, "ok", 0, 1), (1, 0, "miss", INF, 0), (0, 1, "fp", INF, 0), (0, 0, "tn", 0, NAN)],
)
def test_golden_table_of_empties(
    definition: str, reference: int, prediction: int, status: str, distance: float, nsd: float
) -> None:
    masks = (box((6, 6, 6), (2, 4), (2, 4), (2, 4)) * bool(on) for on in (reference, prediction))
    found = surface_distances(*masks, (1.0, 1.0, 1.0), definition=definition)
    assert found.status == status
    distances = [found.hausdorff(95), found.hausdorff(), found.assd(), found.masd()]
    np.testing.assert_equal([*distances, found.nsd(1)], [*[distance] * 4, nsd])


@pytest.mark.parametrize(("empty", "ratio"), [("nan", NAN), ("one", 1.0)])
def test_both_empty_in_a_row(empty: str, ratio: float) -> None:
    zero = np.zeros((4, 4, 4), np.uint8)
    (row,) = measure_case(zero, zero, {"a": [1]}, (1, 1, 1), tolerance_mm=1, empty=empty)
    assert row["status"] == "tn"
    np.testing.assert_equal([row["dice"], row["iou"], row["nsd"]], [ratio] * 3)
    assert row["hd95_mm"] == row["assd_mm"] == 0


def test_a_row_says_how_it_was_measured() -> None:
    a = box((8, 8, 8), (2, 5), (2, 5), (2, 5)).astype(np.uint8)
    (row,) = measure_case(
        a, np.roll(a, 1, 0), {"a": [1]}, (2, 1, 1), definition="voxel", percentile=90, tolerance_mm=0.5
    )
    assert row["hd90_mm"] == row["hd_mm"] == 2
    assert (row["definition"], row["definition_version"], row["tolerance_mm"], row["surface_dims"]) == (
        "voxel",
        1,
        0.5,
        3,
    )
    (without,) = measure_case(a, a, {"a": [1]}, (2, 1, 1))
    assert math.isnan(without["nsd"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_measured_by_its_contour(axis: int) -> None:
    a = box((9, 9), (2, 6), (2, 6)).astype(np.uint8)
    b = np.roll(a, 2, 0)
    (flat,) = measure_case(a, b, {"a": [1]}, (1.5, 0.5), tolerance_mm=1)
    spacing = np.insert([1.5, 0.5], axis, 7.0)
    (slice_,) = measure_case(np.expand_dims(a, axis), np.expand_dims(b, axis), {"a": [1]}, spacing, tolerance_mm=1)
    assert slice_["surface_dims"] == 2
    assert slice_["volume_reference_ml"] == pytest.approx(16 * 1.5 * 0.5 * 7 / 1000)
    for key in ("hd_mm", "hd95_mm", "assd_mm", "nsd"):
        assert slice_[key] == flat[key]
    assert flat["hd_mm"] == 3


def test_labels_in_their_boxes_give_the_same_as_whole_masks() -> None:
    rng = np.random.default_rng(3)
    reference, prediction = (rng.choice([0, 0, 0, 1, 2, 5], (14, 12, 10)) for _ in range(2))
    regions = {"all": [1, 2, 5], "part": [2, 5], "five": [5]}
    for row in measure_case(reference, prediction, regions, (1, 2, 3), tolerance_mm=1.5):
        masks = (np.isin(x, regions[row["label"]]) for x in (reference, prediction))
        found = surface_distances(*masks, (1, 2, 3))
        assert (row["hd95_mm"], row["assd_mm"], row["nsd"]) == (found.hausdorff(95), found.assd(), found.nsd(1.5))


def test_wrong_input_is_refused_with_the_rule() -> None:
    a = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="must be 2 positive numbers"):
        surface_distances(a, a, (1, 1, 1))
    with pytest.raises(ValueError, match="must be 2 positive numbers"):
        surface_distances(a, a, (1, 0))
    with pytest.raises(ValueError, match="'mesh3' is none of surface, voxel, pooled, mesh"):
        surface_distances(a, a, (1, 1), definition="mesh3")
    with pytest.raises(ValueError, match="bring both to one grid"):
        surface_distances(a, a[:2], (1, 1))
    with pytest.raises(ValueError, match="percentile 0 must lie in"):
        surface_distances(a, a, (1, 1)).hausdorff(0)
    with pytest.raises(ValueError, match="tolerance_mm -1 must be 0 or more"):
        surface_distances(a, a, (1, 1)).nsd(-1)
    with pytest.raises(TypeError, match="tolerance_mm"):
        surface_distances(a, a, (1, 1)).nsd()


# --- other implementations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10, 9, 8), (14, 13)])
def test_surface_equals_surface_distance(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = pytest.importorskip("surface_distance", reason="pip install surface-distance to compare with it")
    for seed in range(12):
        a, b = random_pair(seed, shape)
        spacing = SPACINGS[seed % 3][: len(shape)]
        theirs = oracle.compute_surface_distances(a, b, spacing)
        ours = surface_distances(a, b, spacing)
        for p in (90, 95, 100):
            assert ours.hausdorff(p) == pytest.approx(oracle.compute_robust_hausdorff(theirs, p), abs=1e-6)
        assert ours.masd() == pytest.approx(np.mean(oracle.compute_average_surface_distance(theirs)), abs=1e-6)
        for t in (0.5, 1.0, 2.1):
            assert ours.nsd(t) == pytest.approx(oracle.compute_surface_dice_at_tolerance(theirs, t), abs=1e-6)


@pytest.mark.parametrize("shape", [(10, 9, 8), (14, 13)])
def test_voxel_equals_monai(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    for seed in range(6):
        a, b = random_pair(seed, shape)
        spacing = SPACINGS[seed % 3][: len(shape)]
        y, y_pred = (torch.from_numpy(x[None, None]) for x in (a, b))
        ours = surface_distances(a, b, spacing, definition="voxel")

        def theirs(function: str, *, y=y, y_pred=y_pred, spacing=spacing, **options) -> float:
            return float(getattr(metrics, function)(y_pred, y, include_background=True, spacing=spacing, **options))

        assert ours.hausdorff(95) == pytest.approx(theirs("compute_hausdorff_distance", percentile=95), abs=1e-5)
        assert ours.hausdorff() == pytest.approx(theirs("compute_hausdorff_distance"), abs=1e-5)
        assert ours.assd() == pytest.approx(theirs("compute_average_surface_distance", symmetric=True), abs=1e-5)
        assert ours.nsd(1.2) == pytest.approx(theirs("compute_surface_dice", class_thresholds=[1.2]), abs=1e-5)


def metric_pairs() -> list[tuple[str, str, str]]:
    return [
        ("meshmetrics3d", "meshmetrics_example_3d_ref_mask.nii.gz", "meshmetrics_example_3d_pred_mask.nii.gz"),
        ("meshmetrics2d", "meshmetrics_example_2d_ref_mask.nii.gz", "meshmetrics_example_2d_pred_mask.nii.gz"),
        ("sct_t2s_seg_vs_deepseg", "sct_t2s_seg.nii.gz", "sct_t2s_seg-deepseg.nii.gz"),
    ]


@pytest.mark.parametrize(("name", "reference", "prediction"), metric_pairs())
def test_recorded_values_of_surface_distance_and_medpy(name: str, reference: str, prediction: str) -> None:
    folder = DATA / "metric_pairs"
    if not folder.is_dir():
        pytest.skip("no metric_pairs in the data folder; MEDSEG3D_DATA says where it lies")
    import nibabel as nib

    recorded = json.loads((folder / "reference_values.json").read_text())[name]
    expected = recorded["labels"]["1"]
    a, b = (np.asanyarray(nib.load(folder / file).dataobj).squeeze() == 1 for file in (reference, prediction))
    spacing = recorded["spacing"]
    ours = surface_distances(a, b, spacing)
    assert ours.hausdorff() == pytest.approx(expected["dm_hd100"], abs=1e-6)
    assert ours.hausdorff(95) == pytest.approx(expected["dm_hd95"], abs=1e-6)
    assert ours.masd() == pytest.approx((expected["dm_avg_gt_to_pred"] + expected["dm_avg_pred_to_gt"]) / 2, abs=1e-6)
    assert ours.nsd(1) == pytest.approx(expected["dm_nsd_1mm"], abs=1e-6)
    assert ours.nsd(2) == pytest.approx(expected["dm_nsd_2mm"], abs=1e-6)
    pooled = surface_distances(a, b, spacing, definition="pooled")
    assert pooled.hausdorff() == pytest.approx(expected["medpy_hd"], abs=1e-6)
    assert pooled.hausdorff(95) == pytest.approx(expected["medpy_hd95"], abs=1e-6)
    assert pooled.assd() == pytest.approx(expected["medpy_assd"], abs=1e-6)
    assert dice(a, b) == pytest.approx(expected["dice"], abs=1e-12)
