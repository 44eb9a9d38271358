"""The formulation that papers write down, plainly: the yardstick of benchmarks/network.py, never part of the product.

Channels-first maps flattened to tokens and back, attention as an explicit softmax, four upsampled maps concatenated before
the fusing convolution. It is a function of the weights of a ``medseg3d.networks.SegFormer``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks import SegFormer


def _attention(attention: nn.Module, tokens: Tensor, size: torch.Size) -> Tensor:
    b, n, c = tokens.shape
    heads = attention.heads
    query = attention.query(tokens).reshape(b, n, heads, c // heads).permute(0, 2, 1, 3)
    if attention.reduction > 1:
        image = tokens.permute(0, 2, 1).reshape(b, c, *size)
        tokens = attention.reduce_norm(attention.reduce(image).flatten(2).permute(0, 2, 1))
    key, value = attention.key_value(tokens).reshape(b, -1, 2, heads, c // heads).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(query @ key.transpose(-2, -1) * attention.scale, dim=-1)
    return attention.proj((weights @ value).transpose(1, 2).reshape(b, n, c))


def _ffn(ffn: nn.Module, tokens: Tensor, size: torch.Size) -> Tensor:
    b = tokens.shape[0]
    hidden = ffn.fc1(tokens).transpose(1, 2).reshape(b, -1, *size)
    hidden = ffn.norm(ffn.dwconv(hidden)).flatten(2).transpose(1, 2)
    return ffn.fc2(F.gelu(hidden))


class PlainSegFormer(nn.Module):
    """The same weights, the same function, the obvious way. Shape: as ``SegFormer``, sizes that are multiples of 32."""

    def __init__(self, network: SegFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        levels = []
        for stage in self.network.encoder.stages:
            image = stage.embed.proj(x)
            grid = image.shape[2:]
            tokens = stage.embed.norm(image.flatten(2).transpose(1, 2))
            for block in stage.blocks:
                tokens = tokens + _attention(block.attention, block.norm1(tokens), grid)
                tokens = tokens + _ffn(block.ffn, block.norm2(tokens), grid)
            x = stage.norm(tokens).transpose(1, 2).reshape(tokens.shape[0], -1, *grid)
            levels.append(x)
        decoder = self.network.decoder
        mode = "trilinear" if len(size) == 3 else "bilinear"
        conv = F.conv3d if len(size) == 3 else F.conv2d
        maps = []
        for i in (3, 2, 1, 0):
            tokens = decoder.level_norm[i](decoder.project[i](levels[i].flatten(2).transpose(1, 2)))
            image = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *levels[i].shape[2:])
            maps.append(F.interpolate(image, size=levels[0].shape[2:], mode=mode, align_corners=False))
        ones = (1,) * len(size)
        weight = torch.cat([decoder.fuse[i].weight for i in (3, 2, 1, 0)], dim=1)
        fused = F.relu(decoder.norm(conv(torch.cat(maps, dim=1), weight.reshape(*weight.shape, *ones))))
        predict = decoder.predict
        logits = conv(fused, predict.weight.reshape(*predict.weight.shape, *ones), predict.bias)
        return F.interpolate(logits, size=size, mode=mode, align_corners=False)
