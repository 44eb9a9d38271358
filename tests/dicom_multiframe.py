"""The series of ``dicom_series`` as one multi-frame object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage

from tests.bad_input import Made
from tests.dicom_series import (
    AXIAL,
    COLUMN_MM,
    ROW_MM,
    SLICE_MM,
    SLICES,
    noise,
    patient,
    places,
    save,
    truth,
    uid,
    with_pixels,
)


def enhanced(folder: Path, *, shared: bool) -> Made:
    """One multi-frame file; the rescale stands in the shared group, or is another in every frame."""
    values, sop_class = noise().astype(np.float64), EnhancedCTImageStorage
    dataset = patient(uid("enhanced"), sop_class)
    dataset.SOPInstanceUID, dataset.InstanceNumber, dataset.NumberOfFrames = uid("enhanced", 1), 1, SLICES
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.PixelRepresentation, dataset.ContentQualification = 0, "RESEARCH"
    dataset.AcquisitionDateTime = "20260101120000"
    dataset.PixelPresentation, dataset.VolumetricProperties = "MONOCHROME", "VOLUME"
    dataset.VolumeBasedCalculationTechnique, dataset.PresentationLUTShape = "NONE", "IDENTITY"
    dataset.LossyImageCompression, dataset.BurnedInAnnotation = "00", "NO"
    organisation = uid("dimensions")
    dataset.DimensionOrganizationSequence = Items([_item(DimensionOrganizationUID=organisation)])
    dataset.DimensionIndexSequence = Items(
        [
            _item(
                DimensionOrganizationUID=organisation,
                DimensionIndexPointer=0x00200032,
                FunctionalGroupPointer=0x00209113,
            )
        ]
    )
    measures = _item(PixelSpacing=[ROW_MM, COLUMN_MM], SliceThickness=SLICE_MM, SpacingBetweenSlices=SLICE_MM)
    group = _item(
        PixelMeasuresSequence=Items([measures]),
        PlaneOrientationSequence=Items([_item(ImageOrientationPatient=list(AXIAL))]),
        CTImageFrameTypeSequence=Items(
            [
                _item(
                    FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
                    PixelPresentation="MONOCHROME",
                    VolumetricProperties="VOLUME",
                    VolumeBasedCalculationTechnique="NONE",
                )
            ]
        ),
    )
    rescale = [(1.0, -1024.0)] * SLICES if shared else [(0.5 * (k + 1), -1024.0 * (k + 1)) for k in range(SLICES)]
    stored = np.empty(values.shape)
    frames = []
    for k, ((slope, intercept), place) in enumerate(zip(rescale, places(), strict=True)):
        stored[k] = np.rint((values[k] - intercept) / slope)
        values[k] = stored[k] * slope + intercept
        when = _item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[k + 1], FrameAcquisitionNumber=1)
        frame = _item(
            FrameContentSequence=Items([when]),
            PlanePositionSequence=Items([_item(ImagePositionPatient=[f"{v:.6g}" for v in place])]),
        )
        transformation = _item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
        (group if shared else frame).PixelValueTransformationSequence = Items([transformation])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = Items([group])
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    save(with_pixels(dataset, stored), folder / "multiframe.dcm")
    return Made(folder, truth(values))


def _item(**tags: Any) -> Dataset:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item
