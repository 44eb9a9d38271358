"""Label maps as DICOM RT Structure Sets: closed planar contours along the borders of the pixels, and back.

A contour follows the borders of its pixels, so that it encloses exactly their area, and its points lie half a pixel beside
pixel centres. Holes are keyholes (see ``medseg3d.io.contours``). Reading counts crossings over all contours of a plane: a
hole may be a keyhole or a contour of its own, as other programs write it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medseg3d import __version__
from medseg3d.checks import InputError, tell
from medseg3d.io.atomic import atomic_fill
from medseg3d.io.colours import label_colour
from medseg3d.io.contours import filled, outlines
from medseg3d.io.dicom_identity import OPTIONAL, REQUIRED, identity_of, series_number
from medseg3d.io.dicom_planes import Planes, Source, read_planes
from medseg3d.io.dicom_seg import checked_labels, concept
from medseg3d.io.dicom_seg_reading import Segmented, code_of, refusing, sop_class
from medseg3d.io.dicom_warnings import without_warnings
from medseg3d.io.readback import check_read_back
from medseg3d.io.segments import PRIVATE_SCHEME, Code, Segment, painted, regions_of, values_of
from medseg3d.task import Task
from medseg3d.volume import Volume

CONTOUR_DATA = Tag("ContourData")
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""SOP class that the standard still wants a study to be referred to by."""
OFF_PLANE = 0.1
"""How far the points of a contour may lie beside their plane, in parts of the distance between planes."""
COPIED = (*REQUIRED, *OPTIONAL[: OPTIONAL.index("Modality")])
"""Of the patient and the study; the device is ours."""


def write_rtstruct(
    path: str | Path, labels: Volume, segments: Sequence[Segment], sources: Sequence[Source], *, model: str = ""
) -> Path:
    """Write a label map as a DICOM RT Structure Set: one region of interest per label, its number the label's value.

    The file carries the patient's identity and the study's. It gets its name only after it was read back and found to hold
    the labels on the source grid, voxel for voxel, and at the same place in the patient.

    Args:
        path, labels, segments, sources: as for ``write_seg``.
        model: name of the model, for the record.

    Raises:
        InputError: as for ``write_seg``.
    """
    planes = read_planes(sources)
    meant = Volume(planes.of(checked_labels(labels, segments))[None], planes.grid.affine)
    with without_warnings():
        dataset = _structure_set(meant, planes, segments, model)

    def fill(temporary: Path) -> None:
        with without_warnings():
            dataset.save_as(temporary, enforce_file_format=True)
        read = _read_on(planes, temporary, None)
        check_read_back(read.labels, labels, meant, segments, file=path)

    return atomic_fill(path, fill)


def _structure_set(labels: Volume, planes: Planes, segments: Sequence[Segment], model: str) -> FileDataset:
    dataset = _empty(planes)
    dataset.StructureSetLabel = "medseg3d"
    dataset.StructureSetDescription = f"medseg3d {__version__} {model}".strip()
    frame = dataset.FrameOfReferenceUID = planes.references[0].FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = [_referenced(planes)]
    rois, contours, observations = [], [], []
    for segment in sorted(segments, key=lambda s: s.value):
        roi = Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID = segment.value, frame
        roi.ROIName, roi.ROIGenerationAlgorithm = segment.name[:64], "AUTOMATIC"
        if segment.description:
            roi.ROIDescription = segment.description
        rois.append(roi)
        contour = Dataset()
        contour.ReferencedROINumber, contour.ROIDisplayColor = segment.value, list(label_colour(segment.value))
        contour.ContourSequence = list(_contours(labels.data[0] == segment.value, planes))
        contours.append(contour)
        observations.append(_observation(segment))
    dataset.StructureSetROISequence = rois
    dataset.ROIContourSequence = contours
    dataset.RTROIObservationsSequence = observations
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _empty(planes: Planes) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit lengths of contours end at 64 KiB
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    identity = identity_of(planes.header)
    for keyword in COPIED:
        if keyword in identity:
            setattr(dataset, keyword, identity.get(keyword))
    dataset.StudyInstanceUID = planes.references[0].StudyInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    dataset.SeriesNumber = series_number(identity, 1)
    dataset.SeriesDescription = "Structure set by medseg3d"
    dataset.OperatorsName, dataset.InstanceNumber = "", 1
    dataset.Manufacturer = dataset.ManufacturerModelName = "medseg3d"
    dataset.SoftwareVersions = __version__
    now = datetime.datetime.now()
    dataset.StructureSetDate = dataset.InstanceCreationDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = dataset.SeriesTime = now.strftime("%H%M%S")
    return dataset


def _referenced(planes: Planes) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    source = planes.references[0]
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ContourImageSequence = [_image(planes, plane) for plane in range(len(planes.references))]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = DETACHED_STUDY, source.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(planes: Planes, plane: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = planes.references[plane].SOPClassUID
    item.ReferencedSOPInstanceUID = planes.references[plane].SOPInstanceUID
    if planes.multiframe:
        item.ReferencedFrameNumber = planes.frames[plane]
    return item


def _contours(mask: NDArray[np.bool_], planes: Planes) -> Iterator[Dataset]:
    for plane in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        image = _image(planes, plane)
        for number, corners in enumerate(outlines(mask[plane]), start=1):
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
            item.ContourNumber = number
            item.ContourImageSequence = [image]
            points = planes.points_mm(plane, corners)
            text = "\\".join(f"{v:.4f}" for v in points.ravel()).encode("ascii")
            text += b" " * (len(text) % 2)
            item[CONTOUR_DATA] = DataElement(CONTOUR_DATA, "UN", text)  # as it is; implicit files name no types
            yield item


def _observation(segment: Segment) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = segment.value
    item.RTROIInterpretedType = "ORGAN" if segment.category.value == "91723000" else ""
    item.ROIInterpreter = ""
    kind = concept(segment.type)
    if segment.modifier:
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(segment.modifier)]
    item.RTROIIdentificationCodeSequence = [kind]
    return item


