"""Real DICOM against NIfTI made by other programs: the same values at the same places, or refused with the right code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg3d.checks import InputError
from medseg3d.io import find_cases, read_image
from medseg3d.io.dicom import find_series, read_dicom, read_series
from medseg3d.io.dicom_cases import find_dicom_cases, reference_series
from medseg3d.io.images import read_volume
from medseg3d.task import load_task
from medseg3d.volume import Volume
from tests.shared import real_data

SAME = [
    "failing/slicecount",  # two slices: too few for dicom2nifti, whose reference shows that they are a volume
    "ge/anatomical",
    "generic/anatomical",
    "generic/compressed_j2k",
    "generic/compressed_jpeg",
    "generic/compressed_jpegls",
    "generic/compressed_rle",
    "philips/anatomical",
    "philips_enhanced/anatomical",
    "siemens/anatomical",
]


def assert_same(volume: Volume, file: Path, *, timepoint: int | None = None, relative: float = 0.0) -> None:
    reference = read_volume(file)
    data = reference.data if timepoint is None else reference.data[timepoint : timepoint + 1]
    a, b = volume.canonical(), Volume(data, reference.affine).canonical()
    assert a.data.shape == b.data.shape
    np.testing.assert_allclose(a.data.astype(np.float64), b.data, rtol=relative, atol=relative)
    assert a.grid.differs_from(b.grid, tolerance_voxels=1e-3, tolerance_rad=1e-4) is None


@pytest.mark.parametrize("name", SAME)
def test_against_dicom2nifti(name: str) -> None:
    folder = real_data(f"dicom_vs_nifti/{name}")
    volume = read_dicom(folder / "001")
    relative = 1e-6 if "enhanced" in name else 0.0  # a slope that is no whole number, in float32
    assert_same(volume, folder / "001_ground_truth.nii.gz", relative=relative)
    if "enhanced" not in name:  # there dcm2niix takes the maker's private slope
        assert_same(volume, folder / "001_dcm2niix.nii.gz")


@pytest.mark.parametrize(
    ("name", "code"),
    [("failing/gantrytilting", "E-TILT"), ("failing/sliceincrement", "E-MISSING-SLICE"), ("ge/dti", "E-TIMEPOINTS")],
)
def test_refused(name: str, code: str) -> None:
    with pytest.raises(InputError, match=code):
        read_dicom(real_data(f"dicom_vs_nifti/{name}") / "001")


@pytest.mark.parametrize("timepoint", [1, 2])
def test_each_volume_of_a_diffusion_series(timepoint: int) -> None:
    folder = real_data("dicom_vs_nifti/ge/dti")
    volume = read_series(find_series(folder / "001", timepoint=timepoint).choose())
    assert_same(volume, folder / "001_ground_truth.nii.gz", timepoint=timepoint - 1)


def test_every_series_of_a_study_against_dcm2niix() -> None:
    study = real_data("dicom_mr_studies/Study3")
    listing = find_series(study)
    assert len(listing.series) == 5
    for series in listing.series:
        assert_same(read_series(series), study.parent / "reference_dcm2niix" / f"Study3_{series.where.name}.nii.gz")


def test_four_registered_series_are_one_case_of_four_channels() -> None:
    task = load_task("brats")
    data_set = find_cases(real_data("dicom_mr_studies/Study3"), task, labels=False)
    (case,) = data_set.cases
    image = read_image(case, task)
    assert (case.name, image.data.shape, image.data.dtype) == ("Study3", (4, 280, 320, 22), np.float32)
    for values, name in zip(
        image.data,
        ("36468-FLAIRreg-58706", "26401-T1prereg-52906", "11-T1post-18670", "37830-T2reg-78532"),
        strict=True,
    ):
        file = real_data("dicom_mr_studies/reference_dcm2niix") / f"Study3_{name}.nii.gz"
        assert_same(Volume(values[None], image.affine), file)


def test_a_ct_in_jpeg_2000_lies_on_the_grid_of_its_labels() -> None:
    """The values against GDCM's, as the label map alone is there as NIfTI on that grid."""
    import SimpleITK as sitk

    folder = real_data("totalsegmentator_ct")
    (case,) = find_dicom_cases(folder / "example_ct_dicom", load_task("organ_ct")).cases
    series = reference_series(case)
    assert series is not None
    assert series.syntax == "JPEG 2000 Image Compression"
    volume = read_series(series)
    labels = read_volume(folder / "example_seg_dicom.nii.gz", labels=True)
    assert volume.canonical().grid.differs_from(labels.canonical().grid, tolerance_voxels=1e-3) is None
    liver = volume.canonical().data[labels.canonical().data == 5]
    assert 80 < liver.mean() < 100  # HU of a liver with contrast, 22 HU of noise; mirrored, it would be lung and bowel
    assert liver.std() < 30
    for k, file in enumerate(series.files):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
        np.testing.assert_array_equal(volume.data[0, :, :, k].T, image.squeeze())
