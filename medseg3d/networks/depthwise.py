"""Depth-wise convolution whose backward pass on the processor is fast, and right.

Torch's own backward of a 3D depth-wise convolution is the largest single cost of a training step on the processor, and with
oneDNN in bfloat16 its weight gradient is wrong where the first spatial axis has two voxels (tests/test_depthwise.py
shows both gradients). Here the input's gradient is a forward convolution with the mirrored kernel, and the weight's
is three 2D ones, one per plane of the kernel: the same sums, by the fast 2D kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def depthwise_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """What ``conv(x)`` gives, for a convolution of each channel with its own odd-sized kernel to the same size.

    Shape: ``x`` (B, C, *spatial), best in channels-last memory; out as ``x``.
    """
    weight, bias = conv.weight, conv.bias
    if x.ndim == 5 and x.device.type == "cpu" and torch.is_grad_enabled():
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        return _DepthwiseConv3d.apply(x, weight, bias)
    return conv(x)


class _DepthwiseConv3d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        padding, groups = weight.shape[-1] // 2, weight.shape[0]
        return (
            F.conv3d(grad, weight.flip(2, 3, 4), None, padding=padding, groups=groups) if for_x else None,
            _weight_gradient(x, grad, weight) if for_weight else None,
            grad.sum((0, 2, 3, 4)) if for_bias else None,
        )


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    channels, kernel = weight.shape[0], weight.shape[-1]
    half, depth = kernel // 2, x.shape[2]
    planes = []
    for shift in range(-half, half + 1):
        first, last = max(0, -shift), depth - max(0, shift)
        if last <= first:
            planes.append(torch.zeros_like(weight[:, :, 0]))
            continue
        slices = (grad[:, :, first:last], x[:, :, first + shift : last + shift])
        images = [t.movedim(1, -1).flatten(0, 1).movedim(-1, 1) for t in slices]
        _, gradient, _ = torch.ops.aten.convolution_backward(
            *images,
            weight[:, :, 0],
            None,
            [1, 1],
            [half, half],
            [1, 1],
            False,
            [0, 0],
            channels,
            [False, True, False],
        )
        planes.append(gradient)
    return torch.stack(planes, dim=2)
