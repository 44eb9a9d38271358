"""DICOM series: every voxel at its place in the world, with its value; what is no regular stack is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from medseg3d.checks import InputError, collected
from medseg3d.io.dicom import Series, find_series, read_dicom, read_series
from medseg3d.volume import Volume
from tests.dicom_multiframe import enhanced
from tests.dicom_series import (
    AXIAL,
    OBLIQUE,
    ORIGIN,
    SAGITTAL,
    SLICES,
    instance,
    noise,
    places,
    save,
    save_all,
    slices,
    truth,
    uid,
)

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
NEGATED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def code_of(path: Path, **options: Any) -> str:
    """Of the error that reading a folder's only series gives."""
    with pytest.raises(InputError) as caught:
        read_series(find_series(path, **options).choose())
    return caught.value.finding.code


def assert_same(volume: Volume, expected: Volume, *, tolerance: float = 0.0) -> None:
    a, b = volume.canonical(), expected.canonical()
    assert a.data.shape == b.data.shape
    assert np.abs(a.data.astype(np.float64) - b.data).max() <= tolerance
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)


def test_the_affine_of_an_axial_series(tmp_path: Path) -> None:
    """First pixel at (-10, -20, 30) LPS: 10 right and 20 front in RAS; rows 0.8, columns 0.7, slices 3 mm apart."""
    series = find_series(save_all(slices(), tmp_path)).choose()
    volume = read_series(series)
    expected = [[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-12)
    assert volume.data.shape == (1, 40, 36, 8)
    assert volume.data.dtype == np.int16
    assert volume.data[0, 5, 7, 2] == noise()[2][7, 5]
    assert (series.shape, series.orientation, series.modality) == ((40, 36, 8), "LPS", "CT")
    np.testing.assert_allclose(series.spacing_mm, (0.7, 0.8, 3))
    assert [dcmread(f).InstanceNumber for f in series.files] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert not series.findings
    assert (series.series_uid, series.study_uid, series.frame_of_reference_uid) == (
        uid("series"),
        uid("study"),
        uid("frame"),
    )


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE, NEGATED])
@pytest.mark.parametrize("backwards", [False, True])
def test_every_voxel_lies_where_it_was(tmp_path: Path, orientation: tuple[float, ...], backwards: bool) -> None:
    datasets = slices(ImageOrientationPatient=list(orientation))
    if backwards:  # numbers say the opposite of positions
        for number, dataset in enumerate(reversed(datasets), start=1):
            dataset.InstanceNumber = number
    assert_same(read_dicom(save_all(datasets, tmp_path)), truth(noise(), orientation))


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda s: s.name,
)
@pytest.mark.parametrize("signed", [False, True])
def test_transfer_syntaxes(tmp_path: Path, syntax: Any, signed: bool) -> None:
    tags = {"PixelRepresentation": 1, "RescaleIntercept": 0} if signed else {}
    folder = tmp_path / "in"
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        folder.mkdir()
        for dataset in slices(**tags):
            if syntax == ExplicitVRBigEndian:
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
            path = save(dataset, folder / f"{dataset.InstanceNumber}.dcm")
            dataset.file_meta.TransferSyntaxUID = syntax
            fresh = Dataset()
            fresh.update({e.tag: e for e in dataset})
            fresh.file_meta = dataset.file_meta
            fresh.save_as(path, enforce_file_format=True)
    else:
        save_all(slices(**tags), folder, syntax)
    assert find_series(folder).choose().syntax.startswith(syntax.name.split(" (")[0])
    assert_same(read_dicom(folder), truth(noise()))


def test_jpeg_lossless_needs_no_decoder_beside_simpleitk(tmp_path: Path) -> None:
    """Process 14, selection value 1: encoded by GDCM, as no other free encoder is at hand."""
    import SimpleITK as sitk
    from pydicom.encaps import encapsulate, generate_frames

    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    for dataset in slices():
        path = save(dataset, tmp_path / "in" / f"{dataset.InstanceNumber}.dcm")
        writer.SetFileName(str(tmp_path / "one.dcm"))
        writer.Execute(sitk.GetImageFromArray(dataset.pixel_array))
        compressed = dcmread(tmp_path / "one.dcm")
        assert compressed.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        dataset.PixelData = encapsulate(list(generate_frames(compressed.PixelData, number_of_frames=1)))
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.save_as(path, enforce_file_format=True)
    assert_same(read_dicom(tmp_path / "in"), truth(noise()))
    file = tmp_path / "in" / "5.dcm"
    file.write_bytes(file.read_bytes()[:-1500])
    assert code_of(tmp_path / "in") == "E-CORRUPT"


