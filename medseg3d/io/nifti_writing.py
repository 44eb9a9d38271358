"""Writing NIfTI: a fresh header with geometry alone, and the voxels in pieces, so that no second copy of them is held."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from medseg3d import __version__
from medseg3d.checks import InputError
from medseg3d.io.atomic import atomic_write
from medseg3d.io.nifti import DTYPES
from medseg3d.io.nifti_geometry import put_geometry
from medseg3d.io.scratch import let_go
from medseg3d.volume import Volume

log = logging.getLogger("medseg3d")
PIECE_BYTES = 2**25
"""About how much of a file is in memory while it is written."""


def write_nifti(volume: Volume, path: str | Path) -> None:
    """Write ``.nii`` or ``.nii.gz`` atomically, with a fresh header that holds geometry and no text from elsewhere.

    The geometry fields in ``volume.header`` return as they were, as long as they describe ``volume.affine``;
    otherwise both forms are set from it, in mm.

    Args:
        volume: any number of channels; several become the fourth axis. Its dtype is kept.
        path: where to write.
    """
    data = volume.data
    if data.dtype.char in "?e":  # bool and float16, which NIfTI does not know
        data = data.astype(np.uint8 if data.dtype.char == "?" else np.float32)
    dtype = data.dtype.newbyteorder("<")
    if dtype.str[1:] not in DTYPES.values():
        raise InputError("E-DTYPE", f"values of type {data.dtype} have no place in NIfTI", file=path)
    if volume.channels == 1:
        data = data[0]
    else:
        data = np.moveaxis(data if data.ndim == 4 else data[..., None], 0, -1)
    large = max(data.shape) > np.iinfo(np.int16).max
    if large:
        log.warning("%s: an axis longer than 32767 voxels needs NIfTI-2, which some tools cannot read", path)
    header = (nib.Nifti2Header if large else nib.Nifti1Header)()
    header.set_data_dtype(dtype)
    header.set_data_shape(data.shape)
    header["vox_offset"] = header["sizeof_hdr"] + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["descrip"] = f"medseg3d {__version__}".encode()
    put_geometry(header, volume)
    content = header.binaryblock.ljust(int(header["vox_offset"]), b"\0")

    def pack(file: IO[bytes]) -> None:
        packer = isal_zlib.compressobj(1, wbits=31)
        file.write(packer.compress(content))
        for voxels in _in_file_order(data, dtype):
            file.write(packer.compress(voxels))
        file.write(packer.flush())

    def put(file: IO[bytes]) -> None:
        file.write(content)
        for voxels in _in_file_order(data, dtype):
            file.write(voxels.data)

    if str(path).lower().endswith(".gz"):
        atomic_write(path, pack)
    else:
        atomic_write(path, put, needed_bytes=len(content) + data.nbytes)


def _in_file_order(data: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The voxels as they follow each other in a file, in pieces of a bounded size."""
    for channel in np.moveaxis(data, -1, 0) if data.ndim == 4 else [data]:
        slices = max(1, PIECE_BYTES // (dtype.itemsize * math.prod(channel.shape[:-1])))
        for first in range(0, channel.shape[-1], slices):
            part = channel[..., first : first + slices]
            out = np.empty(part.shape[::-1], dtype)
            _put_voxels(part, out)
            let_go(data)
            yield out


def _put_voxels(data: NDArray[Any], out: NDArray[Any]) -> None:
    """Copy ``data`` into ``out``, whose axes run the other way round, in tiles that fit the cache: 2 to 4 times faster."""
    if data.ndim == 2:
        out[:] = data.T
        return
    rows, _, columns = data.shape
    for j in range(data.shape[1]):
        for i in range(0, rows, 32):
            for k in range(0, columns, 256):
                out[k : k + 256, j, i : i + 32] = data[i : i + 32, j, k : k + 256].T
