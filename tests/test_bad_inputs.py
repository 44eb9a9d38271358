"""Every row of the catalogues of bad inputs gives its code, and nothing comes back wrong without a word."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.checks import Finding, InputError, collected
from medseg3d.evaluation import evaluate
from medseg3d.inference.folder import FolderResult, predict_folder
from medseg3d.inference.predictor import Predictor
from medseg3d.inspection import inspect, require_good
from medseg3d.inspection.case import Facts
from medseg3d.inspection.together import copies
from medseg3d.io import Case, ChannelFile, find_cases, read_volume, split_cases, write_volume
from medseg3d.io.case_names import names_of
from medseg3d.io.dicom import find_series, read_series
from medseg3d.task import load_task
from medseg3d.training.run import train
from medseg3d.volume import Volume
from tests import bad_dicom, bad_labels, bad_nifti
from tests.bad_input import BadInput, Made
from tests.shared import ROOT, real_data
from tests.test_predictor import BALL, save_model
from tests.training_helpers import SETTINGS, ball_task, write_balls


def named(case: BadInput) -> str:
    return re.sub(r"\W+", "_", case.name)


def read(path: Path, *, labels: bool = False) -> tuple[Volume | None, list[Finding]]:
    """What the library makes of an image file or a folder of DICOM, and all it says."""
    volume = None
    with collected() as findings:
        try:
            volume = read_volume(path, labels=labels)
        except InputError as error:
            findings.append(error.finding)
    return volume, findings


def read_dicom(path: Path) -> tuple[Volume | None, list[Finding]]:
    listing, volume = find_series(path), None
    with collected() as findings:
        try:
            volume = read_series(listing.choose())
        except InputError as error:
            findings.append(error.finding)
    return volume, list(dict.fromkeys([*listing.findings, *findings]))


def assert_right(volume: Volume, truth: Volume) -> None:
    """The same values at the same places, whatever the order of the axes."""
    ours, right = volume.canonical(), truth.canonical()
    assert ours.grid.differs_from(right.grid, tolerance_voxels=1e-3) is None
    assert ours.spacing_mm == pytest.approx(right.spacing_mm, rel=1e-4)
    assert np.array_equal(ours.data.astype(np.float64), right.data.astype(np.float64), equal_nan=True)


def assert_as_it_must_be(case: BadInput, made: Made, volume: Volume | None, findings: list[Finding]) -> None:
    """One finding, of the code of the case, that says what and where; data come back where they are right alone."""
    assert [f.code for f in findings] == ([] if case.code is None else [case.code])
    assert all(f.message and str(made.path) in str(f.file) for f in findings)
    assert all(f.fix for f in findings if f.severity == "error")
    assert (volume is None) == case.refused
    if volume is not None:
        assert made.truth is not None
        assert_right(volume, made.truth)


# Readers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", bad_nifti.CASES, ids=named)
def test_nifti(case: BadInput, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    assert_as_it_must_be(case, made, *read(made.path))
    assert [f.code for f in inspect(made.path).findings] == ([] if case.code is None else [case.code])


@pytest.mark.parametrize("case", bad_nifti.LABEL_CASES, ids=named)
def test_nifti_labels(case: BadInput, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    assert_as_it_must_be(case, made, *read(made.path, labels=True))


@pytest.mark.parametrize("case", bad_dicom.CASES, ids=named)
def test_dicom(case: BadInput, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    assert_as_it_must_be(case, made, *read_dicom(made.path))


@pytest.mark.parametrize("case", [c for c in bad_dicom.CASES if c.name != "no DICOM"], ids=named)
def test_check_of_dicom(case: BadInput, tmp_path: Path) -> None:
    """Several series are no error of a folder, but whoever reads it must choose."""
    found = inspect(case.make(tmp_path).path).findings
    expected = "W-SERIES" if case.code == "E-SERIES" else case.code
    assert [f.code for f in found] == ([] if expected is None else [expected])


def test_nothing_from_a_tag_becomes_a_name_or_a_word(tmp_path: Path) -> None:
    for name in ("path in a tag", "patient in a tag"):
        case = next(c for c in bad_dicom.CASES if c.name == name)
        (tmp_path / named(case)).mkdir()
        found = inspect(case.make(tmp_path / named(case)).path)
        assert bad_dicom.CANARY not in found.text() + json.dumps(found.as_dict())


def test_zeros_for_nan_are_told(tmp_path: Path) -> None:
    made = next(c for c in bad_nifti.CASES if c.name == "NaN").make(tmp_path)
    with collected() as findings:
        volume = read_volume(made.path, nonfinite="zero")
    assert made.truth is not None
    assert np.array_equal(volume.data, np.nan_to_num(made.truth.data, nan=0))
    assert [(f.code, f.message) for f in findings] == [
        ("W-NONFINITE", "2 of 960 voxels are NaN or infinite; they are read as 0")
    ]


def test_a_catalogue_names_each_case_once() -> None:
    for cases in (bad_nifti.CASES, bad_labels.CASES, bad_dicom.CASES):
        assert len({named(c).lower() for c in cases}) == len(cases)
    assert len(bad_nifti.CASES) + len(bad_nifti.LABEL_CASES) >= 52
    assert len(bad_dicom.CASES) >= 36


# Predict --------------------------------------------------------------------------------------------------------------

NOT_FOR_THE_TASK = {"three volumes": "E-CHANNEL-COUNT", "two axes": "E-DIMENSIONS"}
"""What reads right, but is no input of a task of one channel and three axes."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    save_model(folder, replace(BALL, spacing_mm=None))  # the scans' own spacing: one has voxels of 60 mm
    return folder


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.from_bundle(model, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def predicted(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Made], FolderResult]:
    """All cases of the NIfTI catalogue in one folder, and its prediction."""
    folder, made = tmp_path_factory.mktemp("predict"), {}
    (folder / "in").mkdir()
    for case in bad_nifti.CASES:
        (folder / named(case)).mkdir()
        one = case.make(folder / named(case))
        path = folder / "in" / one.path.name.replace("scan", named(case))
        made[case.name] = Made(one.path.rename(path), one.truth)
    return made, predict_folder(predictor, folder / "in", folder / "out")


