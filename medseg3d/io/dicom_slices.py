"""The image planes of DICOM files: one of a classic file, one per frame of a multi-frame one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset

from medseg3d.checks import InputError
from medseg3d.io.dicom_headers import MULTIFRAME, Header

KEYS = {
    "time point": "TemporalPositionIdentifier",
    "echo time": "EchoTime",
    "echo": "EchoNumbers",
    "trigger time": "TriggerTime",
    "kind of image": "ImageType",
    "acquisition": "AcquisitionNumber",
    "acquisition time": "AcquisitionTime",
}
"""What may tell classic images at one place apart; the first that does counts."""
FRAME_KEYS = {
    "time point": ("FrameContentSequence", "TemporalPositionIndex"),
    "b-value": ("MRDiffusionSequence", "DiffusionBValue"),
    "echo time": ("MREchoSequence", "EffectiveEchoTime"),
    "trigger time": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "stack": ("FrameContentSequence", "StackID"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "kind of image": ("MRImageFrameTypeSequence", "FrameType"),
}
"""The same for frames: sequence of the functional group, and keyword in it (PS3.3 C.7.6.16)."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One image plane: a classic file, or a frame of a multi-frame one.

    Args:
        header: of its file.
        frame: index in the file, None for a classic one.
        position: of the centre of its first pixel, LPS mm, or None.
        orientation: direction cosines along a row and down a column, or None.
        pixel_spacing: mm between rows and between columns, or None.
        slope, intercept: of the modality rescale, None where the file has none.
        thickness: mm of the slice; between: mm to the next, as the file says; None where it does not.
        instance: number of the instance or frame, for names and ties alone.
        keys: what may tell images at one place apart, by name; ``""`` where the file does not say.
    """

    header: Header
    frame: int | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None
    thickness: float | None = None
    between: float | None = None
    instance: int = 0
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file, and the frame inside it."""
        return self.header.path.name + ("" if self.frame is None else f" frame {self.frame + 1}")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.header.integer("Rows"), self.header.integer("Columns")


def slices_of(header: Header) -> list[Slice]:
    """The image planes of one file.

    Raises:
        InputError: ``E-CORRUPT`` where elements of its header cannot be understood.
    """
    fix = "copy or export the file again, or take it out"
    try:
        slices = _frames(header) if header.sop_class in MULTIFRAME else [_classic(header)]
    except InputError:
        raise
    except Exception as error:  # whatever damaged bytes make pydicom raise
        message = f"the header is damaged ({type(error).__name__})"
        raise InputError("E-CORRUPT", message, file=header.path, fix=fix) from None
    said = int(header.number("NumberOfFrames") or 1)
    if not slices or (header.sop_class in MULTIFRAME and len(slices) != said):
        message = f"{said} frames are announced, and {len(slices)} described"
        raise InputError("E-CORRUPT", message, file=header.path, fix=fix)
    return slices


def _classic(header: Header) -> Slice:
    keys = {name: header.text(keyword) for name, keyword in KEYS.items()}
    return Slice(
        header,
        None,
        header.numbers("ImagePositionPatient") or None,
        header.numbers("ImageOrientationPatient") or None,
        header.numbers("PixelSpacing") or None,
        header.number("RescaleSlope"),
        header.number("RescaleIntercept"),
        header.number("SliceThickness"),
        header.number("SpacingBetweenSlices"),
        int(header.number("InstanceNumber") or 0),
        {"b-value": header.b_value(), **keys},
    )


def _frames(header: Header) -> list[Slice]:
    per_frame = header.dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def found(frame: Dataset, group: str, keyword: str) -> Any:
        for where in (frame, shared):
            if items := where.get(group):
                return items[0].get(keyword)
        return None

    def numbers(frame: Dataset, group: str, keyword: str) -> tuple[float, ...] | None:
        value = found(frame, group, keyword)
        if value is None or value == "":
            return None
        return tuple(map(float, value)) if hasattr(value, "__iter__") else (float(value),)

    def number(frame: Dataset, group: str, keyword: str) -> float | None:
        return next(iter(numbers(frame, group, keyword) or ()), None)

    rescale, measures = "PixelValueTransformationSequence", "PixelMeasuresSequence"
    return [
        Slice(
            header,
            index,
            numbers(frame, "PlanePositionSequence", "ImagePositionPatient"),
            numbers(frame, "PlaneOrientationSequence", "ImageOrientationPatient"),
            numbers(frame, measures, "PixelSpacing"),
            number(frame, rescale, "RescaleSlope"),
            number(frame, rescale, "RescaleIntercept"),
            number(frame, measures, "SliceThickness"),
            number(frame, measures, "SpacingBetweenSlices"),
            index + 1,
            {name: str(found(frame, *where) or "") for name, where in FRAME_KEYS.items()},
        )
        for index, frame in enumerate(per_frame)
    ]
