"""A SegFormer whose weights are fixed, with all that folds folded: the same function in fewer and smaller products.

In eval mode BatchNorm is a scale and a shift, which go into the depth-wise convolution before it in the Mix-FFN, and into the
fusing linears in the decoder. There each level's projection and its block of the fusing convolution are two linear maps in
a row, and become one. A LayerNorm between them is linear but for one factor per token, the reciprocal deviation of the
projected token, and that deviation is the length of a smaller linear map of the token itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks.attention import attend
from medseg3d.networks.blocks import (
    Block,
    EfficientAttention,
    MixFFN,
    PatchEmbedding,
    channels_first,
    channels_last,
    two_wide,
)
from medseg3d.networks.segformer import Decoder, SegFormer, interpolate_axis, interpolation_matrix

SLAB_BYTES = 2**22
"""About how many bytes of fused tokens are worked on at a time: what a processor's cache holds."""


def folded(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a network for prediction alone; networks other than ``SegFormer`` are copied as they are.

    Args:
        network: its weights are those of ``eval`` mode.
        dtype: to compute in. Logits are float32 in any case.
    """
    out = copy.deepcopy(network).eval().requires_grad_(False)
    if not isinstance(out, SegFormer):
        return out
    for stage in getattr(out.encoder, "stages", ()):
        if isinstance(stage.embed, PatchEmbedding):
            stage.embed = FoldedEmbedding(stage.embed)
        for i, block in enumerate(stage.blocks):
            if isinstance(block, Block):
                stage.blocks[i] = FoldedBlock(block)
    out.decoder = FoldedDecoder(out.decoder)  # type: ignore[assignment]
    return out.to(dtype)


class FoldedEmbedding(nn.Module):
    """``PatchEmbedding`` slab by slab along the first axis; it takes images of any floating type.

    What a convolution makes of its input, another type or another memory order, exists for one slab only.
    """

    def __init__(self, embed: PatchEmbedding) -> None:
        super().__init__()
        self.proj, self.norm = embed.proj, embed.norm

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self.proj
        (stride, *_), (half, *others) = conv.stride, conv.padding
        depth = x.shape[2]
        total = (depth - 1) // stride + 1
        row_bytes = x[:, :, 0].numel() * conv.weight.element_size()
        rows = total if x.is_cuda else max(1, SLAB_BYTES // (stride * row_bytes))
        slabs = []
        for start in range(0, total, rows):
            first, last = start * stride - half, (min(start + rows, total) - 1) * stride + half + 1
            slab = x[:, :, max(first, 0) : last].to(conv.weight.dtype)
            beyond = (max(-first, 0), max(last - depth, 0))
            if any(beyond):
                slab = F.pad(slab, [*[0] * 2 * len(others), *beyond])
            slab = two_wide(conv, slab, (0, *others))
            slabs.append(self.norm(channels_last(slab)))
        return slabs[0] if len(slabs) == 1 else torch.cat(slabs, dim=1)


class FoldedAttention(nn.Module):
    """``EfficientAttention`` in eval mode."""

    def __init__(self, attention: EfficientAttention) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner
        key, value = inner.key_value(inner._reduced(x)).chunk(2, dim=-1)
        query, key, value = (inner._heads(t) for t in (inner.query(x.flatten(1, -2)), key, value))
        out = attend(query, key, value, inner.scale)
        return inner.proj(out.transpose(1, 2).flatten(2)).view_as(x)


class FoldedBlock(nn.Module):
    """``Block`` in eval mode; it works on its input in place."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attention = block.norm1, FoldedAttention(block.attention)
        self.ffn = FoldedFFN(block.norm2, block.ffn)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.attention(self.norm1(x)).add_(x))