@pytest.mark.parametrize("case", bad_nifti.CASES, ids=named)
def test_predict(case: BadInput, predicted: tuple[dict[str, Made], FolderResult]) -> None:
    made, result = predicted
    code = NOT_FOR_THE_TASK.get(case.name, case.code if case.refused else None)
    if code is not None:
        assert result.failed[named(case)].code == code
        assert not (result.output / f"{named(case)}.nii.gz").exists()
        return
    assert named(case) in result.done
    labels, truth = read_volume(result.output / f"{named(case)}.nii.gz", labels=True), made[case.name].truth
    assert truth is not None
    assert labels.grid.differs_from(truth.grid, tolerance_voxels=1e-3) is None
    sidecar = json.loads((result.output / f"{named(case)}.nii.gz.json").read_text())
    assert [f["code"] for f in sidecar["findings"]] == ([] if case.code is None else [case.code])


def test_predict_takes_nan_as_zero_on_request(model: Path, tmp_path: Path) -> None:
    made = next(c for c in bad_nifti.CASES if c.name == "infinity").make(tmp_path)
    for _ in range(2):  # a second call finds it done
        result = predict_folder(model, made.path, tmp_path / "out", nonfinite="zero", device="cpu")
    assert result.skipped == ["scan"]
    assert json.loads((tmp_path / "out" / "scan.nii.gz.json").read_text())["findings"][0]["code"] == "W-NONFINITE"
    assert predict_folder(model, made.path, tmp_path / "out", device="cpu").failed["scan"].code == "E-NONFINITE"


