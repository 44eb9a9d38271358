"""Reports and previews: what a page says, and that it says no paths or names."""

from __future__ import annotations

import base64
import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg3d.checks import ConfigError, InputError
from medseg3d.io import write_volume
from medseg3d.io.colours import label_colour
from medseg3d.report import case as case_module
from medseg3d.report import preview, view, write_report
from medseg3d.report.quick_look import is_label_map
from medseg3d.report.quick_look import table as preview_table
from medseg3d.volume import Volume
from tests.report_helpers import CANARY, LABELS, SPACING, make_evaluation, make_run

# --- pages


def data_of(html, rank=1):
    return json.loads(re.search(rf'id="data-{rank}">(.*?)</script>', html, re.S)[1])


def test_an_evaluation_becomes_one_page(tmp_path):
    folders = make_evaluation(tmp_path)
    file = write_report(
        folders["scores"],
        tmp_path / "out",
        data=folders["data"],
        prediction=folders["prediction"],
        task=folders["task"],
    )
    assert file == tmp_path / "out" / "report.html"
    html = file.read_text(encoding="utf-8")
    sections = html.split('<section class="case"')[1:]
    assert [re.search(r"</span> (\S+)</h3>", s)[1] for s in sections] == ["missed", "shifted", "same"]
    assert "tumour was missed: the prediction has none of it." in sections[0]
    assert all(len(s.encode()) <= 300_000 for s in sections)
    rows = list(csv.DictReader((folders["scores"] / "per_case.csv").open(encoding="utf-8")))
    one = next(r for r in rows if r["case"] == "shifted" and r["label"] == "organ")
    assert f">{float(one['dice']):.3f}<" in html
    assert f">{float(one['volume_reference_ml']):.2f}<" in html
    assert ">∞<" in html
    data = data_of(html)
    assert data["shape"] == [20, 24, 8]
    assert data["spacing"] == list(SPACING)
    assert data["focus"] == "tumour"
    assert [name for name, _ in data["names"]] == list(LABELS)


