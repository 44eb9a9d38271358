"""The batches of a training, made ahead of the steps that take them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from medseg3d.training.sampling import Patches, Turns

AHEAD = 2
"""Batches in the making while one is trained on."""


def feed(
    patches: Patches, turns: Turns, *, device: torch.device, workers: int | None = None
) -> Iterator[dict[str, Any]]:
    """Batches on ``device``, in the order of ``turns``; how many threads make them changes nothing in them.

    On a processor one thread makes them in the moments that the network leaves idle. Beside a GPU threads cut boxes out of the
    scans and the GPU does the arithmetic of the augmentation, sample by sample.

    Args:
        patches: what samples are.
        turns: which samples each batch holds.
        device: where the batches are wanted.
        workers: threads; None: one on a processor, up to 4 beside a GPU.

    Shape: ``{"image": (B, C, *patch), "label": (B, 1, *patch), "case": (B,)}``.
    """
    if workers is None:
        workers = 1 if device.type == "cpu" else min(4, os.cpu_count() or 1)
    if not workers:
        for turn in turns:
            yield _stacked([_made(patches, index, device) for index in turn])
        return
    waiting: deque[list[Future[Any]]] = deque()
    work = patches.cut if device.type == "cuda" else patches.__getitem__
    with ThreadPoolExecutor(workers, "samples") as pool:
        try:
            remaining = iter(turns)
            while True:
                for turn in remaining:
                    waiting.append([pool.submit(work, index) for index in turn])
                    if len(waiting) > AHEAD:
                        break
                if not waiting:
                    return
                samples = [future.result() for future in waiting.popleft()]
                if device.type == "cuda":
                    samples = [patches.finish(_moved(sample, device), change) for sample, change in samples]
                yield _stacked(samples)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _made(patches: Patches, index: int, device: torch.device) -> dict[str, Any]:
    sample, change = patches.cut(index)
    return patches.finish(_moved(sample, device), change)


def _moved(sample: dict[str, Any], device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return sample
    return {k: v.pin_memory().to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in sample.items()}


def _stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {key: torch.stack([s[key] for s in samples]) for key in ("image", "label")}
    batch["case"] = [int(s["case"]) for s in samples]
    return batch
