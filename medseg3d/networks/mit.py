"""The Mix Transformer: an image in, a pyramid of feature maps at 1/4, 1/8, 1/16 and 1/32 out.

Source: Xie et al., SegFormer, arXiv:2105.15203, section 3.1 and table 6; in 3D Perera et al., arXiv:2404.10156.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks.blocks import Block, PatchEmbedding, channels_first
from medseg3d.networks.strides import kernel_of, plain, size_multiple, stage_strides

REDUCTIONS = {2: (8, 4, 2, 1), 3: (4, 2, 1, 1)}
"""Per-axis reduction of the keys in each stage, by spatial dimensions."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "mit_tiny": {"widths": (32, 64, 64, 80), "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 5)},
    "mit_b0": {"widths": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "mit_b1": {"widths": (64, 128, 320, 512), "depths": (2, 2, 2, 2)},
    "mit_b2": {"widths": (64, 128, 320, 512), "depths": (3, 4, 6, 3)},
    "mit_b3": {"widths": (64, 128, 320, 512), "depths": (3, 4, 18, 3)},
    "mit_b4": {"widths": (64, 128, 320, 512), "depths": (3, 8, 27, 3)},
    "mit_b5": {"widths": (64, 128, 320, 512), "depths": (3, 6, 40, 3)},
}
"""Widths and depths: b0 to b5 are the paper's, with heads 1, 2, 5, 8; ``mit_tiny`` is for small patches, of which the last stages
see a few positions (docs/results.md, choices of the default training)."""


class Stage(nn.Module):
    """Patch embedding, transformer blocks and a closing LayerNorm. Shape: ``(B, C_in, *s)`` to ``(B, C, *s / stride)``."""

    def __init__(self, embed: PatchEmbedding, blocks: Sequence[Block], width: int, eps: float) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        return channels_first(self.norm(tokens))


class MixTransformer(nn.Module):
    """Hierarchical transformer encoder for 2D and 3D images.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        widths, depths, heads: token width, number of blocks and attention heads of each stage.
        reductions: per-axis reduction of the keys in each stage; default 8, 4, 2, 1 in 2D and 4, 2, 1, 1 in 3D.
        strides: of each stage, one number or one per axis; default 4, 2, 2, 2. The first may be 1, 2 or 4, the others 1 or
            2: for thick slices along the last axis ``((4, 4, 1), 2, 2, 2)`` keeps them apart.
        mlp_ratio: hidden width of the Mix-FFN over the token width.
        qkv_bias: biases in the query and key-value projections.
        attention_scale: ``sqrt_head_dim`` or ``sqrt_num_heads`` (see ``EfficientAttention``).
        ffn_norm: BatchNorm in the Mix-FFN.
        dropout: in attention and Mix-FFN.
        drop_path: stochastic depth of the last block; the others' grow linearly towards it.
        norm_eps: of every LayerNorm.
        conv_norm_eps: of the LayerNorms that follow a convolution (patch embedding, reduced keys), if not ``norm_eps``.

    Attributes:
        strides: per stage and axis.
        size_multiple, least_size: per axis, what sizes are padded to a multiple of, and the smallest that are taken.

    Shape: ``(B, in_channels, *s)`` to ``{"P1": (B, widths[0], *s/4), ..., "P4": (B, widths[3], *s/32)}`` with the default
    strides. A size that does not fit the reductions is first padded with zeros at the end of its axis to a multiple of
    ``size_multiple``.

    Raises:
        ValueError: for images smaller than ``least_size`` on any axis, or channels that do not fit.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        attention_scale: str = "sqrt_head_dim",
        ffn_norm: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
        conv_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in REDUCTIONS:
            raise ValueError(f"spatial_dims {spatial_dims} must be 2 or 3")
        options = {"widths": widths, "depths": depths, "heads": heads, "reductions": reductions}
        self.config: dict[str, Any] = {
            "name": "mix_transformer",
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            **{name: None if value is None else list(value) for name, value in options.items()},
            "strides": None if strides is None else plain(stage_strides(strides, spatial_dims)),
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "attention_scale": attention_scale,
            "ffn_norm": ffn_norm,
            "dropout": dropout,
            "drop_path": drop_path,
            "norm_eps": norm_eps,
            "conv_norm_eps": conv_norm_eps,
        }
        reductions = REDUCTIONS[spatial_dims] if reductions is None else reductions
        self.strides = stage_strides(strides, spatial_dims)
        if not len(widths) == len(depths) == len(heads) == len(reductions) == len(self.strides):
            raise ValueError(
                f"widths, depths, heads and reductions must have {len(self.strides)} entries, one per stage"
            )
        conv_norm_eps = norm_eps if conv_norm_eps is None else conv_norm_eps
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.widths = tuple(widths)
        self.size_multiple = size_multiple(self.strides, reductions)
        self.least_size = tuple(max(n // 2, 1) for n in self.size_multiple)
        rates = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            blocks = [
                Block(
                    spatial_dims,
                    width,
                    heads[i],
                    reductions[i],
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    attention_scale=attention_scale,
                    ffn_norm=ffn_norm,
                    dropout=dropout,
                    drop_path=rates.pop(0),
                    eps=norm_eps,
                    reduce_eps=conv_norm_eps,
                )
                for _ in range(depths[i])
            ]
            source = in_channels if i == 0 else widths[i - 1]
            kernel = tuple(map(kernel_of, self.strides[i]))
            embed = PatchEmbedding(spatial_dims, source, width, kernel, self.strides[i], conv_norm_eps)
            self.stages.append(Stage(embed, blocks, width, norm_eps))
        self.apply(init_weights)

    def padded(self, x: Tensor) -> Tensor:
        """The image with zeros at the end of every axis up to a multiple of ``size_multiple``."""
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)} must be (B, {self.in_channels}, *spatial) with {self.spatial_dims} spatial axes"
            )
        size = tuple(x.shape[2:])
        least = self.least_size
        if any(n < m for n, m in zip(size, least, strict=True)):
            needed = f"every axis needs at least {least[0]}" if len(set(least)) == 1 else f"it needs at least {least}"
            raise ValueError(
                f"image of size {size} is too small: {needed} voxels, so that more than half of what the network sees is "
                f"image; pad it to at least {tuple(map(max, size, least))}"
            )
        extra = [-n % m for n, m in zip(size, self.size_multiple, strict=True)]
        if not any(extra):
            return x
        return F.pad(x, [n for e in reversed(extra) for n in (0, e)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.padded(x)
        pyramid = {}
        for i, stage in enumerate(self.stages, start=1):
            x = stage(x)
            pyramid[f"P{i}"] = x
        return pyramid


def init_weights(module: nn.Module) -> None:
    """Truncated normal (0.02) for linear layers, He normal over the fan-out for convolutions."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def mit_tiny(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """b0 with narrow last stages, for patches of which they see a few positions; not of the paper."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_tiny"], **options})


def mit_b0(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """The paper's smallest encoder; its widths are SegFormer3D's."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_b0"], **options})


def mit_b1(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """b0 at twice the width."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_b1"], **options})


def mit_b2(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """b1's widths, depths 3, 4, 6, 3."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_b2"], **options})


def mit_b3(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """b1's widths, depths 3, 4, 18, 3."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_b3"], **options})


def mit_b4(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """b1's widths, depths 3, 8, 27, 3."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_b4"], **options})


def mit_b5(spatial_dims: int, in_channels: int, **options: Any) -> MixTransformer:
    """b1's widths, depths 3, 6, 40, 3."""
    return MixTransformer(spatial_dims, in_channels, **{**SIZES["mit_b5"], **options})
