"""Imports point one way, and start-up stays short (DESIGN.md, layout and decision 4)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import ROOT

PACKAGE = ROOT / "medseg3d"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = (
    {"checks", "termination", "processors", "doctor"},
    {"volume", "task", "task_rules", "interpolation"},
    {"io", "metrics", "networks"},
    {"intensity", "preprocessing", "postprocessing", "augmentation", "download", "weights"},
    {"pairs", "inspection", "statistics", "nnunet"},
    {"inference", "evaluation", "comparison", "longitudinal"},
    {"bundle"},
    {"monai_adapters", "monai_metrics", "foreign_bundle", "training", "planning"},
    {"published", "export"},
    {"zoo"},
    {"report"},
    {"cli"},
    {"__main__"},
)
"""A module imports from layers above its own line, or from its own."""
WITHOUT_MONAI = {
    "checks",
    "volume",
    "task",
    "task_rules",
    "interpolation",
    "io",
    "metrics",
    "networks",
    "preprocessing",
    "weights",
    "inference",
    "evaluation",
    "cli",
}
WITHOUT_TORCH = {"checks", "volume", "task", "task_rules", "io", "metrics", "report", "cli"}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path, *, module_level: bool) -> set[str]:
    """Absolute names that a module imports, at its top level alone or anywhere; not those for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if module_level else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_layers_name_every_module() -> None:
    parts = {part(path) for path in MODULES} - {"__init__"}
    assert parts <= set.union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path) -> None:
    if part(path) == "__init__":
        return
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for name in imported(path, module_level=False):
        if name.startswith("medseg3d."):
            target = name.split(".")[1]
            if target in rank:
                assert rank[target] <= rank[part(path)], f"{part(path)} must not import {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) == "networks"], ids=lambda p: p.name)
def test_networks_see_torch_alone(path) -> None:
    ours = {n.split(".")[1] for n in imported(path, module_level=False) if n.startswith("medseg3d.")}
    theirs = {n.split(".")[0] for n in imported(path, module_level=False) if not n.startswith("medseg3d.")}
    assert ours <= {"networks"}
    assert theirs <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part(p) in WITHOUT_MONAI], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_monai_on_the_way_to_a_prediction(path) -> None:
    assert not {n for n in imported(path, module_level=False) if n.split(".")[0] in ("monai", "ignite")}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part(p) in WITHOUT_TORCH], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_torch_where_it_is_not_needed(path) -> None:
    assert not {n for n in imported(path, module_level=True) if n.split(".")[0] == "torch"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "from medseg3d.cli import VERBS, build_parser; build_parser(VERBS)",
            ["torch", "monai", "numpy", "nibabel", "yaml"],
        ),
        ("import medseg3d.io, medseg3d.metrics, medseg3d.evaluation", ["torch", "monai"]),
        (
            "import medseg3d.inference.folder",
            ["monai", "ignite", "SimpleITK", "highdicom", "scipy.ndimage", "scipy.spatial", "matplotlib", "pandas"],
        ),
    ],
)
def test_what_an_import_brings(statement, absent) -> None:
    code = f"import sys; {statement}; print(*sorted(set({absent}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
