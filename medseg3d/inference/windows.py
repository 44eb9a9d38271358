"""Sliding windows on the network's own stride: logits are blended where the network makes them, in a band one window deep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.inference.computing import Computing, computed
from medseg3d.inference.empty_windows import Corner, EmptyWindows
from medseg3d.networks.slices import neighbouring
from medseg3d.networks.strides import per_axis

SIZE_MULTIPLE = {2: 32, 3: 16}
"""What a window larger than the image shrinks to a multiple of, for networks without ``size_multiple``."""
GAUSSIAN_SIGMA = 1 / 8
"""Deviation of the window's weights as a part of its size, and their least value: those of MONAI's inferer."""
LEAST_WEIGHT = 1e-3
ROWS_BYTES = 2**25
"""About how many bytes of finished logits are handed on at a time."""


def window_starts(size: int, roi: int, overlap: float, stride: int) -> list[int]:
    """Where the windows along one axis begin: multiples of ``stride``.

    The last window is moved back until it just covers the end, by whole strides: it may reach up to ``stride - 1`` voxels
    beyond the image, which is padded there.

    Args:
        size: of the image, voxels.
        roi: of the window, voxels, a multiple of ``stride``.
        overlap: part of a window that its neighbour covers too, 0 <= overlap < 1.
        stride: of the network along the axis.
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap {overlap} must be at least 0 and below 1")
    interval = max(int(roi * (1 - overlap)) // stride, 1) * stride
    last = max(math.ceil((size - roi) / stride), 0) * stride
    return [*range(0, last, interval), last]


def window_size(
    shape: Sequence[int], roi_size: Sequence[int], multiple: int | Sequence[int], stride: int | Sequence[int]
) -> tuple[int, ...]:
    """The window used for an image: ``roi_size``, but no larger per axis than the image rounded up to ``multiple``.

    Args:
        shape: of the image, voxels.
        roi_size: voxels; rounded up to ``stride``.
        multiple, stride: of the network, one or one per axis.
    """
    if len(roi_size) != len(shape) or min(roi_size) < 1:
        raise ConfigError(
            f"roi_size {tuple(roi_size)} must be {len(shape)} positive sizes, one for each axis of the image"
        )
    return tuple(
        min(math.ceil(r / s) * s, math.ceil(n / m) * m)
        for n, r, m, s in zip(
            shape, roi_size, per_axis(multiple, len(shape)), per_axis(stride, len(shape)), strict=True
        )
    )


def size_multiple(network: nn.Module, spatial_dims: int) -> tuple[int, ...]:
    """What sizes a network pads to a multiple of, per axis."""
    return per_axis(getattr(network, "size_multiple", SIZE_MULTIPLE[spatial_dims]), spatial_dims)


def gaussian_weights(size: Sequence[int]) -> Tensor:
    """The weights of a window's coarse voxels: 1 at its centre, falling to at least ``LEAST_WEIGHT``; float32."""
    weights = torch.ones((), dtype=torch.float64)
    for n in size:
        offset = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (n * GAUSSIAN_SIGMA)) ** 2)
    return weights.clamp_(min=LEAST_WEIGHT).float()


@dataclass(frozen=True)
class WindowPlan:
    """Which windows cover an image, and in what order.

    Args:
        shape: of the image, voxels.
        roi: of the windows, voxels.
        starts: of the windows along each axis.
        stride: of the network, per axis.
        axis: windows are visited along it, from its start to its end.
        reach: per axis, the voxels beyond a window, on either side, that the network is given; none where it is empty.
    """

    shape: tuple[int, ...]
    roi: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    stride: tuple[int, ...]
    axis: int = 0
    reach: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, network: nn.Module, shape: Sequence[int], roi_size: Sequence[int], overlap: float, axis: int | None = None
    ) -> WindowPlan:
        """The plan for a network; ``axis`` None takes its ``slice_axis`` or the longest, along which the band is smallest."""
        stride = per_axis(network.stride, len(shape))  # type: ignore[arg-type]
        roi = window_size(shape, roi_size, size_multiple(network, len(shape)), stride)
        starts = tuple(tuple(window_starts(n, r, overlap, s)) for n, r, s in zip(shape, roi, stride, strict=True))
        if axis is None:
            axis = int(getattr(network, "slice_axis", torch.tensor(shape).argmax()))
        return cls(tuple(shape), roi, starts, stride, axis, tuple(getattr(network, "reach", (0,) * len(shape))))

    @property
    def coarse_shape(self) -> tuple[int, ...]:
        """Size of the image in logits."""
        return tuple(math.ceil(n / s) for n, s in zip(self.shape, self.stride, strict=True))

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(map(len, self.starts))

    @property
    def across(self) -> tuple[int, ...]:
        """Size, in logits, of what the windows cover on the other axes; they may reach beyond the image."""
        return tuple(
            (start[-1] + r) // s
            for a, (start, r, s) in enumerate(zip(self.starts, self.roi, self.stride, strict=True))
            if a != self.axis
        )

    @property
    def depth(self) -> int:
        """Size of the band along ``axis``, in logits."""
        return self.roi[self.axis] // self.stride[self.axis]

    def corners(self, start: int) -> list[Corner]:
        """The windows that begin at ``start`` along ``axis``."""
        starts: list[tuple[int, ...]] = list(self.starts)
        starts[self.axis] = (start,)
        return list(itertools.product(*starts))


