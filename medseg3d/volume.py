"""Images with their place in the world: the only owner of geometry.

Conventions: arrays are ``(C, *spatial)``; an affine maps a voxel index to millimetres in RAS+ (x to the patient's
right, y to anterior, z to superior), voxel centres at integer indices. 2D images use a 3 x 3 affine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two voxel axes that still counts as orthogonal (about 0.06 degrees)."""


@dataclass(frozen=True, eq=False)
class AxisMap:
    """A separable map from the voxel indices of one grid to those of another.

    Along target axis ``a``, index ``i`` lies at ``start[a] + step[a] * i`` on axis ``axes[a]`` of the source.
    Axis permutations, flips, crops and changes of spacing are all of this form, so an image passes from
    one grid to the other (or back: ``inverse``) with one interpolation per axis.
    """

    axes: tuple[int, ...]
    start: tuple[float, ...]
    step: tuple[float, ...]

    def inverse(self) -> AxisMap:
        """The map from source indices to target coordinates."""
        order = [self.axes.index(a) for a in range(len(self.axes))]
        return AxisMap(
            tuple(order),
            tuple(-self.start[a] / self.step[a] for a in order),
            tuple(1.0 / self.step[a] for a in order),
        )

    def coordinates(self, axis: int, size: int) -> NDArray[np.float64]:
        """Source coordinates of the ``size`` indices of target axis ``axis``."""
        return self.start[axis] + self.step[axis] * np.arange(size, dtype=np.float64)

    def matrix(self) -> NDArray[np.float64]:
        """The homogeneous matrix that takes target indices to source indices, ``(d + 1, d + 1)``."""
        d = len(self.axes)
        out = np.zeros((d + 1, d + 1))
        out[d, d] = 1
        for a, axis in enumerate(self.axes):
            out[axis, a] = self.step[a]
            out[axis, d] = self.start[a]
        return out


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels in the world.

    Args:
        shape: spatial size in voxels.
        affine: ``(d + 1, d + 1)``, voxel index to RAS+ mm.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        d = len(self.shape)
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (d + 1, d + 1):
            rule = (d + 1, d + 1)
            raise ValueError(f"affine of shape {affine.shape} does not fit {d} spatial axes; it must be {rule}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxel centres along each array axis, mm."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def axcodes(self) -> tuple[str, ...]:
        """For each array axis the anatomical direction that it points to most, e.g. ``("R", "A", "S")``."""
        world, sign = self._closest_axes()
        return tuple(AXIS_CODES[w][int(s > 0)] for w, s in zip(world, sign, strict=True))

    @property
    def shear(self) -> float:
        """Largest cosine between two voxel axes; 0 for an orthogonal grid."""
        direction = self.affine[:-1, :-1] / np.linalg.norm(self.affine[:-1, :-1], axis=0)
        return float(np.abs(direction.T @ direction - np.eye(self.spatial_dims)).max())

    def _closest_axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """World axis and sign for each array axis; the polar factor decides, so oblique grids are stable."""
        m = self.affine[:-1, :-1] / np.linalg.norm(self.affine[:-1, :-1], axis=0)
        u, _, vt = np.linalg.svd(m)
        rotation = u @ vt
        world = [-1] * self.spatial_dims
        score = np.abs(rotation)
        for _ in range(self.spatial_dims):
            row, col = np.unravel_index(int(score.argmax()), score.shape)
            world[int(col)] = int(row)
            score[row, :] = -1
            score[:, col] = -1
        return tuple(world), tuple(1 if rotation[w, a] >= 0 else -1 for a, w in enumerate(world))

    def to_canonical(self) -> AxisMap:
        """The map of the closest RAS+ order of the same voxels (permutation and flips alone) onto this grid."""
        world, sign = self._closest_axes()
        axes = tuple(world.index(w) for w in range(self.spatial_dims))
        return AxisMap(
            axes,
            tuple(0.0 if sign[a] > 0 else float(self.shape[a] - 1) for a in axes),
            tuple(float(sign[a]) for a in axes),
        )

    def mapped(self, axis_map: AxisMap, shape: Sequence[int]) -> Grid:
        """The grid of ``shape`` voxels that ``axis_map`` lays over this one."""
        return Grid(tuple(shape), self.affine @ axis_map.matrix())

    def differs_from(self, other: Grid, *, tolerance_voxels: float = 0.1, tolerance_rad: float = 1e-3) -> str | None:
        """Say how two grids differ, or None where they are the same within the tolerances."""
        if self.shape != other.shape:
            return f"size {self.shape} against {other.shape}"
        axes, other_axes = self.affine[:-1, :-1], other.affine[:-1, :-1]
        unit = axes / np.linalg.norm(axes, axis=0)
        other_unit = other_axes / np.linalg.norm(other_axes, axis=0)
        angle = np.arcsin(np.clip(np.linalg.norm(unit - other_unit, axis=0).max() / 2, 0, 1)) * 2
        if angle > tolerance_rad:
            return f"axes {angle:.4g} rad apart ({''.join(self.axcodes)} against {''.join(other.axcodes)})"
        ends = np.meshgrid(*[(0, n - 1) for n in self.shape], [1], indexing="ij")
        corners = np.stack(ends, -1).reshape(-1, len(self.shape) + 1)
        apart = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :-1], axis=1).max()
        if apart > tolerance_voxels * min(self.spacing_mm):
            return f"corners {apart:.4g} mm apart"
        return None


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map on a grid.

    Args:
        data: ``(C, *spatial)``.
        affine: ``(d + 1, d + 1)``, voxel index to RAS+ mm.
        header: the geometry fields of the NIfTI header it came from (forms, codes, units), carried so that a
            label map returns with them; never free text.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    header: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.ndim not in (3, 4):
            raise ValueError(f"data of shape {self.data.shape}: a volume is (C, *spatial) with 2 or 3 spatial axes")
        object.__setattr__(self, "affine", self.grid.affine)

    @property
    def grid(self) -> Grid:
        return Grid(self.data.shape[1:], self.affine)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial size in voxels."""
        return tuple(self.data.shape[1:])

    @property
    def channels(self) -> int:
        return int(self.data.shape[0])

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return self.grid.spacing_mm

    @property
    def axcodes(self) -> tuple[str, ...]:
        return self.grid.axcodes

    def with_data(self, data: NDArray[Any]) -> Volume:
        """Other values ``(C, *spatial)`` on the same grid, with the same header fields."""
        if tuple(data.shape[1:]) != self.shape:
            raise ValueError(f"data of size {tuple(data.shape[1:])} does not fit the grid of size {self.shape}")
        return Volume(data, self.affine, self.header)

    def canonical(self) -> Volume:
        """The same voxels in the order closest to RAS+; a view, no resampling."""
        axis_map = self.grid.to_canonical()
        data = self.data.transpose(0, *(1 + a for a in axis_map.axes))
        data = data[(slice(None), *(slice(None, None, 1 if s > 0 else -1) for s in axis_map.step))]
        return Volume(data, self.grid.mapped(axis_map, data.shape[1:]).affine)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:g}" for s in self.spacing_mm)
        return (
            f"Volume({self.channels} x {size} {self.data.dtype}, {spacing} mm, {''.join(self.axcodes)}, "
            f"{self.data.nbytes / 2**20:.1f} MiB)"
        )


def placed(volume: Volume, grid: Grid, *, tolerance_voxels: float = 0.1) -> Volume:
    """The same voxels on another grid of the same lattice; nothing is resampled.

    Axes may be permuted and flipped. What the grid covers and the volume does not becomes 0, and only zeros may be cut off.

    Args:
        volume: on a grid whose voxel centres fall on those of ``grid``, as far as both reach.
        grid: to lay the voxels on.
        tolerance_voxels: how far apart voxel centres may be, in voxels of ``grid``.

    Raises:
        ValueError: how the lattices differ, or how much would be cut off.
    """
    d = grid.spatial_dims
    if len(volume.shape) != d:
        raise ValueError(f"{len(volume.shape)} axes against {d}")
    exact = np.linalg.inv(grid.affine) @ volume.affine  # voxel of the volume to voxel of the grid
    axes = [int(np.abs(row[:d]).argmax()) for row in exact[:d]]
    steps = np.array([1 if exact[i, a] > 0 else -1 for i, a in enumerate(axes)])
    first = np.rint(exact[:d, d]).astype(int)
    near = np.eye(d + 1)
    near[:d, :d] = 0
    near[range(d), axes] = steps
    near[:d, d] = first
    ends = np.meshgrid(*[(0, n - 1) for n in volume.shape], [1], indexing="ij")
    corners = np.stack(ends, -1).reshape(-1, d + 1)
    apart = float(np.linalg.norm((corners @ (exact - near).T)[:, :d], axis=1).max())
    if sorted(axes) != list(range(d)) or apart > tolerance_voxels:
        raise ValueError(
            f"the voxels fall up to {apart:.3g} voxels beside those of the other grid (spacing "
            f"{_in_mm(volume.spacing_mm)} against {_in_mm(grid.spacing_mm)}, {''.join(volume.axcodes)} against "
            f"{''.join(grid.axcodes)})"
        )
    data = volume.data.transpose(0, *(1 + a for a in axes))
    data = data[(slice(None), *(slice(None, None, s) for s in steps))]
    first -= np.where(steps < 0, np.array(data.shape[1:]) - 1, 0)
    last = first + data.shape[1:]
    inside = tuple(
        slice(max(0, -f), max(0, min(n, g - f))) for f, n, g in zip(first, data.shape[1:], grid.shape, strict=True)
    )
    target = tuple(slice(max(0, f), max(0, min(e, g))) for f, e, g in zip(first, last, grid.shape, strict=True))
    out = np.zeros((volume.channels, *grid.shape), volume.data.dtype)
    kept = data[(slice(None), *inside)]
    out[(slice(None), *target)] = kept
    if lost := int(np.count_nonzero(data)) - int(np.count_nonzero(kept)):
        raise ValueError(f"{lost} voxels that are not 0 lie outside the other grid")
    return Volume(out, grid.affine)


def joined(first: Grid, second: Grid) -> Grid:
    """The lattice of the first grid, as far as either grid reaches; ``placed`` says whether the second is of it."""
    d = first.spatial_dims
    ends = np.meshgrid(*[(0, n - 1) for n in second.shape], [1], indexing="ij")
    corners = np.stack(ends, -1).reshape(-1, d + 1) @ (np.linalg.inv(first.affine) @ second.affine).T
    corners = np.rint(corners[:, :d]).astype(int)
    low = np.minimum(0, corners.min(axis=0))
    high = np.maximum(first.shape, corners.max(axis=0) + 1)
    shift = np.eye(d + 1)
    shift[:d, d] = low
    return Grid(tuple(int(n) for n in high - low), first.affine @ shift)


def _in_mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing) + " mm"