def test_jpeg_with_loss_is_read_and_told(tmp_path: Path) -> None:
    """Baseline JPEG of 8 bits at quality 100: off by no more than 2."""
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    rows, columns = np.mgrid[:36, :40]
    values = np.stack([100 + rows + columns + k for k in range(SLICES)]).astype(np.uint8)
    for k, dataset in enumerate(slices(values, RescaleIntercept=0, LossyImageCompression="01")):
        path = save(dataset, tmp_path / f"{k}.dcm")
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        file = io.BytesIO()
        Image.fromarray(values[k]).save(file, "JPEG", quality=100)
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.save_as(path, enforce_file_format=True)
    series = find_series(tmp_path).choose()
    assert [f.code for f in series.findings] == ["W-LOSSY"]
    assert_same(read_series(series), truth(values), tolerance=2)


# Values


def test_a_slope_that_is_no_whole_number_gives_floats(tmp_path: Path) -> None:
    folder = save_all(slices(noise() * 0.5, RescaleSlope=0.5, RescaleIntercept=0.25, PixelRepresentation=1), tmp_path)
    volume = read_dicom(folder)
    stored = np.rint((noise() * 0.5 - 0.25) / 0.5)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data[0].T, (stored * 0.5 + 0.25).astype(np.float32))


def test_results_beyond_int16_are_int32(tmp_path: Path) -> None:
    values = noise().astype(np.int32) * 40  # to 60000
    volume = read_dicom(save_all(slices(values, RescaleSlope=40, RescaleIntercept=0, PixelRepresentation=1), tmp_path))
    assert volume.data.dtype == np.int32
    np.testing.assert_array_equal(volume.data[0].T, values)


def test_other_bits_than_the_stored_ones_do_not_count(tmp_path: Path) -> None:
    """12 of 16 bits: old files keep an overlay in the others; a signed value's sign stands in the twelfth."""
    values = np.clip(noise(), -1000, 1023)
    for k, dataset in enumerate(slices(values, PixelRepresentation=1, RescaleIntercept=0)):
        stored = values[k].astype(np.int16).view(np.uint16) & 0x0FFF
        dataset.PixelData = (stored | 0x5000).tobytes()
        dataset.BitsStored, dataset.HighBit = 12, 11
        save(dataset, tmp_path / f"{k}.dcm")
    assert_same(read_dicom(tmp_path), truth(values))


def test_eight_bits(tmp_path: Path) -> None:
    values = (noise() % 200).astype(np.uint8)
    for k, dataset in enumerate(slices(values, RescaleIntercept=0)):
        dataset.PixelData = values[k].tobytes()
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        save(dataset, tmp_path / f"{k}.dcm")
    assert_same(read_dicom(tmp_path), truth(values))


def test_a_rescale_that_some_slices_lack(tmp_path: Path) -> None:
    datasets = slices()
    del datasets[2].RescaleSlope, datasets[2].RescaleIntercept
    assert code_of(save_all(datasets, tmp_path)) == "E-RESCALE"


def test_colours_are_no_scan(tmp_path: Path) -> None:
    datasets = slices()
    for dataset in datasets:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
        dataset.PlanarConfiguration = 0
        dataset.PixelData = bytes(3 * dataset.Rows * dataset.Columns)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    assert code_of(save_all(datasets, tmp_path)) == "E-DTYPE"


# Stacks


def moved(offsets: Sequence[Sequence[float]]) -> list[Any]:
    return [place + np.array(offset) for place, offset in zip(places(), offsets, strict=True)]


@pytest.mark.parametrize(
    ("offset_mm", "code"),
    [
        ([0, 0, 0.02], None),  # jitter of a table
        ([0, 0, 0.06], "E-SPACING"),
        ([0.04, 0, 0], None),
        ([0.5, 0, 0], "E-SPACING"),  # one slice lies beside the line
    ],
)
def test_how_far_a_slice_may_be_off(tmp_path: Path, offset_mm: list[float], code: str | None) -> None:
    offsets = [[0.0, 0.0, 0.0] for _ in range(SLICES)]
    offsets[3] = offset_mm
    folder = save_all(slices(at=moved(offsets)), tmp_path)
    if code is None:
        assert_same(read_dicom(folder), truth(noise()))
    else:
        assert code_of(folder) == code


