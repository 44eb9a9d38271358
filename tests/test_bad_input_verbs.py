"""Bad input on the command line: exit codes, the same words in every verb, never a stack trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from medseg3d.checks import InputError, MedSegError
from medseg3d.cli import main
from medseg3d.inspection import inspect
from medseg3d.io import read_volume
from tests import bad_dicom, bad_labels, bad_nifti
from tests.bad_input import BadInput
from tests.test_predictor import save_model
from tests.training_helpers import ball_task, write_balls

Run = Callable[..., tuple[int, str, str]]
CASES = {f"{kind}: {c.name}": c for kind, m in (("nifti", bad_nifti), ("dicom", bad_dicom)) for c in m.CASES}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of a verb; a stack trace is a failure."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(w) for w in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return call


@pytest.fixture
def task(tmp_path: Path) -> Path:
    file = tmp_path / "ball.yaml"
    file.write_text(yaml.safe_dump(ball_task().as_dict()))
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    save_model(folder, ball_task())
    return folder


def made(name: str, folder: Path) -> tuple[BadInput, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return CASES[name], CASES[name].make(folder).path


def words_of(path: Path) -> str:
    """What the reader says of a file, without its name."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    finding = caught.value.finding
    return f"{finding.message}; {finding.fix} [{finding.code}]"


@pytest.mark.parametrize("name", ["nifti: gz cut in half", "nifti: no form", "dicom: missing slice", "dicom: ZIP"])
def test_check_refuses(name: str, run: Run, tmp_path: Path) -> None:
    case, path = made(name, tmp_path / "in")
    code, out, _ = run("check", path)
    assert code == 5
    assert out.count("error: ") == out.count(f"[{case.code}]") == 1
    assert out.rstrip().endswith("1 error and 0 warnings")
    code, out, _ = run("check", path, "--json")
    found = json.loads(out)
    assert (code, found["errors"], [f["code"] for f in found["findings"]]) == (5, 1, [case.code])
    assert set(found["findings"][0]) == {"code", "severity", "file", "message", "fix"}


@pytest.mark.parametrize("name", ["nifti: forms differ", "dicom: localizer"])
def test_check_warns(name: str, run: Run, tmp_path: Path) -> None:
    case, path = made(name, tmp_path / "in")
    code, out, _ = run("check", path)
    assert (code, out.count(f"[{case.code}]")) == (0, 1)
    assert "no error, 1 warning" in out
    assert run("check", path, "--strict")[0] == 5


def test_check_of_a_sound_data_set_and_of_nothing(run: Run, task: Path, tmp_path: Path) -> None:
    write_balls(tmp_path / "data")
    code, out, err = run("check", tmp_path / "data", "--task", task)
    assert (code, err) == (0, "")
    assert "core   in 5 of 5 cases, 913 voxels (2.31%)" in out
    assert out.endswith("nothing to complain about\n")
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "absent"):
        code, _, err = run("check", wrong, "--task", task)
        assert (code, err.count("medseg3d: error:")) == (2, 1)
        assert run("check", wrong)[0] == 2


def test_many_findings_of_a_kind_are_counted(run: Run, tmp_path: Path) -> None:
    write_balls(tmp_path, count=8)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-300])
    code, out, _ = run("check", tmp_path)
    assert code == 5
    assert out.count("error: images/ball_") == 5
    assert "error: ... and 3 more of the kind [E-TRUNCATED]" in out
    assert "8 errors and 0 warnings" in out


def test_one_wording_in_every_verb(run: Run, task: Path, model: Path, tmp_path: Path) -> None:
    """A scan that is cut short, and one that does not say where it lies, in the hands of every verb."""
    for number, name in enumerate(("nifti: nii cut in half", "nifti: no form")):
        case, file = made(name, tmp_path / f"made {number}")
        data = write_balls(tmp_path / f"data {number}")
        target = data / "images" / f"{bad_labels.SPOILT}.nii.gz"
        target.unlink()
        target = shutil.copy(file, target.with_name(f"{bad_labels.SPOILT}{''.join(file.suffixes)}"))
        words = words_of(target)
        assert f"[{case.code}]" in words
        code, out, _ = run("check", data, "--task", task)
        assert (code, out.count(words)) == (5, 1)
        code, _, err = run("train", "--task", task, "--data", data, "-o", data / "run")
        assert (code, err.count(words)) == (5, 1)
        code, _, err = run("predict", "--model", model, "-i", data / "images", "-o", data / "out", "--device", "cpu")
        assert code == 3
        assert f"failed: {bad_labels.SPOILT}: {words}" in err
        shutil.copytree(data / "labels", data / "predictions")
        (data / "predictions" / f"{bad_labels.SPOILT}.nii.gz").unlink()
        shutil.copy(target, data / "predictions")
        code, _, err = run(
            "evaluate", "--reference", data / "labels", "--prediction", data / "predictions", "--task", task
        )
        assert code == 3
        assert words in err


