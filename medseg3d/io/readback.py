"""What was written is read again and compared with what was meant, before it gets its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import InputError
from medseg3d.io.segments import Segment
from medseg3d.volume import Volume, placed

CENTROID_VOXELS = 0.1
"""How far apart the centroids of a label may be, in parts of the smallest spacing."""


def check_read_back(
    read: Volume, labels: Volume, meant: Volume, segments: Sequence[Segment], *, file: str | Path
) -> None:
    """Compare labels that were read from a file with those that it was made from.

    Args:
        read: what the file holds, on its own grid.
        labels: what was asked for, on the grid it came with; their centroids are compared in millimetres of the patient.
        meant: the same labels on the source images' grid, on which they are compared voxel by voxel.
        segments: names of the values.
        file: that is to get the content, for the message.

    Raises:
        InputError: ``E-READ-BACK`` where they differ.
    """
    try:
        found = placed(read, meant.grid)
    except ValueError as error:
        raise _refusal(f"its labels do not lie on the source images: {error}", file) from None
    names = {segment.value: segment.name for segment in segments}
    if wrong := int(np.count_nonzero(found.data != meant.data)):
        values = np.unique(meant.data[found.data != meant.data])
        which = ", ".join(repr(names.get(int(value), "background")) for value in values)
        raise _refusal(f"{wrong} voxels came back with another label than was written (written: {which})", file)
    before, after = centroids_mm(labels), centroids_mm(read)
    for value, place in before.items():
        apart = float(np.linalg.norm(after[value] - place))
        if apart > CENTROID_VOXELS * min(labels.spacing_mm):
            raise _refusal(f"the centroid of {names.get(value, value)!r} came back {apart:.3g} mm away", file)


def _refusal(message: str, file: str | Path) -> InputError:
    fix = "nothing was written; please report this with the command, as it is a fault of medseg3d"
    return InputError("E-READ-BACK", f"read back after writing, {message}", file=file, fix=fix)


def centroids_mm(labels: Volume) -> dict[int, NDArray[np.float64]]:
    """The mean place of the voxels of each label, RAS mm."""
    size = int(labels.data.max(initial=0)) + 1
    sums, counts = np.zeros((size, 3)), np.zeros(size)
    for k, plane in enumerate(labels.data[0]):
        rows, columns = np.nonzero(plane)
        values = plane[rows, columns]
        found = np.bincount(values, minlength=size)
        counts += found
        sums[:, 0] += k * found
        sums[:, 1] += np.bincount(values, weights=rows, minlength=size)
        sums[:, 2] += np.bincount(values, weights=columns, minlength=size)
    return {
        int(value): labels.affine[:3, :3] @ (sums[value] / counts[value]) + labels.affine[:3, 3]
        for value in np.flatnonzero(counts)
    }