def blended_rows(
    plan: WindowPlan, image: Tensor, computing: Computing, empty: EmptyWindows | None = None
) -> Iterator[Tensor]:
    """Logits of an image, from overlapping windows weighted by a Gaussian; rows along ``plan.axis`` as they are finished.

    Windows whose corners are multiples of the stride meet voxel on voxel at the stride, so they are accumulated there: for
    stride 4 in 1/64 of the memory, with one upsampling of the sum instead of one for each window. Only a band as deep as
    a window is held, since no later window reaches what lies behind it.

    Args:
        plan: the windows.
        image: ``(C, *plan.shape)``.
        computing: what computes them.
        empty: windows to leave out.

    Shape: yields float32 ``(K, n, *others)``: ``plan.axis`` first, then the other axes in their order.
    """
    empty = empty or EmptyWindows()
    nothing = empty.logits
    along, stride = plan.starts[plan.axis], plan.stride[plan.axis]
    device = computing.device
    weights = (
        gaussian_weights([r // s for r, s in zip(plan.roi, plan.stride, strict=True)]).movedim(plan.axis, 0).to(device)
    )
    total = torch.zeros((plan.depth, *plan.across), device=device)
    inside = tuple(slice(n) for a, n in enumerate(plan.coarse_shape) if a != plan.axis)
    band: Tensor | None = None
    wanted = (c for start in along for c in plan.corners(start) if c not in empty.corners)
    results = computed(computing, ((c, partial(_window, image, c, plan)) for c in wanted))
    result = next(results, None)
    end = plan.coarse_shape[plan.axis]
    for start, following in itertools.pairwise([*along, end * stride]):
        while result is not None and result[0][plan.axis] == start:
            corner, logits = result
            if band is None:
                band = computing.zeros((len(logits), *total.shape))
                weights, total = weights.to(band.device), total.to(band.device)
            place = tuple(
                slice(c // s, (c + r) // s)
                for a, (c, r, s) in enumerate(zip(corner, plan.roi, plan.stride, strict=True))
                if a != plan.axis
            )
            window = logits.to(band.device).movedim(plan.axis + 1, 1)
            band[(slice(None), slice(None), *place)].addcmul_(window, weights)
            total[(slice(None), *place)].add_(weights)
            result = next(results, None)
        done = (following - start) // stride
        for first in range(0, done, at_once := rows_at_once(plan, len(nothing) if band is None else len(band))):
            yield _finished(band, total, slice(first, min(first + at_once, done)), inside, nothing)
        for sums in [total] if band is None else [total, *band]:
            kept = sums[done:].clone()
            sums[: len(kept)] = kept
            sums[len(kept) :] = 0


def rows_at_once(plan: WindowPlan, outputs: int) -> int:
    """How many finished rows are handed on at a time."""
    return max(1, ROWS_BYTES // (4 * max(outputs, 1) * math.prod(plan.across)))


def _finished(
    band: Tensor | None, total: Tensor, rows: slice, inside: tuple[slice, ...], nothing: Sequence[float]
) -> Tensor:
    """Rows of a band, divided by their weights."""
    part = total[(rows, *inside)]
    if band is None:
        values = torch.tensor(nothing, device=total.device)
        return values.view(-1, *[1] * part.ndim).expand(-1, *part.shape).clone()
    covered = part > 0
    out = band[(slice(None), rows, *inside)] / part
    if not covered.all():
        out.movedim(0, -1)[~covered] = torch.tensor(nothing, device=out.device, dtype=out.dtype)
    return out


@torch.no_grad()
def sliding_logits(
    network: nn.Module,
    image: Tensor,
    *,
    roi_size: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Logits of a whole image at the network's stride; see ``blended_rows``.

    Args:
        network: in eval mode, with ``stride`` and ``forward_coarse``.
        image: ``(C, *s)`` on the network's device.
        roi_size: window in voxels, one size per axis.
        overlap: part of a window that its neighbour covers too.
        batch_size: windows per forward pass.
        autocast: type to compute in (``torch.bfloat16``), or None for the network's own.

    Shape: float32 ``(K, *ceil(s / stride))``.

    Raises:
        ConfigError: for a window or overlap that cannot be.
    """
    plan = WindowPlan.of(network, image.shape[1:], roi_size, overlap)
    return joined(plan, blended_rows(plan, image, Computing.of(network, image.device, batch_size, autocast)))


def joined(plan: WindowPlan, rows: Iterator[Tensor]) -> Tensor:
    """All rows of ``blended_rows`` as one map ``(K, *coarse_shape)``."""
    return torch.cat(list(rows), dim=1).movedim(1, plan.axis + 1)


def _window(image: Tensor, corner: Sequence[int], plan: WindowPlan) -> Tensor:
    """One window with what the network sees around it; beyond the image are zeros, beyond its slices the last one again."""
    reach = plan.reach or (0,) * len(corner)
    inside = (slice(None) if e else slice(c, c + r) for c, r, e in zip(corner, plan.roi, reach, strict=True))
    window = image[(slice(None), *inside)]
    for axis, (c, r, e) in enumerate(zip(corner, plan.roi, reach, strict=True)):
        if e:
            window = neighbouring(window, axis + 1, c - e, r + 2 * e)
    missing = [r + 2 * e - n for r, e, n in zip(plan.roi, reach, window.shape[1:], strict=True)]
    return F.pad(window, [p for m in reversed(missing) for p in (0, m)]) if any(missing) else window