@pytest.mark.parametrize("case", [c for c in bad_dicom.CASES if c.name != "no DICOM"], ids=named)
def test_predict_dicom(case: BadInput, predictor: Predictor, tmp_path: Path) -> None:
    """A folder is a study here: what is skipped in it is said when the folder is found."""
    (tmp_path / "in").mkdir()
    made = case.make(tmp_path / "in")
    try:
        result = predict_folder(predictor, made.path, tmp_path / "out")
        failed = [finding.code for finding in result.failed.values()]
    except InputError as error:
        failed = [error.finding.code]
    assert failed == ([case.code] if case.refused else [])
    files = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(files) == (not case.refused)
    if not case.refused:
        assert made.truth is not None
        assert read_volume(files[0], labels=True).grid.differs_from(made.truth.grid, tolerance_voxels=1e-3) is None
        sidecar = json.loads(Path(f"{files[0]}.json").read_text())
        told = [] if case.code is None or case.code.startswith("I-") else [case.code]
        assert [f["code"] for f in sidecar["findings"]] == told
        assert bad_dicom.CANARY not in json.dumps(sidecar) + "".join(p.name for p in (tmp_path / "out").iterdir())


# Labels and data sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", bad_labels.CASES, ids=named)
def test_data_set(case: BadInput, tmp_path: Path) -> None:
    found = inspect(case.make(tmp_path).path, ball_task()).findings
    assert [f.code for f in found] == [case.code]
    assert str(tmp_path) in str(found[0].file)


@pytest.mark.parametrize("case", [c for c in bad_labels.CASES if c.refused], ids=named)
def test_train_refuses(case: BadInput, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    case.make(data)
    with pytest.raises(InputError) as caught:
        train(ball_task(), data, tmp_path / "run", overrides=SETTINGS, epochs=1)
    assert caught.value.finding.code == case.code
    assert [caught.value.finding] == [f for f in inspect(data, ball_task()).findings if f.severity == "error"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", [c for c in bad_labels.CASES if not c.refused], ids=named)
def test_training_goes_on_with_a_warning(
    case: BadInput, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("medseg3d"), "propagate", True)  # the command line turns it off
    dataset = find_cases(case.make(tmp_path).path, ball_task(), labels=True)
    parts = dict(zip(("training", "validation"), split_cases(dataset.cases), strict=True))
    with caplog.at_level(logging.INFO, "medseg3d"):
        require_good(dataset, parts, ball_task())
    level = logging.WARNING if str(case.code).startswith("W-") else logging.INFO
    assert [(r.levelno, f"[{case.code}]" in r.getMessage()) for r in caplog.records] == [(level, True)]


def test_all_bad_cases_are_named_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("medseg3d"), "propagate", True)
    write_balls(tmp_path / "data")
    for name in ("ball_1", "ball_2", "ball_4"):
        path = tmp_path / "data" / "images" / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match="E-TRUNCATED") as caught:
        train(ball_task(), tmp_path / "data", tmp_path / "run", overrides=SETTINGS, epochs=1)
    said = [str(caught.value), *(r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)]
    assert sorted(re.findall(r"ball_\d", " ".join(said))) == ["ball_1", "ball_2", "ball_4"]
    assert inspect(tmp_path / "data", ball_task()).count("error") == 3


@pytest.mark.parametrize("name", ["foreign value", "fraction", "negative", "size", "place"])
def test_evaluate_lists_what_cannot_be_scored(name: str, tmp_path: Path) -> None:
    case = next(c for c in bad_labels.CASES if c.name == name)
    (tmp_path / "bad").mkdir()
    bad = case.make(tmp_path / "bad").path
    good = write_balls(tmp_path / "good")
    for reference, prediction in ((bad, good), (good, bad)):
        found = evaluate(reference / "labels", prediction / "labels", ball_task())
        assert [(f["case"], f["code"]) for f in found.summary["failed"]] == [(bad_labels.SPOILT, case.code)]
        assert len({row["case"] for row in found.rows}) == 4


