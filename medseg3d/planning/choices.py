"""From a fingerprint to a task: each number with the reason for it. docs/planning.md explains the rules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medseg3d.networks.strides import Strides, plain, stage_strides
from medseg3d.planning.cost import GB, SECONDS_PER_VOXEL, largest_batch_voxels
from medseg3d.planning.fingerprint import Fingerprint
from medseg3d.planning.mirroring import choose_mirror_axes
from medseg3d.planning.spacing import Sizes, choose_spacing, wished_spacing
from medseg3d.planning.strides import choose_strides, least_patch, voxel_work
from medseg3d.task import Task

MOST_VOXELS = {2: 512**2, 3: 128**3}
"""Of a patch, with the usual strides; the studies that SegFormer is known by use no more."""
BATCH_VOXELS = {2: 2**19, 3: 2**20}
"""Of a batch, with the usual strides, if its patches are small."""
BATCH = {2: (4, 16), 3: (2, 8)}
"""Smallest and largest batch, where memory and time allow it."""
LEAST_STEPS = 1000
"""That a time budget should hold; for fewer the patch is made smaller."""
USED = 0.9
"""Of a time budget; the rest is reading, validation, saving."""
IN_MEMORY_GB = 4.0
"""What train.yaml keeps prepared cases in."""
TINY_PATCH = 2**19
"""Voxels of a patch up to which ``mit_tiny`` is taken, for volumes that it shows whole and with the usual strides."""
REASONS_OF_NETWORK = {
    "default": "mit_b0's widths: on a processor more steps of it beat fewer of a larger one",
    "mit_b0": "mit_b0's widths: the budget holds enough steps for more than mit_tiny",
    "mit_tiny": "of images this small the last stages see a few positions: a quarter of mit_b0's parameters, and more steps",
    "mit_b1": "twice the width, for which the budget holds enough steps",
}
"""By preset."""
RARE = 0.001
"""Part of the image; of labels that are smaller, random patches hold too little."""


@dataclass(frozen=True)
class Limits:
    """What a training may take.

    Args:
        memory_gb: of memory, in 10^9 bytes.
        budget_s: seconds; None sets no limit.
        voxel_s: seconds of a step per voxel of its batch with the usual strides; None for what is known of a machine with
            two cores.
    """

    memory_gb: float = 8.0
    budget_s: float | None = None
    voxel_s: float | None = None

    @property
    def data_gb(self) -> float:
        """What prepared cases may take."""
        return min(IN_MEMORY_GB, self.memory_gb / 2)

    def batch_voxels(self, network: Any, task: Task) -> tuple[float, str]:
        """Voxels of the largest batch, and what sets that limit."""
        by_memory = largest_batch_voxels(network, task.in_channels, (self.memory_gb - self.data_gb) * GB)
        if self.budget_s is None:
            return by_memory, "memory"
        rate = self.voxel_s or SECONDS_PER_VOXEL[task.spatial_dims]
        by_time = USED * self.budget_s / (LEAST_STEPS * rate * voxel_work(network.encoder.strides))
        return min((by_memory, "memory"), (by_time, f"{LEAST_STEPS} steps in the time"))


@dataclass(frozen=True)
class Choices:
    """A task with the reasons for its numbers.

    Args:
        task: complete.
        reasons: by key of the task, and ``train.KEY`` for settings of the training.
    """

    task: Task
    reasons: Mapping[str, str] = field(default_factory=dict)


def choose(
    fingerprint: Fingerprint, build: Callable[[Strides], Any], limits: Limits, *, network_name: str = "default"
) -> Choices:
    """The task that fits a data set and what its training may take.

    Args:
        fingerprint: of the data set.
        build: makes a network of the size that is to be trained, for its memory.
        limits: of memory and time.
        network_name: its preset; ``default`` becomes ``mit_tiny`` for small volumes.
    """
    strides, reason = choose_strides(fingerprint, wished_spacing(fingerprint))
    while True:
        found = _choose(fingerprint, build(strides), limits, network_name)
        # Where a patch would see too little, the grid has become coarser in the plane.
        again, its_reason = choose_strides(fingerprint, found.task.spacing_mm or fingerprint.spacing_mm, strides)
        if again[0] == strides[0]:
            break
        strides, reason = again, its_reason
    if strides == stage_strides(None, fingerprint.task.spatial_dims):
        return found
    train = {**found.task.train, "network": {"strides": plain(strides)}}
    return Choices(replace(found.task, train=train), {**found.reasons, "train.network": reason})


def _choose(fingerprint: Fingerprint, network: Any, limits: Limits, network_name: str) -> Choices:
    """All but the strides, which are those of ``network``."""
    task = fingerprint.task
    reasons: dict[str, str] = {}
    voxels, limit = limits.batch_voxels(network, task)
    dims, work = task.spatial_dims, voxel_work(network.encoder.strides)
    smallest, usual = least_patch(network.encoder.strides), MOST_VOXELS[dims] / work
    most = max(min(usual, voxels / BATCH[dims][0]), math.prod(smallest))
    if voxels / BATCH[dims][0] >= usual:
        limit = "more is not usual"
    intensity, reasons["intensity"] = choose_intensity(fingerprint)
    crop, reasons["crop"] = choose_crop(fingerprint, intensity)
    extents = fingerprint.extents_mm * (
        np.array([c.content for c in fingerprint.cases])[:, None] ** (1 / dims) if crop else 1
    )
    spacing, reasons["spacing_mm"] = choose_spacing(fingerprint, np.median(extents, axis=0), most)
    used = fingerprint.spacing_mm if spacing is None else spacing
    sizes = extents / used
    patch, reasons["patch_size"] = choose_patch(sizes, most, limit, network.size_multiple, smallest)
    mirror, reasons["mirror_axes"] = choose_mirror_axes(fingerprint)
    least, largest = BATCH[dims]
    batch = int(min(BATCH_VOXELS[dims] / work, voxels) // math.prod(patch))
    batch = max(min(max(batch, least), largest, int(voxels // math.prod(patch))), 1)
    batch = 2 ** int(math.log2(batch))  # divides among processes and pieces
    held = batch * math.prod(patch)
    reasons["train.batch_size"] = f"{held / 1e6:.2g} million voxels a step" + (
        "; all that the limits leave" if batch < least else ""
    )
    train: dict[str, Any] = {"batch_size": batch}
    if task.kind == "segmentation":
        train["loss"], reasons["train.loss"] = "auto", reason_of_loss(fingerprint)
        share, why = choose_foreground_share(fingerprint, np.median(extents, axis=0) / used, patch)
        if share is not None:
            train["foreground_share"], reasons["train.foreground_share"] = share, why
    if limits.data_gb < IN_MEMORY_GB:
        train["in_memory_gb"] = round(limits.data_gb, 2)
        reasons["train.in_memory_gb"] = f"half of the {limits.memory_gb:g} GB; other prepared cases are read from disk"
    small = work == 1 and math.prod(patch) <= TINY_PATCH and bool(np.all(np.median(sizes, axis=0) <= patch))
    if network_name == "default" and task.kind == "segmentation" and dims == 3 and small:
        network_name = "mit_tiny"
    reasons["network"] = REASONS_OF_NETWORK[network_name]
    chosen = replace(
        task,
        spacing_mm=spacing,
        patch_size=patch,
        intensity=intensity,
        crop=crop,
        mirror_axes=mirror,
        network=network_name,
        train=train,
    )
    return Choices(chosen, reasons)


def choose_intensity(fingerprint: Fingerprint) -> tuple[str, str]:
    """CT by its name or its values; pictures whose brightness means something keep it; all else is normalised scan by scan."""
    words = {w for c in fingerprint.task.channels for w in re.split(r"[\W_]+", c.lower())}
    if "ct" in words or "cbct" in words:
        return "ct", "the channel is called CT: Hounsfield units mean the same in every scan"
    first = [c.values[0] for c in fingerprint.cases]
    low, high = (float(np.median([getattr(v, k) for v in first])) for k in ("minimum", "high"))
    nameless = not words & {"mr", "mri", "t1", "t1w", "t2", "t2w", "flair", "pet", "us"}
    # Air is -1000 HU and bone above 200; nothing but CT stores whole numbers like that.
    like_ct = -3100 < low < -500 and 200 < high < 32000 and all(v.whole for v in first)
    if nameless and len(fingerprint.task.channels) == 1 and like_ct:
        return "ct", f"no name says so, but whole numbers from {low:.0f} to {high:.0f} are those of CT"
    if fingerprint.task.spatial_dims == 2 and all(v.whole and v.minimum >= 0 and v.high <= 255 for v in first):
        means = np.array([c.values[0].mean for c in fingerprint.cases])
        within = float(np.median([v.std for v in first]))
        if len(first) > 1 and means.std() < 0.5 * within:
            return "range", "0..255, and the pictures are alike in brightness, which may mean something"
        return "zscore", "0..255, but brightness differs from picture to picture more than within one"
    return (
        "zscore",
        "values have no unit that holds from scan to scan: mean 0, deviation 1 over each scan's non-zero part",
    )


def choose_crop(fingerprint: Fingerprint, intensity: str) -> tuple[bool, str]:
    """Whether the surroundings that are exactly zero are worth cutting off."""
    content = float(np.median([c.content for c in fingerprint.cases]))
    if intensity != "ct" and content < 0.75:
        return True, f"{1 - content:.0%} of a scan is empty (exactly 0) around the rest"
    return False, "scans fill their box" if intensity != "ct" else "0 is water in CT, not empty"


def choose_patch(
    sizes: Any, most: float, limit: str, multiple: Sequence[int], least: Sequence[int]
) -> tuple[tuple[int, ...], str]:
    """As much of an image as ``most`` voxels hold, in its proportions; the rest of a larger one is seen in other patches.

    Args:
        sizes: of the images on the network's grid, ``(cases, axes)``.
        most: voxels.
        limit: what sets ``most``, in words.
        multiple: per axis, what the network pads sizes to a multiple of.
        least: per axis, the smallest patch.
    """
    wanted = np.median(sizes, axis=0)
    patch = [max(math.ceil(n / m - 1e-6) * m, s) for n, m, s in zip(wanted, multiple, least, strict=True)]
    whole = math.prod(patch) <= most
    while math.prod(patch) > most:
        shrinkable = [a for a, n in enumerate(patch) if n - multiple[a] >= least[a]]
        if not shrinkable:
            break
        axis = max(shrinkable, key=lambda a: ((patch[a] - multiple[a]) / wanted[a], patch[a]))
        patch[axis] -= multiple[axis]
    size = " x ".join(f"{n:.0f}" for n in wanted)
    if whole:
        return tuple(patch), f"holds the median image whole ({size} voxels)"
    seen = min(math.prod(np.minimum(np.array(patch) / wanted, 1)), 1)
    return tuple(
        patch
    ), f"{seen:.0%} of the median image ({size} voxels); limited to {most / 1e6:.2g} million voxels: {limit}"


def choose_foreground_share(fingerprint: Fingerprint, size: Sizes, patch: Sequence[int]) -> tuple[float | None, str]:
    """More patches on foreground where random ones would hardly meet the smallest label; None leaves the usual half."""
    shares = {
        label: float(np.median([s.share for s in found]))
        for label in fingerprint.task.labels
        if (found := fingerprint.structures(label))
    }
    seen = math.prod(min(p / n, 1) for p, n in zip(patch, size, strict=True))
    if not shares or seen > 0.5 or min(shares.values()) >= RARE:
        return None, ""
    label = min(shares, key=lambda name: shares[name])
    return 0.75, f"{label} is {shares[label]:.2g} of an image; random patches would hardly meet it"


def reason_of_loss(fingerprint: Fingerprint) -> str:
    """What the usual loss has to cope with here."""
    volumes = {
        n: float(np.median([s.volume_ml for s in f]))
        for n in fingerprint.task.labels
        if (f := fingerprint.structures(n))
    }
    what = "soft Dice of each region and cross entropy" if fingerprint.task.regions else "soft Dice and cross entropy"
    if len(volumes) < 2:
        return what
    ratio = max(volumes.values()) / max(min(volumes.values()), 1e-9)
    return f"{what}; Dice counts small labels as much as large ones ({ratio:.2g} times the volume)"
