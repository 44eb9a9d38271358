"""Preprocessing: where network voxels lie in the world, what values they get, and the way back."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medseg3d.checks import ConfigError, InputError
from medseg3d.intensity import ct_statistics
from medseg3d.preprocessing import Preprocessing, interpolate
from medseg3d.task import Task
from medseg3d.volume import Volume

DATA = Path(os.environ.get("MEDSEG3D_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
UNCHANGED = ({"low": -1e6, "high": 1e6, "mean": 0.0, "std": 1.0},)


def plain(spacing_mm: tuple[float, ...] | None, *, crop: bool = False, dims: int = 3) -> Preprocessing:
    """Resamples and leaves intensities alone."""
    return Preprocessing(dims, spacing_mm, "ct", crop, UNCHANGED)


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    out[a, a], out[a, b], out[b, a], out[b, b] = c, -s, s, c
    return out


def affine(
    direction: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...] = (-30.0, 12.0, 7.0)
) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = direction * spacing
    out[:3, 3] = origin
    return out


GRIDS = {
    "plain": affine(np.eye(3), (1.0, 1.0, 1.0)),
    "anisotropic": affine(np.eye(3), (0.7, 0.9, 5.0)),
    "left-handed": affine(np.diag([-1.0, 1.0, 1.0]), (1.0, 2.0, 3.0)),
    "oblique": affine(rotation(20, 0) @ rotation(-15, 2), (0.9, 1.1, 2.5)),
    "oblique, permuted, flipped": affine(
        (rotation(25, 1) @ rotation(10, 2))[:, [2, 0, 1]] * [1, -1, -1], (3.0, 0.8, 1.2)
    ),
}


def world_ramp(grid_shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """The function 0.5 x - 2 y + 3 z + 10 of the world at every voxel."""
    index = np.stack([*np.indices(grid_shape), np.ones(grid_shape)], axis=-1)
    return index @ matrix.T @ np.array([0.5, -2, 3, 10])


@pytest.mark.parametrize("name", GRIDS)
def test_network_voxels_hold_what_lies_at_their_place_in_the_world(name: str) -> None:
    matrix = GRIDS[name]
    volume = Volume(world_ramp((13, 17, 11), matrix)[None].astype(np.float32), matrix)
    preprocessing = plain((1.3, 1.0, 1.7))
    grid = preprocessing.plan(volume)
    assert grid.grid.spacing_mm == pytest.approx((1.3, 1.0, 1.7))
    assert grid.grid.axcodes == ("R", "A", "S")
    got = preprocessing.image(volume, grid)[0]
    expected = world_ramp(grid.shape, grid.grid.affine)
    # The last voxel of an axis may lie beyond the scan, where its border value continues.
    inner = tuple(slice(n - 1) for n in grid.shape)
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_finer_by_a_whole_factor_and_back_is_exact(name: str, factor: int) -> None:
    matrix = GRIDS[name]
    data = np.random.default_rng(0).standard_normal((2, 7, 6, 5)).astype(np.float32)
    volume = Volume(data, matrix)
    canonical = [volume.spacing_mm[a] for a in volume.grid.to_canonical().axes]
    preprocessing = Preprocessing(3, tuple(s / factor for s in canonical), "ct", False, UNCHANGED * 2)
    grid = preprocessing.plan(volume)
    axes = grid.axis_map.axes
    assert grid.shape == tuple((data.shape[1 + a] - 1) * factor + 1 for a in axes)
    network = torch.from_numpy(preprocessing.image(volume, grid))
    back = network.permute(0, *(1 + a for a in grid.axis_map.inverse().axes))
    np.testing.assert_array_equal(interpolate(back, grid.network_coordinates()).numpy(), data)
    label = Volume((data[:1] > 0.3).astype(np.uint8) * 7, matrix)
    fine = preprocessing.labels(label, grid)[0].transpose(grid.axis_map.inverse().axes)
    at = np.ix_(*(np.rint(c).astype(int) for c in grid.network_coordinates()))
    np.testing.assert_array_equal(fine[at], label.data[0])


@pytest.mark.parametrize("name", GRIDS)
def test_a_ramp_comes_back_through_a_spacing_that_does_not_fit(name: str) -> None:
    matrix = GRIDS[name]
    data = world_ramp((13, 17, 11), matrix)[None].astype(np.float32)
    preprocessing = plain((0.77, 0.61, 0.83))
    grid = preprocessing.plan(Volume(data, matrix))
    network = torch.from_numpy(preprocessing.image(Volume(data, matrix), grid))
    back = network.permute(0, *(1 + a for a in grid.axis_map.inverse().axes))
    restored = interpolate(back, grid.network_coordinates()).numpy()
    # Between the last two network voxels the outer one is clamped, so the last source voxel alone may differ.
    inner = (slice(None), *(slice(1, n - 1) for n in data.shape[1:]))
    np.testing.assert_allclose(restored[inner], data[inner], atol=1e-3)


def test_all_48_axis_orders_give_one_network_array() -> None:
    rng = np.random.default_rng(1)
    matrix = affine(rotation(12, 2), (1.0, 1.5, 2.0))
    data = np.where(rng.random((2, 9, 8, 7)) < 0.3, 0, rng.standard_normal((2, 9, 8, 7))).astype(np.float32)
    data[:, :2] = 0
    label = rng.integers(0, 4, (1, 9, 8, 7), dtype=np.uint8)
    for intensity in ("zscore", "minmax_slices"):
        preprocessing = Preprocessing(3, (1.2, 1.2, 1.2), intensity, True)
        grid = preprocessing.plan(Volume(data, matrix))
        expected = preprocessing.image(Volume(data, matrix), grid)
        expected_label = preprocessing.labels(Volume(label, matrix), grid)
        count = 0
        for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
            change = np.zeros((4, 4))
            change[3, 3] = 1
            for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
                change[old, new] = sign
                change[old, 3] = 0 if sign > 0 else data.shape[1 + old] - 1
            turn = (slice(None), *(slice(None, None, s) for s in signs))
            shown = Volume(data.transpose(0, *(1 + a for a in order))[turn], matrix @ change)
            shown_label = Volume(label.transpose(0, *(1 + a for a in order))[turn], matrix @ change)
            same = preprocessing.plan(shown)
            np.testing.assert_allclose(same.grid.affine, grid.grid.affine, atol=1e-9)
            np.testing.assert_allclose(preprocessing.image(shown, same), expected, atol=2e-6)
            np.testing.assert_array_equal(preprocessing.labels(shown_label, same), expected_label)
            count += 1
        assert count == 48


def test_the_8_stored_axis_orders_of_one_scan_give_one_network_array() -> None:
    files = sorted((DATA / "nifti_48_orientations").glob("*.nii.gz"))
    if not files:
        pytest.skip(f"no nifti_48_orientations under {DATA}; set MEDSEG3D_DATA to the shared data")
    nibabel = pytest.importorskip("nibabel")
    preprocessing = Preprocessing(3, (2.0, 2.0, 2.0), "zscore", True)
    images = {}
    for file in files:
        image = nibabel.load(file)
        volume = Volume(np.asarray(image.dataobj)[None], image.affine)
        grid = preprocessing.plan(volume)
        images[file.name] = (preprocessing.image(volume, grid), grid.grid.affine)
    expected, expected_affine = images["RAS.nii.gz"]
    assert len(images) == 8
    for array, matrix in images.values():
        np.testing.assert_allclose(array, expected, atol=1e-4)
        np.testing.assert_allclose(matrix, expected_affine, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_interpolate_agrees_with_scipy(dims: int) -> None:
    rng = np.random.default_rng(2)
    shape = (9, 12, 7)[:dims]
    data = rng.standard_normal(shape).astype(np.float32)
    coordinates = [np.linspace(-1.5, n + 0.7, m) for n, m in zip(shape, (23, 5, 11), strict=False)]
    expected = ndimage.map_coordinates(
        data.astype(float), np.meshgrid(*coordinates, indexing="ij"), order=1, mode="nearest"
    )
    # The coordinate -1.5 steps by fractions; the memory order must not matter.
    for order in (data, np.asfortranarray(data)):
        np.testing.assert_allclose(
            interpolate(torch.from_numpy(order)[None], coordinates)[0].numpy(), expected, atol=1e-5
        )


def test_interpolate_by_hand() -> None:
    data = torch.tensor([[0.0, 10.0, 40.0]])
    got = interpolate(data, [np.array([-3.0, 0.0, 0.25, 1.5, 2.0, 9.0])])
    assert got.tolist() == [[0.0, 0.0, 2.5, 25.0, 40.0, 40.0]]
    assert interpolate(data, [np.array([2.00001, 0.99999])]).tolist() == [[40.0, 10.0]]
    assert interpolate(torch.tensor([[5.0]]), [np.array([-0.4, 0.0, 0.4])]).tolist() == [[5.0, 5.0, 5.0]]
    with pytest.raises(ValueError, match="2 lists of coordinates for 1 axes"):
        interpolate(data, [np.zeros(1), np.zeros(1)])


def test_network_size_reaches_the_last_voxel() -> None:
    volume = Volume(np.ones((1, 5, 5, 5), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    # 8 mm from first to last centre: 8 / 1 + 1, ceil(8 / 3) + 1, 8 / 4 + 1.
    assert plain((1.0, 3.0, 4.0)).plan(volume).shape == (9, 4, 3)
    assert plain(None).plan(volume).shape == (5, 5, 5)
    # float32 noise in the header's spacing adds no voxel.
    noisy = Volume(volume.data, np.diag([2.0000002, 1.9999999, 2.0, 1.0]))
    assert plain((2.0, 2.0, 2.0)).plan(noisy).shape == (5, 5, 5)


def test_crop_keeps_what_is_not_zero_in_any_channel() -> None:
    data = np.zeros((2, 10, 9, 8), np.float32)
    data[0, 2, 3, 4] = 1
    data[1, 6, 3, 5] = 1
    preprocessing = Preprocessing(3, None, "zscore", True)
    grid = preprocessing.plan(Volume(data, np.eye(4)))
    assert grid.shape == (5, 1, 2)
    assert grid.axis_map.start == (2.0, 3.0, 4.0)
    assert grid.grid.affine[:3, 3].tolist() == [2, 3, 4]
    assert preprocessing.plan(Volume(np.zeros((1, 4, 5, 6), np.float32), np.eye(4))).shape == (4, 5, 6)


def test_zscore_leaves_zeros_and_scales_the_rest() -> None:
    data = np.array([0, 1, 3, 0, 1, 3], np.float32).reshape(1, 1, 2, 3)
    both = np.concatenate([data, np.where(data > 0, 7, 0).astype(np.float32), np.zeros_like(data)])
    preprocessing = Preprocessing(3, None, "zscore", False)
    volume = Volume(both, np.eye(4))
    got = preprocessing.image(volume, preprocessing.plan(volume))
    assert got[0].ravel().tolist() == [0, -1, 1, 0, -1, 1]
    assert not got[1:].any(), "a constant and an empty channel become 0"
    assert both[0].max() == 3, "the volume itself is unchanged"
    off = Volume(np.full((1, 4, 4, 4), 1000.1, np.float32), np.eye(4))
    assert not preprocessing.image(off, preprocessing.plan(off)).any()


def test_ct_clips_then_scales_by_the_training_sets_statistics() -> None:
    statistics = ({"low": -100.0, "high": 300.0, "mean": 100.0, "std": 50.0},)
    preprocessing = Preprocessing(3, None, "ct", False, statistics)
    volume = Volume(np.array([-1000, -100, 100, 150, 3000], np.int16).reshape(1, 5, 1, 1), np.eye(4))
    assert preprocessing.image(volume, preprocessing.plan(volume)).ravel().tolist() == [-4, -4, 0, 1, 4]
    with pytest.raises(InputError, match="2 channels, and the statistics of the model are those of 1"):
        preprocessing.image(Volume(np.zeros((2, 5, 1, 1)), np.eye(4)), preprocessing.plan(volume))


def test_minmax_slices_works_along_the_inferior_superior_axis() -> None:
    stored = np.array([[2.0, 4.0, 6.0], [10.0, 30.0, 20.0], [5.0, 5.0, 5.0]], np.float32)  # three axial slices
    preprocessing = Preprocessing(3, None, "minmax_slices", False)
    expected = np.array([[0, 0.5, 1], [0, 1, 0.5], [0, 0, 0]])
    last = Volume(stored.T.reshape(1, 3, 1, 3), np.eye(4))
    np.testing.assert_allclose(preprocessing.image(last, preprocessing.plan(last))[0, :, 0].T, expected)
    first = Volume(stored.reshape(1, 3, 3, 1), np.eye(4)[[1, 2, 0, 3]])  # stored S, R, A
    assert first.axcodes == ("S", "R", "A")
    np.testing.assert_allclose(preprocessing.image(first, preprocessing.plan(first))[0, :, 0].T, expected)


def test_range_divides_by_what_the_type_holds() -> None:
    preprocessing = Preprocessing(2, None, "range", False)
    for data, expected in (
        (np.array([[0, 51, 255]], np.uint8), [0, 0.2, 1]),
        (np.array([[0, 51, 102]], np.float32), [0, 0.2, 0.4]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 0.5, 1]),
        (np.array([[0, 13107, 65535]], np.uint16), [0, 0.2, 1]),
    ):
        volume = Volume(data[None], np.eye(3))
        np.testing.assert_allclose(preprocessing.image(volume, preprocessing.plan(volume)).ravel(), expected, atol=1e-6)


def test_labels_are_decided_by_the_larger_share_and_never_invented() -> None:
    volume = Volume(np.array([1, 1, 3, 3, 0], np.uint8).reshape(1, 5, 1, 1), np.diag([2.0, 1.0, 1.0, 1.0]))
    preprocessing = plain((0.8, 1.0, 1.0))
    grid = preprocessing.plan(volume)
    # Source coordinates 0, 0.4, .. 4: 1.2 is nearer to 1, 1.6 to 2; 3.2 is nearer to 3, 3.6 to 4.
    assert preprocessing.labels(volume, grid).ravel().tolist() == [1, 1, 1, 1, 3, 3, 3, 3, 3, 0, 0]
    wide = Volume(volume.data.astype(np.uint16) * 300, volume.affine)
    assert preprocessing.labels(wide, grid).ravel().tolist() == [300] * 4 + [900] * 5 + [0, 0]


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 1.9), (2.0, 2.5, 0.5)])
def test_labels_equal_the_argmax_of_all_masks(spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 6, (1, 5, 6, 4))
    volume = Volume(
        coarse.repeat(2, 1).repeat(3, 3).astype(np.uint8), affine(np.diag([1.0, -1.0, 1.0]), (1.0, 1.1, 0.9))
    )
    preprocessing = plain(spacing)
    grid = preprocessing.plan(volume)
    masks = np.stack([volume.data[0] == v for v in range(6)]).astype(np.float32)
    shares = interpolate(torch.from_numpy(masks), grid.source_coordinates()).numpy().transpose(0, 1, 2, 3)
    top = np.sort(shares, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    got = preprocessing.labels(volume, grid)[0]
    np.testing.assert_array_equal(got[clear], shares.argmax(0)[clear])
    assert clear.mean() > 0.7


def test_statistics_are_those_of_the_labelled_voxels() -> None:
    values = np.arange(1001, dtype=np.float32)
    image = Volume(np.concatenate([values, np.full(1001, -5000, np.float32)]).reshape(1, 2002, 1, 1), np.eye(4))
    label = Volume(np.repeat(np.array([2, 0], np.uint8), 1001).reshape(1, 2002, 1, 1), np.eye(4))
    (statistics,) = ct_statistics([(image, label)])
    assert statistics["low"] == pytest.approx(5)
    assert statistics["high"] == pytest.approx(995)
    assert statistics["mean"] == pytest.approx(500)
    assert statistics["std"] == pytest.approx(values.std(), rel=1e-4)
    with pytest.raises(ConfigError, match="no voxel of the training set is labelled"):
        ct_statistics([(image, Volume(np.zeros_like(label.data), np.eye(4)))])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused_and_counted(bad: float) -> None:
    data = np.ones((1, 4, 4, 4), np.float32)
    data[0, 1, 2, :3] = bad
    volume = Volume(data, np.eye(4))
    preprocessing = Preprocessing(3, None, "zscore", False)
    with pytest.raises(InputError, match="3 voxels of channel 0 are NaN or infinite") as caught:
        preprocessing.image(volume, preprocessing.plan(volume))
    assert caught.value.finding.code == "E-NONFINITE"


def test_json_round_trip_and_refusals() -> None:
    task = Task(
        "liver", {"ct": []}, {"liver": [1]}, (64, 64, 64), spacing_mm=(1.5, 1.5, 2.0), intensity="ct", crop=True
    )
    preprocessing = Preprocessing.from_task(task, UNCHANGED)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.as_dict()))) == preprocessing
    with pytest.raises(ConfigError, match="needs statistics of the training set"):
        Preprocessing.from_task(task)
    with pytest.raises(ConfigError, match="lack 'std'"):
        Preprocessing.from_task(task, [{"low": 0, "high": 1, "mean": 0}])
    with pytest.raises(ConfigError, match="wrong form"):
        Preprocessing.from_dict({"spatial_dims": 3})
    with pytest.raises(InputError, match="an image of 2 axes, and the task works on 3"):
        preprocessing.plan(Volume(np.zeros((1, 4, 4)), np.eye(3)))
