"""A training step as the trainer does it on a processor, over the same step done in other ways.

    python -m benchmarks.shares [--task hippocampus] [--repeats N] [--json FILE] [--quick]

The trainer computes shares of the batch side by side, one for each core, and keeps freed memory. The other ways: always four
shares; float32 where ``auto`` takes bfloat16; memory given back; every operation divided between the threads, with both ways that
OpenMP's threads wait. The same network, batch and optimizer; interleaved, each way in a process of its own, since some are chosen
when a process begins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import report

WAYS = {
    "side by side, a share for each core": ("shares", "passive"),
    "in four shares": ("four", "passive"),
    "in float32": ("float32", "passive"),
    "freed memory given back": ("given_back", "passive"),
    "divided, threads wait asleep": ("divided", "passive"),
    "divided, threads wait as OpenMP lets them": ("divided", None),  # awake for some milliseconds
}
RIVALS = ("four", "float32", "given_back", "asleep", "awake")
"""The ways but the first, in the figures' names."""


def serve(way: str, task_name: str, quick: bool) -> None:
    """Print the seconds of one step for every line that comes in."""
    import torch

    from medseg3d.task import load_task
    from medseg3d.training.allocation import freed_memory_kept
    from medseg3d.training.losses import build_loss
    from medseg3d.training.parts import network_config, new_network
    from medseg3d.training.processes import Processes
    from medseg3d.training.recipe import Recipe
    from medseg3d.training.settings import merge_settings
    from medseg3d.training.step import Stepper

    task = load_task(task_name)
    settings = merge_settings(task, task.train)
    size, count = (32,) * task.spatial_dims if quick else task.patch_size, settings["batch_size"]
    settings["shares"] = {"four": 4, "divided": 1}.get(way)
    settings["precision"] = "float32" if way == "float32" else settings["precision"]
    stepper = Stepper(
        new_network(network_config(task, settings["network"]), 0),
        build_loss("auto", task),
        lambda images, network: network(images),
        Recipe.from_settings(settings),
        Processes.join(),
    )
    label = torch.randint(0, len(task.labels) + 1, (count, 1, *size), dtype=torch.uint8)
    batch = {"image": torch.randn(count, task.in_channels, *size), "label": label}
    with freed_memory_kept() if way != "given_back" else contextlib.nullcontext():
        for step in range(3):
            stepper(batch, step, total_steps=1000, warmup_steps=1)
        for number, _ in enumerate(sys.stdin, start=3):
            began = time.perf_counter()
            stepper(batch, number, total_steps=1000, warmup_steps=1)
            print(time.perf_counter() - began, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; its figures mean nothing"
    )
    parser.add_argument("--task", default="hippocampus", help="whose network, patch and batch")
    parser.add_argument("--serve", choices=[way for way, _ in WAYS.values()], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.task, options.quick)
        return
    running = {}
    for name, (way, policy) in WAYS.items():
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
        words = [sys.executable, "-m", "benchmarks.shares", "--serve", way, "--task", options.task]
        words += ["--quick"] if options.quick else []
        running[name] = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(2 if options.quick else options.repeats):
        for name, process in running.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[name].append(float(json.loads(process.stdout.readline())))
    for process in running.values():
        process.communicate()
    rows = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    mine, *others = rows.values()
    figures = {f"speedup_over_{way}": other / mine for way, other in zip(RIVALS, others, strict=True)}
    report(f"Training step, {options.task}", rows, figures, options.json)


if __name__ == "__main__":
    main()
