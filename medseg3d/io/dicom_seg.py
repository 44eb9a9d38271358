"""Label maps as DICOM Segmentation objects, written on the planes of their source images and read back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from medseg3d import __version__
from medseg3d.checks import ConfigError, InputError
from medseg3d.io.atomic import atomic_fill
from medseg3d.io.colours import label_colour
from medseg3d.io.dicom_identity import identity_of, series_number
from medseg3d.io.dicom_planes import Planes, Source, read_planes
from medseg3d.io.dicom_seg_reading import read_seg, renumbered
from medseg3d.io.dicom_warnings import without_warnings
from medseg3d.io.readback import check_read_back
from medseg3d.io.rules import require_one_channel
from medseg3d.io.segments import Code, Segment
from medseg3d.volume import Volume

Kind = Literal["BINARY", "LABELMAP"]
KINDS: tuple[Kind, ...] = ("BINARY", "LABELMAP")


def write_seg(
    path: str | Path,
    labels: Volume,
    segments: Sequence[Segment],
    sources: Sequence[Source],
    *,
    kind: Kind = "BINARY",
    model: str = "",
) -> Path:
    """Write a label map as a DICOM SEG that refers to the images it was made from.

    The file carries the patient's identity and the study's, as every DICOM object does. It gets its name only after it was
    read back and found to hold the labels on the source grid, voxel for voxel, and at the same place in the patient.

    Args:
        path: where to write.
        labels: ``(1, x, y, z)`` of values of ``segments`` and 0, on the voxels of the source images in any axis order.
        segments: from ``segments_of``; those without a voxel are described too.
        sources: files or data sets of the images in any order, or the one multi-frame image.
        kind: ``BINARY``, one bit per voxel and segment, is what viewers read; its segments are numbered from 1 in the order
            of their values. ``LABELMAP`` holds the values themselves, which few viewers read yet.
        model: name of the model, for the record.

    Raises:
        InputError: source images that cannot be referred to or are not those of the labels, values that no segment has,
            ``E-READ-BACK``, or a file that cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(f"DICOM SEG kind {kind!r} is none of {', '.join(KINDS)}")
    planes = read_planes(sources)
    meant = Volume(planes.of(checked_labels(labels, segments))[None], planes.grid.affine)
    numbers = {s.value: n if kind == "BINARY" else s.value for n, s in enumerate(_ascending(segments), start=1)}
    numbered = renumbered(meant, numbers)
    with without_warnings():
        dataset = _segmentation(numbered.data[0], planes, segments, numbers, kind, model)

    def fill(temporary: Path) -> None:
        with without_warnings():
            dataset.save_as(temporary)
        read = read_seg(temporary)
        back = {number: value for value, number in numbers.items()}
        check_read_back(renumbered(read.labels, back), labels, meant, segments, file=path)

    return atomic_fill(path, fill)


def checked_labels(labels: Volume, segments: Sequence[Segment]) -> Volume:
    """The labels, as integers of 8 or 16 bits.

    Raises:
        InputError: ``E-CHANNEL-COUNT``, ``E-LABEL-VALUE``.
    """
    require_one_channel(labels, what="the label map")
    if labels.data.dtype.kind not in "bui":
        message = f"the label map holds values of type {labels.data.dtype}; labels are whole numbers"
        raise InputError("E-LABEL-VALUE", message, fix="give a label map, not an image or probabilities")
    values = np.unique(labels.data).tolist()
    known = {0, *(segment.value for segment in segments)}
    if unknown := [v for v in values if v not in known]:
        message = f"the label map holds the value {unknown[0]}; described are {', '.join(map(str, sorted(known)))}"
        raise InputError("E-LABEL-VALUE", message, fix="give the task that the labels were made for")
    return labels.with_data(labels.data.astype(np.uint8 if max(known) < 256 else np.uint16))


def _ascending(segments: Sequence[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda segment: segment.value)


def _segmentation(
    frames: NDArray[Any], planes: Planes, segments: Sequence[Segment], numbers: dict[int, int], kind: Kind, model: str
) -> Dataset:
    """The data set; ``frames`` are ``(planes, rows, columns)`` of segment numbers."""
    sources = _headers(planes)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "medseg3d", codes.cid7162.ArtificialIntelligence, __version__, parameters={"model": model} if model else None
    )
    descriptions = [_description(s, numbers[s.value], algorithm) for s in _ascending(segments)]
    dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=series_number(sources[0], 0),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="medseg3d",
        manufacturer_model_name="medseg3d",
        software_versions=__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description=f"medseg3d {model}".strip()[:64],
        series_description="Segmentation by medseg3d",
        transfer_syntax_uid=RLELossless if kind == "LABELMAP" else ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
    )
    dataset.ContentCreatorName = ""
    if planes.multiframe:
        _refer_to_frames(dataset, planes)
    return dataset


def _description(segment: Segment, number: int, algorithm: Any) -> SegmentDescription:
    description = SegmentDescription(
        number,
        segment.name[:64],
        concept(segment.category),
        concept(segment.type),
        "AUTOMATIC",
        algorithm,
        display_color=CIELabColor.from_rgb(*label_colour(segment.value)),
    )
    if segment.modifier:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            concept(segment.modifier)
        ]
    if segment.description:
        description.SegmentDescription = segment.description
    return description


def concept(code: Code) -> CodedConcept:
    """A code as an item of a DICOM code sequence."""
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def _headers(planes: Planes) -> list[Dataset]:
    """The source headers as highdicom wants them: complete, with the geometry that was found and no other."""
    normal = np.cross(planes.orientation[:3], planes.orientation[3:])
    measures = Dataset()
    measures.PixelSpacing = list(planes.spacing_mm)
    measures.SpacingBetweenSlices = float(abs(planes.step @ normal))
    measures.SliceThickness = planes.thickness_mm or measures.SpacingBetweenSlices
    orientation = Dataset()
    orientation.ImageOrientationPatient = _decimals(planes.orientation)
    places = [Dataset() for _ in planes.positions]
    for place, position in zip(places, planes.positions, strict=True):
        place.ImagePositionPatient = _decimals(position)
    identity = identity_of(planes.header)
    if not planes.multiframe:
        return [_joined(h, identity, measures, orientation, p) for h, p in zip(planes.references, places, strict=True)]
    header = _joined(planes.references[0], identity)
    header.NumberOfFrames = len(places)
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = [Dataset() for _ in places]
    for frame, place in zip(header.PerFrameFunctionalGroupsSequence, places, strict=True):
        frame.PlanePositionSequence = [place]
    return [header]


def _joined(*parts: Dataset) -> Dataset:
    joined = Dataset()
    for part in parts:
        joined.update(part)
    return joined


def _decimals(values: NDArray[np.float64]) -> list[str]:
    """Numbers as decimal strings of at most 16 characters, as exact as these can be."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]


def _refer_to_frames(dataset: Dataset, planes: Planes) -> None:
    """highdicom saw only the frames of ``planes``, and numbered them from 1."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    items = [d.SourceImageSequence[0] for group in groups for d in group.get("DerivationImageSequence", ())]
    for item in {id(item): item for item in items}.values():  # segments share them
        item.ReferencedFrameNumber = planes.frames[int(item.ReferencedFrameNumber) - 1]