def facts(name: str, content: str) -> Facts:
    return Facts(Case(name, (ChannelFile(Path(f"{name}.nii.gz")),)), (), content=content)


def test_one_patient_in_two_parts_is_leakage() -> None:
    parts = {
        "training": [facts("BraTS-GLI-00001-000", "a"), facts("BraTS-GLI-00002-000", "b")],
        "validation": [facts("BraTS-GLI-00001-001", "c"), facts("BraTS-GLI-00003-000", "b")],
    }
    found = copies(parts)
    assert [(f.code, f.file) for f in found] == [
        ("E-LEAKAGE", "BraTS-GLI-00003-000.nii.gz"),
        ("E-LEAKAGE", "BraTS-GLI-00001-001.nii.gz"),
    ]
    assert "voxel for voxel" in found[0].message
    assert "same patient as BraTS-GLI-00001-000" in found[1].message


def test_scans_to_test_on_that_were_trained_on(tmp_path: Path) -> None:
    write_balls(tmp_path)
    (tmp_path / "images").rename(tmp_path / "imagesTr")
    (tmp_path / "labels").rename(tmp_path / "labelsTr")
    (tmp_path / "imagesTs").mkdir()
    shutil.copy(tmp_path / "imagesTr" / "ball_1.nii.gz", tmp_path / "imagesTs" / "unknown.nii.gz")
    (found,) = inspect(tmp_path, ball_task()).findings
    assert (found.code, Path(str(found.file)).name) == ("E-LEAKAGE", "unknown.nii.gz")
    assert "test part" in found.message


def test_scans_to_test_on_may_be_numbered_anew(tmp_path: Path) -> None:
    write_balls(tmp_path, count=4)
    (tmp_path / "images").rename(tmp_path / "imagesTr")
    (tmp_path / "labels").rename(tmp_path / "labelsTr")
    write_balls(tmp_path / "new", count=7)
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "new" / "images" / "ball_6.nii.gz").rename(tmp_path / "imagesTs" / "ball_0.nii.gz")
    shutil.rmtree(tmp_path / "new")
    assert [f.code for f in inspect(tmp_path, ball_task()).findings] == ["W-LEAKAGE"]


def test_two_blank_images_are_no_copies(tmp_path: Path) -> None:
    write_balls(tmp_path)
    for name in ("ball_0", "ball_1"):  # one trains, one validates
        write_volume(Volume(np.zeros((1, 22, 20, 18), np.int16), np.eye(4)), tmp_path / "images" / f"{name}.nii.gz")
    assert [f.code for f in inspect(tmp_path, ball_task()).findings] == ["W-CONSTANT", "W-CONSTANT"]


def test_a_link_to_a_scan_is_the_same_scan(tmp_path: Path) -> None:
    write_balls(tmp_path, count=3)
    (tmp_path / "images" / "ball_9.nii.gz").symlink_to(tmp_path / "images" / "ball_0.nii.gz")
    assert [f.code for f in inspect(tmp_path / "images").findings] == ["W-SAME-CONTENT"]


@pytest.mark.parametrize(
    ("name", "word"),
    [("a:b", "it holds :"), ("con.1", "reserves"), ("a ", "blank"), ("ä" * 101, "200 bytes"), ("a\tb", "it holds")],
)
def test_names_that_not_every_system_takes(name: str, word: str) -> None:
    (found,) = names_of([(name, "x"), ("good", "y")])
    assert found.code == "W-NAME"
    assert word in found.message


def test_accents_written_in_two_ways_are_one_name() -> None:
    (found,) = names_of([("Mu\u0308ller", "x"), ("M\u00fcller", "y")])
    assert found.code == "E-SAME-NAME"


