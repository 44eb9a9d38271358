"""DICOM studies as cases: rules map series to channels, other grids are resampled, and predict writes on the series' grid."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import MRImageStorage

from medseg3d.checks import ConfigError, InputError, collected
from medseg3d.cli import main
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.verify import verify
from medseg3d.io import find_cases, read_image
from medseg3d.io.dicom import find_series, read_series
from medseg3d.io.dicom_cases import find_dicom_cases, reference_series
from medseg3d.io.dicom_rules import has_contrast
from medseg3d.io.images import read_volume, write_volume
from medseg3d.task import Task, load_task
from tests.dicom_series import COLUMN_MM, ORIGIN, ROW_MM, instance, noise, save_all, slices, uid
from tests.test_predictor import save_model

BRATS = load_task("brats")
CT = load_task("organ_ct")
MR = {"SOPClassUID": MRImageStorage, "RescaleType": None, "RescaleSlope": None, "RescaleIntercept": None}
CHANNELS = ("FLAIR", "T1", "T1Gd", "T2")
WORDS = {"FLAIR": "Ax T2 FLAIR", "T1": "t1_mprage_pre", "T1Gd": "t1_mprage_post", "T2": "t2_tse_tra"}


def positive(seed: int) -> Any:
    return noise(seed=seed) + 1000


def study(folder: Path, words: dict[str, str] = WORDS, study_uid: str = "study", **more: dict[str, Any]) -> Path:
    """A series per channel, called as in ``words``; ``more`` changes tags of single channels."""
    for number, (name, description) in enumerate(words.items(), start=1):
        tags = {"SeriesDescription": description, "SeriesInstanceUID": uid(folder.name, study_uid, name)}
        tags |= {"StudyInstanceUID": uid(study_uid), "SeriesNumber": number}
        save_all(slices(positive(number), **MR, **tags, **more.get(name, {})), folder, name=name)
    return folder


def channels_of(case: Any) -> list[int]:
    return [f.series.number for f in case.images]


def test_rules_find_the_channels_of_a_study(tmp_path: Path) -> None:
    found = find_cases(study(tmp_path / "anna"), BRATS, labels=False)
    (case,) = found.cases
    assert case.name == "anna"
    assert channels_of(case) == [1, 2, 3, 4]
    image = read_image(case, BRATS)
    np.testing.assert_array_equal(image.data[2].T, positive(3))
    assert "T1Gd <- series 3" in found.describe()
    assert "mprage" not in found.describe()  # a description may name the patient


@pytest.mark.parametrize(
    ("words", "agent", "expected"),
    [
        ("t1_mprage_post", "", True),
        ("T1 +C", "", True),
        ("t1_tse", "Gadovist", True),
        ("t1_mprage_pre", "Gadovist", False),
        ("T1 without contrast", "", False),
        ("t1_mprage", "NONE", False),
        ("t1_presat_cerebellum", "", False),
    ],
)
def test_contrast(tmp_path: Path, words: str, agent: str, expected: bool) -> None:
    folder = save_all(slices(**MR, SeriesDescription=words, ContrastBolusAgent=agent or None), tmp_path)
    assert has_contrast(find_series(folder).choose()) is expected


def test_a_channel_that_is_missing_or_there_twice(tmp_path: Path) -> None:
    three = {k: v for k, v in WORDS.items() if k != "T1Gd"}
    with pytest.raises(InputError, match=r"no series is channel T1Gd .*E-CHANNEL-MISSING"):
        find_cases(study(tmp_path / "a", three), BRATS, labels=False)
    five = {**WORDS, "again": "t2_tse_sag"}
    with pytest.raises(
        InputError, match=r"2 series could be channel T2: 4 .*5 .*--series T2=NUMBER.*E-CHANNEL-AMBIGUOUS"
    ):
        find_cases(study(tmp_path / "b", five), BRATS, labels=False)
    (case,) = find_cases(tmp_path / "b", BRATS, labels=False, series=["T2=5"]).cases
    assert channels_of(case) == [1, 2, 3, 5]
    with pytest.raises(ConfigError, match="does not say which channel"):
        find_cases(tmp_path / "b", BRATS, labels=False, series=["5"])
    with pytest.raises(ConfigError, match="names no channel"):
        find_cases(tmp_path / "b", BRATS, labels=False, series=["PET=5"])
    with pytest.raises(InputError, match="series 5 fits both channel T1 and channel T2"):
        find_cases(tmp_path / "b", BRATS, labels=False, series=["T2=5", "T1=5"])
    with pytest.raises(InputError, match="no series '9' for channel T2"):
        find_cases(tmp_path / "b", BRATS, labels=False, series=["T2=9"])


def test_a_ct_task_takes_the_only_ct(tmp_path: Path) -> None:
    folder = study(tmp_path)
    with pytest.raises(InputError, match="E-CHANNEL-MISSING"):
        find_cases(folder, CT, labels=False)
    save_all(slices(SeriesInstanceUID=uid("ct"), SeriesNumber=9), folder, name="CT")
    (case,) = find_cases(folder, CT, labels=False).cases
    assert channels_of(case) == [5]
    save_all(slices(SeriesInstanceUID=uid("ct 2"), SeriesNumber=10), folder, name="CT2")
    with pytest.raises(InputError, match="E-SERIES"):
        find_cases(folder, CT, labels=False)
    (case,) = find_cases(folder, CT, labels=False, series=["6"]).cases
    assert channels_of(case) == [6]


def test_a_ct_task_wants_hounsfield_units(tmp_path: Path) -> None:
    tags = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    with pytest.raises(InputError, match="E-NOT-HU"):
        find_cases(save_all(slices(noise() + 1024, **tags), tmp_path), CT, labels=False)


def test_a_case_per_study_and_one_bad_study(tmp_path: Path) -> None:
    for name in ("one", "two", "bad"):
        tags = {"StudyInstanceUID": uid(name), "SeriesInstanceUID": uid(name, "series")}
        datasets = slices(**tags)
        save_all(datasets[:3] + datasets[4:] if name == "bad" else datasets, tmp_path / name / "scan")
    found = find_cases(tmp_path, CT, labels=False)
    assert [c.name for c in found.cases] == ["one_scan", "two_scan"]
    assert {name: f.code for name, f in found.refused.items()} == {"bad_scan": "E-MISSING-SLICE"}
    with pytest.raises(InputError, match="E-MISSING-SLICE"):
        find_cases(tmp_path / "bad", CT, labels=False)


def test_two_studies_in_one_folder_get_names_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tags = {
            "StudyInstanceUID": uid(name),
            "SeriesInstanceUID": uid(name, "series"),
            "PatientName": f"{name}^ZZCANARY",
        }
        save_all(slices(**tags), tmp_path / "in", name=name)
    names = [c.name for c in find_cases(tmp_path / "in", CT, labels=False).cases]
    assert len(set(names)) == 2
    assert all(name.startswith("in_") and "ZZCANARY" not in name for name in names)


def test_nifti_goes_before_dicom_and_says_so(tmp_path: Path) -> None:
    folder = save_all(slices(), tmp_path / "in" / "dicom")
    write_volume(read_series(find_series(folder).choose()), tmp_path / "in" / "scan.nii.gz")
    found = find_cases(tmp_path / "in", CT, labels=False)
    assert [c.name for c in found.cases] == ["scan"]
    assert "there is DICOM, too" in found.describe()


# Grids


def coarse(folder: Path, description: str, **tags: Any) -> None:
    """A series of twice the spacing in every direction, whose value is 10 times the left-right position in LPS mm."""
    half = (8, 18, 20)  # slices, rows, columns
    x = ORIGIN[0] + 2 * COLUMN_MM * np.arange(half[2])
    plane = np.broadcast_to(np.rint(10 * x + 200), half[1:])
    for k in range(half[0]):
        place = (ORIGIN[0], ORIGIN[1], ORIGIN[2] + 6 * k)
        spacing = [2 * ROW_MM, 2 * COLUMN_MM]
        all_tags = {**MR, "SeriesInstanceUID": uid(description), "SeriesNumber": 9, **tags}
        dataset = instance(plane, k + 1, place, SeriesDescription=description, PixelSpacing=spacing, **all_tags)
        save_all([dataset], folder, name=f"Z{k}")


def test_other_grids_are_resampled_onto_the_finest(tmp_path: Path) -> None:
    three = {k: v for k, v in WORDS.items() if k != "T2"}
    folder = study(tmp_path / "in", three)
    coarse(folder, "t2_tse", StudyInstanceUID=uid("study"))
    (case,) = find_cases(folder, BRATS, labels=False).cases
    reference = reference_series(case)
    assert reference is not None
    assert reference.number == 1
    with collected() as findings:
        image = read_image(case, BRATS)
    assert [f.code for f in findings] == ["I-RESAMPLED"]
    assert "series 4 is resampled" in findings[0].message
    assert image.grid.differs_from(reference.grid) is None
    x = ORIGIN[0] + COLUMN_MM * np.arange(40)  # voxels 0, 2, 4 ... lie on the coarse ones, the others between
    np.testing.assert_allclose(image.data[3][:39, 3, 2], (10 * x + 200)[:39], atol=0.51)
    np.testing.assert_array_equal(image.data[0].T, positive(1))


def test_grids_in_different_frames_of_reference_are_refused(tmp_path: Path) -> None:
    three = {k: v for k, v in WORDS.items() if k != "T2"}
    folder = study(tmp_path / "in", three)
    coarse(folder, "t2_tse", StudyInstanceUID=uid("study"), FrameOfReferenceUID=uid("elsewhere"))
    (case,) = find_cases(folder, BRATS, labels=False).cases
    with pytest.raises(InputError, match="E-FRAME-OF-REFERENCE"):
        read_image(case, BRATS)


# Prediction


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder, replace(BRATS, patch_size=(16, 16, 16), spacing_mm=(3, 3, 3), crop=False))
    return folder


def test_predict_a_folder_of_studies(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("anna", "bert"):
        study(tmp_path / "in" / name, study_uid=name)
    out = tmp_path / "out"
    command = ["predict", "--model", str(run), "-i", str(tmp_path / "in"), "-o", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert said.index("anna: FLAIR <- series") < said.index("case anna (1 of 2)")  # the mapping, before it is used
    labels = read_volume(out / "anna.nii.gz", labels=True)
    scan = read_series(find_series(tmp_path / "in" / "anna").choose(1))
    assert labels.grid.differs_from(scan.grid, tolerance_voxels=1e-3) is None
    sidecar = json.loads((out / "bert.nii.gz.json").read_text())
    assert [entry["series"]["files"] for entry in sidecar["inputs"]] == [8, 8, 8, 8]
    assert verify(out / "anna.nii.gz", model=run, input=tmp_path / "in").identical
    assert main(command) == 0
    assert "2 of 2 cases were done before" in capsys.readouterr().err
    series = find_series(tmp_path / "in" / "bert").choose(2)
    slice_file = series.files[-1]  # not the one that stands for the series in the sidecar
    content = bytearray(slice_file.read_bytes())
    content[-1] ^= 1
    slice_file.write_bytes(content)
    result = predict_folder(run, tmp_path / "in", out)
    assert (result.done, result.skipped) == (["bert"], ["anna"])
    with pytest.raises(InputError, match="E-CHANGED"):
        slice_file.write_bytes(bytes(content[:-1]) + bytes([content[-1] ^ 1]))
        verify(out / "bert.nii.gz", model=run, input=tmp_path / "in")


def test_a_damaged_study_costs_itself_alone(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("anna", "bert"):
        study(tmp_path / "in" / name, study_uid=name)
    files = find_series(tmp_path / "in" / "anna").choose(3).files
    files[2].unlink()
    with caplog.at_level(logging.INFO, logger="medseg3d"):
        result = predict_folder(run, tmp_path / "in", tmp_path / "out")
    assert result.done == ["bert"]
    assert result.failed["anna"].code == "E-MISSING-SLICE"


def test_series_on_the_command_line(run: Path, tmp_path: Path) -> None:
    folder = study(tmp_path / "in", {**WORDS, "again": "t2_tse_sag"})
    command = ["predict", "--model", str(run), "-i", str(folder), "-o", str(tmp_path / "out")]
    assert main(command) == 5
    assert main([*command, "--series", "T2=5"]) == 0
    shutil.rmtree(tmp_path / "out")
    assert main([*command, "--series", "5"]) == 2


# Tasks


def minimal(**more: Any) -> Task:
    return Task(name="t", channels={"CT": []}, labels={"a": [1]}, patch_size=[32, 32, 32], **more)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"CT": {"kind": "CT"}}, "has the key 'kind'; known are modality, description, without, contrast"),
        ({"CT": {"contrast": "yes"}}, "contrast: 'yes', which is no bool"),
        ({"CT": {"description": "("}}, "no regular expression"),
    ],
)
def test_rules_are_checked(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        minimal(dicom=rules)


def test_a_rule_for_no_channel(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("{name: t, channels: {CT: []}, labels: {a: [1]}, patch_size: [32, 32, 32], dicom: {MR: {}}}")
    with pytest.raises(ConfigError, match="rule for 'MR', which is none of its channels: CT"):
        load_task(file)


def test_without_rules_several_channels_must_be_named(tmp_path: Path) -> None:
    task = replace(BRATS, dicom={})
    folder = study(tmp_path)
    with pytest.raises(InputError, match="no rule that finds channel FLAIR"):
        find_dicom_cases(folder, task)
    (case,) = find_dicom_cases(folder, task, [f"{c}={n}" for n, c in enumerate(CHANNELS, start=1)]).cases
    assert channels_of(case) == [1, 2, 3, 4]
