from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr import _concepts_dict
from pydicom.sr.codedict import codes
from pydicom.uid import ImplicitVRLittleEndian

from medseg3d import __version__
from medseg3d.checks import ConfigError, InputError, collected
from medseg3d.io import dicom_seg, read_volume
from medseg3d.io.colours import label_colour
from medseg3d.io.dicom_rt import read_rtstruct, write_rtstruct
from medseg3d.io.dicom_seg import KINDS, write_seg
from medseg3d.io.dicom_seg_reading import read_seg
from medseg3d.io.readback import centroids_mm
from medseg3d.io.segments import Code, Segment, codes_of, segments_of, values_of
from medseg3d.task import Task, load_task, task_names
from medseg3d.volume import Volume, placed
from tests import bad_dicom, dicom_series
from tests.dicom_labels import ACQUISITIONS, scan
from tests.shared import real_data

ORGANS = load_task("organ_ct")
SEGMENTS = segments_of(ORGANS)
BRATS = load_task("brats")


def refused(code: str, match: str = ""):
    """Expects an InputError with this code."""
    return pytest.raises(InputError, match=rf"(?s){match}.*\[{code}\]")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_what_is_written_reads_back_to_the_same_voxels_at_the_same_place(tmp_path, acquisition, kind):
    given = scan(tmp_path / "in", acquisition)
    path = write_seg(tmp_path / "out" / "case.seg.dcm", given.labels, SEGMENTS, given.files, kind=kind)
    read = read_seg(path)
    assert [s.value for s in read.segments] == [1, 2, 3, 4, 5]
    assert [s.name for s in read.segments] == ["liver", "spleen", "left kidney", "right kidney", "aorta"]
    assert (placed(read.labels, given.labels.grid).data == given.labels.data).all()
    for value, place in centroids_mm(given.labels).items():
        assert centroids_mm(read.labels)[value] == pytest.approx(place, abs=0.03 if acquisition == "jitter" else 1e-4)
    assert list(path.parent.iterdir()) == [path]


def test_each_frame_lies_where_its_tags_say_it(tmp_path):
    """Without our own reading: the voxels of the smallest label by hand, from the tags of the frame that holds it."""
    given = scan(tmp_path / "in", "oblique")
    path = write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files)
    dataset = pydicom.dcmread(path)
    frames = [
        k
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence)
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 5
    ]
    assert len(frames) == 1  # planes without it are left away
    shared, frame = (
        dataset.SharedFunctionalGroupsSequence[0],
        dataset.PerFrameFunctionalGroupsSequence[frames[0]],
    )
    position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
    across, down = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    spacing = [float(s) for s in shared.PixelMeasuresSequence[0].PixelSpacing]
    assert spacing == pytest.approx([0.8, 0.7])
    assert float(shared.PixelMeasuresSequence[0].SpacingBetweenSlices) == pytest.approx(3)
    rows, columns = np.nonzero(dataset.pixel_array[frames[0]])
    lps = position + np.mean(rows) * spacing[0] * down + np.mean(columns) * spacing[1] * across
    assert lps * (-1, -1, 1) == pytest.approx(centroids_mm(given.labels)[5], abs=1e-4)


