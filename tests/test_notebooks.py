"""The notebooks run as they are stored, and their stored outputs are what comes of running them."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from notebooks import execute
from tests.shared import ROOT

LARGEST_KB = 400
MACHINE = re.compile(r"/(home|root|tmp|usr|opt|work|Users|venv)/|site-packages|[A-Z]:\\|\bit/s\b|\d s\b|Warning")
"""Paths, times and warnings, none of which a reader needs."""
LONG = {"quickstart", "uncertainty_and_errors"}
"""Those that train."""


def text_of(cell: nbformat.NotebookNode) -> str:
    """What a cell printed or showed as text."""
    texts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", [])]
    return "\n".join(texts)


def kinds_of(cell: nbformat.NotebookNode) -> list[str]:
    """What kinds of output a cell has, pictures among them."""
    return [kind for o in cell.get("outputs", []) for kind in sorted(o.get("data", [o.get("name", o.output_type)]))]


def shape_of(text: str) -> str:
    """A text without its numbers: what stays where a training comes out a little different on another processor."""
    text = re.sub(r"\(\+ \d+ inf\)|\s", "", text)
    return re.sub(r"[-+]?\d+(\.\d+)?|\bnan\b|\binf\b", "#", text)


def differences(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[str]:
    """The cells whose outputs differ; of those tagged ``varies`` numbers may."""
    found = []
    for a, b in zip(stored.cells, fresh.cells, strict=True):
        same = shape_of if "varies" in a.metadata.get("tags", []) else str
        if kinds_of(a) != kinds_of(b) or same(text_of(a)) != same(text_of(b)):
            found.append(f"{a.id}:\n{text_of(a)}\n-- now --\n{text_of(b)}")
    return found


def mean_dice(notebook: nbformat.NotebookNode) -> list[float]:
    """The mean Dice of each table of scores."""
    texts = "\n".join(text_of(cell) for cell in notebook.cells)
    return [float(number) for number in re.findall(r"mean of labels +([\d.]+)", texts)]


def test_the_notebooks_that_there_are() -> None:
    assert execute.NAMES == ("metrics", "quickstart", "uncertainty_and_errors")
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.setuptools]")[2].partition("\n[")[0]
    assert "notebooks" not in listed  # in no wheel


@pytest.mark.parametrize("name", execute.NAMES)
def test_stored_outputs_are_whole_and_tell_nothing_of_a_machine(name: str) -> None:
    notebook = execute.read(name)
    nbformat.validate(notebook)
    assert (execute.FOLDER / f"{name}.ipynb").stat().st_size < LARGEST_KB * 1000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not {"stderr", "error"} & set(kinds_of(cell)), cell.id
        assert not MACHINE.search(text_of(cell)), cell.id
        assert kinds_of(cell).count("image/png") == cell.source.count("plt.show()"), cell.id
        assert bool(text_of(cell)) >= ("print(" in cell.source and "def " not in cell.source), cell.id
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("name", execute.NAMES)
def test_public_names_alone(name: str) -> None:
    source = "\n".join(cell.source for cell in execute.read(name).cells if cell.cell_type == "code")
    tree = ast.parse(source)
    used = [
        (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    used += [
        ("medseg3d", node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "medseg3d"
    ]
    ours = [(module, attribute) for module, attribute in used if module.startswith("medseg3d")]
    assert len(ours) > 3
    for module, attribute in ours:
        place = import_module(module)
        assert hasattr(place, attribute)
        assert not re.search(r"(^|\.)_", f"{module}.{attribute}")
        if module in ("medseg3d.io", "medseg3d.metrics", "medseg3d.report", "medseg3d.inspection"):
            assert attribute in place.__all__


@pytest.mark.parametrize("name", execute.NAMES)
def test_links_lead_to_files(name: str) -> None:
    text = "\n".join(cell.source for cell in execute.read(name).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (execute.FOLDER / target).exists(), target
    for target in re.findall(r"`((?:docs|configs)/[\w/.]+)`", text):
        assert (ROOT / target).exists(), target


def test_a_changed_result_is_noticed() -> None:
    stored, fresh = execute.read("metrics"), execute.read("metrics")
    cell = next(c for c in fresh.cells if c.id == "overlap")
    assert differences(stored, fresh) == []
    cell.outputs[0].text = cell.outputs[0].text.replace("0.8834", "0.8835")
    assert [d.partition(":")[0] for d in differences(stored, fresh)] == ["overlap"]
    stored, fresh = execute.read("quickstart"), execute.read("quickstart")
    cell = next(c for c in fresh.cells if c.id == "folder")
    cell.outputs[0].text = re.sub(r"0\.\d+", "0.5", cell.outputs[0].text)
    assert differences(stored, fresh) == []  # a training that came out worse; mean_dice sees it
    assert mean_dice(fresh)[1] == 0.5 != mean_dice(stored)[1]
    cell.outputs[0].text = cell.outputs[0].text.replace("mean of labels", "mean")
    assert [d.partition(":")[0] for d in differences(stored, fresh)] == ["folder"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in execute.NAMES]
)
def test_stored_outputs_come_again(name: str, tmp_path: Path) -> None:
    stored, fresh = execute.read(name), execute.executed(name, tmp_path)
    assert not differences(stored, fresh)
    assert mean_dice(fresh) == pytest.approx(mean_dice(stored), abs=0.15)  # 200 steps are few
    if name in LONG:
        assert min(mean_dice(fresh)) > 0.6
    assert not list(tmp_path.glob("*.ipynb"))
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}
