"""How far a network's stages step along each axis, and what that asks of an image's size."""

from __future__ import annotations

import math
from collections.abc import Sequence

Strides = tuple[tuple[int, ...], ...]
DEFAULT = (4, 2, 2, 2)
"""Of the stages of a Mix Transformer, on every axis (SegFormer, section 3.1)."""
STEM, LATER = (1, 2, 4), (1, 2)
"""What the first stage may step, and the others."""


def per_axis(value: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """A number for each axis, from one for all or one for each.

    Raises:
        ValueError: for another number of axes.
    """
    values = (int(value),) * spatial_dims if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != spatial_dims:
        raise ValueError(f"{list(values)} must be one number, or one for each of {spatial_dims} axes")
    return values


def stage_strides(strides: Sequence[int | Sequence[int]] | None, spatial_dims: int) -> Strides:
    """The strides of all stages, per axis.

    Args:
        strides: for each stage one number, or one per axis; None for ``DEFAULT``.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: for strides that cannot be.
    """
    strides = DEFAULT if strides is None else strides
    if len(strides) != len(DEFAULT):
        raise ValueError(f"strides {list(strides)} must have {len(DEFAULT)} entries, one per stage")
    found = tuple(per_axis(stride, spatial_dims) for stride in strides)
    for i, stage in enumerate(found):
        allowed = LATER if i else STEM
        if not set(stage) <= set(allowed):
            raise ValueError(f"strides {list(stage)} of stage {i + 1} must be of {', '.join(map(str, allowed))}")
    return found


def plain(strides: Strides) -> list[int | list[int]]:
    """Strides as JSON has them: one number where all axes have the same."""
    return [stage[0] if len(set(stage)) == 1 else list(stage) for stage in strides]


def kernel_of(stride: int) -> int:
    """Taps of an embedding that steps by ``stride``: 7 for 4 and 3 for 2, as published; a step of 1 looks at its own voxel."""
    return 2 * stride - 1


def stride_of(kernel: int) -> int:
    """The step of an embedding with so many taps."""
    return (kernel + 1) // 2


def total_strides(strides: Strides) -> Strides:
    """The stride of each stage's map against the image."""
    totals, so_far = [], [1] * len(strides[0])
    for stage in strides:
        so_far = [n * s for n, s in zip(so_far, stage, strict=True)]
        totals.append(tuple(so_far))
    return tuple(totals)


def size_multiple(strides: Strides, reductions: Sequence[int]) -> tuple[int, ...]:
    """What sizes are padded to a multiple of, so that every map of keys can be reduced."""
    totals = total_strides(strides)
    return tuple(
        math.lcm(strides[0][a], *(t[a] * r for t, r in zip(totals, reductions, strict=True) if r > 1))
        for a in range(len(strides[0]))
    )