def test_predict_and_evaluate_where_nothing_is_good(run: Run, task: Path, model: Path, tmp_path: Path) -> None:
    _, path = made("nifti: NaN", tmp_path / "in")
    code, _, err = run("predict", "--model", model, "-i", path, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 4
    assert "2 of 960 voxels are NaN or infinite" in err
    code, _, err = run(
        *("predict", "--model", model, "-i", path, "-o", tmp_path / "out", "--device", "cpu", "--nonfinite", "zero")
    )
    assert code == 0
    assert "2 of 960 voxels are NaN or infinite; they are read as 0" in err
    code, _, err = run("evaluate", "--reference", path.parent, "--prediction", path.parent, "--task", task)
    assert code == 4
    assert "E-LABEL-FRACTION" in err


@pytest.mark.parametrize(
    ("name", "code"),
    [("missing slice", 4), ("truncated pixels", 4), ("time points", 4), ("ZIP", 5), ("no DICOM", 2), ("junk", 0)],
)
def test_convert(name: str, code: int, run: Run, tmp_path: Path) -> None:
    case, path = made(f"dicom: {name}", tmp_path / "in")
    got, _, err = run("convert", "-i", path, "-o", tmp_path / "out")
    assert got == code
    if case.refused and code != 2:
        assert err.count(f"[{case.code}]") == 1
        assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_the_words_of_convert_are_those_of_check(run: Run, tmp_path: Path) -> None:
    _, path = made("dicom: variable spacing", tmp_path / "in")
    (finding,) = inspect(path).findings
    assert f"{finding.message}; {finding.fix} [{finding.code}]" in run("convert", "-i", path, "-o", tmp_path / "out")[2]


def test_debug_shows_where(run: Run, task: Path, tmp_path: Path) -> None:
    write_balls(tmp_path / "data", count=1)
    with pytest.raises(MedSegError):
        run("train", "--task", task, "--data", tmp_path / "data", "-o", tmp_path / "run", "--debug")


def test_an_orientation_that_the_user_knows(run: Run, tmp_path: Path) -> None:
    """What is refused everywhere can be mended: the fix that the message names."""
    _, file = made("nifti: no form", tmp_path / "in")
    assert "convert --assume-orientation RAS" in words_of(file)
    shutil.copy(made("nifti: oblique", tmp_path / "other")[1], tmp_path / "in" / "oblique.nii.gz")
    code, out, err = run("convert", "-i", tmp_path / "in", "-o", tmp_path / "out", "--assume-orientation", "lps")
    assert (code, out) == (0, f"2 of 2 files are converted in {tmp_path / 'out'}\n")
    assert err.count("its axes are taken as LPS, and its centre as 0") == 1
    volume = read_volume(tmp_path / "out" / "scan.nii.gz")
    assert "".join(volume.axcodes) == "LPS"
    assert volume.spacing_mm == pytest.approx((1.5, 2, 3))
    assert (volume.affine @ [5.5, 4.5, 3.5, 1])[:3] == pytest.approx([0, 0, 0])
    assert (volume.data[0] == bad_nifti.DATA).all()
    kept = read_volume(tmp_path / "out" / "oblique.nii.gz")
    assert kept.grid.differs_from(read_volume(tmp_path / "in" / "oblique.nii.gz").grid) is None


@pytest.mark.parametrize(("codes", "output"), [("RAX", "out"), ("RL", "out"), ("RAR", "out"), ("RAS", "in")])
def test_an_orientation_that_cannot_be(codes: str, output: str, run: Run, tmp_path: Path) -> None:
    made("nifti: no form", tmp_path / "in")
    before = (tmp_path / "in" / "scan.nii.gz").read_bytes()
    code, _, err = run("convert", "-i", tmp_path / "in", "-o", tmp_path / output, "--assume-orientation", codes)
    assert (code, err.count("medseg3d: error:")) == (2, 1)
    assert (tmp_path / "in" / "scan.nii.gz").read_bytes() == before
