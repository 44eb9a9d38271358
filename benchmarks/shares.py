"""A training step whose samples are computed side by side, over one whose operations are divided between the threads.

    python -m benchmarks.shares [--repeats N] [--json FILE] [--quick]

The same network, batch and optimizer; interleaved. Both ways of waiting of OpenMP's threads are tried for the divided step (the
environment variable is read once, so each lives in a process of its own).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import report

WAYS = {
    "side by side": ("shares", "passive"),
    "divided, threads wait asleep": ("divided", "passive"),
    "divided, threads wait as OpenMP lets them": ("divided", None),  # awake for some milliseconds
}


def serve(way: str, quick: bool) -> None:
    """Print the seconds of one step for every line that comes in."""
    import torch

    from medseg3d.networks import segformer
    from medseg3d.task import load_task
    from medseg3d.training.losses import build_loss
    from medseg3d.training.processes import Processes
    from medseg3d.training.recipe import Recipe
    from medseg3d.training.step import Stepper

    task = load_task("hippocampus")
    size = (32, 32, 32) if quick else task.patch_size
    torch.manual_seed(0)
    recipe = Recipe(2, 1e-3, 0.01, 1, "poly", 1.0, 0.999, "auto", 5, 0.25, None, 0)
    stepper = Stepper(
        segformer("mit_b0", spatial_dims=3, in_channels=1, out_channels=task.out_channels),
        build_loss("auto", task),
        lambda images, network: network(images),
        recipe,
        Processes.join(),
    )
    if way == "divided":
        stepper.shares = None
    batch = {"image": torch.randn(2, 1, *size), "label": torch.randint(0, task.out_channels, (2, 1, *size))}
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
    parser.add_argument("--serve", choices=("shares", "divided"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.quick)
        return
    running = {}
    for name, (way, policy) in WAYS.items():
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
        words = [sys.executable, "-m", "benchmarks.shares", "--serve", way, *(["--quick"] if options.quick else [])]
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
    mine, asleep, awake = rows.values()
    report(
        "Training step", rows, {"speedup_over_asleep": asleep / mine, "speedup_over_awake": awake / mine}, options.json
    )


if __name__ == "__main__":
    main()
