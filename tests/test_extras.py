"""What ``predict`` makes of label maps besides: statistics, previews, chosen labels, a file per label."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg3d.checks import ConfigError
from medseg3d.cli import main
from medseg3d.inference import batch
from medseg3d.inference.extras import kept_labels, only
from medseg3d.inference.folder import predict_folder
from medseg3d.inference.sidecar import read_sidecar
from medseg3d.inference.verify import verify
from medseg3d.io.colours import label_colour
from medseg3d.io.images import read_volume
from medseg3d.report import draw
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.test_ensembles import MIRRORED, save_noise
from tests.test_predictor import save_model

BRATS = Task("b", {"t1": []}, {"wt": [1, 2, 3], "tc": [1, 3], "et": [3]}, (8, 8, 8), write={"wt": 2, "tc": 1, "et": 3})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder, MIRRORED)
    return folder


def predict(run: Path, tmp_path: Path, *more: str) -> int:
    return main(["predict", "--model", str(run), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *more])


def listing(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_of_regions_the_last_that_is_kept_is_painted() -> None:
    labels = Volume(np.array([0, 1, 2, 3], np.uint8).reshape(1, 4, 1, 1), np.eye(4))

    def kept(*names: str) -> list[int]:
        return only(labels, BRATS, kept_labels(BRATS, names)).data.ravel().tolist()

    assert kept("wt") == [0, 2, 2, 2]
    assert kept("et") == [0, 0, 0, 3]
    assert kept("et", "WT") == [0, 2, 2, 3]
    assert kept("tc") == [0, 1, 0, 1]
    assert kept() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"no label 'liver'; it has wt, tc, et"):
        kept("liver")


def test_all_of_it_at_once(run: Path, tmp_path: Path) -> None:
    save_noise(tmp_path / "in", "pq")
    assert predict(run, tmp_path, "--statistics", "--preview", "--per-label") == 0
    out = tmp_path / "out"
    assert {"p/x.nii.gz", "p/y.nii.gz", "q/x.nii.gz", "p_preview.png", "statistics.csv"} <= listing(out)
    labels = read_volume(out / "p.nii.gz", labels=True)
    for name, value in (("x", 1), ("y", 2)):
        mask = read_volume(out / "p" / f"{name}.nii.gz", labels=True)
        np.testing.assert_array_equal(mask.data, labels.data == value)
        np.testing.assert_allclose(mask.affine, labels.affine)
    with (out / "statistics.csv").open(newline="") as file:
        rows = {(row["case"], row["label"]): row for row in csv.DictReader(file)}
    assert set(rows) == {("p", "x"), ("p", "y"), ("q", "x"), ("q", "y")}
    scan = read_volume(tmp_path / "in" / "p.nii.gz")
    for name, value in (("x", 1), ("y", 2)):
        inside = scan.data[labels.data == value]
        assert int(rows["p", name]["voxels"]) == inside.size
        assert float(rows["p", name]["volume_ml"]) == pytest.approx(inside.size * 3 / 1000)
        if inside.size:
            assert float(rows["p", name]["image_mean"]) == pytest.approx(inside.mean(dtype=float))
    with Image.open(out / "p_preview.png") as picture:
        assert picture.size[0] > 100


def test_they_come_later_without_predicting_again_and_go_with_the_labels(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_noise(tmp_path / "in")
    scans, out = tmp_path / "in", tmp_path / "out"
    assert predict_folder(run, scans, out).done == ["p"]
    with monkeypatch.context() as patch:
        patch.setattr(batch.Batch, "_predicted", None)
        again = predict_folder(run, scans, out, statistics=True, per_label=True)
    assert again.skipped == ["p"]
    assert {"statistics.csv", "p/x.nii.gz", "p/y.nii.gz"} <= listing(out)
    (out / "p" / "y.nii.gz").unlink()
    assert predict_folder(run, scans, out, per_label=True).skipped == ["p"]
    assert "p/y.nii.gz" in listing(out)
    subset = predict_folder(run, scans, out, roi_subset=["x"])
    assert subset.redone == {"p": "roi_subset is ['x'], and was None"}
    assert not (out / "p").exists()
    assert "statistics" not in (read_sidecar(out / "p.nii.gz.json") or {})


def test_a_subset_is_kept_and_can_be_verified(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_noise(tmp_path / "in")
    assert predict(run, tmp_path, "--precision", "float32") == 0
    before = read_volume(tmp_path / "out" / "p.nii.gz", labels=True).data
    assert len(np.unique(before[before > 0])) == 2, "both labels, so that there is something to leave out"
    assert predict(run, tmp_path, "--precision", "float32", "--roi_subset", "y", "--statistics", "--ml") == 0
    after = read_volume(tmp_path / "out" / "p.nii.gz", labels=True).data
    np.testing.assert_array_equal(after, np.where(before == 2, 2, 0))
    assert "\np,y," in (tmp_path / "out" / "statistics.csv").read_text()
    assert "\np,x," not in (tmp_path / "out" / "statistics.csv").read_text()
    found = verify(tmp_path / "out" / "p.nii.gz", model=run, input=tmp_path / "in")
    assert found.identical
    capsys.readouterr()
    assert predict(run, tmp_path, "--roi-subset", "liver") == 2
    assert "has no label 'liver'; it has x, y" in capsys.readouterr().err


def test_a_full_disk_costs_the_case(run: Path, tmp_path: Path) -> None:
    save_noise(tmp_path / "in", "pq")

    def fail_on_the_first(image: Volume, labels: Volume, path: Path) -> Any:
        if path.name == "p_preview.png":
            raise OSError("no room")

    result = predict_folder(run, tmp_path / "in", tmp_path / "out", draw=fail_on_the_first)
    assert result.done == ["q"]
    assert set(result.failed) == {"p"}


def test_the_picture_shows_the_contours_in_the_colours_of_the_labels(tmp_path: Path) -> None:
    labels = np.zeros((1, 20, 20, 20), np.uint8)
    labels[0, 5:15, 5:15, 5:15] = 1
    draw(Volume(np.zeros((1, 20, 20, 20), np.float32), np.eye(4)), Volume(labels, np.eye(4)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6) or ()}
    assert label_colour(1) in colours