def test_segments_are_coded_and_coloured_and_refer_to_their_images(tmp_path):
    given = scan(tmp_path / "in")
    path = write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files, model="organs-1")
    dataset = highdicom.seg.segread(path)
    kidney = dataset.get_segment_description(3)
    assert kidney.segmented_property_type == codes.SCT.Kidney
    assert kidney.segmented_property_category == codes.SCT.AnatomicalStructure
    modifier = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (modifier.CodeValue, modifier.CodeMeaning) == (codes.SCT.Left.value, "Left")
    assert kidney.algorithm_type.value == "AUTOMATIC"
    algorithm = kidney.algorithm_identification
    assert (algorithm.name, algorithm.version, algorithm.parameters) == ("medseg3d", __version__, {"model": "organs-1"})
    assert tuple(kidney.RecommendedDisplayCIELabValue) == highdicom.color.CIELabColor.from_rgb(*label_colour(3)).value

    images = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, given.files)}
    first = next(iter(images.values()))
    assert dataset.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert dataset.StudyInstanceUID == first.StudyInstanceUID
    assert dataset.SeriesInstanceUID != first.SeriesInstanceUID
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        image = images[source.ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient


def test_frames_of_a_multi_frame_image_are_named(tmp_path):
    given = scan(tmp_path / "in", "multi-frame")
    dataset = pydicom.dcmread(write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files))
    image = pydicom.dcmread(given.files[0])
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
        theirs = image.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
        mine = frame.PlanePositionSequence[0].ImagePositionPatient
        assert mine == theirs.PlanePositionSequence[0].ImagePositionPatient


def test_of_two_time_points_the_first_is_named(tmp_path):
    """Frames of a multi-frame image that lie at one place are one plane."""
    given = scan(tmp_path / "in", "multi-frame")
    image = pydicom.dcmread(given.files[0])
    frames = list(image.PerFrameFunctionalGroupsSequence)
    image.PerFrameFunctionalGroupsSequence = [frame for frame in frames for _ in range(2)]
    image.NumberOfFrames = 2 * len(frames)
    path = write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, [image])
    named = {
        int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for frame in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    }
    assert named == {1, 3, 5, 7, 9, 11}  # the first six planes hold labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_map_without_a_label_is_a_file_without_a_label(tmp_path, kind):
    given = scan(tmp_path / "in")
    empty = given.labels.with_data(np.zeros_like(given.labels.data))
    read = read_seg(write_seg(tmp_path / "case.dcm", empty, SEGMENTS, given.files, kind=kind))
    assert len(read.segments) == 5
    assert not read.labels.data.any()
    assert placed(read.labels, empty.grid).shape == empty.shape


def test_values_with_gaps_are_numbered_without_and_come_back(tmp_path):
    task = Task("gaps", {"CT": ()}, {"vein": [300], "liver": [2], "mass": [7]}, [16, 16, 16])
    given = scan(tmp_path / "in")
    values = np.array([0, 2, 0, 7, 0, 300], np.uint16)
    labels = given.labels.with_data(values[given.labels.data])
    for kind, numbers in (("BINARY", [1, 2, 3]), ("LABELMAP", [2, 7, 300])):
        path = write_seg(tmp_path / f"{kind}.dcm", labels, segments_of(task), given.files, kind=kind)
        assert [s.value for s in read_seg(path).segments] == numbers
        with collected():
            read = read_seg(path, task=task)
        assert (placed(read.labels, labels.grid).data == labels.data).all()


def test_labels_in_any_axis_order_are_the_same_file(tmp_path):
    given = scan(tmp_path / "in")
    other = given.labels.canonical()
    assert other.axcodes != given.labels.axcodes
    path = write_seg(tmp_path / "case.dcm", other, SEGMENTS, given.files)
    assert (placed(read_seg(path).labels, given.labels.grid).data == given.labels.data).all()


def shift(columns: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = columns
    return matrix


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda v: Volume(v.data, v.affine @ np.diag([1.05, 1, 1, 1])), "E-GRID"),
        (lambda v: Volume(v.data, v.affine @ shift(0.5)), "E-GRID"),
        (lambda v: Volume(v.data, v.affine @ shift(30)), "E-GRID"),
        (lambda v: Volume(np.repeat(v.data, 2, axis=0), v.affine), "E-CHANNEL-COUNT"),
        (lambda v: v.with_data(v.data * 3), "E-LABEL-VALUE"),
        (lambda v: v.with_data(v.data * 0.5), "E-LABEL-VALUE"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, change, code):
    given = scan(tmp_path / "in")
    labels = change(given.labels)
    with refused(code):
        write_seg(tmp_path / "out" / "case.dcm", labels, SEGMENTS, given.files)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"SOPInstanceUID": ""}, "E-SOURCE"),
        ({"ImagePositionPatient": None}, "E-NO-GEOMETRY"),
        ({"PixelSpacing": None}, "E-NO-GEOMETRY"),
    ],
)
def test_images_without_a_place_are_refused(tmp_path, tags, code):
    given = scan(tmp_path / "in")
    images = dicom_series.slices(**tags)
    with refused(code):
        write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, images)


