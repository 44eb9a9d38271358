"""DICOM segmentations and structure sets to NIfTI label maps, with a JSON and colour files that say what the values are."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.checks import InputError
from medseg3d.io.atomic import atomic_write
from medseg3d.io.colours import label_colour, write_colours
from medseg3d.io.dicom import find_series
from medseg3d.io.dicom_planes import Planes, read_planes
from medseg3d.io.dicom_rt import is_rtstruct, read_rtstruct
from medseg3d.io.dicom_seg_reading import Segmented, is_seg, read_seg
from medseg3d.io.nifti_writing import write_nifti
from medseg3d.volume import Volume

log = logging.getLogger(__name__)
SUFFIXES = (".seg.dcm", ".labelmap.dcm", ".rtstruct.dcm", ".dcm")


def is_label_file(path: str | Path) -> bool:
    """Whether a file is a DICOM SEG or RTSTRUCT, by its content."""
    path = Path(path)
    return path.is_file() and (is_seg(path) or is_rtstruct(path))


def convert_labels(
    path: str | Path, output: str | Path, *, images: str | Path | None = None, series: str | int | None = None
) -> Path:
    """Write a DICOM SEG or RTSTRUCT as ``NAME.nii.gz``, with ``NAME.json``, ``NAME.label.txt`` and ``NAME.ctbl``.

    Args:
        path: the file; its own name gives the others theirs.
        output: folder to write to; made where it is missing.
        images: folder of the DICOM images that it was drawn on. An RTSTRUCT needs it; a SEG comes on their whole grid
            with it, and without on the planes that it holds.
        series: which of the series there.

    Raises:
        InputError: as of ``read_seg`` and ``read_rtstruct``; ``E-SOURCE`` for an RTSTRUCT without images.
    """
    path, output = Path(path), Path(output)
    source = None if images is None else find_series(images).choose(series)
    if is_rtstruct(path):
        if source is None:
            message = "contours become voxels on the images that they were drawn on, and these are not given"
            raise InputError("E-SOURCE", message, file=path, fix="give their folder: --images FOLDER")
        kind, read = "RTSTRUCT", read_rtstruct(path, source.files)
    else:
        kind, read = "SEG", read_seg(path)
        if source is not None:
            read = replace(read, labels=_on_images(read, read_planes(source.files), path))
    name = next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.name)
    file = output / f"{name}.nii.gz"
    write_nifti(read.labels, file)
    write_colours(read.segments, output, name)
    described: dict[str, Any] = {
        "medseg3d": __version__,
        "kind": kind,
        "nifti": file.name,
        "shape": list(read.labels.shape),
        "spacing_mm": [round(s, 6) for s in read.labels.spacing_mm],
        "axcodes": "".join(read.labels.axcodes),
        "segments": [{**asdict(s), "colour": label_colour(s.value)} for s in read.segments],
    }
    atomic_write(output / f"{name}.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    log.info("%s: %r is %s", path.name, read.labels, file.name)
    return file


def _on_images(read: Segmented, planes: Planes, path: Path) -> Volume:
    if read.frame_of_reference_uid != str(planes.references[0].FrameOfReferenceUID):
        message = "it has another frame of reference than the images"
        raise InputError("E-SOURCE", message, file=path, fix="give the images that it was drawn on")
    try:
        return planes.volume(planes.of(read.labels))
    except InputError as error:
        raise InputError(error.finding.code, error.finding.message, file=path, fix=error.finding.fix) from None
