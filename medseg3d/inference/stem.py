"""The network's first tokens, computed once where windows overlap.

A window's first patch embedding sees what that of the whole image sees, but for the tokens at its low faces, whose patches reach
beyond it: there the window has zeros. So the image's tokens are computed once, in a band as deep as a window, and each window
takes its share and computes its own low faces.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.inference.computing import Computing
from medseg3d.networks.folding import FoldedEmbedding

CHUNK_ROWS = 16
"""Rows of tokens computed at a time; one more comes with them, for what their patches see before them."""


class Windows(Protocol):
    """What a ``WindowPlan`` tells."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def roi(self) -> tuple[int, ...]: ...
    @property
    def starts(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def axis(self) -> int: ...


def shares_stem(network: Any, plan: Windows, members: int, device: torch.device) -> bool:
    """Whether the first tokens can be shared, and windows overlap, so that it pays."""
    stages = getattr(getattr(network, "encoder", None), "stages", ())
    if members > 1 or device.type != "cpu" or not stages or not isinstance(stages[0].embed, FoldedEmbedding):
        return False
    fits = all(r % network.size_multiple == 0 for r in plan.roi)
    gaps = ((b - a, r) for s, r in zip(plan.starts, plan.roi, strict=True) for a, b in itertools.pairwise(s))
    return fits and any(gap < roi for gap, roi in gaps)


class Trunk(nn.Module):
    """A network without its first patch embedding. Shape: ``(B, *s / stride, C)`` to ``(B, K, *s / stride)``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = network.encoder, network.decoder

    def forward_coarse(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.encoder.pyramid(tokens))


class Stem:
    """Cuts windows out of an image as first tokens.

    Args:
        computing: of the windows of the image.
        plan: the windows; they must be asked for in its order.
        image: ``(C, *plan.shape)``.
    """

    def __init__(self, computing: Computing, plan: Windows, image: Tensor) -> None:
        network: Any = computing.networks[0]
        self.embed: FoldedEmbedding = network.encoder.stages[0].embed
        self.computing = replace(computing, networks=(Trunk(network),))
        self.stride = int(network.stride)
        self.plan, self.image = plan, image
        self.held: Tensor | None = None
        self.first = 0

        self._advance(plan.starts[plan.axis][0])

    def window(self, corner: Sequence[int]) -> Callable[[], Tensor]:
        """What gives the first tokens ``(*roi / stride, C)`` of a window, whenever it is called."""
        self._advance(corner[self.plan.axis])
        assert self.held is not None
        at = [slice(c // self.stride, (c + r) // self.stride) for c, r in zip(corner, self.plan.roi, strict=True)]
        at[self.plan.axis] = slice(self.plan.roi[self.plan.axis] // self.stride)
        # What is held is replaced, never changed: the share stays as it is.
        return partial(self._with_faces, self.held[tuple(at)], corner)

    @torch.inference_mode()
    def _with_faces(self, share: Tensor, corner: Sequence[int]) -> Tensor:
        tokens = share.clone()
        for axis, start in enumerate(corner):
            if start:
                stops = [c + r for c, r in zip(corner, self.plan.roi, strict=True)]
                # One token more along the last axis: for four voxels there, oneDNN's convolution in bfloat16 (torch 2.13,
                # with AMX) reads memory beyond the image.
                stops[axis] = start + self.stride * (2 if axis == len(corner) - 1 else 1)
                tokens.select(axis, 0).copy_(self._tokens(corner, stops).select(axis, 0))
        return tokens

    @torch.inference_mode()
    def _advance(self, start: int) -> None:
        """Hold the tokens from ``start`` along the plan's axis, as deep as a window."""
        axis, low = self.plan.axis, start // self.stride
        high = (start + self.plan.roi[axis]) // self.stride
        if self.held is not None and low == self.first:
            return
        parts, known = [], low
        if self.held is not None:
            kept = self.held.movedim(axis, 0)[low - self.first :]
            known += len(kept)
            parts.append(kept)
        begins, ends = (
            [0] * len(self.plan.shape),
            [s[-1] + r for s, r in zip(self.plan.starts, self.plan.roi, strict=True)],
        )
        for row in range(known, high, CHUNK_ROWS):
            before = min(row, 1)
            begins[axis] = (row - before) * self.stride
            ends[axis] = min(row + CHUNK_ROWS, high) * self.stride
            parts.append(self._tokens(begins, ends).movedim(axis, 0)[before:])
        self.held, self.first = torch.cat(parts).movedim(0, axis), low

    def _tokens(self, begins: Sequence[int], ends: Sequence[int]) -> Tensor:
        """Of a box of the image, zeros beyond it and beyond the image."""
        box = self.image[(slice(None), *map(slice, begins, ends))]
        missing = [e - b - n for b, e, n in zip(begins, ends, box.shape[1:], strict=True)]
        if any(missing):
            box = F.pad(box, [p for m in reversed(missing) for p in (0, m)])
        return self.embed(box[None])[0]


def stem_bytes(network: Any, plan: Windows, element_bytes: int, channels: int) -> int:
    """What the tokens of a band take while it moves on, and the voxels of a chunk of them."""
    stride = int(network.stride)
    row = math.prod(
        (s[-1] + r) // stride for a, (s, r) in enumerate(zip(plan.starts, plan.roi, strict=True)) if a != plan.axis
    )
    depth, width = plan.roi[plan.axis] // stride, network.encoder.widths[0]
    chunk = (CHUNK_ROWS + 1) * row
    return element_bytes * (2 * depth * row * width + chunk * (width + channels * stride ** len(plan.shape)))