def test_images_of_two_series_or_with_a_gap_are_refused(tmp_path):
    given = scan(tmp_path / "in")
    images = dicom_series.slices()
    other = dicom_series.slices(SeriesInstanceUID=dicom_series.uid("another"))
    for sources in ([*images[:4], *other[4:]], [*images[:3], *images[4:]], [*images, images[3]], []):
        with refused("E-SOURCE"):
            write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, sources)


def test_images_whose_headers_lack_what_highdicom_takes_for_granted(tmp_path):
    """Anonymised images: no patient module, no thickness, a spacing tag that is wrong."""
    given = scan(tmp_path / "in")
    gone = (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "SliceThickness",
    )
    images = dicom_series.slices(SpacingBetweenSlices=-1.5)
    for image in images:
        for keyword in (*gone, "StudyDate", "StudyTime", "ReferringPhysicianName"):
            delattr(image, keyword)
    path = write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, images)
    measures = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (3, 3)


def test_images_that_were_stripped_of_identifiers(tmp_path):
    """Some are in the beginning of the file, too; the others are made up, the same for all that is made from the images."""
    given = scan(tmp_path / "in")
    files = []
    for path in given.files:
        image = pydicom.dcmread(path)
        image.SOPClassUID = image.SOPInstanceUID = image.StudyInstanceUID = ""
        del image.FrameOfReferenceUID
        path.write_bytes(b"")
        pydicom.filewriter.dcmwrite(path, image, enforce_file_format=False)
        files.append(path)
    with collected() as found:
        seg = pydicom.dcmread(write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, files))
        structures = pydicom.dcmread(write_rtstruct(tmp_path / "rt.dcm", given.labels, SEGMENTS, files))
        again = read_rtstruct(tmp_path / "rt.dcm", files)
    assert {f.code for f in found} == {"W-SOURCE"}
    assert "no StudyInstanceUID and no FrameOfReferenceUID" in found[0].message
    assert seg.FrameOfReferenceUID == structures.FrameOfReferenceUID
    assert seg.StudyInstanceUID == structures.StudyInstanceUID
    source = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID in {
        pydicom.dcmread(p).file_meta.MediaStorageSOPInstanceUID for p in given.files
    }
    assert (placed(again.labels, given.labels.grid).data == given.labels.data).all()


def test_values_that_the_standard_does_not_allow_are_left_away_without_telling_them(tmp_path, recwarn, caplog):
    """As anonymisers write them; highdicom refuses them, and its message and pydicom's warnings would repeat them."""
    given = scan(tmp_path / "in")
    canary = bad_dicom.CANARY
    odd = {"PatientBirthDate": "18991231", "PatientSex": "SEXSEXSE", "StudyDate": "18991230", "StudyTime": "125959.7"}
    odd |= {"PatientAge": "099Y", "SliceThickness": "8.765432", "SeriesNumber": "87654321", "StudyID": "STUDY-ID"}
    images = dicom_series.save_all(dicom_series.slices(**odd), tmp_path / "odd", ImplicitVRLittleEndian)
    files = sorted(images.iterdir())
    for path in files:  # pydicom would not write them
        content = path.read_bytes()
        for value in odd.values():
            assert value.encode() in content
            content = content.replace(value.encode(), canary[: len(value)].encode())
        path.write_bytes(content)
    with collected() as found:
        seg = pydicom.dcmread(write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, files))
        structures = pydicom.dcmread(write_rtstruct(tmp_path / "rt.dcm", given.labels, SEGMENTS, files))
    assert [f.code for f in found] == ["W-DICOM-VALUE"] * 2
    assert "PatientBirthDate, PatientSex, StudyDate, StudyTime, PatientAge, SeriesNumber" in found[0].message
    assert canary not in found[0].message + "".join(str(w.message) for w in recwarn) + caplog.text
    for written in (seg, structures):
        assert written.PatientBirthDate == written.PatientSex == written.StudyDate == ""
        assert written.StudyID == canary
        assert written.PatientID == "PHANTOM"


