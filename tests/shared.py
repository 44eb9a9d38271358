"""Where the real data and the reference files lie, and what a test without them says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MEDSEG3D_DATA", ROOT.parent / "shared" / "data"))
REFERENCE = DATA.parent / "reference"


def real_data(name: str) -> Path:
    """A file or folder of the real data; skips the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data {name!r} is absent; point MEDSEG3D_DATA at the folder that holds it")
    return path


def reference(name: str) -> Path:
    """A reference file that lies beside the real data; skips the test where it is absent."""
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"reference file {name!r} is absent; it lies in the folder 'reference' beside MEDSEG3D_DATA")
    return path
