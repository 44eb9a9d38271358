"""Whether what lies in a place is to be read as DICOM, by the beginnings of files: pydicom need not be loaded to know."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from medseg3d.io.dicom_magic import is_dicom
from medseg3d.io.images import PICTURE_SUFFIXES, image_suffix
from medseg3d.io.layouts import IMAGE_FOLDERS, case_folders, image_files, subfolder

DEPTH = 6
"""How deep folders are searched, as ``find_series`` does."""
TRIED = 50
"""Files of a folder that are opened to see whether it holds DICOM."""


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in the folders below one, in the order of their places."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and is_dicom(p))


def is_dicom_data(root: Path) -> bool:
    """Whether a folder or file is to be read as DICOM: there is some, and no volume of another format beside or before it."""
    if not root.is_dir():
        return root.is_file() and image_suffix(root) is None and is_dicom(root)
    places = [root, *(p for names in (("imagests",), IMAGE_FOLDERS) if (p := subfolder(root, names)) is not None)]
    for place in (*places, *case_folders(root)):
        if any(image_suffix(file) not in PICTURE_SUFFIXES for file in image_files(place)):
            return False
    return holds_dicom(root)


def holds_dicom(path: Path, depth: int = DEPTH) -> bool:
    """Whether a file is DICOM, or a folder holds DICOM among the first of its files, or below."""
    if path.is_file():
        return is_dicom(path)
    entries = sorted(p for p in path.iterdir() if not p.name.startswith((".", "__MACOSX")))
    files = (p for p in entries if image_suffix(p) is None and p.is_file())
    if any(is_dicom(p) for p in islice(files, TRIED)):
        return True
    return depth > 1 and any(holds_dicom(p, depth - 1) for p in entries if p.is_dir())
