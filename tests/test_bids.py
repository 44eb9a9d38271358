"""Results under the names of BIDS derivatives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg3d.cli import main
from medseg3d.inference.bids import bids_name
from tests.test_ensembles import MIRRORED, save_noise
from tests.test_predictor import save_model


@pytest.mark.parametrize(
    ("name", "folder", "entities"),
    [
        ("sub-01_T1w", "sub-01/anat", "sub-01"),
        ("sub-01_ses-2_run-1_space-MNI_T1w", "sub-01/ses-2/anat", "sub-01_ses-2_run-1"),
        ("BraTS-GLI_00005-100", "sub-BraTSGLI00005100/anat", "sub-BraTSGLI00005100"),
        ("ses-1_x", "sub-ses1x/anat", "sub-ses1x"),
    ],
)
def test_names(name: str, folder: str, entities: str) -> None:
    assert bids_name(name) == (Path(folder), entities)


def test_a_tree_of_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "run", MIRRORED)
    save_noise(tmp_path / "noise", "abc")
    (tmp_path / "in").mkdir()
    for old, new in (("a", "sub-01_ses-1_T1w"), ("b", "p.1"), ("c", "p_1")):
        (tmp_path / "noise" / f"{old}.nii.gz").rename(tmp_path / "in" / f"{new}.nii.gz")
    out = tmp_path / "out"
    words = ["predict", "--model", tmp_path / "run", "-i", tmp_path / "in", "-o", out, "--layout", "bids"]
    assert main([str(w) for w in [*words, "--probabilities"]]) == 0
    assert "the BIDS name of another case" in capsys.readouterr().err
    root = out / "bids"
    stem = root / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_space-orig_desc-mirrored_dseg"
    assert {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} == {
        "dataset_description.json",
        "desc-mirrored_dseg.tsv",
        *(
            f"{folder}/{name}_space-orig_desc-mirrored_{suffix}"
            for folder, name in (("sub-01/ses-1/anat", "sub-01_ses-1"), ("sub-p1/anat", "sub-p1"))
            for suffix in ("dseg.nii.gz", "dseg.json", "probseg.nii.gz", "probseg.json")
        ),
    }
    assert Path(f"{stem}.nii.gz").samefile(out / "sub-01_ses-1_T1w.nii.gz")
    about = json.loads(Path(f"{stem}.json").read_text())
    assert about["Sources"] == ["sub-01_ses-1_T1w.nii.gz"]
    assert json.loads(Path(f"{stem}.json".replace("dseg", "probseg")).read_text())["LabelMap"] == [
        "background",
        "x",
        "y",
    ]
    assert json.loads((root / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert (root / "desc-mirrored_dseg.tsv").read_text().splitlines()[2] == "1\tx\t#E69F00"
    main([str(w) for w in [*words, "--overwrite"]])
    assert Path(f"{stem}.nii.gz").samefile(out / "sub-01_ses-1_T1w.nii.gz"), "the new file, not the old one"