def test_values_above_255_are_kept(tmp_path: Path) -> None:
    """MONAI's writer makes 44 of 300 where uint8 is asked for."""
    labels = np.zeros((1, 4, 5, 6), np.uint16)
    labels[0, 1, 2, 3] = 300
    write_volume(Volume(labels, bad_nifti.AFFINE), tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").dataobj[1, 2, 3] == 300


def test_a_table_that_cannot_be_used(tmp_path: Path) -> None:
    write_balls(tmp_path, count=2)
    (tmp_path / "t.csv").write_text("image,label\nimages/ball_0.nii.gz,labels/absent.nii.gz\n")
    found = inspect(tmp_path / "t.csv", ball_task())
    assert [f.code for f in found.findings] == ["E-FILE-MISSING"]
    (tmp_path / "t.csv").write_text("image,label\nimages/ball_0.nii.gz,labels/ball_0.nii.gz\n")
    found = inspect(tmp_path / "t.csv", ball_task())
    assert [f.code for f in found.findings] == ["W-SPLIT"]
    assert found.labels["core"]["cases"] == 1


def test_copies_are_named_so_that_they_are_found(tmp_path: Path) -> None:
    write_balls(tmp_path / "one", count=1)
    write_balls(tmp_path / "two", count=1)
    (found,) = inspect(tmp_path).findings
    assert "one/images/ball_0.nii.gz" in found.message
    assert Path(str(found.file)) == tmp_path / "two" / "images" / "ball_0.nii.gz"


def test_channels_are_named_before_they_are_used(tmp_path: Path) -> None:
    """Nobody can see whether T1 and T2 are swapped; the mapping is said, and a name that is not known is refused."""
    task = ball_task(channels={"T1": [], "T2": []})
    for seed, name in enumerate(("a_t1", "a_t2", "b_T2", "b_T1")):
        data = np.random.default_rng(seed).normal(size=(1, 18, 18, 18)).astype(np.float32)
        write_volume(Volume(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    found = inspect(tmp_path, task)
    assert "channels: T1 <- t1 or T1, T2 <- t2 or T2" in found.heading
    assert [f.code for f in found.findings] == ["I-NO-LABELS"]


def test_whatever_a_header_says_it_is_read_or_refused(tmp_path: Path) -> None:
    """Random bytes in the header of a NIfTI file: an answer in words or an image with a place, never another error."""
    rng, sound, read_anyway = np.random.default_rng(0), bytes(bad_nifti.nifti()), 0
    telling = [*range(4), *range(40, 56), *range(70, 124), *range(252, 328), *range(344, 348)]
    for _ in range(300):
        raw = bytearray(sound)
        for place in rng.choice(telling, rng.integers(1, 4)):
            raw[place] = rng.integers(0, 256)
        (tmp_path / "scan.nii").write_bytes(raw)
        volume, findings = read(tmp_path / "scan.nii")
        assert volume is not None or findings[-1].severity == "error"
        if volume is not None:
            read_anyway += 1
            assert volume.data.size == bad_nifti.DATA.size
            assert min(volume.spacing_mm) > 0
    assert 50 < read_anyway < 250  # neither all nor nothing is taken


def test_the_table_in_docs_says_what_the_catalogues_say() -> None:
    text = (ROOT / "docs" / "bad_inputs.md").read_text(encoding="utf-8")
    kinds = {"NIfTI": bad_nifti.CASES, "NIfTI label": bad_nifti.LABEL_CASES, "DICOM": bad_dicom.CASES}
    for kind, cases in kinds.items():
        for case in cases:
            verdict = "refused" if case.refused else "right"
            assert f"| {kind}: {case.what} | {f'{verdict} {case.code or str()}'.strip()} |" in text
    assert all(f"| {case.what} | {case.code} |" in text for case in bad_labels.CASES)
    assert f"{sum(map(len, kinds.values()))} cases:" in text


def test_a_public_data_set_has_nothing_wrong() -> None:
    found = inspect(real_data("msd_task04_hippocampus"), load_task("hippocampus"))
    assert [f.code for f in found.findings] == ["I-PADDED"]
    assert found.labels["anterior"]["cases"] == found.cases == 192
