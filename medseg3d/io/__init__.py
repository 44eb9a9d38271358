"""Reading and writing images, and finding cases; names are resolved on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Case": "medseg3d.io.cases",
    "ChannelFile": "medseg3d.io.cases",
    "DataSet": "medseg3d.io.cases",
    "atomic_write": "medseg3d.io.atomic",
    "find_cases": "medseg3d.io.cases",
    "read_image": "medseg3d.io.case_reading",
    "read_label": "medseg3d.io.case_reading",
    "read_rtstruct": "medseg3d.io.dicom_rt",
    "read_seg": "medseg3d.io.dicom_seg_reading",
    "read_volume": "medseg3d.io.images",
    "segments_of": "medseg3d.io.segments",
    "split_cases": "medseg3d.io.cases",
    "write_rtstruct": "medseg3d.io.dicom_rt",
    "write_seg": "medseg3d.io.dicom_seg",
    "write_volume": "medseg3d.io.images",
}
__all__ = [*_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Resolve public names on first use: the metrics need no image reader."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medseg3d.io' has no attribute {name!r}")
