"""Whether a file is DICOM, by the four letters in it: pydicom need not be loaded to know."""

from __future__ import annotations

from pathlib import Path


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's letters behind its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
