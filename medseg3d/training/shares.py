"""Gradients of a batch in shares that are computed side by side on a processor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from medseg3d.networks.blocks import DropPath

MOST_SHARES = 4
"""Into so many shares a batch falls at most, where nothing is said."""

_Share = tuple[Tensor, Sequence[Tensor | None]]


def usual_shares() -> int:
    """As many as this process has threads: each share goes through all weights, which without a thread of its own gains nothing."""
    return min(MOST_SHARES, torch.get_num_threads())


def draws_at_random(network: nn.Module) -> bool:
    """Whether a forward pass in training draws random numbers.

    The generator of them is one for all threads, which would come to it in an order of chance.
    """
    return any(
        (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0) or (isinstance(m, DropPath) and m.rate > 0)
        for m in network.modules()
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """For many short operations, which threads that wait asleep come too late for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_laid_out(gradient: Tensor, weight: Tensor) -> Tensor:
    """A gradient in its weight's order of memory, as ``backward`` gives it: fused optimizers go by memory, not by index."""
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)


class Shares:
    """A network several times, with one set of weights.

    Two threads with a sample each are done sooner than two that divide every operation of both samples between them: most
    operations of a small network are too short for that (``benchmarks/shares.py``). Norm statistics are those of a share, as they
    are of a process's part in distributed training, and the running ones move to their mean. Gradients are added up in the order
    of the shares, so neither the order in which they are done nor the number of threads that do them changes anything.

    Args:
        network: on the processor; not one that ``draws_at_random``.
        count: shares at most.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        self.network = network
        self.count = count
        self.weights = [p for p in network.parameters() if p.requires_grad]
        shared = {id(p): p for p in network.parameters()}
        self.copies = [copy.deepcopy(network, dict(shared)) for _ in range(count)]
        self.threads = torch.get_num_threads()
        self.workers = min(count, self.threads)
        self._pool: ThreadPoolExecutor | None = None

    def add_gradients(self, losses: Sequence[Callable[[nn.Module], Tensor]]) -> Tensor:
        """Add the gradient of the sum of losses to the network's ``grad``; returns the sum.

        Args:
            losses: one for each share, of the network; at most ``count``.
        """
        copies = self.copies[: len(losses)]
        for one in copies:
            one.train()
            for mine, its in zip(self.network.buffers(), one.buffers(), strict=True):
                its.copy_(mine)
        done = self._side_by_side(
            [partial(self._gradients, loss, one) for loss, one in zip(losses, copies, strict=True)]
        )
        for _, gradients in done:
            for weight, gradient in zip(self.weights, gradients, strict=True):
                if gradient is not None:
                    weight.grad = _as_laid_out(gradient, weight) if weight.grad is None else weight.grad.add_(gradient)
        for buffers in zip(self.network.buffers(), *(one.buffers() for one in copies), strict=True):
            mine, theirs = buffers[0], buffers[1:]
            mine.copy_(torch.stack(theirs).mean(0) if mine.is_floating_point() else theirs[0])
        return torch.stack([value for value, _ in done]).sum()

    def _gradients(self, loss: Callable[[nn.Module], Tensor], network: nn.Module) -> _Share:
        value = loss(network)
        return value.detach(), torch.autograd.grad(value, self.weights, allow_unused=True)

    def _side_by_side(self, tasks: Sequence[Callable[[], _Share]]) -> list[_Share]:
        if self.workers == 1:
            return [task() for task in tasks]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, "share")
        threads = max(self.threads // min(self.workers, len(tasks)), 1)

        def alone(task: Callable[[], _Share]) -> _Share:
            torch.set_num_threads(threads)  # of this thread; those that it makes
            return task()

        try:
            return list(self._pool.map(alone, tasks))
        finally:
            torch.set_num_threads(self.threads)
