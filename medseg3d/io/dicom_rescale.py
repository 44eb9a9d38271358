"""From stored values to what they mean: the modality rescale of each slice, in the smallest type that holds the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.io.dicom_pixels import read_frames, read_stored, stored_type
from medseg3d.io.dicom_slices import Slice

INT16 = np.iinfo(np.int16)


def read_values(slices: Sequence[Slice]) -> NDArray[Any]:
    """The values of a stack, ``(slices, rows, columns)``.

    Whole slopes and intercepts give whole numbers (int16 where they fit, else int32), others float32; without a rescale
    the values are as stored.

    Raises:
        InputError: where pixels are damaged.
    """
    shape = (len(slices), *slices[0].size)
    rescales = [_rescale(s) for s in slices]
    types = {stored_type(s.header) for s in slices}
    if slices[0].frame is None and types <= {np.dtype(np.int16), np.dtype(np.uint16)} and len(types) == 1:
        values = np.empty(shape, types.copy().pop())
        as_stored = set(rescales) == {(1.0, 0.0)}
        if all(_in_place(s, r, out, as_stored) for s, r, out in zip(slices, rescales, values, strict=True)):
            return values if as_stored else values.view(np.int16)
    values = np.empty(shape, _result_type(types, rescales))
    if slices[0].frame is not None:
        read_frames(slices, values)
    else:
        for s, (slope, intercept), out in zip(slices, rescales, values, strict=True):
            stored = np.empty(s.size, stored_type(s.header))
            read_stored(s.header, stored)
            out[:] = stored * np.float64(slope) + intercept
    if values.dtype == np.int32 and values.min() >= INT16.min and values.max() <= INT16.max:
        return values.astype(np.int16)
    return values


def _result_type(types: set[np.dtype[Any]], rescales: Sequence[tuple[float, float]]) -> Any:
    """Holds every result: int32 where all are whole, else a float of as many digits as the stored values have."""
    bits = 8 * max(dtype.itemsize for dtype in types)
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in rescales)
    if whole and max(abs(slope) * 2**bits + abs(intercept) for slope, intercept in rescales) < 2**31:
        return np.int32
    return np.float32 if bits <= 16 else np.float64


def _rescale(s: Slice) -> tuple[float, float]:
    return (1.0 if s.slope is None else s.slope), (s.intercept or 0.0)


def _in_place(s: Slice, rescale: tuple[float, float], out: NDArray[Any], as_stored: bool) -> bool:
    """Read a slice and rescale it where it lies, as int16; False where that does not hold the results."""
    slope, intercept = rescale
    if not (slope.is_integer() and intercept.is_integer()):
        return False
    low, high = read_stored(s.header, out)
    if as_stored:
        return True
    ends = low * int(slope) + int(intercept), high * int(slope) + int(intercept)
    if min(ends) < INT16.min or max(ends) > INT16.max:
        return False
    signed = out.view(np.int16)  # sums and products are right modulo 2^16, and the results fit
    if slope != 1:
        signed *= np.int64(slope).astype(np.int16)
    signed += np.int64(intercept).astype(np.int16)
    return True