@pytest.mark.parametrize(("slide_mm", "code"), [(0.5, "E-TILT"), (-0.05, "E-TILT"), (0.001, None)])
def test_a_tilt_is_never_dropped(tmp_path: Path, slide_mm: float, code: str | None) -> None:
    folder = save_all(slices(at=moved([[0, slide_mm * k, 0] for k in range(SLICES)])), tmp_path)
    if code:
        assert code_of(folder) == code
    else:
        assert read_dicom(folder).grid.differs_from(truth(noise()).grid) is None


def test_missing_slices_are_named_by_their_place(tmp_path: Path) -> None:
    """Slices 4 and 5 of 8 are gone: they would lie at 30 + 3 x 3 and 30 + 4 x 3 mm."""
    datasets = slices()
    del datasets[3:5]
    series = find_series(save_all(datasets, tmp_path)).choose()
    assert [f.code for f in series.errors] == ["E-MISSING-SLICE"]
    message = series.errors[0].message
    assert "2 slices are missing from a stack 3 mm apart" in message
    assert "(-10, -20, 39) mm" in message
    assert "(-10, -20, 42) mm" in message
    with pytest.raises(InputError, match="2 slices are missing"):
        read_series(series)


def test_a_missing_slice_of_three(tmp_path: Path) -> None:
    datasets = slices()
    assert code_of(save_all([datasets[0], datasets[1], datasets[3]], tmp_path)) == "E-MISSING-SLICE"


