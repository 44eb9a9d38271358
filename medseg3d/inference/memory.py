"""How much memory a prediction takes, said before the work, and how to stay within a budget."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medseg3d.checks import InputError
from medseg3d.inference.cells import BLOCK_VOXELS
from medseg3d.inference.decode import SLAB_BYTES
from medseg3d.inference.windows import WindowPlan, rows_at_once
from medseg3d.networks.folding import SLAB_BYTES as SLAB
from medseg3d.networks.strides import per_axis
from medseg3d.preprocessing import NetworkGrid

GB = 10**9
MARGIN = 1.1
"""Allocators round up and keep a little for later."""
BASE_BYTES = 450 * 10**6
"""Python, torch and its libraries at work, where the system does not tell what the process holds now."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a prediction needs at most, by what they are for.

    Args:
        process: held before the work: libraries, weights, and the scan itself.
        preparing: the scan on its way to the network's grid; gone when the rest begins.
        image: the scan as the network takes it.
        accumulation: the band of logits.
        network: activations of the windows that are computed at a time.
        decoding: the slab being decoded.
        output: the label map, and what else was asked for.
        device: part of image, accumulation and network that lies on a GPU.
    """

    process: int
    preparing: int
    image: int
    accumulation: int
    network: int
    decoding: int
    output: int
    device: int = 0

    @property
    def host(self) -> int:
        """Bytes of the computer's memory."""
        computing = self.image + self.accumulation + self.network + self.decoding - self.device
        return self.process + self.output + max(self.preparing, computing)

    def __str__(self) -> str:
        names = ("process", "preparing", "image", "accumulation", "network", "decoding", "output")
        listed = ", ".join(f"{name} {getattr(self, name) / GB:.2f}" for name in names)
        gpu = f" and {self.device / GB:.2f} GB on the GPU" if self.device else ""
        return f"about {self.host / GB:.2f} GB{gpu} ({listed})"


def estimate(
    plan: WindowPlan,
    grid: NetworkGrid,
    network: nn.Module,
    *,
    channels: int,
    outputs: int,
    at_once: int = 1,
    passes: int = 1,
    element_bytes: int = 4,
    value_bytes: int = 1,
    extra_outputs: int = 0,
    on_gpu: bool = False,
    band_on_host: bool = False,
) -> MemoryEstimate:
    """What a prediction takes.

    Args:
        plan: the windows.
        grid: of the case.
        network: whose widths count.
        channels, outputs: of the network.
        at_once: windows computed at a time.
        passes: members that are kept apart, each with its own band.
        element_bytes: of the type computed in.
        value_bytes: of a label.
        extra_outputs: float32 values per voxel that are written beside the labels.
        on_gpu: whether windows and band lie there.
        band_on_host: whether the band lies on the host all the same.
    """
    voxels, source = math.prod(plan.shape), math.prod(grid.source.shape)
    resampled = any(abs(abs(step) - 1) > 1e-6 for step in grid.axis_map.step)
    # Channel by channel a float32 copy is scaled, sampled axis by axis, and stored in the type computed in.
    image = element_bytes * channels * voxels
    preparing = image + 4 * source * (1 + resampled) + element_bytes * voxels
    row = math.prod(plan.across)
    rows = min(rows_at_once(plan, passes * outputs), plan.depth)
    # The band, one of its channels while it moves on, and the rows that are handed on.
    band = 4 * row * ((passes * outputs + 2) * plan.depth + 2 * passes * outputs * rows)
    seen = [r + 2 * e for r, e in zip(plan.roi, plan.reach or (0,) * len(plan.roi), strict=True)]
    inputs = channels * math.prod(seen) // math.prod(plan.roi)  # neighbouring slices are channels, too
    network_bytes = at_once * activation_bytes(network, plan.roi, inputs, element_bytes)
    # Slabs are copied in another order; of mixed cells, a block at a time, all corners' logits are gathered twice.
    held = 4 * outputs * row * (rows + 1)
    mixed = 2 * 4 * 8 * outputs * min(BLOCK_VOXELS // (2 * math.prod(plan.stride)), row * rows)
    decoding = 2 * held + 4 * min(SLAB_BYTES, held) + mixed + 12 * BLOCK_VOXELS
    output = source * (value_bytes + 4 * extra_outputs)
    on_device = network_bytes + (0 if band_on_host else band + image) if on_gpu else 0
    parts = (preparing, image, band, network_bytes, decoding, output, on_device)
    return MemoryEstimate(resident_bytes(), *(int(MARGIN * part) for part in parts))


def activation_bytes(network: nn.Module, roi: Sequence[int], channels: int, element_bytes: int) -> int:
    """Bytes of activations of one window, as the folded network computes it.

    They grow with the tokens of the first stage: the pyramid, three maps of a block at work or, what is more, seven eighths of
    the decoder's width, its coarser maps upsampled along all axes but one. Hidden layers, attention's scores and fused
    tokens exist slab by slab.
    """
    window = channels * math.prod(roi) * (4 + element_bytes)
    encoder: Any = getattr(network, "encoder", None)
    widths = getattr(encoder, "widths", None)
    if widths is None:
        return 4 * window
    strides = per_axis(network.stride, len(roi))  # type: ignore[arg-type]
    tokens = math.prod(math.ceil(n / s) for n, s in zip(roi, strides, strict=True))
    decoder: Any = network.decoder
    return window + int(element_bytes * tokens * (3 * widths[0] + 1.2 * decoder.predict.in_features)) + 6 * SLAB


def resident_bytes() -> int:
    """What the process holds now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return BASE_BYTES


def available_bytes() -> int | None:
    """What the system could still give, or None where it does not say."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            line = next(line for line in file if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, StopIteration):
        return None


def free_vram(device: torch.device) -> int:
    """What a GPU could still give."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def refuse(least: MemoryEstimate, max_ram_gb: float | None, max_vram_gb: float | None) -> None:
    """Say that not even the thriftiest way fits, and what would.

    Raises:
        InputError: always.
    """
    over = max_vram_gb is not None and least.device > max_vram_gb * GB
    needed, given, name = (least.device, max_vram_gb, "--max-vram") if over else (least.host, max_ram_gb, "--max-ram")
    enough = math.ceil((needed / GB + 0.05) * 10) / 10  # what the process holds may grow a little until the next call
    raise InputError(
        "E-MEMORY",
        f"this case takes {least}, and {name} allows {given:g} GB",
        fix=f"give {name} {enough:g} or more, or a smaller window (--roi)",
    )
