"""Voxel values as they come from files: label values stay integers, image values are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import InputError, tell

NonFinite = Literal["error", "zero"]
LABEL_TOLERANCE = 1e-3
"""How far a label value stored as a float may lie from an integer."""


def label_values(data: NDArray[Any], path: str | Path) -> NDArray[Any]:
    """Integers as they are; floats become the integers they stand for.

    Raises:
        InputError: ``E-LABEL-FRACTION`` where a value is no integer within ``LABEL_TOLERANCE``.
    """
    if data.dtype == np.bool_:
        return data.astype(np.uint8)
    if data.dtype.kind in "ui":
        return data
    rounded = np.rint(data)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(data - rounded) <= LABEL_TOLERANCE)
    if wrong.any():
        examples = ", ".join(f"{v:.6g}" for v in np.unique(data[wrong])[:5])
        raise InputError(
            "E-LABEL-FRACTION",
            f"{int(wrong.sum())} label voxels are not integers ({examples}); labels are whole numbers",
            file=path,
            fix="is this an image or a probability map, or was the label map resampled with interpolation?",
        )
    low, high = float(rounded.min(initial=0)), float(rounded.max(initial=0))
    if low < -(2**31) or high >= 2**31:
        raise InputError(
            "E-LABEL-VALUE", f"label values reach from {low:g} to {high:g}; the rule is 0..65535", file=path
        )
    return rounded.astype(np.uint8 if low >= 0 and high < 256 else np.uint16 if low >= 0 and high < 65536 else np.int32)


def image_values(data: NDArray[Any], path: str | Path, nonfinite: NonFinite) -> NDArray[Any]:
    """The values as they are, where all are finite.

    Args:
        data: values of any kind.
        path: the file, for the message.
        nonfinite: ``"error"`` refuses NaN and infinity, ``"zero"`` replaces them by 0 and tells how many.

    Raises:
        InputError: ``E-NONFINITE`` with their number.
    """
    if data.dtype.kind != "f":
        return data
    finite = np.isfinite(data)
    if finite.all():
        return data
    message = f"{int(data.size - finite.sum())} of {data.size} voxels are NaN or infinite"
    if nonfinite == "zero":
        tell("W-NONFINITE", f"{message}; they are read as 0", file=path, fix="repair the image")
        return np.where(finite, data, data.dtype.type(0))
    raise InputError(
        "E-NONFINITE",
        f"{message}; one of them spoils a whole window",
        file=path,
        fix="repair the image; predict --nonfinite zero (in Python: nonfinite='zero') takes them as 0",
    )
