"""Every pipeline runs as it is, from its command line, on the sample data with a tiny network, and prints what it promises."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from medseg3d import sample_data_folder
from medseg3d.io import read_seg
from tests.shared import ROOT

TINY = [
    "network={widths: [8, 16, 20, 32], depths: [1, 1, 1, 1], heads: [1, 2, 5, 8], decoder_width: 16}",
    "epochs=1",
    "steps_per_epoch=2",
    "batch_size=1",
    "device=cpu",
]
HEADS = [*TINY, "spacing_mm=[6, 6, 6]", "patch_size=[32, 32, 32]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a pipeline in an empty folder and gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def pipeline(name: str, *words: object) -> str:
        file = ROOT / "pipelines" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(file), *map(str, words)])
        runpy.run_path(str(file), run_name="__main__")
        return capsys.readouterr().out

    return pipeline


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.stem)
def test_it_says_what_it_does_and_how_it_is_called(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert text.startswith('"""')
    assert f"    python pipelines/{file.name}" in text.split('"""')[1]
    modules = re.findall(r"^(?:from|import) (medseg3d[\w.]*)", text, flags=re.MULTILINE)
    documented = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert all(f"`{module}" in documented for module in modules)
    assert f"pipelines/{file.name}" in documented
    assert not re.search(r"import _|\._", text), "the public API alone"


def test_brats(run) -> None:
    said = run("brats", *HEADS)
    assert "mean of labels" in said
    assert re.search(r"head_\d+: WT [\d.]+ ml", said)
    assert Path(re.search(r"report: (.*)", said)[1]).stat().st_size > 100_000


@pytest.mark.slow
def test_hippocampus(run, tmp_path: Path) -> None:
    said = run("hippocampus", "folds=2", *HEADS)
    assert "mean of labels" in said
    assert "fold = 2, 12 cases" in said
    assert len(re.findall(r"head_\d+ \w\w: Dice", said)) == 5
    assert re.search(r"WT: cleaning .*, Dice [\d.]+ -> [\d.]+", said)
    assert Path(re.search(r"report: (.*)", said)[1]).is_file()
    assert len(list((tmp_path / "runs" / "brats-cv" / "predictions").glob("head_*.nii.gz"))) == 24


def test_dicom_seg(run, tmp_path: Path) -> None:
    settings = [*TINY, "spacing_mm=[8, 8, 8]", "patch_size=[32, 32, 32]"]
    said = run("dicom_seg", *settings)
    file = next((tmp_path / "segmentations").glob("*.seg.dcm"))
    segments = read_seg(file).segments
    assert f"{file.name}: {len(segments)} segments" in said
    assert all(re.search(rf"  {s.name}, .*SCT {s.type.value}\): ([\d.]+ ml|not found)", said) for s in segments)
    again = run("dicom_seg", sample_data_folder() / "ct" / "dicom", "runs/organ_ct-sample", "elsewhere")
    assert again == said, "with a model of one's own it is not trained"


@pytest.mark.slow
def test_per_slice(run) -> None:
    said = run("per_slice", *TINY)
    assert re.search(r"\nvolumes, [\d,]+ parameters:", said)
    assert re.search(r"\nslices, [\d,]+ parameters:", said)
    assert said.count("mean of labels") == 2
    assert "A: volumes, B: slices" in said


@pytest.mark.slow
def test_fine_tune(run) -> None:
    said = run("fine_tune", *[w for w in HEADS if "spacing" not in w and "patch" not in w])
    assert "began with {'weights': 'cells'" in said
    assert "A: random, B: inflated" in said
    assert said.count("mean of labels") == 2


def test_monai_bundle(run) -> None:
    said = run("monai_bundle", *HEADS)
    assert "5 cases: {'dice':" in said
    assert re.search(r"TC: dice [\d.]+, hd95_mm", said)


def test_torch_loop(run) -> None:
    said = run("torch_loop", 2)
    assert re.search(r"head_\d+: WT Dice [\d.]+, TC Dice", said)
