"""What people look at: a report of a run or an evaluation as one HTML file, and a preview of a scan."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "draw": "medseg3d.report.quick_look",
    "preview": "medseg3d.report.quick_look",
    "view": "medseg3d.report.notebook",
    "write_report": "medseg3d.report.html",
}
__all__ = [*_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Resolve public names on first use."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medseg3d.report' has no attribute {name!r}")
