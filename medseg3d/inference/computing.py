"""What turns windows into logits: one or more networks, flips, batches on a GPU, several windows at a time on a processor."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medseg3d.checks import MedSegError

logger = logging.getLogger(__name__)


class OutOfMemoryError(MedSegError):
    """The work does not fit the memory of the device, however it is cut."""


@dataclass
class Computing:
    """How windows are computed.

    Args:
        networks: members of an ensemble, in eval mode, with ``forward_coarse``.
        device: of the networks.
        flips: for each pass of each network, the axes that the window is mirrored along.
        apart: keep the members' logits apart, one after another along the channels, instead of averaging them.
        batch_size: windows per forward pass; halved where the device's memory does not hold it.
        workers: windows computed at a time on a processor, each with its share of the threads. Two threads that
            work on two windows never wait for each other; two that share one window do at every step.
        autocast: type to compute in, or None for the networks' own.
        host: accumulate in the computer's memory, where the device's is too small.
    """

    networks: Sequence[nn.Module]
    device: torch.device
    flips: Sequence[tuple[int, ...]] = ((),)
    apart: bool = False
    batch_size: int = 1
    workers: int = 1
    autocast: torch.dtype | None = None
    host: bool = field(default=False)

    @classmethod
    def of(cls, network: nn.Module, device: torch.device, batch_size: int, autocast: torch.dtype | None) -> Computing:
        """One network, one pass, one window after another."""
        return cls((network,), device, batch_size=batch_size, autocast=autocast)

    @property
    def members(self) -> int:
        """Passes over each window."""
        return len(self.networks) * len(self.flips)

    def zeros(self, shape: Sequence[int]) -> Tensor:
        """Room to accumulate in: on the device, or on the host where the device has none."""
        if not self.host:
            try:
                return torch.zeros(tuple(shape), device=self.device)
            except torch.OutOfMemoryError:
                logger.warning("logits are accumulated on the host: the device has no room for them")
                self.host = True
        return torch.zeros(tuple(shape))

    def logits(self, windows: Tensor) -> Tensor:
        """Of a batch ``(B, C, *roi)``, float32 ``(B, K, *roi / stride)``; members apart: ``(B, members * K, ..)``."""
        results = []
        windows = windows.to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, self.autocast, self.autocast is not None):
            for network, axes in itertools.product(self.networks, self.flips):
                turned = [a + 2 for a in axes]
                seen = windows.flip(turned) if turned else windows
                logits = network.forward_coarse(seen).float()  # type: ignore[operator]
                results.append(logits.flip(turned) if turned else logits)
        if len(results) == 1:
            return results[0]
        return torch.cat(results, dim=1) if self.apart else torch.stack(results).mean(0)


Cut = Callable[[], Tensor]
"""Gives a window, where it is computed."""


def computed(
    computing: Computing, windows: Iterable[tuple[tuple[int, ...], Cut]]
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """The logits of each window, with its corner, in the order of the windows.

    Raises:
        OutOfMemoryError: where a single window does not fit the device.
    """
    if computing.workers > 1 and computing.device.type == "cpu":
        yield from _by_workers(computing, windows)
        return
    windows = iter(windows)
    while batch := list(itertools.islice(windows, computing.batch_size)):
        while batch:
            part = batch[: computing.batch_size]
            logits = _or_none(computing, torch.stack([cut() for _, cut in part]))
            if logits is None:
                computing.batch_size = max(len(part) // 2, 1)
                logger.warning("out of memory: %d windows at a time from here on", computing.batch_size)
                continue
            yield from zip((corner for corner, _ in part), logits, strict=True)
            batch = batch[len(part) :]


def _or_none(computing: Computing, windows: Tensor) -> Tensor | None:
    """Logits, or None where half the batch may fit; outside the ``except`` the failed pass lets go of its memory."""
    try:
        return computing.logits(windows)
    except torch.OutOfMemoryError:
        if len(windows) == 1:
            raise OutOfMemoryError(
                f"a window of {tuple(windows.shape[2:])} voxels does not fit the memory of {computing.device}; "
                "give a smaller roi size, or another device"
            ) from None
    if computing.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _by_workers(
    computing: Computing, windows: Iterable[tuple[tuple[int, ...], Cut]]
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    threads = torch.get_num_threads()
    share = max(threads // computing.workers, 1)

    def work(cut: Cut) -> Tensor:
        return computing.logits(cut()[None])[0]

    pending: deque[tuple[tuple[int, ...], Future[Tensor]]] = deque()
    with ThreadPoolExecutor(computing.workers, "window", torch.set_num_threads, (share,)) as pool:
        # This thread blends and decodes meanwhile: with threads of its own it would wait for those that compute.
        torch.set_num_threads(1)
        try:
            for corner, cut in windows:
                pending.append((corner, pool.submit(work, cut)))
                if len(pending) > computing.workers:
                    corner, future = pending.popleft()
                    yield corner, future.result()
            while pending:
                corner, future = pending.popleft()
                yield corner, future.result()
        finally:
            for _, future in pending:
                future.cancel()
            torch.set_num_threads(threads)
