"""One training over several processes, as torchrun starts them."""

from __future__ import annotations

import os

import torch


def join_processes() -> tuple[int, int]:
    """This process's number and how many there are: torchrun's, or one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
