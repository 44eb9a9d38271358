"""How one case is computed: windows or the whole volume at once, how many at a time, within which memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medseg3d.checks import ConfigError
from medseg3d.inference.computing import Computing
from medseg3d.inference.ensemble import Ensemble
from medseg3d.inference.memory import GB, MemoryEstimate, available_bytes, estimate, refuse
from medseg3d.inference.windows import WindowPlan, size_multiple
from medseg3d.preprocessing import NetworkGrid
from medseg3d.task import Task

logger = logging.getLogger(__name__)
MODES = ("auto", "windows", "whole")
MOST_WORKERS = 8
"""More windows at a time than these gain little and cost memory."""
LEAST_WINDOWS, MOST_WINDOWS = 4, 64
BATCH_VOXELS = 2**21
"""Of a forward pass on a GPU, where its windows are small, as those of slices and pictures are."""


@dataclass(frozen=True)
class Setting:
    """What one case is computed with.

    Args:
        mode: ``windows`` or ``whole``.
        plan: the windows; of the whole volume, one.
        computing: what computes them.
        memory: what that takes.
    """

    mode: str
    plan: WindowPlan
    computing: Computing
    memory: MemoryEstimate


@dataclass(frozen=True)
class Wishes:
    """What was asked for; None leaves a choice open.

    Args:
        mode: one of ``MODES``.
        roi_size: window in voxels of the network grid.
        overlap: part of a window that its neighbour covers too.
        batch_size: windows per forward pass.
        workers: windows computed at a time on a processor.
        max_ram_gb, max_vram_gb: budgets, in 10^9 bytes.
    """

    mode: str
    roi_size: tuple[int, ...]
    overlap: float
    batch_size: int | None = None
    workers: int | None = None
    max_ram_gb: float | None = None
    max_vram_gb: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        for name in ("batch_size", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} {value} must be at least 1")
        for name in ("max_ram_gb", "max_vram_gb"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ConfigError(f"{name} {value} must be more than 0")


def check_window(roi_size: Sequence[int], stride: Sequence[int]) -> None:
    """Refuse a window that does not fit the network's stride, with the nearest that does.

    Raises:
        ConfigError: always then.
    """
    if any(n % s for n, s in zip(roi_size, stride, strict=True)):
        nearest = " x ".join(str(max(round(n / s), 1) * s) for n, s in zip(roi_size, stride, strict=True))
        steps = stride[0] if len(set(stride)) == 1 else " x ".join(map(str, stride))
        raise ConfigError(
            f"a window (roi) of {' x '.join(map(str, roi_size))} voxels must be divisible by {steps}, the network's "
            f"stride, on every axis; the nearest that is: {nearest}"
        )


def choose(
    wishes: Wishes,
    grid: NetworkGrid,
    ensemble: Ensemble,
    task: Task,
    *,
    apart: bool = False,
    extra_outputs: int = 0,
) -> Setting:
    """The fastest way that keeps the budgets.

    Raises:
        InputError: where no way does.
    """
    network, on_gpu = ensemble.networks[0], ensemble.device.type == "cuda"
    value_bytes = 1 if max([0, *task.write.values()]) <= 255 else 2
    tried: list[MemoryEstimate] = []
    for mode in _modes(wishes, grid, network):
        roi = _whole(grid, network) if mode == "whole" else wishes.roi_size
        overlap = 0.0 if mode == "whole" else wishes.overlap
        plan = WindowPlan.of(network, grid.shape, roi, overlap)
        for number in at_once(wishes, plan, on_gpu):
            for host in (False, True) if on_gpu else (False,):
                memory = estimate(
                    plan,
                    grid,
                    network,
                    channels=task.in_channels,
                    outputs=task.out_channels,
                    at_once=number,
                    passes=ensemble.members if apart else 1,
                    element_bytes=2 if ensemble.autocast else 4,
                    value_bytes=value_bytes,
                    extra_outputs=extra_outputs,
                    on_gpu=on_gpu,
                    band_on_host=host,
                )
                tried.append(memory)
                if not _fits(memory, wishes, binding=mode != "whole" or wishes.mode == "whole"):
                    continue
                computing = Computing(
                    ensemble.networks,
                    ensemble.device,
                    ensemble.flips,
                    apart,
                    batch_size=number if on_gpu else 1,
                    workers=1 if on_gpu else number,
                    autocast=None if ensemble.holds_type else ensemble.autocast,
                    host=host,
                )
                return Setting(mode, plan, computing, memory)
    refuse(min(tried, key=lambda memory: memory.host + memory.device), wishes.max_ram_gb, wishes.max_vram_gb)
    raise AssertionError


def _fits(memory: MemoryEstimate, wishes: Wishes, *, binding: bool) -> bool:
    """Whether the budgets hold it; where none is given, whether the system does, for what is not asked for."""
    ram = math.inf if wishes.max_ram_gb is None else wishes.max_ram_gb * GB
    if wishes.max_ram_gb is None and not binding:
        free = available_bytes()
        ram = math.inf if free is None else free + memory.process
    vram = math.inf if wishes.max_vram_gb is None else wishes.max_vram_gb * GB
    return memory.host <= ram and memory.device <= vram


def _modes(wishes: Wishes, grid: NetworkGrid, network: nn.Module) -> list[str]:
    """``auto`` takes one pass over the whole volume only where one window covers it, and the two are one computation.

    On larger volumes one pass is faster, but the network attends over more keys than in training, and a trained network
    lost 0.013 Dice by it (docs/performance.md): a choice for people, not for ``auto``.
    """
    if wishes.mode != "auto":
        return [wishes.mode]
    plan = WindowPlan.of(network, grid.shape, wishes.roi_size, wishes.overlap)
    return ["whole", "windows"] if plan.count == 1 else ["windows"]


def _whole(grid: NetworkGrid, network: nn.Module) -> tuple[int, ...]:
    multiple = size_multiple(network, len(grid.shape))
    whole = [math.ceil(n / m) * m for n, m in zip(grid.shape, multiple, strict=True)]
    if hasattr(network, "slice_axis"):  # more slices in a pass cost memory alone
        whole[network.slice_axis] = 1  # type: ignore[index]
    return tuple(whole)


def at_once(wishes: Wishes, plan: WindowPlan, on_gpu: bool) -> Iterator[int]:
    """How many windows to compute at a time, from the fastest to the thriftiest."""
    most = wishes.batch_size if on_gpu else wishes.workers
    if most is None:
        most = min(torch.get_num_threads(), MOST_WORKERS)
        if on_gpu:
            most = max(min(BATCH_VOXELS // math.prod(plan.roi), MOST_WINDOWS), LEAST_WINDOWS)
    most = min(most, plan.count)
    while most > 1:
        yield most
        most //= 2
    yield 1
