"""Lesion by lesion: the rule from the command line, and what the report shows of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medseg3d.cli import main
from medseg3d.metrics import LesionRule
from medseg3d.report import write_report
from tests.report_helpers import make_data, make_evaluation


def cells(html: str, words: str) -> list[str]:
    """The cells of the first row that begins with these words."""
    row = next(
        r for r in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.S) if re.sub("<[^>]+>", " ", r).split()[:1] == [words]
    )
    return [re.sub("<[^>]+>", "", c) for c in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]


def test_the_report_counts_lesions(tmp_path: Path) -> None:
    """One tumour of 240 mm3 a case: found in two cases, missed in the third."""
    scores = make_evaluation(tmp_path, lesions=LesionRule(smallest_mm3=100))["scores"]
    html = write_report(scores, tmp_path / "report.html").read_text(encoding="utf-8")
    table = html[html.index("Lesion by lesion") : html.index("All cases, worst first")]
    assert cells(table, "organ")[:5] == ["organ", "3", "3", "0", "0"]
    assert cells(table, "tumour")[:5] == ["tumour", "3", "2", "1", "0"]
    assert '<td class="miss" data-value="1">1</td>' in table
    assert "within 3 voxels; those of the reference up to 100 mm³ do not count" in table
    assert "Dice 0 and 374 mm" in table
    cases = html[html.index("All cases, worst first") :]
    assert '<td data-value="0"><span class="miss">0 of 1</span></td>' in cases
    assert '<td data-value="1"><span>1 of 1</span></td>' in cases


def test_a_false_lesion_is_told(tmp_path: Path) -> None:
    """Named the other way round, the missed tumour is an invented one."""
    folders = make_data(tmp_path)
    command = ["evaluate", "--reference", folders["prediction"], "--prediction", folders["data"] / "labelsTr"]
    command += ["--task", folders["task"], "--lesions", "-o", tmp_path / "scores", "--quiet"]
    assert main([str(word) for word in command]) == 0
    html = write_report(tmp_path / "scores", tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<span>0 of 0</span>, <span class="fp">1 false</span>' in html


def test_no_lesions_no_table(tmp_path: Path) -> None:
    html = write_report(make_evaluation(tmp_path)["scores"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "lesion" not in html.lower()


def test_the_rule_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = make_data(tmp_path)
    command = ["evaluate", "--reference", str(folders["data"] / "labelsTr"), "--prediction", str(folders["prediction"])]
    command += ["--task", str(folders["task"]), "--json"]
    rule = ["--lesion-dilation", "1", "--lesion-smallest", "239.5", "--lesion-penalty", "100", "--percentile", "90"]
    assert main([*command, "--lesions", *rule]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["lesions"] == {"dilation_voxels": 1, "smallest_mm3": 239.5, "penalty_mm": 100, "percentile": 90}
    assert said["labels"]["tumour"]["n_lesions"] == 3
    assert said["labels"]["tumour"]["lesion_hd90_mm"]["mean"] > 100 / 3
    assert main([*command, "--lesions", "--lesion-smallest", "240"]) == 0  # up to 240 mm3 they do not count
    assert json.loads(capsys.readouterr().out)["labels"]["tumour"]["n_lesions"] == 0
    assert main([*command, "--lesion-penalty", "100"]) == 2
    assert "give --lesions, too" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [("--lesion-dilation", "1.5"), ("--lesion-dilation=-1",), ("--lesion-penalty", "nan"), ("--lesion-smallest=-1",)],
)
def test_what_is_no_rule(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--reference", "a", "--prediction", "b", "--task", "brats", "--lesions", *words])
    assert ended.value.code == 2
    assert "0 or more" in capsys.readouterr().err
