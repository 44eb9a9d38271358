"""The same networks in nothing but plain operations, for export: graphs that other runtimes understand, at any size.

``SegFormer`` computes with reshapes, matrix products and kernels of its own because they are faster in torch. An exported graph
is compiled by someone else, and what its tracer must know of sizes decides at which sizes it runs: here are only convolutions,
linear layers, attention and ``interpolate``, and every crop is a selection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks.blocks import Block, EfficientAttention, MixFFN
from medseg3d.networks.mit import MixTransformer
from medseg3d.networks.segformer import SegFormer, SegFormerClassifier
from medseg3d.networks.semantic import MODES


def portable(network: nn.Module) -> nn.Module:
    """A module in eval mode that computes what a network does, and shares its weights.

    Args:
        network: ``SegFormer`` or ``SegFormerClassifier`` with its own encoder.

    Raises:
        ValueError: for another network.
    """
    if not isinstance(getattr(network, "encoder", None), MixTransformer):
        raise ValueError(f"{type(network).__name__} cannot be exported; only a SegFormer with its own encoder can")
    if isinstance(network, SegFormer):
        return PortableSegFormer(network).eval()
    if isinstance(network, SegFormerClassifier):
        return PortableClassifier(network).eval()
    raise ValueError(f"{type(network).__name__} cannot be exported; only a SegFormer or its classifier can")


class PortableSegFormer(nn.Module):
    """``SegFormer`` in eval mode. Shape: ``(B, C, *s)`` to ``(B, K, *s)``."""

    def __init__(self, network: SegFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        size, stride = x.shape[2:], self.network.stride
        mode = MODES[len(size)]
        levels = pyramid(self.network.encoder, x)  # type: ignore[arg-type]
        decoder = self.network.decoder
        fused = torch.zeros(())
        for i, (level, project, norm, fuse) in enumerate(
            zip(levels, decoder.project, decoder.level_norm, decoder.fuse, strict=True)
        ):
            part = image_of(fuse(norm(project(tokens_of(level)))), level)
            fused = part if i == 0 else fused + F.interpolate(part, size=levels[0].shape[2:], mode=mode)
        fused = F.relu(decoder.norm(fused))
        coarse_size = [(n + s - 1) // s for n, s in zip(size, stride, strict=True)]
        coarse = first(image_of(decoder.predict(tokens_of(fused)), fused), coarse_size)
        return first(F.interpolate(coarse, scale_factor=[float(s) for s in stride], mode=mode), list(size))


class PortableClassifier(nn.Module):
    """``SegFormerClassifier`` in eval mode. Shape: ``(B, C, *s)`` to ``(B, K)``."""

    def __init__(self, network: SegFormerClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.head(pyramid(self.network.encoder, x)[-1].flatten(2).mean(-1))


def tokens_of(image: Tensor) -> Tensor:
    """``(B, C, *s)`` to ``(B, N, C)``."""
    return image.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, like: Tensor) -> Tensor:
    """``(B, N, C)`` to ``(B, C, *s)`` with the spatial size of ``like``."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *like.shape[2:])


def first(image: Tensor, size: list[int]) -> Tensor:
    """The first ``size`` of every spatial axis, selected: a slice would tie the graph to what it was traced with."""
    for axis, n in enumerate(size, start=2):
        image = image.index_select(axis, torch.arange(n, device=image.device))
    return image


def pyramid(encoder: MixTransformer, x: Tensor) -> list[Tensor]:
    """The encoder's maps, finest first, of an image padded as it pads."""
    sizes = zip(x.shape[2:], encoder.size_multiple, strict=True)
    pads = [n for s, m in reversed(list(sizes)) for n in (0, (s + m - 1) // m * m - s)]
    x = F.pad(x, pads)
    levels = []
    stages: Iterable[Any] = encoder.stages
    for stage in stages:
        image = stage.embed.proj(x)
        tokens = stage.embed.norm(tokens_of(image))
        for block in stage.blocks:
            tokens = _block(block, tokens, image)
        x = image_of(stage.norm(tokens), image)
        levels.append(x)
    return levels


def _block(block: Block, tokens: Tensor, like: Tensor) -> Tensor:
    tokens = tokens + _attention(block.attention, block.norm1(tokens), like)
    return tokens + _ffn(block.ffn, block.norm2(tokens), like)


def _attention(attention: EfficientAttention, tokens: Tensor, like: Tensor) -> Tensor:
    source = tokens
    if attention.reduction > 1:
        source = attention.reduce_norm(tokens_of(attention.reduce(image_of(tokens, like))))
    key, value = attention.key_value(source).chunk(2, dim=-1)
    query, key, value = (
        t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (attention.query(tokens), key, value)
    )
    out = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    return attention.proj(out.transpose(1, 2).flatten(2))


def _ffn(ffn: MixFFN, tokens: Tensor, like: Tensor) -> Tensor:
    hidden = ffn.norm(ffn.dwconv(image_of(ffn.fc1(tokens), like)))
    return ffn.fc2(F.gelu(tokens_of(hidden)))
