"""Writing the phantoms so that the same arrays give the same bytes: no times, no random identifiers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCANNER_FORM = 1
"""NIfTI code of a form that gives scanner coordinates."""


def write_nifti(
    path: Path, data: NDArray[Any], affine: NDArray[np.float64], *, qform: bool = True, sform: bool = True
) -> None:
    """Write an array as it is (no scaling) as .nii.gz in mm, its affine in the forms asked for."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.set_qform(affine, SCANNER_FORM if qform else 0)
    image.set_sform(affine if sform else None, SCANNER_FORM if sform else 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.write(image.to_bytes())


def write_png(path: Path, data: NDArray[np.uint8]) -> None:
    """Write ``(rows, cols)`` as a grey or ``(rows, cols, 3)`` as an RGB image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path, optimize=True)


def write_msd_index(
    folder: Path, name: str, *, modality: Sequence[str], labels: Mapping[int, str], cases: Sequence[str], size: str
) -> None:
    """Write the ``dataset.json`` of a folder in the layout of the Medical Segmentation Decathlon."""
    index = {
        "name": name,
        "description": "Phantoms computed by medseg3d.sample_data.generate; no patient's data",
        "licence": "Apache-2.0",
        "tensorImageSize": size,
        "modality": {str(i): channel for i, channel in enumerate(modality)},
        "labels": {"0": "background"} | {str(value): label for value, label in labels.items()},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
        "test": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
