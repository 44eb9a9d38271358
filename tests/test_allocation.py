"""What is freed during a training stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medseg3d.training import allocation
from medseg3d.training.allocation import freed_memory_kept

FAULTS = """
import resource, torch
from contextlib import nullcontext
from medseg3d.training.allocation import freed_memory_kept
with {held}:
    for i in range(20):
        if i == 5:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2**20) for _ in range(16)]
        del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Pages fetched from the system for 15 times 64 MB, after five such times."""
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""What glibc begins with. Without it, whether freed memory is given back depends on what happens to lie behind it."""


def faults(held: str) -> int:
    command = [sys.executable, "-c", FAULTS.format(held=held)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | GIVEN_BACK)
    return int(done.stdout)


@pytest.mark.skipif(allocation._c_function("mallopt") is None, reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    assert faults("freed_memory_kept()") < 100 < faults("nullcontext()")


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str | None) -> None:
        raise AssertionError("no library is opened")

    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    monkeypatch.setattr(allocation.ctypes, "CDLL", none)
    with freed_memory_kept():
        pass