def test_names_are_decoded_as_their_file_says(tmp_path):
    given = scan(tmp_path / "in")
    images = dicom_series.slices(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    dicom_series.save_all(images, tmp_path / "latin")
    files = sorted((tmp_path / "latin").iterdir())
    assert b"M\xfcller" in files[0].read_bytes()
    for path in (
        write_seg(tmp_path / "seg.dcm", given.labels, SEGMENTS, files),
        write_rtstruct(tmp_path / "rt.dcm", given.labels, SEGMENTS, files),
    ):
        assert pydicom.dcmread(path).PatientName == "Müller^Jürgen"
        assert "Müller".encode() in path.read_bytes()


def test_names_in_any_script_are_kept(tmp_path):
    given = scan(tmp_path / "in")
    images = dicom_series.slices(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jürgen=山田^太郎")
    segments = [replace(SEGMENTS[0], name="Leber, größte"), *SEGMENTS[1:]]
    path = write_seg(tmp_path / "case.dcm", given.labels, segments, images)
    assert read_seg(path).segments[0].name == "Leber, größte"
    assert pydicom.dcmread(path).PatientName == "Müller^Jürgen=山田^太郎"


# Nothing wrong gets a name ---------------------------------------------------------------------------------------------


def flipped(axis):
    return lambda frames, planes: (np.ascontiguousarray(np.flip(frames, axis)), planes)


def shifted(frames, planes):
    return np.roll(frames, 1, axis=2), planes


def moved_mm(frames, planes):
    """The frames one row further down in the patient."""
    return frames, replace(planes, positions=planes.positions + planes.orientation[3:] * planes.spacing_mm[0])


def half_a_voxel(frames, planes):
    return frames, replace(planes, positions=planes.positions + planes.orientation[:3] * planes.spacing_mm[1] / 2)


def swapped(frames, planes):
    return np.array([0, 3, 2, 1, 4, 5], frames.dtype)[frames], planes


def one_voxel(frames, planes):
    frames = frames.copy()
    frames[3, 10, 20] = 2
    return frames, planes


@pytest.mark.parametrize(
    "corrupt", [flipped(0), flipped(1), flipped(2), shifted, moved_mm, half_a_voxel, swapped, one_voxel]
)
@pytest.mark.parametrize(("acquisition", "kind"), [("axial", "LABELMAP"), ("oblique", "BINARY")])
def test_a_file_that_holds_something_else_is_an_error_and_not_left_behind(
    tmp_path, monkeypatch, corrupt, kind, acquisition
):
    given = scan(tmp_path / "in", acquisition)
    path = tmp_path / "out" / "case.dcm"
    write_seg(path, given.labels, SEGMENTS, given.files, kind=kind)
    before = path.read_bytes()
    make = dicom_seg._segmentation
    monkeypatch.setattr(dicom_seg, "_segmentation", lambda frames, planes, *rest: make(*corrupt(frames, planes), *rest))
    with refused("E-READ-BACK"):
        write_seg(path, given.labels, SEGMENTS, given.files, kind=kind)
    assert path.read_bytes() == before
    with refused("E-READ-BACK"):
        write_seg(tmp_path / "new" / "case.dcm", given.labels, SEGMENTS, given.files, kind=kind)
    assert [p.name for p in tmp_path.rglob("*.dcm") if "in" not in p.parts] == ["case.dcm"]


def test_a_wrong_way_onto_the_planes_moves_the_centroid(tmp_path, monkeypatch):
    """Were the labels laid on the planes upside down, voxels would agree; their place in the patient would not."""
    given = scan(tmp_path / "in")
    right = dicom_seg.Planes.of
    monkeypatch.setattr(dicom_seg.Planes, "of", lambda self, labels: np.ascontiguousarray(right(self, labels)[:, ::-1]))
    with refused("E-READ-BACK", match="centroid of 'liver' came back"):
        write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files)


# Reading what others write ---------------------------------------------------------------------------------------------


def by_others(
    tmp_path: Path, masks: dict[str, np.ndarray], *, kind: str = "BINARY", types: dict[str, Code] | None = None
) -> Path:
    """A segmentation as highdicom writes it: ``masks`` are ``(slices, rows, columns)`` by the name of the segment."""
    descriptions = []
    for number, name in enumerate(masks, start=1):
        code = (types or {}).get(name, Code("99TEST", name, name))
        concept = highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)
        descriptions.append(
            highdicom.seg.SegmentDescription(number, name, codes.SCT.Tissue, concept, "MANUAL"),
        )
    stacked = np.stack(list(masks.values()), axis=-1)
    made = highdicom.seg.Segmentation(
        dicom_series.slices(),
        stacked.astype(np.float32) if kind == "FRACTIONAL" else stacked.astype(np.uint8),
        kind,
        descriptions,
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "others",
        "others",
        "1",
        "1",
    )
    made.save_as(tmp_path / "others.dcm")
    return tmp_path / "others.dcm"