def test_a_page_needs_no_network_and_says_no_paths_or_names(tmp_path):
    folders = make_evaluation(tmp_path / CANARY)
    (folders["prediction"] / "shifted.nii.gz").write_bytes(b"broken")
    html = write_report(
        folders["scores"],
        tmp_path / "r.html",
        data=folders["data"],
        prediction=folders["prediction"],
        task=folders["task"],
    ).read_text(encoding="utf-8")
    assert CANARY.lower() not in html.lower()
    assert CANARY.encode() not in b"".join(base64.b64decode(m) for m in re.findall(r"[A-Za-z0-9+/]{400,}={0,2}", html))
    assert str(tmp_path) not in html
    assert "default-src 'none'" in html
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[\w/.:]+""", html.split("<script>")[0])
    assert not re.findall(r"https?://(?!www\.w3\.org)|fetch\(|XMLHttpRequest|import\(", html)
    assert html.count("No picture:") == 1  # one broken file leaves the others
    assert html.count('<script type="application/json"') == 2


def test_cases_can_be_numbered_instead_of_named(tmp_path):
    folders = make_evaluation(tmp_path, names={"same": "doe_jane", "shifted": "roe_richard", "missed": "poe_paul"})
    summary = json.loads((folders["scores"] / "summary.json").read_text(encoding="utf-8"))
    summary["failed"] = [
        {"case": "moe_mary", "code": "E-GRID", "message": "moe_mary is wrong in /data/moe_mary.nii.gz"}
    ]
    summary["unmatched_reference"] = ["loe_lucy"]
    (folders["scores"] / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    options = {"data": folders["data"], "prediction": folders["prediction"], "task": folders["task"]}
    html = write_report(folders["scores"], tmp_path / "r.html", anonymous=True, **options).read_text(encoding="utf-8")
    assert not re.findall(r"[drpml]oe_", re.sub(r"[A-Za-z0-9+/]{100,}", "", html))
    assert "case 03" in html
    named = write_report(folders["scores"], tmp_path / "n.html", **options).read_text(encoding="utf-8")
    assert "moe_mary: failed" in named
    assert "loe_lucy" in named
    assert "/data/" not in named


def test_only_the_worst_cases_get_pictures(tmp_path):
    folders = make_evaluation(tmp_path)
    options = {"data": folders["data"], "prediction": folders["prediction"], "task": folders["task"]}
    html = write_report(folders["scores"], tmp_path / "r.html", cases=1, **options).read_text(encoding="utf-8")
    assert html.count('<section class="case"') == 1
    assert "the 1 worst of 3" in html
    assert html.count('<tr data-label="organ">') == 3  # the table has all


def test_an_evaluation_alone_is_a_page_without_pictures(tmp_path):
    folders = make_evaluation(tmp_path)
    html = write_report(folders["scores"], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No pictures" in html
    assert "<section" not in html
    with pytest.raises(ConfigError, match="all three"):
        write_report(folders["scores"], tmp_path / "r.html", images=folders["data"])


def test_an_unknown_task_or_channel_or_folder_is_said(tmp_path):
    folders = make_evaluation(tmp_path)
    options = {"data": folders["data"], "prediction": folders["prediction"]}
    with pytest.raises(ConfigError, match="--task"):
        write_report(folders["scores"], tmp_path / "r.html", **options)
    with pytest.raises(ConfigError, match="'PET' is none of CT, late"):
        write_report(folders["scores"], tmp_path / "r.html", task=folders["task"], channels=["PET"], **options)
    with pytest.raises(ConfigError, match="neither a run directory"):
        write_report(tmp_path, tmp_path / "r.html")


def test_chosen_channels_are_shown_in_their_order(tmp_path):
    folders = make_evaluation(tmp_path)
    options = {"data": folders["data"], "prediction": folders["prediction"], "task": folders["task"]}
    html = write_report(folders["scores"], tmp_path / "r.html", channels=["late"], **options).read_text(
        encoding="utf-8"
    )
    assert [c["name"] for c in data_of(html)["channels"]] == ["late"]


def test_a_scan_on_another_grid_is_said_and_not_drawn(tmp_path):
    folders = make_evaluation(tmp_path)
    scan = folders["data"] / "imagesTr" / "same_0000.nii.gz"
    for channel in (0, 1):
        other = Volume(np.zeros((1, 9, 9, 9), np.int16), np.eye(4))
        write_volume(other, scan.with_name(f"same_000{channel}.nii.gz"))
    options = {"data": folders["data"], "prediction": folders["prediction"], "task": folders["task"]}
    html = write_report(folders["scores"], tmp_path / "r.html", **options).read_text(encoding="utf-8")
    assert "No picture: the scan lies on another grid than its labels: size (9, 9, 9) against (20, 24, 8)" in html


def test_intervals_of_the_evaluation_are_shown(tmp_path):
    folders = make_evaluation(tmp_path)
    summary = json.loads((folders["scores"] / "summary.json").read_text(encoding="utf-8"))
    for found in summary["labels"].values():
        for metric in ("dice", "hd95_mm"):
            found[metric] |= {"ci_low": 0.125, "ci_high": 0.875}
    (folders["scores"] / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    html = write_report(folders["scores"], tmp_path / "r.html").read_text(encoding="utf-8")
    mean = summary["labels"]["tumour"]["dice"]["mean"]
    assert f">{mean:.3f} [0.125, 0.875]<" in html
    assert html.count('class="interval"') == 2
    assert "Dice<br>mean [95 % CI]" in html


def test_a_run_shows_its_curves_and_its_validation_cases(tmp_path):
    run = make_run(tmp_path)
    html = write_report(run, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Training loss" in html
    assert "phantoms" in html
    assert "<dd>segformer 3D</dd>" in html
    assert str(tmp_path) not in html
    assert html.count('<section class="case"') == 3
    (run.parent / "data").rename(tmp_path / "moved")
    assert "not on this machine" in write_report(run, tmp_path / "r.html").read_text(encoding="utf-8")
    again = write_report(run, tmp_path / "r.html", data=tmp_path / "moved").read_text(encoding="utf-8")
    assert again.count('<section class="case"') == 3


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path):
    run = make_run(tmp_path)
    (run / "metrics.csv").unlink()
    (run / "validation" / "per_case.csv").unlink()
    assert "no scored validation cases" in write_report(run, tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_classification_shows_its_confusion_and_wrong_cases_first(tmp_path):
    (tmp_path / "per_case.csv").write_text(
        "case,reference,predicted,correct\na,round,round,1\nb,star,round,0\n", encoding="utf-8"
    )
    confusion = {"round": {"round": 1, "star": 0}, "star": {"round": 1, "star": 0}}
    summary = {"task": "shapes", "accuracy": 0.5, "confusion": confusion, "failed": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    html = write_report(tmp_path, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<b>0.500</b>accuracy" in html
    assert html.index(">b</td>") < html.index(">a</td>")


def test_every_case_fits_its_share_of_twenty(tmp_path, monkeypatch):
    assert 20 * case_module.CASE_BYTES < 7_000_000
    folders = make_evaluation(tmp_path, noise=True, shape=(120, 130, 90))
    options = {"data": folders["data"], "prediction": folders["prediction"], "task": folders["task"]}
    html = write_report(folders["scores"], tmp_path / "r.html", cases=1, **options).read_text(encoding="utf-8")
    section = html.split('<section class="case"')[1].split("<footer")[0]
    assert 150_000 < len(section.encode()) <= 300_000


# --- preview


def test_a_preview_has_numbers_and_three_planes(tmp_path):
    data = np.zeros((1, 10, 20, 5), np.int16)
    data[0, 9, 19, 4] = 300
    labels = np.zeros((1, 10, 20, 5), np.uint8)
    labels[0, 2:4, 3:6, 1:3] = 7
    affine = np.diag([2.0, 1.0, 4.0, 1.0])
    write_volume(Volume(data, affine), tmp_path / "a.nii.gz")
    write_volume(Volume(labels, affine), tmp_path / "l.nii.gz")
    found = preview(tmp_path / "a.nii.gz", tmp_path / "a.png", labels=tmp_path / "l.nii.gz")
    assert found["shape"] == [10, 20, 5]
    assert found["spacing_mm"] == [2, 1, 4]
    assert found["size_mm"] == [20, 20, 20]
    assert found["orientation"] == "RAS"
    assert found["labels"] == {"7": {"voxels": 12, "volume_ml": pytest.approx(12 * 8 / 1000)}}
    assert (found["intensities"][0]["min"], found["intensities"][0]["max"]) == (0, 300)
    assert "label 7: 12 voxels, 0.10 ml" in preview_table(found)
    json.dumps(found)
    with Image.open(tmp_path / "a.png") as picture:
        width, height = picture.size
        pixels = np.asarray(picture)
    assert width == pytest.approx(3 * height + 12, abs=3)  # three squares of 20 mm
    marked = np.argwhere((pixels == label_colour(7)).all(-1))
    axial = marked[marked[:, 1] < height]
    rows, columns = (axial.min(0) + axial.max(0) + 1) / 2 / height
    assert rows == pytest.approx(1 - 4.5 / 20, abs=0.01)  # y from 3 to 6 of 20, anterior at the top
    assert columns == pytest.approx(1 - 3 / 10, abs=0.01)  # x from 2 to 4 of 10, right on the left


def test_a_label_map_is_recognised_and_painted(tmp_path):
    labels = np.zeros((1, 9, 9, 9), np.uint8)
    labels[0, 3:6, 3:6, 3:6] = 1
    write_volume(Volume(labels, np.eye(4)), tmp_path / "l.nii.gz")
    found = preview(tmp_path / "l.nii.gz", tmp_path / "l.png")
    assert found["labels"] == {"1": {"voxels": 27, "volume_ml": 0.027}}
    assert is_label_map(labels)
    assert not is_label_map(np.arange(1000, dtype=np.int16).reshape(1, 10, 10, 10))
    assert not is_label_map(labels.astype(np.float32))


def test_a_preview_of_nan_shows_the_rest_and_says_so(tmp_path):
    data = np.ones((1, 4, 4, 4), np.float32)
    data[0, 0, 0, 0] = np.nan
    write_volume(Volume(data, np.eye(4)), tmp_path / "a.nii.gz")
    assert "1 of 64 voxels" in preview(tmp_path / "a.nii.gz", tmp_path / "a.png")["warnings"][0]


def test_a_preview_refuses_labels_of_another_grid(tmp_path):
    write_volume(Volume(np.ones((1, 4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    write_volume(Volume(np.ones((1, 5, 4, 4), np.uint8), np.eye(4)), tmp_path / "l.nii.gz")
    with pytest.raises(InputError, match="another grid"):
        preview(tmp_path / "a.nii.gz", tmp_path / "a.png", labels=tmp_path / "l.nii.gz")


def test_a_picture_has_a_preview_without_volumes(tmp_path):
    write_volume(Volume(np.zeros((3, 8, 6), np.uint8), np.eye(3)), tmp_path / "a.png")
    found = preview(tmp_path / "a.png", tmp_path / "p.png")
    assert found["shape"] == [8, 6]
    assert found["orientation"] is None


def test_a_notebook_gets_the_viewer_or_the_widget(tmp_path, monkeypatch):
    for name, data in (("a", np.full((1, 6, 6, 6), 9, np.int16)), ("l", np.ones((1, 6, 6, 6), np.uint8))):
        write_volume(Volume(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    monkeypatch.setitem(sys.modules, "ipyniivue", None)  # as if it were not installed
    shown_there = view(tmp_path / "a.nii.gz", reference=tmp_path / "l.nii.gz")
    assert shown_there._repr_html_().startswith("<iframe srcdoc=")
    assert data_of(shown_there.html)["names"] == [["1", [1]]]
    assert str(tmp_path) not in shown_there.html
    loaded: list[dict[str, Any]] = []
    widget = SimpleNamespace(load_volumes=loaded.extend)
    monkeypatch.setitem(sys.modules, "ipyniivue", SimpleNamespace(NiiVue=lambda: widget))
    assert view(tmp_path / "a.nii.gz", prediction=tmp_path / "l.nii.gz") is widget
    assert [Path(layer["path"]).name for layer in loaded] == ["a.nii.gz", "l.nii.gz"]
