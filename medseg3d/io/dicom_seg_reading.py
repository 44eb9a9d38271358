"""DICOM Segmentation objects as label maps."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from highdicom.seg import Segmentation, segread
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from medseg3d.checks import InputError
from medseg3d.io.dicom_headers import SEGMENTATION_CLASSES
from medseg3d.io.dicom_magic import is_dicom
from medseg3d.io.dicom_planes import LPS
from medseg3d.io.dicom_warnings import without_warnings
from medseg3d.io.segments import Code, Segment, painted, regions_of, values_of
from medseg3d.task import Task
from medseg3d.volume import Volume

QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
"""What libraries quote in their messages: values of the file, which may be the patient's."""
UNEVEN_MM = 0.05
"""How much distances between planes may vary, as rounded positions make them."""


@dataclass(frozen=True)
class Segmented:
    """What a DICOM SEG or RTSTRUCT holds.

    Args:
        labels: ``(1, columns, rows, planes)`` of the segments' values and 0; only as many planes as the file reaches over.
        segments: what the values mean.
        frame_of_reference_uid: of the positions in the patient.
    """

    labels: Volume
    segments: tuple[Segment, ...]
    frame_of_reference_uid: str = ""


def sop_class(path: Path) -> str | None:
    """What kind of object a DICOM file holds, as its beginning says; None where it is no DICOM file."""
    if not is_dicom(path):
        return None
    try:
        with without_warnings():
            return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except (OSError, InvalidDicomError, ValueError, EOFError, struct.error):
        return None


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM segmentation, by its content."""
    return sop_class(path) in SEGMENTATION_CLASSES


def read_seg(path: str | Path, *, task: Task | None = None) -> Segmented:
    """Read a DICOM SEG, binary or label map, as a label map.

    Args:
        path: the file.
        task: map the segments to this task's label values; names decide, then codes, then numbers. Segments that are the
            task's regions may overlap. Without a task the values are the segments' numbers.

    Raises:
        InputError: ``E-NOT-SEG``, ``E-SEG-FRACTIONAL``, ``E-OVERLAP``, ``E-SEGMENT`` where segments and task contradict each
            other, ``E-NO-GEOMETRY``, ``E-CORRUPT``.
    """
    path = Path(path)
    dataset = _opened(path)
    with refusing(path):
        segments = tuple(segment_of(item) for item in dataset.SegmentSequence if int(item.SegmentNumber))
    if task is not None and (regions := regions_of(task, segments)):
        volumes = {label: _volume(dataset, [number], path) for number, label in regions.items()}
        masks = {label: volume.data != 0 for label, volume in volumes.items()}
        labels = next(iter(volumes.values())).with_data(painted(masks, task, file=path))
        return Segmented(labels, segments, str(dataset.FrameOfReferenceUID))
    values = {s.value: s.value for s in segments} if task is None else values_of(task, segments, file=path)
    numbers = [number for number, value in values.items() if value] or list(values)[:1]
    labels = renumbered(_volume(dataset, numbers, path), values)
    return Segmented(labels, segments, str(dataset.FrameOfReferenceUID))


def _opened(path: Path) -> Segmentation:
    if not path.is_file():
        raise InputError("E-NOT-READABLE", "the file does not exist", file=path, fix="check the path")
    if not is_seg(path):
        raise InputError("E-NOT-SEG", "no DICOM segmentation", file=path, fix="give a DICOM SEG")
    with refusing(path):
        dataset = segread(path)
        if dataset.SegmentationType == "FRACTIONAL":
            message = "a fractional segmentation: it holds probabilities or occupancies, not labels"
            fix = "export it as a binary segmentation, with the threshold that is right for it"
            raise InputError("E-SEG-FRACTIONAL", message, file=path, fix=fix)
        if dataset.is_tiled or not dataset.get("FrameOfReferenceUID"):
            message = "its frames have no place in a patient"
            raise InputError("E-NO-GEOMETRY", message, file=path, fix="volumes of CT, MR and PET are read")
    return dataset


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """What goes wrong inside is the file's fault; the libraries' warnings about it are not for the user."""
    try:
        with without_warnings():
            yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OSError, EOFError) as error:
        reason = QUOTED.sub("'...'", str(error).strip()) or type(error).__name__
        message = f"the file cannot be read as what it says it is: {reason}"
        raise InputError("E-CORRUPT", message, file=path, fix="copy or export it again") from None


def _volume(dataset: Segmentation, numbers: list[int], path: Path) -> Volume:
    """The labels ``(1, columns, rows, planes)``, the planes along the normal of rows and columns."""
    try:
        with _refusing_but(path, "overlap"):
            volume = dataset.get_volume(segment_numbers=numbers, combine_segments=True, atol=UNEVEN_MM)
    except RuntimeError:
        message = "its segments overlap, so that one label map cannot hold them"
        fix = "give the task whose regions they are, or export segments that do not overlap"
        raise InputError("E-OVERLAP", message, file=path, fix=fix) from None
    data, affine = volume.array, LPS @ volume.affine
    data, affine = data.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:
        data = data[:, :, ::-1]
        affine[:3, 3] += affine[:3, 2] * (data.shape[2] - 1)
        affine[:3, 2] *= -1
    return Volume(np.ascontiguousarray(data)[None], affine)


@contextmanager
def _refusing_but(path: Path, word: str) -> Iterator[None]:
    """As ``refusing``; but a RuntimeError that speaks of ``word`` passes."""
    passing = None
    with refusing(path):
        try:
            yield
        except RuntimeError as error:
            if word not in str(error).lower():
                raise
            passing = error
    if passing is not None:
        raise passing


def renumbered(labels: Volume, values: Mapping[int, int]) -> Volume:
    """Labels with other values; what is not named becomes 0."""
    if all(old == new for old, new in values.items()):
        return labels
    table = np.zeros(max(*values, int(labels.data.max(initial=0))) + 1, np.uint16)
    table[list(values)] = list(values.values())
    return labels.with_data(table[labels.data])


def segment_of(item: Dataset) -> Segment:
    """What an item of SegmentSequence describes."""
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", ())
    return Segment(
        int(item.SegmentNumber),
        str(item.get("SegmentLabel", "")),
        code_of(item.SegmentedPropertyCategoryCodeSequence[0]),
        code_of(kind),
        code_of(modifiers[0]) if modifiers else None,
        str(item.get("SegmentDescription", "")),
    )


def code_of(item: Dataset) -> Code:
    """The code of an item of a DICOM code sequence."""
    value = str(item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or "")
    return Code(str(item.get("CodingSchemeDesignator", "")), value, str(item.get("CodeMeaning", "")))
