"""NIfTI files that do not say how they lie, rewritten with an orientation that the user knows."""

from __future__ import annotations

import logging
from pathlib import Path

from medseg3d.checks import ConfigError, Finding, InputError
from medseg3d.io.conversion import Conversion
from medseg3d.io.images import NIFTI_SUFFIXES, image_suffix
from medseg3d.io.layouts import image_files
from medseg3d.io.nifti import read_nifti
from medseg3d.io.nifti_writing import write_nifti
from medseg3d.volume import AXIS_CODES

log = logging.getLogger(__name__)


def assume_orientation(path: str | Path, output: str | Path, orientation: str) -> Conversion:
    """Write NIfTI files again, those without sform and qform with the given one; the others keep their own.

    Args:
        path: a file, or a folder of them.
        output: folder to write to, under the same names; made where it is missing.
        orientation: where the axes of the voxels point, such as ``RAS`` (the first to the right, then to the front, then up).

    Returns:
        The files by their number, from 1.

    Raises:
        ConfigError: no such orientation, no NIfTI file, or the output is the folder of the input.
    """
    path, output, codes = Path(path), Path(output), orientation.strip().upper()
    if len(codes) != 3 or any(sum(c in pair for c in codes) != 1 for pair in AXIS_CODES):
        raise ConfigError(f"orientation {orientation!r} must name one of L/R, P/A and I/S for each axis, such as RAS")
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a NIfTI file, or a folder of them")
    files = [f for f in (image_files(path) if path.is_dir() else [path]) if image_suffix(f) in NIFTI_SUFFIXES]
    if not files:
        raise ConfigError(f"no file ending in {' or '.join(NIFTI_SUFFIXES)} in {path}; an orientation is set in NIfTI")
    if output.resolve() == files[0].parent.resolve():
        raise ConfigError(f"{output} is where the files lie; give another folder, so that they stay as they are")
    written: dict[int, Path] = {}
    failed: dict[int, Finding] = {}
    output.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files, start=1):
        try:
            write_nifti(read_nifti(file, nonfinite="error", assume_orientation=codes), output / file.name)
        except InputError as error:
            failed[number] = error.finding
            log.error("%s", error)
        else:
            written[number] = output / file.name
    return Conversion(output, written, failed, ())
