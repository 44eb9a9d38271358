"""The parts of a Mix Transformer, on channels-last tokens ``(B, *spatial, C)``, in 2D and 3D alike.

Tokens and ``torch.channels_last(_3d)`` images are the same memory, so ``channels_first`` and ``channels_last`` are
views: no copy stands between attention, the depth-wise convolution and the linear layers.
Source: Xie et al., SegFormer, arXiv:2105.15203, sections 3.1 and 3.2; Perera et al., SegFormer3D, arXiv:2404.10156.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks.depthwise import depthwise_conv

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ATTENTION_SCALES = ("sqrt_head_dim", "sqrt_num_heads")


def channels_first(tokens: Tensor) -> Tensor:
    """``(B, *spatial, C)`` to ``(B, C, *spatial)``, a view."""
    return tokens.movedim(-1, 1)


def channels_last(image: Tensor) -> Tensor:
    """``(B, C, *spatial)`` to ``(B, *spatial, C)``, a view."""
    return image.movedim(1, -1)


class DropPath(nn.Module):
    """Drops a residual branch for whole samples (stochastic depth, arXiv:1603.09382).

    Args:
        rate: share of samples whose branch is dropped in training.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device, dtype=torch.float32) >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype)


class PatchEmbedding(nn.Module):
    """Overlapping patches as tokens: a strided convolution and a LayerNorm (SegFormer, section 3.1).

    Args:
        kernel, stride: per axis.

    Shape: ``(B, C_in, *s)`` to ``(B, *ceil(s / stride), C_out)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        eps: float,
    ) -> None:
        super().__init__()
        half = tuple(k // 2 for k in kernel)
        conv: Any = CONV[spatial_dims]
        self.proj = conv(in_channels, width, tuple(kernel), tuple(stride), padding=half)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(channels_last(two_wide(self.proj, x)))


def two_wide(conv: Any, x: Tensor, padding: Sequence[int] | None = None) -> Tensor:
    """What ``conv(x)`` gives, never computed as a single output along the last axis in bfloat16 on the processor.

    There oneDNN reads memory that nothing was written to, and gives anything from noise to NaN (torch 2.13, processors
    with AMX; tests/test_networks.py). Zeros behind the image, which the convolution sees there anyway, make it two.

    Args:
        padding: instead of the convolution's own.
    """
    padding = conv.padding if padding is None else padding
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    half = x.device.type == "cpu" and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
    if half and x.shape[-1] + 2 * padding[-1] - conv.kernel_size[-1] < conv.stride[-1]:
        return convolve(F.pad(x, (0, conv.stride[-1])), conv.weight, conv.bias, conv.stride, padding)[..., :1]
    return convolve(x, conv.weight, conv.bias, conv.stride, padding)


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced by ``reduction`` per axis (SegFormer, section 3.1).

    Args:
        width: token width C.
        heads: number of attention heads.
        reduction: per-axis factor; the map's size must be divisible by it. 1 means plain attention.
        scale: ``sqrt_head_dim`` divides the scores by sqrt(C / heads), ``sqrt_num_heads`` by sqrt(heads), as the
            weights published with SegFormer3D need it.

    Shape: ``(B, *s, C)`` to the same.
    """

    def __init__(
        self,
        spatial_dims: int,
        width: int,
        heads: int,
        reduction: int,
        *,
        qkv_bias: bool,
        scale: str,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be divisible by the number of heads {heads}")
        if scale not in ATTENTION_SCALES:
            raise ValueError(f"attention scale {scale!r} is none of {', '.join(ATTENTION_SCALES)}")
        self.heads = heads
        self.reduction = reduction
        self.scale = 1 / math.sqrt(width // heads if scale == "sqrt_head_dim" else heads)
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=qkv_bias)
        self.key_value = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_dropout = nn.Dropout(dropout)
        if reduction > 1:
            self.reduce = CONV[spatial_dims](width, width, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(width, eps=eps)

    def _reduced(self, x: Tensor) -> Tensor:
        """The keys' map as ``(B, M, C)``: the convolution does not overlap, so it is a reshape and a matrix product."""
        if self.reduction == 1:
            return x.flatten(1, -2)
        r, width, dims = self.reduction, x.shape[-1], x.ndim - 2
        split = x.reshape(x.shape[0], *[n for s in x.shape[1:-1] for n in (s // r, r)], width)
        blocks = [1 + 2 * a for a in range(dims)]
        inner = [2 + 2 * a for a in range(dims)]
        patches = split.permute(0, *blocks, *inner, 2 * dims + 1).reshape(x.shape[0], -1, r**dims * width)
        weight = self.reduce.weight.movedim(1, -1).reshape(width, -1)
        return self.reduce_norm(F.linear(patches, weight, self.reduce.bias))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        key, value = self.key_value(self._reduced(x)).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(
            self._heads(self.query(x.flatten(1, -2))),
            self._heads(key),
            self._heads(value),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )
        return self.proj_dropout(self.proj(out.transpose(1, 2).flatten(2))).view_as(x)


class MixFFN(nn.Module):
    """Feed-forward with a depth-wise 3-convolution that tells positions apart (SegFormer, section 3.1).

    Args:
        norm: BatchNorm after the depth-wise convolution, as in the published SegFormer3D.

    Shape: ``(B, *s, C)`` to the same.
    """

    def __init__(self, spatial_dims: int, width: int, hidden: int, *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = CONV[spatial_dims](hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = BATCH_NORM[spatial_dims](hidden) if norm else nn.Identity()
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm(depthwise_conv(channels_first(self.fc1(x)), self.dwconv))
        return self.dropout(self.fc2(self.dropout(F.gelu(channels_last(mixed)))))


class Block(nn.Module):
    """One transformer block: attention and Mix-FFN, each with a LayerNorm before and a residual around it."""

    def __init__(
        self,
        spatial_dims: int,
        width: int,
        heads: int,
        reduction: int,
        *,
        mlp_ratio: int,
        qkv_bias: bool,
        attention_scale: str,
        ffn_norm: bool,
        dropout: float,
        drop_path: float,
        eps: float,
        reduce_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = EfficientAttention(
            spatial_dims,
            width,
            heads,
            reduction,
            qkv_bias=qkv_bias,
            scale=attention_scale,
            dropout=dropout,
            eps=reduce_eps,
        )
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.ffn = MixFFN(spatial_dims, width, mlp_ratio * width, norm=ffn_norm, dropout=dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))