def box(*spans: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((dicom_series.SLICES, dicom_series.ROWS, dicom_series.COLUMNS), bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


WHOLE, CORE, ENHANCING = (box((1, 7), (5, n), (5, n)) for n in (30, 20, 12))


def test_fractional_segmentations_are_refused(tmp_path):
    with refused("E-SEG-FRACTIONAL", match="probabilities"):
        read_seg(by_others(tmp_path, {"liver": WHOLE * 0.5}, kind="FRACTIONAL"))


def test_segments_that_overlap_are_refused_or_are_the_regions_of_a_task(tmp_path):
    path = by_others(tmp_path, {"ET": ENHANCING, "WT": WHOLE, "TC": CORE})
    with refused("E-OVERLAP", match="overlap"):
        read_seg(path)
    with refused("E-SEGMENT"):
        read_seg(path, task=load_task("spleen"))
    assert not read_seg(path, task=ORGANS).labels.data.any()  # organ_ct takes what it does not know for background
    painted = read_seg(path, task=BRATS).labels.data
    for label, mask in (("WT", WHOLE), ("TC", CORE), ("ET", ENHANCING)):
        region = np.isin(painted, BRATS.labels[label])
        assert region.sum() == mask.sum()
    assert sorted(np.unique(painted)) == [0, 1, 2, 3]


def test_regions_that_do_not_lie_in_each_other_are_refused(tmp_path):
    path = by_others(tmp_path, {"WT": CORE, "TC": WHOLE})
    with refused("E-OVERLAP", match="contradict"):
        read_seg(path, task=BRATS)


def test_names_decide_then_codes_then_numbers(tmp_path):
    liver = Code("SRT", "T-62000", "Liver")
    path = by_others(tmp_path, {"Aorta": ENHANCING, "Region 2": WHOLE & ~CORE}, types={"Region 2": liver})
    with collected() as found:
        data = read_seg(path, task=ORGANS).labels.data
    assert (data == 5).sum() == ENHANCING.sum()
    assert (data == 1).sum() == (WHOLE & ~CORE).sum()
    assert [f.code for f in found] == ["I-SEGMENT", "I-SEGMENT"]
    assert found[0].message.startswith("segment 1 ('Aorta', coded 'Aorta') is label 5")


def coded(number: int, name: str, kind: Code | None = None, modifier: Code | None = None) -> Segment:
    kind = kind or Code("99TEST", name, name)
    return Segment(number, name, Code("SCT", "85756007", "Tissue"), kind, modifier)


LIVER, SPLEEN = Code("SCT", "10200004", "Liver"), Code("SCT", "78961009", "Spleen")
KIDNEY, RIGHT = Code("SCT", "64033007", "Kidney"), Code("SCT", "24028007", "Right")


@pytest.mark.parametrize(
    ("segments", "values"),
    [
        ([coded(1, "Liver"), coded(2, "SPLEEN")], {1: 1, 2: 2}),
        ([coded(1, "Spleen"), coded(2, "Liver")], {1: 2, 2: 1}),
        ([coded(1, "kidney_left"), coded(2, "Right Kidney", KIDNEY)], {1: 3, 2: 4}),
        ([coded(1, "Organ", KIDNEY, RIGHT)], {1: 4}),
        ([coded(9, "femur")], {9: 0}),  # organ_ct takes what it does not know for background
    ],
)
def test_which_label_a_segment_is(segments, values):
    assert values_of(ORGANS, segments) == values


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([coded(1, "Liver", SPLEEN)], "contradicts label 1 .*liver"),
        ([coded(1, "Left kidney", KIDNEY, RIGHT)], "contradicts label 3"),
        ([coded(1, "Liver"), coded(2, "liver")], "both label 1 .*liver"),
    ],
)
def test_contradictions_are_refused(segments, words):
    with refused("E-SEGMENT", match=words):
        values_of(ORGANS, segments)


