"""Which patch of which case is sample number i: a function of the run's seed and i alone.

Neither the worker that makes a sample nor the process that trains on it plays a part, so a run that was stopped and
resumed sees the samples that an uninterrupted one sees (DESIGN.md, decision 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from medseg3d.augmentation import Augmentation, Change
from medseg3d.networks.slices import slice_as_channels
from medseg3d.training.cache import IGNORED, PreparedCase

ORDER, SAMPLE, STEP, FOREGROUND = range(4)
"""What a random stream is for; part of its key, so that streams never coincide."""
KEPT_VOXELS = 4096
"""Foreground positions remembered per case and class; more would not change the sampling noticeably."""


def random_state(*key: int) -> np.random.RandomState:
    """The random stream that belongs to a key, the same in every process. MONAI's transforms want this type."""
    return np.random.RandomState(np.random.SeedSequence(key).generate_state(4))


def crop_padded(image: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """The box of ``size`` at ``start`` out of ``(C, *s)``, with zeros where it leaves the image."""
    inside = [slice(max(0, a), max(0, min(n, a + w))) for a, w, n in zip(start, size, image.shape[1:], strict=True)]
    box = image[(slice(None), *inside)]
    padding: list[int] = []
    for a, w, n in reversed(list(zip(start, size, image.shape[1:], strict=True))):
        before = min(w, max(0, -a))
        padding += [before, w - before - max(0, min(n, a + w) - max(0, a))]
    return F.pad(box, padding) if any(padding) else box


class Patches(Dataset[dict[str, Any]]):
    """Random patches for training, numbered without end.

    Cases come in a new order every pass, each once. A part of the patches is centred on a voxel of a class drawn among
    those that the case has, so that small structures are seen; the rest lie anywhere.

    Args:
        cases: the training cases.
        patch_size: voxels per axis.
        foreground_share: part of the patches that is centred on foreground.
        augmentation: draws what is done to a sample, and does it; None leaves samples as they are.
        seed: of the run.
        neighbours: of patches of two axes that are cut out of volumes ``(C, slices, *s)``, the slices on either side that are
            channels, too.

    Shape: item i is ``{"image": (C, *patch_size) float32, "label": (1, *patch_size) uint8, "case": number of the case}``;
    for classification the label is a class number. Item i is ``finish(*cut(i))``.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        *,
        patch_size: Sequence[int],
        foreground_share: float = 0.5,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        neighbours: int = 0,
    ) -> None:
        self.cases = cases
        self.patch_size = tuple(patch_size)
        self.foreground_share = foreground_share
        self.augmentation = augmentation
        self.seed = seed
        self.neighbours = neighbours
        self.foreground = [_foreground(case, seed) for case in cases]
        self._order: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0, int))

    def __len__(self) -> int:
        """Samples of one pass over the cases; higher numbers go on with the next pass."""
        return len(self.cases)

    def case_number(self, index: int) -> int:
        """The case that sample ``index`` comes from."""
        turn, place = divmod(index, len(self.cases))
        order = self._order  # several threads ask
        if order[0] != turn:
            self._order = order = (turn, random_state(self.seed, ORDER, turn).permutation(len(self.cases)))
        return int(order[1][place])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.finish(*self.cut(index))

    def cut(self, index: int) -> tuple[dict[str, Any], Change | None]:
        """The part of sample ``index`` that reads the case: the box cut out, and what is to be done to it."""
        random = random_state(self.seed, SAMPLE, index)
        number = self.case_number(index)
        case = self.cases[number]
        change = None if self.augmentation is None else self.augmentation.draw(random, case.image.shape[0])
        size = self.patch_size if change is None else change.window
        image, target = case.image, case.target
        if image.ndim - 1 > len(size):
            at, *start = self._start(number, (1, *size), random)
            image = slice_as_channels(image, at, self.neighbours)
            target = None if target is None else target[:, at]
            if change is not None and change.dropped:
                several = 2 * self.neighbours + 1
                change = replace(change, dropped=tuple(c * several + o for c in change.dropped for o in range(several)))
        else:
            start = self._start(number, size, random)
        sample: dict[str, Any] = {"image": crop_padded(image, start, size), "case": number}
        if target is not None:
            sample["label"] = crop_padded(target, start, size)
        return sample, change

    def finish(self, sample: dict[str, Any], change: Change | None) -> dict[str, Any]:
        """The part that only computes, wherever the sample's tensors lie."""
        if self.augmentation is not None and change is not None:
            sample = self.augmentation.apply(sample, change)
        if "label" not in sample:
            sample["label"] = torch.as_tensor(self.cases[sample["case"]].class_index, device=sample["image"].device)
        return sample

    def _start(self, number: int, size: Sequence[int], random: np.random.RandomState) -> list[int]:
        """First voxel of a random box; an axis shorter than the box lies somewhere inside it."""
        shape = self.cases[number].image.shape[1:]
        start = [int(random.randint(min(0, n - w), max(0, n - w) + 1)) for w, n in zip(size, shape, strict=True)]
        classes = self.foreground[number]
        if classes and random.rand() < self.foreground_share:
            voxels = classes[random.randint(len(classes))]
            centre = voxels[random.randint(len(voxels))]
            for axis, (c, w, n) in enumerate(zip(centre, size, shape, strict=True)):
                if w < n:
                    start[axis] = int(np.clip(c - w // 2, 0, n - w))
        return start


def _foreground(case: PreparedCase, seed: int) -> list[np.ndarray[Any, Any]]:
    """For each class that the case has, the voxels of (at most ``KEPT_VOXELS`` of) it, ``(n, spatial)``."""
    if case.target is None:
        return []
    label = case.target[0].numpy()
    found = []
    for code in (c for c in np.flatnonzero(np.bincount(label.ravel())) if c not in (0, IGNORED)):
        flat = np.flatnonzero(label == code)
        if len(flat) > KEPT_VOXELS:
            flat = np.sort(random_state(seed, FOREGROUND, int(code)).choice(flat, KEPT_VOXELS, replace=False))
        found.append(np.stack(np.unravel_index(flat, label.shape), axis=1).astype(np.int32))
    return found


class Turns(Sampler[list[int]]):
    """The sample numbers of each step's batch from ``first_step`` on; of a group of processes, this one's share.

    Step t holds the samples ``t * batch_size .. (t + 1) * batch_size - 1`` whatever the number of processes.
    """

    def __init__(self, first_step: int, last_step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise ValueError(f"batch_size {batch_size} must be divisible by the number of processes {world_size}")
        self.steps = range(first_step, last_step)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield list(range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size))

    def __len__(self) -> int:
        return len(self.steps)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Set torch's own stream (dropout, drop-path) for one step."""
    torch.manual_seed(int(random_state(seed, STEP, step, rank).randint(2**31)))
