"""One training over several processes, as torchrun starts them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process and its peers.

    Args:
        rank: number of this process; the first alone writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Those of torchrun, or one alone."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        rank = distributed.get_rank()
        if rank:
            logging.getLogger("medseg3d").setLevel(logging.ERROR)
        return cls(rank, count)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each number over all processes."""
        if self.count == 1:
            return list(values)
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        sums = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(sums)
        return [v / self.count for v in sums.tolist()]

    def gathered(self, mine: Sequence[T]) -> list[T]:
        """The items of all processes, dealt out in turn, in their order before: this one's are ``all[rank::count]``."""
        if self.count == 1:
            return list(mine)
        parts: list[Any] = [None] * self.count
        distributed.all_gather_object(parts, mine)
        return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]

    def from_first(self, value: T) -> T:
        """What the first process has; every process must ask."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    @classmethod
    def leave(cls) -> Processes:
        """End the group, so that processes may end at different times; returns what this one was."""
        found = cls.join()
        if found.count > 1:
            distributed.destroy_process_group()
        return found