def test_unknown_names_go_by_number_where_nothing_contradicts_it():
    task = load_task("btcv")
    with collected() as found:
        assert values_of(task, [coded(6, "Region")]) == {6: 6}
    assert [f.code for f in found] == ["W-SEGMENT"]
    with collected(), refused("E-SEGMENT", match="contradicts label 6"):
        values_of(task, [coded(6, "Region", Code("SCT", "12738006", "Brain"))])
    with refused("E-SEGMENT", match="no label of task 'btcv'"):
        values_of(task, [coded(14, "Region")])


@pytest.mark.parametrize("part", [0, 100, 132, 2000, -10])
def test_a_file_that_is_cut_short_is_refused(tmp_path, part):
    given = scan(tmp_path / "in")
    path = write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, given.files)
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(InputError, match=r"\[E-(NOT-SEG|CORRUPT)\]"):
        read_seg(path)


def test_other_files_are_refused(tmp_path):
    given = scan(tmp_path / "in")
    with refused("E-NOT-SEG"):
        read_seg(given.files[0])
    with refused("E-NOT-READABLE"):
        read_seg(tmp_path / "none.dcm")


def test_the_liver_of_dcmqi_reads_to_the_voxels_of_its_nrrd():
    read = read_seg(real_data("dicom_seg/liver.dcm"))
    wanted = read_volume(real_data("dicom_seg/liver_seg.nrrd"), labels=True)
    assert (placed(read.labels, wanted.grid).data == wanted.data).all()
    assert wanted.data.sum() == 107098
    assert read.labels.grid.differs_from(wanted.grid) is None
    assert [(s.value, s.name, s.type.meaning) for s in read.segments] == [(1, "Liver", "Liver")]


def test_the_liver_of_dcmqi_written_again_on_its_ct(tmp_path):
    folder = real_data("dicom_seg/ct-3slice")
    read = read_seg(real_data("dicom_seg/liver.dcm"))
    spleen = Task("liver", {"CT": ()}, {"liver": [1]}, [16, 16, 16])
    path = write_seg(tmp_path / "again.dcm", read.labels, segments_of(spleen), sorted(folder.iterdir()))
    again = read_seg(path)
    assert (placed(again.labels, read.labels.grid).data == read.labels.data).all()


# Names and codes -------------------------------------------------------------------------------------------------------


