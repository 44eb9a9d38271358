"""A 2D network over volumes: every slice by itself, the slices beside it as channels (2.5D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg3d.networks.strides import per_axis

MULTIPLE = 32
"""What sizes are padded to a multiple of, for networks without ``size_multiple``."""


class SliceNetwork(nn.Module):
    """A 2D network as one for volumes, whose first axis runs across the slices.

    Args:
        network: 2D, with ``stride`` and ``forward_coarse``; its image channels are each channel's slices in turn.
        neighbours: slices on either side that the network sees as channels.

    Attributes:
        stride, size_multiple: per axis; 1 across slices.
        reach: per axis, the voxels beyond a window, on either side, that the network is to be given.
        slice_axis: the axis across slices, along which a volume is best walked through.

    Shape: ``forward_coarse`` takes ``(B, C, n + 2 * neighbours, *s)`` to ``(B, K, n, *ceil(s / stride))``.
    """

    slice_axis = 0

    def __init__(self, network: nn.Module, neighbours: int = 0) -> None:
        super().__init__()
        self.network = network
        self.neighbours = neighbours
        self.stride = (1, *per_axis(network.stride, 2))  # type: ignore[arg-type]
        self.size_multiple = (1, *per_axis(getattr(network, "size_multiple", MULTIPLE), 2))
        self.reach = (neighbours, 0, 0)

    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder  # type: ignore[return-value]

    @property
    def decoder(self) -> nn.Module:
        return self.network.decoder  # type: ignore[return-value]

    def forward_coarse(self, x: Tensor) -> Tensor:
        """Logits at ``stride``."""
        logits = self.network.forward_coarse(slices_as_batch(x, self.neighbours))  # type: ignore[operator]
        return logits.unflatten(0, (len(x), -1)).movedim(1, 2)


def slices_as_batch(x: Tensor, neighbours: int) -> Tensor:
    """Every slice that has all its neighbours, with them as channels.

    Shape: ``(B, C, n + 2 * neighbours, *s)`` to ``(B * n, C * (2 * neighbours + 1), *s)``.
    """
    several = x.unfold(2, 2 * neighbours + 1, 1)  # (B, C, n, *s, 2 * neighbours + 1)
    return several.movedim(2, 1).movedim(-1, 3).flatten(2, 3).flatten(0, 1)


def neighbouring(image: Tensor, axis: int, first: int, count: int) -> Tensor:
    """``count`` voxels of an axis from ``first`` on; beyond an end the last one is repeated."""
    size = image.shape[axis]
    if first >= 0 and first + count <= size:
        return image.narrow(axis, first, count)
    index = torch.arange(first, first + count, device=image.device).clamp_(0, size - 1)
    return image.index_select(axis, index)


def slice_as_channels(image: Tensor, at: int, neighbours: int) -> Tensor:
    """One slice of ``(C, slices, *s)`` as the 2D network sees it: ``(C * (2 * neighbours + 1), *s)``."""
    return slices_as_batch(neighbouring(image, 1, at - neighbours, 2 * neighbours + 1)[None], neighbours)[0]