def test_a_slice_across_the_others_is_left_out_whatever_it_is_called(tmp_path: Path) -> None:
    scout = instance(noise(1, seed=5)[0], 99, (-10, -20, 60), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    series = find_series(save_all([*slices(), scout], tmp_path)).choose()
    assert [f.code for f in series.findings] == ["W-LOCALIZER"]
    assert len(series.files) == SLICES
    assert_same(read_series(series), truth(noise()))


def test_a_single_slice_without_thickness_has_no_place(tmp_path: Path) -> None:
    assert code_of(save_all(slices(noise(1), SliceThickness=None), tmp_path)) == "E-NO-GEOMETRY"


def test_direction_cosines_that_are_none(tmp_path: Path) -> None:
    assert (
        code_of(save_all(slices(at=places(), ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), tmp_path)) == "E-ORIENTATION"
    )


def test_frames_of_a_multi_frame_file_are_checked_alike(tmp_path: Path) -> None:
    file = next(enhanced(tmp_path, shared=True).path.iterdir())
    dataset = dcmread(file)
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[3].PlanePositionSequence[0].ImagePositionPatient = list(np.add(ORIGIN, (0, 0, 99)))
    dataset.save_as(file)
    assert code_of(file) == "E-MISSING-SLICE"
    for k, frame in enumerate(frames):  # two volumes of four slices
        frame.PlanePositionSequence[0].ImagePositionPatient = list(np.add(ORIGIN, (0, 0, 3 * (k // 2))))
        frame.FrameContentSequence[0].TemporalPositionIndex = k % 2 + 1
    dataset.save_as(file)
    assert code_of(file) == "E-TIMEPOINTS"
    assert_same(read_series(find_series(file, timepoint=2).choose()), truth(noise()[1::2]))


# Several volumes in one series


def dynamic(folder: Path, *, numbers: Sequence[int], **tags: Any) -> Path:
    """Two volumes at the same places; ``numbers`` are the instance numbers of all slices, the first volume's first."""
    first, second = slices(), slices(noise(seed=9))
    for volume, datasets in enumerate((first, second)):
        for key, values in tags.items():
            for dataset in datasets:
                setattr(dataset, key, values[volume])
    for number, dataset in zip(numbers, [*first, *second], strict=True):
        dataset.InstanceNumber = number
        dataset.SOPInstanceUID = uid("dynamic", number)
    return save_all([*first, *second], folder)


def test_a_time_point_is_chosen_by_its_tag_not_by_its_number(tmp_path: Path) -> None:
    mixed = [*range(1, 16, 2), *range(2, 17, 2)]
    folder = dynamic(tmp_path, numbers=mixed, EchoTime=["80", "9.5"], SOPClassUID=[MRImageStorage] * 2)
    assert code_of(folder) == "E-TIMEPOINTS"
    assert "echo time" in find_series(folder).choose().errors[0].message
    for timepoint, seed in ((1, 9), (2, 0)):  # the shorter echo comes first
        series = find_series(folder, timepoint=timepoint).choose()
        assert [f.code for f in series.findings] == ["I-TIMEPOINT"]
        assert_same(read_series(series), truth(noise(seed=seed)))
    assert code_of(folder, timepoint=3) == "E-TIMEPOINTS"


def test_blocks_of_instance_numbers_tell_volumes_apart(tmp_path: Path) -> None:
    folder = dynamic(tmp_path, numbers=range(1, 17))
    assert_same(read_series(find_series(folder, timepoint=2).choose()), truth(noise(seed=9)))


def test_volumes_that_nothing_tells_apart(tmp_path: Path) -> None:
    folder = dynamic(tmp_path, numbers=[*range(1, 16, 2), *range(2, 17, 2)])
    assert code_of(folder, timepoint=1) == "E-TIMEPOINTS"


def test_a_folder_with_every_file_twice_is_one_volume(tmp_path: Path) -> None:
    folder = save_all(slices(), tmp_path)
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / f"copy_of_{path.name}")
    series = find_series(folder).choose()
    assert [f.code for f in series.findings] == ["W-DUPLICATE"]
    assert_same(read_series(series), truth(noise()))


# Folders


def study(folder: Path) -> Path:
    """Two series in one folder, and a localizer."""
    save_all(slices(SeriesNumber=7), folder, name="A")
    other = {"SeriesInstanceUID": uid("other"), "SeriesNumber": 2, "ContrastBolusAgent": "agent"}
    save_all(slices(noise(seed=7), **other), folder, name="B")
    scout = {"SeriesInstanceUID": uid("scout"), "SeriesNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    return save_all(slices(noise(3, seed=8), **scout), folder, name="C")


def test_series_are_listed_by_number_and_chosen(tmp_path: Path) -> None:
    listing = find_series(study(tmp_path))
    assert [(s.number, s.localizer, s.contrast) for s in listing.series] == [
        (1, True, False),
        (2, False, True),
        (3, False, False),
    ]
    with pytest.raises(
        InputError, match=r"2 series: 2: CT 40 x 36 x 8 .* 3: CT 40 x 36 x 8 .*--series NUMBER \[E-SERIES\]"
    ):
        listing.choose()
    for wanted in (2, "2", listing.series[1].identifier, uid("other")):
        assert_same(read_series(listing.choose(wanted)), truth(noise(seed=7)))
    with pytest.raises(InputError, match=r"no series '9'"):
        listing.choose("9")
    with pytest.raises(InputError, match="E-LOCALIZER"):
        read_series(listing.choose(1))


def test_subfolders_count_where_the_folder_itself_has_no_dicom(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 7)):
        tags = {"SeriesInstanceUID": uid(name), "StudyInstanceUID": uid("study", name)}
        save_all(slices(noise(seed=seed), **tags), tmp_path / "disc" / "DICOM" / name)
    listing = find_series(tmp_path / "disc")
    assert len({s.study_uid for s in listing.series}) == 2
    assert [f.code for f in listing.findings] == ["I-SUBFOLDERS"]
    save_all(slices(SeriesInstanceUID=uid("above")), tmp_path / "disc")
    listing = find_series(tmp_path / "disc")
    assert [s.series_uid for s in listing.series] == [uid("above")]
    assert [(f.code, "1 subfolder (DICOM)" in f.message) for f in listing.findings] == [("I-SKIPPED", True)]


@pytest.mark.parametrize("kept", [200, 700])
def test_a_file_cut_inside_its_header_is_not_passed_over(tmp_path: Path, kept: int) -> None:
    """It may be the last slice, whose absence would leave no gap."""
    folder = save_all(slices(), tmp_path)
    last = find_series(folder).choose().files[-1]
    last.write_bytes(last.read_bytes()[:kept])
    series = find_series(folder).series[0]
    assert "E-TRUNCATED" in [f.code for f in series.errors]
    with pytest.raises(InputError, match="E-TRUNCATED"):
        read_dicom(folder)


def test_a_damaged_kind_is_not_taken_for_another_kind(tmp_path: Path) -> None:
    """One bit of the SOPClassUID of the last slice; a private kind is nothing to worry about."""
    folder = save_all(slices(), tmp_path)
    last = find_series(folder).choose().files[-1]
    content = last.read_bytes()
    kind = b"1.2.840.10008.5.1.4.1.1.2\0"
    last.write_bytes(content.replace(kind, b"1.2.840.10008.5.1.4.1.1.9\0"))  # curves
    assert [f.code for f in find_series(folder).choose().findings] == ["W-OTHER-KIND"]
    last.write_bytes(content.replace(kind, b"1.2.840.10008.5.1.4.1.1.0\0"))
    with pytest.raises(InputError, match=rf"{last.name}.*E-CORRUPT"):
        read_dicom(folder)
    last.write_bytes(content)
    private = content.replace(kind, b"1.3.12.2.1107.5.9.1.0.0.0\0")
    (folder / "private.dcm").write_bytes(private[: private.index(b"\xe0\x7f\x10\0")])  # no pixels
    listing = find_series(folder)
    assert [f.code for f in listing.findings] == ["I-SKIPPED"]
    assert_same(read_series(listing.choose()), truth(noise()))


def test_a_ct_whose_slices_differ_in_rescale_is_told(tmp_path: Path) -> None:
    datasets = slices()
    datasets[3].RescaleIntercept = -1000
    series = find_series(save_all(datasets, tmp_path)).choose()
    assert [f.code for f in series.findings] == ["W-RESCALE"]
    np.testing.assert_array_equal(read_series(series).data[0, :, :, 3].T, noise()[3] + 24)


def test_bytes_too_many_are_told(tmp_path: Path) -> None:
    folder = save_all(slices(), tmp_path)
    file = find_series(folder).choose().files[2]
    file.write_bytes(file.read_bytes() + b"\0")
    assert [f.code for f in find_series(folder).choose().findings] == ["W-PIXEL-LENGTH"]


def test_frames_that_are_announced_and_not_described(tmp_path: Path) -> None:
    file = next(enhanced(tmp_path, shared=False).path.iterdir())
    dataset = dcmread(file)
    del dataset.PerFrameFunctionalGroupsSequence[5:]
    dataset.save_as(file)
    assert code_of(file) == "E-CORRUPT"


@pytest.mark.parametrize("seed", range(20))
def test_damage_anywhere_in_a_header_is_a_finding_or_harmless(tmp_path: Path, seed: int) -> None:
    """A few bytes of one header: no other exception, and no geometry that is not the true one."""
    rng = np.random.default_rng(seed)
    folder = [enhanced(tmp_path, shared=True).path, save_all(slices(), tmp_path / "classic")][seed % 2]
    file = sorted(p for p in folder.iterdir() if p.is_file())[0]
    content = bytearray(file.read_bytes())
    for at in rng.integers(140, min(len(content), 1500), 3):
        content[at] = rng.integers(256)
    file.write_bytes(content)
    try:
        volume = read_dicom(file if seed % 2 == 0 else folder)
    except InputError:
        return
    assert volume.canonical().grid.differs_from(truth(noise()).canonical().grid) is None


def test_a_file_that_shrinks_after_it_was_listed(tmp_path: Path) -> None:
    series = find_series(save_all(slices(), tmp_path)).choose()
    series.files[4].write_bytes(series.files[4].read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{series.files[4].name}.*E-TRUNCATED"):
        read_series(series)


def test_data_sets_without_preamble_are_read_by_force(tmp_path: Path) -> None:
    for dataset in slices():
        path = tmp_path / f"{dataset.InstanceNumber}.dcm"
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    listing = find_series(tmp_path)
    assert not listing.series
    assert "--force" in listing.findings[0].fix
    assert_same(read_series(find_series(tmp_path, force=True).choose()), truth(noise()))


def test_no_text_of_headers_is_told(tmp_path: Path) -> None:
    """Findings, JSON and what is logged name no patient; the description is a field for display alone."""
    tags = dict.fromkeys(("PatientName", "PatientID", "SeriesDescription", "ProtocolName", "StudyID"), "ZZCANARY")
    datasets = slices(**tags, SOPClassUID=MRImageStorage, ContrastBolusAgent="ZZCANARY", SequenceName="ZZCANARY")
    del datasets[3]
    listing = find_series(save_all(datasets, tmp_path))
    series = listing.choose()
    assert series.description == "ZZCANARY"
    assert "ZZCANARY" not in str(listing.as_dict()) + repr(series) + " ".join(map(str, series.findings))


def test_warnings_go_to_whoever_collects_findings(tmp_path: Path) -> None:
    folder = save_all(slices(PhotometricInterpretation="MONOCHROME1"), tmp_path)
    with collected() as findings:
        read_dicom(folder)
    assert [f.code for f in findings] == ["W-MONOCHROME1"]


def test_what_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_series(tmp_path / "nowhere")


def test_repr_says_what_it_is(tmp_path: Path) -> None:
    series: Series = find_series(save_all(slices(), tmp_path)).choose()
    assert repr(series) == f"Series(1: CT {series.identifier}, 40 x 36 x 8, 0.7 x 0.8 x 3 mm, LPS)"