class FoldedFFN(nn.Module):
    """LayerNorm, ``MixFFN`` in eval mode and the residual, in place and slab by slab along the first axis.

    The hidden layer, by far the widest map of the encoder, exists for one slab only, which a processor's cache holds.

    Shape: ``(B, *s, C)``, contiguous, to the same.
    """

    def __init__(self, norm: nn.Module, ffn: MixFFN) -> None:
        super().__init__()
        self.norm, self.fc1, self.dwconv, self.fc2 = norm, ffn.fc1, ffn.dwconv, ffn.fc2
        _fold_norm(self.dwconv, ffn.norm)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1.out_features
        row_bytes = x[:, 0].numel() // x.shape[-1] * hidden * x.element_size()
        depth = x.shape[1]
        rows = depth if x.is_cuda else min(depth, max(4, SLAB_BYTES // row_bytes))
        # Rows before, of and after the slab; beyond the ends the convolution sees zeros.
        buffer = x.new_empty(x.shape[0], rows + 2, *x.shape[2:-1], hidden)
        buffer[:, :1] = 0
        self._hidden(x[:, :1], buffer[:, 1:2])
        for start in range(0, depth, rows):
            stop = min(start + rows, depth)
            ahead = x[:, start + 1 : min(stop + 1, depth)]
            if start:
                # The last two rows of the slab before; it has changed x, but not these.
                buffer[:, :2] = buffer[:, rows : rows + 2].clone()
            used = buffer[:, : stop - start + 2]
            used[:, 2 + ahead.shape[1] :] = 0
            self._hidden(ahead, buffer[:, 2 : 2 + ahead.shape[1]])
            x[:, start:stop] += self.fc2(self._mixed(used))
        return x

    def _hidden(self, x: Tensor, out: Tensor) -> None:
        for tokens, result in zip(self.norm(x), out, strict=True):
            torch.addmm(self.fc1.bias, tokens.flatten(0, -2), self.fc1.weight.T, out=result.flatten(0, -2))

    def _mixed(self, hidden: Tensor) -> Tensor:
        conv: Any = self.dwconv
        convolve = F.conv3d if hidden.ndim == 5 else F.conv2d
        padding = (0, *[1] * (hidden.ndim - 3))
        mixed = convolve(channels_first(hidden), conv.weight, conv.bias, padding=padding, groups=conv.groups)
        return torch.ops.aten.gelu_(channels_last(mixed))


class FoldedLevel(nn.Module):
    """Projection, LayerNorm and fusing linear of one decoder level, times the decoder's BatchNorm, as one linear map.

    A LayerNorm of ``W x + b`` is ``(C W x + C b) / deviation``, where C subtracts the mean over channels, and its deviation
    is the length of ``R (x, 1)`` with R the triangular factor of ``C (W, b)`` over the square root of the width.

    Args:
        gain: the BatchNorm's factor of each channel.

    Attributes:
        shift: what is to be added to the output, float64.

    Shape: ``(B, *s, w)`` to ``(B, *s, width)``.
    """

    def __init__(self, project: nn.Linear, norm: nn.Module, fuse: nn.Linear, gain: Tensor) -> None:
        super().__init__()
        weight, bias = project.weight.double(), _bias(project)
        last = fuse.weight.double() * gain[:, None]
        self.eps: float | None = None
        self.deviation: nn.Linear | None = None
        if isinstance(norm, nn.LayerNorm):
            self.eps = norm.eps
            centred = torch.cat([weight, bias[:, None]], dim=1)
            centred = centred - centred.mean(0)
            # Columns of the factor belong to x and to 1.
            factor = torch.linalg.qr(centred, mode="r").R / math.sqrt(len(centred))
            self.deviation = _linear(factor[:, :-1], factor[:, -1])
            self.shift = last @ norm.bias.double()
            self.linear = _linear((last * norm.weight.double()) @ centred, None)
        else:
            self.shift = last @ bias
            self.linear = _linear(last @ weight, None)

    def scaled(self, x: Tensor) -> Tensor:
        """What ``linear`` takes."""
        if self.eps is None or self.deviation is None:
            return x
        length = torch.linalg.vector_norm(self.deviation(x), dim=-1, keepdim=True, dtype=torch.float32)
        scale = (length.square_().add_(self.eps)).rsqrt_().to(x.dtype)
        return torch.cat([x * scale, scale], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.scaled(x))


class FoldedDecoder(nn.Module):
    """``Decoder`` in eval mode, slab by slab along the first axis: fused tokens at full width exist for one slab only."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        gain, shift = _affine_of(decoder.norm)
        parts = (decoder.project, decoder.level_norm, decoder.fuse)
        levels = [
            FoldedLevel(project, norm, fuse, gain)
            for project, norm, fuse in zip(*(list[Any](m) for m in parts), strict=True)
        ]
        # Interpolation keeps constants, so all of them go where they cost least: into the coarsest level.
        levels[-1].linear.bias = nn.Parameter(sum((level.shift for level in levels), shift).float())
        self.finest, self.coarser = levels[0], nn.ModuleList(levels[1:])
        self.predict = decoder.predict

    def forward(self, pyramid: Mapping[str, Tensor]) -> Tensor:
        first, *others = (channels_last(level) for level in pyramid.values())
        finest = self.finest.scaled(first)
        size = finest.shape[1:-1]
        maps, matrices = [], []
        for level, tokens in zip(self.coarser, others, strict=True):
            coarse = level(tokens)
            for axis in range(len(size), 1, -1):
                coarse = interpolate_axis(coarse, axis, size[axis - 1])
            maps.append(coarse)
            matrices.append(interpolation_matrix(coarse.shape[1], size[0], coarse))
        row_bytes = first[:, 0].numel() // first.shape[-1] * len(self.finest.linear.weight) * first.element_size()
        # Products with fewer rows cost as much as with four.
        rows = size[0] if finest.is_cuda else max(4, SLAB_BYTES // row_bytes)
        logits = [
            self._slab(part, maps, weights)
            for part, *weights in zip(finest.split(rows, dim=1), *(m.split(rows) for m in matrices), strict=True)
        ]
        return channels_first(torch.cat(logits, dim=1))

    def _slab(self, finest: Tensor, maps: Sequence[Tensor], matrices: Sequence[Tensor]) -> Tensor:
        weight = self.finest.linear.weight
        slab = finest.shape[:-1]
        fused = finest.new_empty(slab[0], slab[1], math.prod(slab[2:]) * len(weight))
        for nth, (coarse, matrix) in enumerate(zip(maps, matrices, strict=True)):
            used = torch.nonzero(matrix.any(0))[:, 0].tolist()
            rows, part = matrix[:, used[0] : used[-1] + 1], coarse[:, used[0] : used[-1] + 1].flatten(2)
            # With a factor of 0 what memory held before is not even read.
            fused.baddbmm_(rows.expand(len(part), *rows.shape), part, beta=min(nth, 1))
        tokens = fused.view(-1, len(weight))
        torch.addmm(tokens, finest.reshape(-1, finest.shape[-1]), weight.T, out=tokens)
        return self.predict(tokens.relu_()).view(*slab, -1).float()


def _bias(layer: Any) -> Tensor:
    """A layer's bias in float64, zeros where it has none."""
    return torch.zeros(len(layer.weight), dtype=torch.float64) if layer.bias is None else layer.bias.double()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    out = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    out.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
    if bias is not None:
        out.bias = nn.Parameter(bias.float().contiguous(), requires_grad=False)
    return out


def _affine_of(norm: Any) -> tuple[Tensor, Tensor]:
    """The factor and the shift, float64, that a BatchNorm is in eval mode."""
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain, norm.bias.double() - norm.running_mean.double() * gain


def _fold_norm(conv: Any, norm: Any) -> None:
    """Put the BatchNorm behind a convolution into it."""
    if isinstance(norm, nn.Identity):
        return
    gain, shift = _affine_of(norm)
    bias = shift + gain * _bias(conv)
    weight = conv.weight.double() * gain.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)
