"""Patches: where they come from, that every case has its turn, and that a number alone decides a sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg3d.augmentation import Augmentation
from medseg3d.preprocessing import NetworkGrid
from medseg3d.task import Task, load_task
from medseg3d.training.cache import PreparedCase
from medseg3d.training.dataset import encode_labels
from medseg3d.training.sampling import Patches, Turns, crop_padded, random_state
from medseg3d.volume import AxisMap, Grid
from tests.training_helpers import ball_task


def case(image: torch.Tensor, target: torch.Tensor | None, number: int = 0) -> PreparedCase:
    dims = image.ndim - 1
    here = AxisMap(tuple(range(dims)), (0.0,) * dims, (1.0,) * dims)
    grid = NetworkGrid(Grid(tuple(image.shape[1:]), np.eye(dims + 1)), here, tuple(image.shape[1:]))
    return PreparedCase(f"case {number}", image, target, None if target is not None else number, grid)


def numbered(shape: tuple[int, ...], number: int = 0) -> PreparedCase:
    """Every voxel's value says where it lies; one voxel of class 1 in the far corner."""
    image = torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.float32).reshape(1, *shape)
    target = torch.zeros(1, *shape, dtype=torch.uint8)
    target[(0, *(n - 1 for n in shape))] = 1
    return case(image, target, number)


def test_crop_inside_beside_and_around_an_image() -> None:
    image = torch.arange(1, 7).reshape(1, 2, 3)
    assert crop_padded(image, (0, 1), (2, 2)).tolist() == [[[2, 3], [5, 6]]]
    assert crop_padded(image, (-1, 2), (2, 2)).tolist() == [[[0, 0], [3, 0]]]
    assert crop_padded(image, (-1, -1), (4, 5)).tolist() == [[[0] * 5, [0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0] * 5]]
    assert crop_padded(image, (5, 5), (2, 2)).tolist() == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize("shape", [(20, 12), (9, 31, 14), (5, 6, 7)])
def test_patches_are_boxes_of_the_image(shape: tuple[int, ...]) -> None:
    size = (8,) * len(shape)
    patches = Patches([numbered(shape)], patch_size=size, foreground_share=0)
    whole = patches.cases[0].image[0]
    starts = set()
    for i in range(40):
        patch = patches[i]["image"][0]
        assert patch.shape == size
        first = tuple(int(a) for a in torch.nonzero(patch)[0])
        where = tuple(int(a) for a in torch.nonzero(whole == patch[first])[0])
        start = [w - f for w, f in zip(where, first, strict=True)]
        assert torch.equal(crop_padded(whole[None], start, size)[0], patch)
        starts.add(tuple(start))
    for axis, (n, w) in enumerate(zip(shape, size, strict=True)):
        found = {s[axis] for s in starts}
        assert found <= set(range(min(0, n - w), max(0, n - w) + 1)), "the patch covers what it can of the image"
        assert len(found) > 1


def test_foreground_share_is_kept_for_a_single_voxel() -> None:
    patches = Patches([numbered((64, 64, 64))], patch_size=(8, 8, 8), foreground_share=0.5)
    hits = sum(bool(patches[i]["label"].any()) for i in range(400))
    # by chance alone a patch at the corner has probability 57**-3
    assert 160 < hits < 240


def test_classes_are_drawn_alike_however_rare() -> None:
    target = torch.zeros(1, 64, 64, dtype=torch.uint8)
    target[0, :, :20] = 1
    target[0, 60, 60] = 2
    patches = Patches([case(torch.zeros(1, 64, 64), target)], patch_size=(8, 8), foreground_share=1)
    rare = sum(bool((patches[i]["label"] == 2).any()) for i in range(400))
    assert 160 < rare < 240


def test_every_case_has_its_turn_in_a_new_order_each_pass() -> None:
    patches = Patches([numbered((9, 9), i) for i in range(10)], patch_size=(8, 8))
    passes = [[patches.case_number(10 * p + i) for i in range(10)] for p in range(4)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4


@pytest.mark.parametrize("dims", [2, 3])
def test_a_number_alone_decides_a_sample(dims: int) -> None:
    def patches(seed: int) -> Patches:
        augmentation = Augmentation((8,) * dims, mirror_axes=(0,))
        return Patches(
            [numbered((20,) * dims, i) for i in range(3)], patch_size=(8,) * dims, augmentation=augmentation, seed=seed
        )

    forward, backward = patches(5), patches(5)
    there = [forward[i] for i in range(12)]
    back = [backward[i] for i in reversed(range(12))][::-1]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(there, back, strict=True) for k in ("image", "label"))
    other = [patches(6)[i] for i in range(12)]
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(there, other, strict=True))


def test_random_streams_of_neighbouring_keys_differ() -> None:
    keys = [(seed, purpose, number) for seed in range(3) for purpose in range(4) for number in range(10)]
    assert len({random_state(*key).randint(2**31) for key in keys}) == len(keys)
    assert random_state(3, 4).rand() == random_state(3, 4).rand()


def test_processes_share_each_steps_samples() -> None:
    alone = list(Turns(3, 6, 4))
    assert alone == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    halves = [list(Turns(3, 6, 4, rank=r, world_size=2)) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == alone
    with pytest.raises(ValueError, match="divisible"):
        Turns(0, 1, 3, world_size=2)


def test_label_values_become_classes_or_region_rows() -> None:
    values = np.array([[0, 1, 2]], np.uint8)
    assert encode_labels(values, ball_task()).tolist() == [[0, 1, 2]]
    swapped = ball_task(labels={"core": [2], "shell": [1]})
    assert encode_labels(values, swapped).tolist() == [[0, 2, 1]]
    several = ball_task(labels={"all": [7, 300]})
    assert encode_labels(np.array([[0, 7, 300]], np.uint16), several).tolist() == [[0, 1, 1]]
    assert encode_labels(np.array([[0, 1, 2, 3]], np.uint8), load_task("brats")).tolist() == [[0, 1, 2, 3]]
    far = Task.from_dict(
        {
            **load_task("brats").as_dict(),
            "labels": {"WT": [1, 4], "ET": [4]},
            "write": {"WT": 1, "ET": 4},
            "ids": {},
            "aliases": {},
        }
    )
    assert encode_labels(np.array([[0, 1, 4]], np.uint8), far).tolist() == [[0, 1, 2]]