def is_rtstruct(path: Path) -> bool:
    """Whether a file is a DICOM RT Structure Set, by its content."""
    return sop_class(path) == RTStructureSetStorage


def read_rtstruct(path: str | Path, sources: Sequence[Source], *, task: Task | None = None) -> Segmented:
    """Read a DICOM RT Structure Set as a label map on the voxels of the images that it was drawn on.

    A voxel belongs to a region where its centre lies inside the contours.

    Args:
        path: the file.
        sources: files or data sets of the images, as for ``write_rtstruct``.
        task: as for ``read_seg``; without one the values are the regions' numbers.

    Returns:
        Labels ``(1, columns, rows, planes)`` on the voxels of the images.

    Raises:
        InputError: ``E-NOT-RTSTRUCT``, ``E-CORRUPT``, ``E-SOURCE``, ``E-CONTOUR`` where contours do not lie on the planes of the
            images, ``E-OVERLAP``, ``E-SEGMENT``.
    """
    path = Path(path)
    if not is_rtstruct(path):
        raise InputError("E-NOT-RTSTRUCT", "no DICOM RT Structure Set", file=path, fix="give an RTSTRUCT file")
    return _read_on(read_planes(sources), path, task)


def _read_on(planes: Planes, path: Path, task: Task | None) -> Segmented:
    with refusing(path):
        dataset = dcmread(path)
        frames = {str(roi.ReferencedFrameOfReferenceUID) for roi in dataset.StructureSetROISequence}
        segments, contours = tuple(regions_in(dataset)), {}
        for item in dataset.get("ROIContourSequence", ()):
            contours[int(item.ReferencedROINumber)] = list(item.get("ContourSequence", ()))
    if frames - {str(planes.references[0].FrameOfReferenceUID)}:
        message = "its contours have another frame of reference than the images"
        raise InputError("E-SOURCE", message, file=path, fix="give the images that it was drawn on")
    regions = regions_of(task, segments) if task is not None else None
    if task is not None and regions is not None:
        masks = {label: _mask(contours.get(number, []), planes, path) for number, label in regions.items()}
        return Segmented(planes.volume(painted(masks, task, file=path)), segments)
    values = {s.value: s.value for s in segments} if task is None else values_of(task, segments, file=path)
    out = np.zeros(planes.grid.shape, np.uint16)
    for segment in segments:
        if not (value := values[segment.value]):
            continue
        mask = _mask(contours.get(segment.value, []), planes, path)
        if both := int(np.count_nonzero(out[mask])):
            message = (
                f"{segment.name!r} shares {both} voxels with another region, so that one label map cannot hold them"
            )
            raise InputError("E-OVERLAP", message, file=path, fix="export regions that do not overlap")
        out[mask] = value
    return Segmented(planes.volume(out), segments)


def regions_in(dataset: Dataset) -> Iterator[Segment]:
    """The regions of interest that a structure set names."""
    observed = {int(item.ReferencedROINumber): item for item in dataset.get("RTROIObservationsSequence", ())}
    for roi in dataset.StructureSetROISequence:
        number, name = int(roi.ROINumber), str(roi.get("ROIName", ""))
        kinds = observed[number].get("RTROIIdentificationCodeSequence", ()) if number in observed else ()
        kind = code_of(kinds[0]) if kinds else Code(PRIVATE_SCHEME, name, name)
        parts = kinds[0].get("SegmentedPropertyTypeModifierCodeSequence", ()) if kinds else ()
        yield Segment(
            number, name, kind, kind, code_of(parts[0]) if parts else None, str(roi.get("ROIDescription", ""))
        )


def _mask(contours: Sequence[Dataset], planes: Planes, path: Path) -> NDArray[np.bool_]:
    """``(planes, rows, columns)`` of what the contours enclose."""
    polygons: dict[int, list[NDArray[np.float64]]] = {}
    for item in contours:
        with refusing(path):
            kind, points = str(item.ContourGeometricType), _points(item)
        if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
            tell("W-CONTOUR", f"a contour of type {kind} encloses nothing and is left out", file=path)
            continue
        try:
            plane, corners = planes.pixels(points, OFF_PLANE)
        except ValueError as error:
            fix = "give the images that the contours were drawn on"
            raise InputError("E-CONTOUR", str(error), file=path, fix=fix) from None
        polygons.setdefault(plane, []).append(corners)
    mask = np.zeros(planes.grid.shape, np.bool_)
    for plane, corners_of in polygons.items():
        mask[plane] = filled(corners_of, planes.shape)
    return mask


def _points(item: Dataset) -> NDArray[np.float64]:
    raw = item.get_item(CONTOUR_DATA)
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
        return np.array(raw.value.decode("ascii").split("\\"), np.float64).reshape(-1, 3)
    return np.array(item.ContourData, np.float64).reshape(-1, 3)
