"""How fast training is: the whole data path against a fixed batch, and our network against others at the same patch and batch."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch import nn

from benchmarks.training_sides import dynunet
from medseg3d.augmentation import Augmentation
from medseg3d.preprocessing import NetworkGrid
from medseg3d.task import Task, load_task
from medseg3d.training.allocation import freed_memory_kept
from medseg3d.training.cache import PreparedCase
from medseg3d.training.feed import feed
from medseg3d.training.losses import build_loss
from medseg3d.training.parts import network_config, new_network
from medseg3d.training.processes import Processes
from medseg3d.training.recipe import Recipe
from medseg3d.training.sampling import Patches, Turns
from medseg3d.training.settings import merge_settings
from medseg3d.training.step import Stepper
from medseg3d.volume import AxisMap, Grid

SIDES = ("medseg3d", "plain", "dynunet")
BF16 = "_bf16"
"""What a side's name ends in where it computes under bfloat16 autocast."""


def made_up_cases(task: Task, count: int) -> list[PreparedCase]:
    """Noise with a box of each label, larger than a patch, as cases in memory."""
    random = np.random.default_rng(0)
    shape = tuple(int(n * 1.2) for n in task.patch_size)
    here = AxisMap(tuple(range(len(shape))), (0.0,) * len(shape), (1.0,) * len(shape))
    cases = []
    for number in range(count):
        target = np.zeros((1, *shape), np.uint8)
        codes = len(task.values) if task.regions else len(task.labels)
        for code in range(1, codes + 1):
            corner = [int(random.integers(0, n // 2)) for n in shape]
            target[(0, *(slice(c, c + n // 4) for c, n in zip(corner, shape, strict=True)))] = code
        image = torch.from_numpy(random.standard_normal((task.in_channels, *shape), dtype=np.float32))
        grid = NetworkGrid(Grid(shape, np.eye(len(shape) + 1)), here, shape)
        cases.append(PreparedCase(f"case {number}", image, torch.from_numpy(target), None, grid))
    return cases


@freed_memory_kept()  # as the trainer does
def pipeline(task_name: str, steps: int, *, shrink: int = 1) -> tuple[float, float]:
    """Seconds of a step with the whole data path, and of one on a fixed batch, taken in turn.

    Args:
        task_name: whose patch, channels, batch and network are taken.
        steps: of each kind.
        shrink: the patch's sides are divided by this, to be quick.
    """
    task = load_task(task_name)
    settings = merge_settings(task, task.train, {"patch_size": [max(32, n // shrink) for n in task.patch_size]})
    task = Task.from_dict({**task.as_dict(), "patch_size": settings["patch_size"]})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe.from_settings(settings)
    network = new_network(network_config(task, settings["network"]), 0).to(device)
    stepper = Stepper(network, build_loss("auto", task).to(device), lambda x, net: net(x), recipe, Processes())
    patches = Patches(
        made_up_cases(task, 4),
        patch_size=task.patch_size,
        augmentation=Augmentation(task.patch_size, mirror_axes=task.mirror_axes, spacing_mm=task.spacing_mm),
    )
    batches = feed(patches, Turns(0, steps + 3, recipe.batch_size), device=device, workers=recipe.workers)
    fixed = next(batches)
    seconds: dict[str, list[float]] = {"whole": [], "fixed": []}
    for number in range(steps + 2):
        for kind, found in seconds.items():
            start = time.perf_counter()
            batch = next(batches) if kind == "whole" else fixed
            stepper(batch, number, total_steps=steps + 2, warmup_steps=0)
            if device.type == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
    fixed_s = statistics.median(seconds["fixed"][2:])
    # Few samples are turned, and those cost most: their mean counts, without what other work on the machine did.
    extra = sorted(w - f for w, f in zip(seconds["whole"][2:], seconds["fixed"][2:], strict=True))
    cut = len(extra) // 20
    return fixed_s + statistics.fmean(extra[cut : len(extra) - cut]), fixed_s


def network_of(side: str, task: Task) -> nn.Module:
    """The network of one side, at a task's channels and labels."""
    from benchmarks.plain_segformer import PlainSegFormer
    from medseg3d.networks import segformer, segformer3d

    if side == "medseg3d":  # of the size of the published one
        return segformer("mit_b0", task.network_dims, task.in_channels, task.out_channels)
    if side == "plain":
        return PlainSegFormer(segformer3d(task.in_channels, task.out_channels))
    return dynunet(task)


def measure(side: str, steps: int, shrink: int) -> dict[str, float]:
    """Seconds of a step on two hippocampus patches with AdamW, and the process's peak memory in MB.

    Args:
        side: of ``SIDES``, alone (float32) or with ``BF16``.
        steps: measured, after two that warm up.
        shrink: the patch's sides are divided by this, to be quick.
    """
    task = load_task("hippocampus")
    size = [max(32, n // shrink // 32 * 32) for n in task.patch_size]
    network = network_of(side.removesuffix(BF16), Task.from_dict({**task.as_dict(), "patch_size": size}))
    loss = build_loss("auto", task)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    image = torch.randn(2, task.in_channels, *size)
    target = torch.randint(0, 3, (2, 1, *size), dtype=torch.uint8)
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side.endswith(BF16)):
            logits = network(image)
        loss(logits.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"step_s": statistics.median(seconds[2:]), "peak_mb": peak, "parameters": count_parameters(network)}


def count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def compared(steps: int, shrink: int, rounds: int) -> dict[str, dict[str, float]]:
    """``measure`` of each side in a process of its own, in turn; the best of some rounds."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name in (*SIDES, *(side + BF16 for side in SIDES)):
            code = f"import json, benchmarks.training_speed as b; print(json.dumps(b.measure({name!r}, {steps}, {shrink})))"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
            now = dict(json.loads(done.stdout.splitlines()[-1]))
            if name not in found or now["step_s"] < found[name]["step_s"]:
                found[name] = now
    return found
