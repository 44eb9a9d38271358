"""Decoding: logits at the stride to labels on the scan's grid, equal to one dense interpolation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from medseg3d.inference import decode
from medseg3d.inference.decode import (
    decode_labels,
    decode_probabilities,
    full_logits,
    restore_labels,
    restore_logits,
)
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task, load_task, task_names
from medseg3d.volume import Volume

REGIONS = {"wt": [1, 2, 3], "tc": [2, 3], "et": [3]}


def make_task(dims: int, classes: int, spacing_mm: tuple[float, ...] | None, *, crop: bool = False) -> Task:
    """``classes`` logits with a softmax; 0 means the three BraTS regions."""
    labels = {f"label {i}": [i] for i in range(1, classes)} if classes else REGIONS
    write = {} if classes else {"wt": 1, "tc": 2, "et": 3}
    return Task("t", {"image": []}, labels, (32,) * dims, write=write, spacing_mm=spacing_mm, crop=crop)


def make_grid(task: Task, shape: tuple[int, ...], matrix: np.ndarray) -> NetworkGrid:
    return Preprocessing.from_task(task).plan(Volume(np.ones((1, *shape), np.float32), matrix))


def random_logits(channels: int, grid: NetworkGrid, stride: int, *, blur: float = 0.7, seed: int = 0) -> Tensor:
    shape = [-(-n // stride) for n in grid.shape]
    noise = np.random.default_rng(seed).standard_normal((channels, *shape))
    return torch.from_numpy(ndimage.gaussian_filter(noise, [0, *[blur] * len(shape)]).astype(np.float32))


def dense_reference(coarse: Tensor, grid: NetworkGrid, stride: int) -> np.ndarray:
    """The logits at every scan voxel: one interpolation of scipy's in float64, through the affine alone."""
    index = np.stack([*np.indices(grid.source.shape), np.ones(grid.source.shape)], axis=-1)
    to_network = np.linalg.inv(grid.grid.affine) @ grid.source.affine
    network = np.moveaxis((index @ to_network.T)[..., :-1], -1, 0)
    at = np.round((network - (stride - 1) / 2) / stride, 9)
    return np.stack([ndimage.map_coordinates(c.astype(float), at, order=1, mode="nearest") for c in coarse.numpy()])


def matrix_of(spacing: tuple[float, ...], order: tuple[int, ...] | None = None, degrees: float = 0) -> np.ndarray:
    dims = len(spacing)
    order = order or tuple(range(dims))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(dims)
    turn[:2, :2] = [[c, -s], [s, c]]
    out = np.eye(dims + 1)
    out[:dims, :dims] = (turn @ np.eye(dims)[:, list(order)] * [1, -1, -1][:dims]) * spacing
    out[:dims, dims] = 11
    return out


