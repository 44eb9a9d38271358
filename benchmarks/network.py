"""Our network against the formulation of the paper written plainly, same weights, in one process, interleaved.

    python -m benchmarks.network [--json FILE] [--quick] [--profile]

Plain: upsampled maps concatenated, then fused; explicit softmax attention; float32. Ratios are plain / ours, larger is better.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.profiler import profile

from benchmarks.measure import arguments, interleaved, report
from benchmarks.plain_segformer import PlainSegFormer
from medseg3d.networks import segformer3d


def step(network: nn.Module, image: torch.Tensor, *, bf16: bool = False) -> None:
    """One forward and backward pass; gradients are dropped."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(image)
    logits.square().mean().backward()
    network.zero_grad()


def forward(network: nn.Module, image: torch.Tensor, *, bf16: bool = False) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return network(image)


def main() -> None:
    show_profile = "--profile" in sys.argv
    if show_profile:
        sys.argv.remove("--profile")
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    ours = segformer3d(4, 3).eval()
    plain = PlainSegFormer(ours)
    side, patch = (64, 32) if options.quick else (128, 64)
    image = torch.randn(1, 4, side, side, side)
    batch = torch.randn(2, 4, patch, patch, patch)
    repeats = 2 if options.quick else options.repeats

    expected = forward(plain, image)
    error = ((forward(ours, image) - expected).abs().max() / expected.abs().max()).item()
    bf16_error = ((forward(ours, image, bf16=True) - expected).abs().max() / expected.abs().max()).item()
    seconds = interleaved(
        {
            f"plain, float32, 4 x {side}^3": lambda: forward(plain, image),
            "ours, float32": lambda: forward(ours, image),
            "ours, bfloat16 autocast": lambda: forward(ours, image, bf16=True),
        },
        repeats,
    )
    plain.train()
    training = interleaved(
        {
            f"plain, training step, float32, 2 x 4 x {patch}^3": lambda: step(plain, batch),
            "ours, training step, float32": lambda: step(ours, batch),
            "plain, training step, bfloat16 autocast": lambda: step(plain, batch, bf16=True),
            "ours, training step, bfloat16 autocast": lambda: step(ours, batch, bf16=True),
        },
        repeats,
    )
    p, f, b = seconds.values()
    pt, ft, pbt, bt = training.values()
    report(
        "SegFormer3D (4 inputs, 3 outputs)",
        {**seconds, **training},
        {
            "fp32_speedup": p / f,
            "bf16_speedup": p / b,
            "train_speedup": pt / ft,
            "train_bf16_speedup": pbt / bt,
            "max_relative_error": error,
            "max_relative_error_bf16": bf16_error,
        },
        options.json,
    )
    if show_profile:
        for bf16 in (False, True):
            with profile() as recorded:
                step(ours, batch, bf16=bf16)
            print(f"training step, {'bfloat16' if bf16 else 'float32'}:")
            print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=44))


if __name__ == "__main__":
    main()
