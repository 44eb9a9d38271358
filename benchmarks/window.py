"""Where the time of one window goes, and how far that is from what the processor's arithmetic and memory allow.

    python -m benchmarks.window [--json FILE] [--quick]

The published SegFormer3D, folded, 4 x 128^3, bfloat16, one thread: as one of the windows that are computed at a time. Arithmetic:
a product of two large bfloat16 matrices. Memory: a copy of 64 MB into new memory. What matrix products, convolutions and
attention compute is counted by torch's own counter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine
from medseg3d.networks import segformer3d
from medseg3d.networks.folding import folded

PARTS = ("embed", "attention", "ffn")


def median_of(run: Callable[[], object], repeats: int) -> float:
    """Seconds of a call."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def shares(network: nn.Module, image: torch.Tensor, repeats: int) -> dict[str, float]:
    """Seconds in each part of the network, the median over calls added over its places."""
    spent: dict[str, list[float]] = {}
    began: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> list[Any]:
        def before(*_: object) -> None:
            began[name] = time.perf_counter()

        def after(*_: object) -> None:
            spent.setdefault(name, []).append(time.perf_counter() - began[name])

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    wanted = [(n, m) for n, m in network.named_modules() if n.split(".")[-1] in PARTS or n == "decoder"]
    hooks = [hook for name, module in wanted for hook in watch(name, module)]
    for _ in range(repeats):
        network.forward_coarse(image)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    out: dict[str, float] = {}
    for name, times in spent.items():
        parts = name.split(".")
        key = name if name == "decoder" else f"stage {int(parts[2]) + 1} {parts[-1]}"
        out[key] = out.get(key, 0.0) + sorted(times)[len(times) // 2]
    return out


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="a small window, to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    edge, repeats = (32, 2) if options.quick else (128, 9)
    network = folded(segformer3d(4, 3).eval(), torch.bfloat16)
    image = torch.randn(1, 4, edge, edge, edge).bfloat16()
    whole = median_of(lambda: network.forward_coarse(image), repeats)  # type: ignore[operator]
    with FlopCounterMode(display=False) as counter:
        network.forward_coarse(image)  # type: ignore[operator]
    size = 512 if options.quick else 4096
    matrix = torch.randn(size, size).bfloat16()
    arithmetic = 2 * size**3 / median_of(lambda: matrix @ matrix, 5)
    block = torch.empty(2**24)
    memory = 2 * block.nbytes / median_of(block.clone, 5)
    figures = {
        "window_s": whole,
        "window_gflop": counter.get_total_flops() / 1e9,
        "matrix_gflop_per_s": arithmetic / 1e9,
        "copy_gb_per_s": memory / 1e9,
        "arithmetic_alone_s": counter.get_total_flops() / arithmetic,
    }
    print(machine())
    for key, value in figures.items():
        print(f"  {key:30} {value:10.4g}")
    for key, value in sorted(shares(network, image, repeats).items(), key=lambda pair: -pair[1]):
        print(f"  {key:30} {1000 * value:8.1f} ms  {value / whole:6.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