CASES = {
    "same spacing": ((29, 22, 17), matrix_of((1.0, 1.0, 1.0)), None),
    "finer scan": ((40, 37, 21), matrix_of((0.8, 0.7, 1.0)), (1.5, 1.5, 1.5)),
    "coarser scan": ((12, 9, 14), matrix_of((3.0, 4.0, 2.5)), (1.0, 1.0, 1.0)),
    "much coarser scan": ((7, 6, 5), matrix_of((9.0, 11.0, 8.5)), (1.0, 1.0, 1.0)),
    "oblique, permuted": ((23, 31, 12), matrix_of((0.9, 1.2, 3.0), (2, 0, 1), 17), (1.1, 1.0, 1.3)),
    "one voxel thick": ((30, 26, 1), matrix_of((1.0, 1.0, 5.0)), (1.0, 0.8, 1.0)),
    "2D": ((45, 38), matrix_of((1.0, 1.0)), None),
    "2D, other spacing": ((45, 38), matrix_of((0.5, 1.7), (1, 0)), (0.9, 0.8)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("classes", [0, 2, 5, 20])
@pytest.mark.parametrize("slab_bytes", [1, 2**24])
def test_labels_equal_one_dense_interpolation(
    name: str, classes: int, slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "SLAB_BYTES", slab_bytes)
    shape, matrix, spacing_mm = CASES[name]
    task = make_task(len(shape), classes, spacing_mm)
    grid = make_grid(task, shape, matrix)
    for stride in (4, 1):
        coarse = random_logits(task.out_channels, grid, stride)
        logits = dense_reference(coarse, grid, stride)
        if classes:
            expected = logits.argmax(0)
            top = np.sort(logits, axis=0)
            clear = top[-1] - top[-2] > 1e-5
        else:
            expected = np.zeros(shape, int)
            for value, logit in enumerate(logits, start=1):
                expected[logit > 0] = value
            clear = np.abs(logits).min(0) > 1e-5
        got = decode_labels(coarse, grid, stride, task)
        assert got.shape == shape
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got[clear], expected[clear])
        assert clear.mean() > 0.99
        assert len(np.unique(got)) > 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("classes", [0, 5])
def test_probabilities_equal_one_dense_interpolation(name: str, classes: int) -> None:
    shape, matrix, spacing_mm = CASES[name]
    task = make_task(len(shape), classes, spacing_mm)
    grid = make_grid(task, shape, matrix)
    coarse = random_logits(task.out_channels, grid, 4)
    logits = torch.from_numpy(dense_reference(coarse, grid, 4))
    expected = torch.softmax(logits, 0) if classes else torch.sigmoid(logits)
    got = decode_probabilities(coarse, grid, 4, task)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_a_class_that_is_largest_at_no_corner_can_win_between_them() -> None:
    # Along the line: 10 falls to 0, 0 rises to 10, and 6 throughout is largest in the middle.
    coarse = torch.tensor([[10.0, 0.0], [0.0, 10.0], [6.0, 6.0]]).reshape(3, 2, 1, 1)
    task = make_task(3, 3, None)
    grid = make_grid(task, (8, 1, 1), np.eye(4))
    # The voxels between the two logits lie at 0.125, 0.375, 0.625, 0.875: the larger end is 8.75, 6.25, 6.25, 8.75 there.
    assert decode_labels(coarse, grid, 4, task).ravel().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    coarse[2] = 7
    assert decode_labels(coarse, grid, 4, task).ravel().tolist() == [0, 0, 0, 2, 2, 1, 1, 1]


def test_the_place_of_a_border_by_hand() -> None:
    # Logits at voxels 1.5, 5.5, 9.5; the difference +3, -1, -1 crosses 0 at 1.5 + 4 * 3 / 4 = 4.5.
    coarse = torch.tensor([[3.0, -1.0, -1.0], [0.0, 0.0, 0.0]]).reshape(2, 3, 1, 1)
    task = make_task(3, 2, None)
    grid = make_grid(task, (11, 1, 1), np.eye(4))
    assert decode_labels(coarse, grid, 4, task).ravel().tolist() == [0] * 5 + [1] * 6
    # The same scan stored right to left.
    flipped = make_grid(task, (11, 1, 1), np.diag([-1.0, 1.0, 1.0, 1.0]))
    assert decode_labels(coarse, flipped, 4, task).ravel().tolist() == [1] * 6 + [0] * 5


def test_labels_do_not_smear_beyond_the_cropped_box() -> None:
    data = np.zeros((1, 30, 20, 20), np.float32)
    data[:, 8:19, 5:15, 10:11] = 1
    for spacing_mm in (None, (0.7, 0.7, 0.7)):
        task = make_task(3, 2, spacing_mm, crop=True)
        grid = Preprocessing.from_task(task).plan(Volume(data, matrix_of((1.0, 1.0, 1.0), (1, 2, 0))))
        coarse = torch.zeros(2, *(-(-n // 4) for n in grid.shape))
        coarse[1] = 1
        got = decode_labels(coarse, grid, 4, task)
        np.testing.assert_array_equal(got, data[0])
        shares = decode_probabilities(coarse, grid, 4, task)
        np.testing.assert_allclose(shares.sum(0), 1, atol=1e-6)
        np.testing.assert_array_equal(shares[0][data[0] == 0], 1)
        np.testing.assert_allclose(shares[1][data[0] == 1], 1 / (1 + np.exp(-1)), atol=1e-6)


def test_values_are_those_the_task_writes() -> None:
    coarse = torch.eye(3).reshape(3, 3, 1, 1)
    task = Task("t", {"i": []}, {"a": [4, 9], "b": [700]}, (32, 32, 32), write={"a": 9, "b": 700})
    grid = make_grid(task, (12, 1, 1), np.eye(4))
    got = decode_labels(coarse, grid, 4, task)
    assert got.dtype == np.uint16
    assert got.ravel().tolist() == [0] * 4 + [9] * 4 + [700] * 4
    brats = Task(
        "t", {"i": []}, {"wt": [1, 2, 4], "tc": [1, 4], "et": [4]}, (32, 32, 32), write={"wt": 2, "tc": 1, "et": 4}
    )
    logits = torch.tensor([[-1.0, 1, 1, 1, -1], [-1, -1, 1, 1, -1], [-1, -1, -1, 1, 1]]).reshape(3, 5, 1, 1)
    values = decode_labels(logits, make_grid(brats, (5, 1, 1), np.eye(4)), 1, brats)
    assert values.ravel().tolist() == [0, 2, 1, 4, 4]


def test_more_than_255_classes() -> None:
    task = make_task(3, 300, None)
    grid = make_grid(task, (9, 8, 7), np.eye(4))
    coarse = random_logits(300, grid, 4)
    expected = dense_reference(coarse, grid, 4).argmax(0)
    got = decode_labels(coarse, grid, 4, task)
    assert got.dtype == np.uint16
    assert (got == expected).mean() > 0.995
    assert got.max() > 255


@pytest.mark.parametrize("shape", [(16, 13, 9), (18, 33)])
def test_full_logits_are_those_of_torch(shape: tuple[int, ...]) -> None:
    coarse = torch.randn(3, *(-(-n // 4) for n in shape), generator=torch.Generator().manual_seed(0))
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    dense = F.interpolate(coarse[None], scale_factor=4, mode=mode, align_corners=False)[0]
    expected = dense[(slice(None), *map(slice, shape))]
    torch.testing.assert_close(full_logits(coarse, shape, 4), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [0, 6])
def test_the_dense_way_gives_the_same_labels_where_the_spacing_is_the_scans(classes: int) -> None:
    task = make_task(3, classes, None)
    grid = make_grid(task, (33, 26, 18), matrix_of((1.0, 2.0, 0.7), (1, 0, 2)))
    coarse = random_logits(task.out_channels, grid, 4)
    direct = decode_labels(coarse, grid, 4, task)
    dense = full_logits(coarse, grid.shape, 4)
    assert (restore_labels(dense, grid, task) != direct).mean() < 1e-4
    restored = restore_logits(dense, grid)
    np.testing.assert_allclose(restored, dense_reference(coarse, grid, 4), atol=1e-5)
    decided = (
        restored.argmax(0) if classes else np.max((restored > 0) * np.array([1, 2, 3]).reshape(3, 1, 1, 1), axis=0)
    )
    np.testing.assert_array_equal(restore_labels(dense, grid, task), decided)


def test_logits_are_restored_through_another_spacing() -> None:
    shape, matrix, spacing_mm = CASES["oblique, permuted"]
    task = make_task(3, 3, spacing_mm)
    grid = make_grid(task, shape, matrix)
    dense = random_logits(3, grid, 1)
    np.testing.assert_allclose(restore_logits(dense, grid), dense_reference(dense, grid, 1), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in task_names() if load_task(name).kind == "segmentation"])
def test_perfect_logits_give_back_each_tasks_label_map(name: str) -> None:
    """One voxel of every value, whatever the order of the outputs."""
    task = load_task(name)
    values = np.array([0, *task.values])
    labels = values.reshape(1, -1, *[1] * (task.spatial_dims - 1))
    labels = np.broadcast_to(labels, (1, len(values), *[2] * (task.spatial_dims - 1)))
    grid = make_grid(
        replace(task, spacing_mm=None, crop=False, intensity="zscore"), labels.shape[1:], np.eye(task.spatial_dims + 1)
    )
    masks = np.concatenate([np.isin(labels, ids) for ids in task.labels.values()])
    if not task.regions:
        masks = np.concatenate([labels == 0, masks])
    logits = torch.from_numpy(masks * 2.0 - 1).float().permute(0, *(1 + axis for axis in grid.axis_map.axes))
    found = decode_labels(logits, grid, 1, task)
    assert all((np.isin(found, ids) == np.isin(labels[0], ids)).all() for ids in task.labels.values())
