"""What a training step takes: bytes by the network's widths, seconds by two steps of it on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from medseg3d.task import Task

GB = 10**9
PROCESS_BYTES = 1.0 * GB
"""Python, torch and MONAI, before any data."""
BLOCK_TENSORS = 20
"""Token maps of a stage's width that a transformer block keeps for its gradient: norms, queries, hidden layers of four widths."""
DECODER_TENSORS = 4.5
"""Maps of the decoder's width that are kept at its resolution."""
LOSS_TENSORS = 12
"""Maps of every logit at full resolution: upsampling, soft-max, one-hot labels, and their gradients."""
SAMPLE_COPIES = 3
"""Of each sample: cut out, changed, in the batch."""
STATES = 5
"""Of each weight: itself, its gradient, two moments, the average."""
SECONDS_PER_VOXEL = {2: 8e-7, 3: 4e-7}
"""Of a step with the smallest network and one channel on two processor cores, where nothing is measured; docs/planning.md."""
WARM_STEPS, MEASURED_STEPS = 1, 2


def voxel_bytes(network: nn.Module, channels: int) -> float:
    """Bytes that each voxel of a batch takes in a training step in float32.

    Args:
        network: ``SegFormer`` or ``SegFormerClassifier``.
        channels: of the image.
    """
    encoder: Any = network.encoder
    tokens, floats = 1.0, 0.0
    for stage, width, stride in zip(encoder.stages, encoder.widths, encoder.strides, strict=True):
        tokens /= math.prod(stride)
        floats += BLOCK_TENSORS * tokens * width * len(stage.blocks)
    decoder: Any = getattr(network, "decoder", None)
    if decoder is not None:
        predict = decoder.predict
        floats += DECODER_TENSORS * predict.in_features / math.prod(encoder.strides[0])
        floats += LOSS_TENSORS * predict.out_features
    return 4 * floats + SAMPLE_COPIES * (4 * channels + 1)


def fixed_bytes(network: nn.Module) -> float:
    """Bytes that a training takes whatever its patch: the process, and the weights with what belongs to each."""
    return PROCESS_BYTES + 4 * STATES * sum(p.numel() for p in network.parameters())


def largest_batch_voxels(network: nn.Module, channels: int, memory_bytes: float) -> float:
    """Voxels that a batch may have so that a training stays within ``memory_bytes``."""
    return max(memory_bytes - fixed_bytes(network), 0) / voxel_bytes(network, channels)


def measured_step(task: Task, settings: Mapping[str, Any]) -> float:
    """Seconds of a training step: the mean of two real ones, after one that warms up, on made-up voxels.

    Args:
        task: with the patch to measure.
        settings: of train.yaml, complete.
    """
    from medseg3d.training.allocation import freed_memory_kept
    from medseg3d.training.losses import build_loss
    from medseg3d.training.parts import new_network
    from medseg3d.training.processes import Processes
    from medseg3d.training.recipe import Recipe
    from medseg3d.training.step import Stepper

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = new_network(settings["network"], 0).to(device)
    recipe = Recipe.from_settings(settings)
    stepper = Stepper(
        network, build_loss(settings["loss"], task).to(device), lambda x, net: net(x), recipe, Processes()
    )
    batch = _made_up(task, task.patch_size, recipe.batch_size, device)
    marks = []
    with freed_memory_kept():
        for step in range(WARM_STEPS + MEASURED_STEPS):
            marks.append(time.monotonic())
            stepper(batch, step, total_steps=100, warmup_steps=10)
        marks.append(time.monotonic())
    return (marks[-1] - marks[WARM_STEPS]) / MEASURED_STEPS


def guessed_step(task: Task, batch_size: int) -> float:
    """Seconds of a step by its voxels alone."""
    return SECONDS_PER_VOXEL[task.network_dims] * batch_size * math.prod(task.patch_size)


def _made_up(task: Task, patch: Sequence[int], batch_size: int, device: torch.device) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    image = random.standard_normal((batch_size, len(task.inputs), *patch), dtype=np.float32)
    if task.kind == "classification":
        label = random.integers(0, len(task.labels), batch_size)
    else:
        label = random.integers(0, len(task.labels) + 1, (batch_size, 1, *patch)).astype(np.uint8)
    return {"image": torch.from_numpy(image).to(device), "label": torch.from_numpy(label).to(device)}
