"""medseg3d info and convert: what is in a folder, and DICOM to NIfTI under names that tell nothing about the patient."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from medseg3d.checks import ConfigError, InputError
from medseg3d.cli import main
from medseg3d.io.conversion import convert
from medseg3d.io.description import describe
from medseg3d.io.headers import read_image_header
from medseg3d.io.images import read_volume, write_volume
from medseg3d.volume import Volume
from tests.dicom_series import noise, save_all, slices, truth, uid

CANARY = "ZZCANARY"
PATIENT = {
    "PatientName": f"{CANARY}^Jo",
    "PatientID": CANARY,
    "SeriesDescription": f"../../{CANARY}",
    "StudyID": CANARY,
}


def study(folder: Path) -> Path:
    """Three series: a good one, one with a gap, and a localizer."""
    save_all(slices(**PATIENT), folder, name="A")
    broken = slices(noise(seed=7), SeriesInstanceUID=uid("gap"), SeriesNumber=2, **PATIENT)
    save_all(broken[:3] + broken[4:], folder, name="B")
    scout = {"SeriesInstanceUID": uid("scout"), "SeriesNumber": 3, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    save_all(slices(noise(3, seed=8), **scout), folder, name="C")
    (folder / "notes.txt").write_text("a note")
    return folder


def test_convert_writes_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = study(tmp_path / "in"), tmp_path / "out"
    assert main(["convert", "-i", str(folder), "-o", str(out)]) == 3
    said = capsys.readouterr()
    assert "1 of 2 series are converted" in said.out
    assert "series 2 is refused" in said.err
    assert "E-MISSING-SLICE" in said.err
    names = sorted(p.name for p in out.iterdir())
    good, refused = names[0].removesuffix(".json"), names[2]
    assert re.fullmatch(r"series_01_[0-9a-f]{8}", good)
    assert names == [f"{good}.json", f"{good}.nii.gz", refused]
    volume = read_volume(out / f"{good}.nii.gz")
    assert volume.data.dtype == np.int16
    np.testing.assert_array_equal(volume.canonical().data, truth(noise()).canonical().data)
    np.testing.assert_allclose(volume.canonical().affine, truth(noise()).canonical().affine, atol=1e-4)
    found = json.loads((out / f"{good}.json").read_text())
    assert found["nifti"] == f"{good}.nii.gz"
    assert found["series"]["spacing_mm"] == [0.7, 0.8, 3.0]
    assert found["values"] == {"dtype": "int16", "min": -1000.0, "max": 1499.0}
    assert [f["code"] for f in found["folder"]] == ["I-SKIPPED"]
    found = json.loads((out / refused).read_text())
    assert found["nifti"] is None
    assert found["refused"]["code"] == "E-MISSING-SLICE"


def test_nothing_that_is_written_names_the_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = study(tmp_path / "in"), tmp_path / "out"
    main(["convert", "-i", str(folder), "-o", str(out), "--json"])
    main(["info", str(folder), "--json"])
    said = capsys.readouterr()
    from isal import igzip

    written = [igzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in out.iterdir()]
    everything = b"".join(written) + (said.out + said.err + str(sorted(out.iterdir()))).encode()
    assert CANARY.encode() not in everything
    assert uid("series").encode() not in everything


def test_one_series_by_number_and_by_uid(tmp_path: Path) -> None:
    folder = study(tmp_path / "in")
    for wanted in ("1", uid("series")):
        result = convert(folder, tmp_path / "out", series=wanted)
        assert list(result.written) == [1]
        assert not result.failed
    with pytest.raises(InputError, match="no series '7'"):
        convert(folder, tmp_path / "out", series=7)
    assert list(convert(folder, tmp_path / "out", series=2).failed) == [2]
    assert main(["convert", "-i", str(folder), "-o", str(tmp_path / "out"), "--series", "2"]) == 4


def test_a_series_that_is_damaged_inside_leaves_no_nifti(tmp_path: Path) -> None:
    from pydicom.uid import JPEG2000Lossless

    save_all(slices(), tmp_path / "in", JPEG2000Lossless)
    file = sorted((tmp_path / "in").iterdir())[4]
    content = file.read_bytes()
    start = content.rindex(b"\xff\x4f\xff\x51")
    file.write_bytes(content[:start] + bytes(40) + content[start + 40 :])
    result = convert(tmp_path / "in", tmp_path / "out")
    assert {n: f.code for n, f in result.failed.items()} == {1: "E-CORRUPT"}
    assert [p.suffix for p in (tmp_path / "out").iterdir()] == [".json"]


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no DICOM file"):
        convert(tmp_path, tmp_path / "out")
    (tmp_path / "a.txt").write_text("text")
    assert main(["convert", "-i", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert main(["convert", "-i", str(tmp_path / "a.txt"), "-o", str(tmp_path / "out")]) == 5
    assert not (tmp_path / "out").exists()


# What is in a folder


def test_info_lists_series_and_what_speaks_against_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(study(tmp_path))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}: DICOM, 3 series"
    assert lines[2].split()[:2] == ["1", describe(tmp_path).as_dict()["series"][0]["id"]]
    assert "40 x 36 x 8  0.7 x 0.8 x 3  LPS" in lines[2]
    assert CANARY in lines[2]  # on the screen alone
    assert any(line.startswith("  series 2: error: 1 slice is missing") for line in lines)
    assert any(line.startswith("  info: no part of a series: 1 not DICOM (notes.txt)") for line in lines)


def test_info_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(study(tmp_path)), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [s["shape"] for s in found["series"]] == [[40, 36, 8], [40, 36, 7], [40, 36, 3]]
    first = found["series"][0]
    assert (first["modality"], first["units"], first["orientation"], first["files"]) == ("CT", "HU", "LPS", 8)
    assert first["affine"][0] == [-0.7, 0.0, 0.0, 10.0]
    assert [f["code"] for f in found["series"][1]["findings"]] == ["E-MISSING-SLICE"]
    assert [f["code"] for f in found["findings"]] == ["I-SKIPPED"]
    assert found["images"] == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.int16), (3, np.float32), (1, np.uint8)], ids=["int16", "float32", "uint8"]
)
def test_headers_of_image_files(tmp_path: Path, suffix: str, channels: int, dtype: type) -> None:
    affine = truth(noise()).affine
    write_volume(Volume(np.zeros((channels, 4, 5, 6), dtype), affine), tmp_path / f"a{suffix}")
    header = read_image_header(tmp_path / f"a{suffix}")
    assert header.grid is not None
    assert header.grid.shape == (4, 5, 6)
    np.testing.assert_allclose(header.grid.affine, affine, atol=1e-5)
    assert (header.channels, header.dtype, header.findings) == (channels, np.dtype(dtype).name, ())


def test_info_of_image_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(truth(noise()), tmp_path / "sub" / "scan.nii.gz")
    write_volume(Volume(np.zeros((3, 20, 30), np.uint8), np.eye(3)), tmp_path / "photo.png")
    (tmp_path / "bad.nii.gz").write_bytes(b"no gzip")
    assert main(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"sub/scan\.nii\.gz +40 x 36 x 8 +0\.7 x 0\.8 x 3 +LPS +1 +float32", said)
    assert re.search(r"photo\.png +20 x 30 +1 x 1 +- +3 +uint8", said)
    assert "E-NOT-NIFTI" in said
    assert main(["info", str(tmp_path / "photo.png")]) == 0
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / "empty")]) == 2
    assert main(["info", str(tmp_path / "nowhere")]) == 2


def test_info_loads_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    save_all(slices(), tmp_path)
    code = (
        "import sys; from medseg3d.cli import main; main(['info', sys.argv[1]]); "
        "print(*{'torch', 'monai', 'highdicom', 'SimpleITK'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