def test_codes_are_those_of_the_standard():
    """Every code in configs/codes.yaml is in pydicom's copy of DICOM PS3.16, with this meaning."""
    from medseg3d.io.segments import _table

    table = _table()
    listed = [entry[1:4] for entry in table["types"].values()]
    listed += [*table["categories"].values(), *table["modifiers"].values()]
    for scheme, value, meaning in listed:
        known = {
            words.casefold()
            for concept in _concepts_dict.concepts[scheme].values()
            for number, (words, _) in concept.items()
            if number == value
        }
        assert meaning.casefold() in known, (scheme, value, meaning, known)


@pytest.mark.parametrize("name", [n for n in task_names() if load_task(n).kind == "segmentation"])
def test_each_value_of_each_task_is_named(name):
    task = load_task(name)
    segments = segments_of(task)
    assert {s.value for s in segments} == set(task.write.values())
    assert len({s.name for s in segments}) == len(segments)
    assert values_of(task, segments) == {s.value: s.value for s in segments}
    if task.spatial_dims == 3:
        assert all(s.coded for s in segments)


def test_regions_are_written_as_the_parts_that_they_are_painted_from():
    assert [(s.value, s.name, s.description) for s in segments_of(BRATS)] == [
        (1, "ED", "part of WT"),
        (2, "NCR", "part of WT, TC"),
        (3, "enhancing tumor", "part of WT, TC, ET"),
    ]


def test_a_side_is_found_in_a_name():
    assert [code and code.meaning for code in codes_of(["lung_right"])] == ["Anatomical Structure", "Lung", "Right"]
    assert codes_of(["left ventricle"])[1:] == (Code("SCT", "87878005", "Left ventricle"), None)


def test_a_name_that_no_scheme_knows_gets_a_private_code():
    category, kind, modifier = codes_of(["my structure"])
    assert (category.meaning, modifier) == ("Tissue", None)
    assert kind == Code("99MEDSEG3D", "mystructure", "my structure")


def test_a_task_says_its_own_codes():
    lesion = {"lesion": ["abnormal", "SCT", "52988006", "Lesion", "left"], "liver": ["tissue", "99A", "1", "Mine"]}
    labels = {"lesion": [1], "liver": [2], "spleen": [3]}
    task = Task("own", {"CT": ()}, labels, [16, 16, 16], aliases={"lesion": ["focus"]}, codes=lesion)
    first, second, third = segments_of(Task.from_dict(task.as_dict()))
    assert (first.category.meaning, first.type.value) == ("Morphologically Abnormal Structure", "52988006")
    assert first.modifier == Code("SCT", "7771000", "Left")
    assert second.type == Code("99A", "1", "Mine")
    assert third.type.meaning == "Spleen"
    with pytest.raises(ConfigError, match="'colon', which is no label"):
        replace(task, codes={"colon": ["anatomy", "SCT", "1", "Colon"]})
    with pytest.raises(ConfigError, match="it must be category, scheme, value, meaning"):
        replace(task, codes={"liver": ["SCT", "1"]})
    with pytest.raises(ConfigError, match="names 'organ'; known categories are anatomy"):
        segments_of(replace(task, codes={"liver": ["organ", "SCT", "1", "Liver"]}))


# Identity --------------------------------------------------------------------------------------------------------------


def test_the_patient_is_in_the_file_and_nowhere_else(tmp_path, caplog):
    given = scan(tmp_path / "in")
    images = dicom_series.slices(PatientName=bad_dicom.CANARY, SeriesDescription=bad_dicom.CANARY)
    with caplog.at_level("DEBUG"):
        path = write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS, images, model="m")
        read = read_seg(path, task=ORGANS)
        with pytest.raises(InputError) as error:
            write_seg(tmp_path / "case.dcm", given.labels, SEGMENTS[:1], images)
    assert pydicom.dcmread(path).PatientName == bad_dicom.CANARY
    assert pydicom.dcmread(path).SeriesDescription == "Segmentation by medseg3d"
    for text in (caplog.text, repr(read), str(error.value), path.name):
        assert not re.search(bad_dicom.CANARY, text)
