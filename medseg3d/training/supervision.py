"""Deep supervision: coarser maps of the encoder predict, too, while a network is trained (Lee et al., arXiv:1409.5185).

The heads that they predict with are no part of the network: they are trained beside it and kept in checkpoints alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.networks.blocks import channels_first, channels_last
from medseg3d.networks.mit import MixTransformer, init_weights
from medseg3d.networks.segformer import SegFormer
from medseg3d.networks.strides import total_strides


class DeeplySupervised(nn.Module):
    """A network and a linear head on each map of its encoder but the finest.

    Args:
        network: ``SegFormer`` with its own encoder.
        seed: of the heads' random weights, so that every process has the same.

    Attributes:
        heads: for P2 to P4.
        strides: of all results, per axis; 1 for the first.

    Shape: ``(B, C, *s)`` to the network's logits ``(B, K, *s)``, and those of P2 to P4, ``(B, K, *ceil(s / stride))``.

    Raises:
        ConfigError: for another network.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        if not isinstance(network, SegFormer) or not isinstance(network.encoder, MixTransformer):
            raise ConfigError(
                f"deep_supervision needs a SegFormer that segments, not {type(network).__name__}; set it to false"
            )
        self.network = network
        predict = network.decoder.predict
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(nn.Linear(w, predict.out_features) for w in network.encoder.widths[1:])
            self.heads.apply(init_weights)
        self.heads.to(predict.weight.device)
        totals = total_strides(network.encoder.strides)
        self.strides = ((1,) * len(totals[0]), *totals[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        network, size = self.network, x.shape[2:]
        pyramid = network.encoder(x)
        logits = [network.upsampled(network.cut(network.decoder(pyramid), size), size)]
        coarser = list(pyramid.values())[1:]
        for head, level, stride in zip(self.heads, coarser, self.strides[1:], strict=True):
            kept = (slice(-(-n // s)) for n, s in zip(size, stride, strict=True))
            logits.append(channels_first(head(channels_last(level)))[(slice(None), slice(None), *kept)])
        return tuple(logits)


def supervised_loss(
    loss: nn.Module, logits: Sequence[Tensor], label: Tensor, strides: Sequence[Sequence[int]]
) -> Tensor:
    """The mean of a loss over all results, each coarser one with half the weight of the one before.

    Args:
        loss: of float32 logits and labels.
        logits: from ``DeeplySupervised``.
        label: ``(B, 1, *s)``.
        strides: of the results.
    """
    total, weights = torch.zeros((), device=label.device), 0.0
    for i, (level, stride) in enumerate(zip(logits, strides, strict=True)):
        total = total + 0.5**i * loss(level.float(), coarse_label(label, stride))
        weights += 0.5**i
    return total / weights


def coarse_label(label: Tensor, stride: Sequence[int]) -> Tensor:
    """The labels in the middle of each cell of ``stride`` voxels; of a cell that reaches beyond the image, at its end.

    Shape: ``(B, 1, *s)`` to ``(B, 1, *ceil(s / stride))``.
    """
    for axis, s in enumerate(stride, start=2):
        if s > 1:
            middle = torch.arange(s // 2, label.shape[axis] + s // 2, s, device=label.device)
            label = label.index_select(axis, middle.clamp_(max=label.shape[axis] - 1))
    return label
