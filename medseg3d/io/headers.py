"""What an image file says of itself, read without its voxels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.checks import Finding, InputError, collected
from medseg3d.io.images import (
    COPY_AGAIN,
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    check_metaimage,
    image_suffix,
    itk_affine,
    tell_about_grid,
)
from medseg3d.io.nifti import nifti_grid
from medseg3d.volume import Grid


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """One image file.

    Args:
        path: the file.
        grid: where its voxels lie; None where the header is refused.
        channels: values per voxel.
        dtype: how values are stored.
        findings: what speaks against the file, as far as its header tells.
    """

    path: Path
    grid: Grid | None
    channels: int
    dtype: str
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        grid = self.grid
        return {
            "file": self.path.name,
            "shape": list(grid.shape) if grid else [],
            "channels": self.channels,
            "spacing_mm": [round(s, 6) for s in grid.spacing_mm] if grid else [],
            "orientation": "".join(grid.axcodes) if grid and grid.spatial_dims == 3 else "",
            "dtype": self.dtype,
            "affine": (np.round(grid.affine, 9) + 0.0).tolist() if grid else None,
            "findings": [f.as_dict() | {"file": self.path.name} for f in self.findings],
        }


def read_image_header(path: str | Path) -> ImageHeader:
    """Size, place and type of an image file; errors become findings.

    Args:
        path: of a suffix that ``read_volume`` knows.
    """
    path = Path(path)
    suffix = image_suffix(path)
    grid, channels, dtype = None, 0, ""
    with collected() as findings:
        try:
            if suffix in NIFTI_SUFFIXES:
                grid, channels, kind = nifti_grid(path)
                dtype = kind.newbyteorder("=").name
            elif suffix in ITK_SUFFIXES:
                grid, channels, dtype = _itk(path, ITK_SUFFIXES[suffix])
            else:
                grid, channels, dtype = _picture(path)
            tell_about_grid(grid, path)
        except InputError as error:
            findings.append(error.finding)
    return ImageHeader(path, grid, channels, dtype, tuple(findings))


def _itk(path: Path, image_io: str) -> tuple[Grid, int, str]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError("E-CORRUPT", "the header cannot be read", file=path, fix=COPY_AGAIN) from None
    known = check_metaimage(path) if image_io == "MetaImageIO" else reader.HasMetaDataKey("NRRD_space")
    size = reader.GetSize()
    dims = min(len(size), 3)
    channels = reader.GetNumberOfComponents() * (size[3] if len(size) > 3 else 1)
    kind = re.search(r"(\d+)-bit (unsigned|signed|float)", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    names = {"unsigned": "uint", "signed": "int", "float": "float"}
    dtype = names[kind[2]] + kind[1] if kind else "complex"
    return Grid(tuple(size[:dims]), itk_affine(reader, dims, known, path)), channels, dtype


def _picture(path: Path) -> tuple[Grid, int, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            bands, mode = len(picture.getbands()), picture.mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = "not a picture of a known format" if isinstance(error, UnidentifiedImageError) else "damaged"
        raise InputError("E-CORRUPT", reason, file=path, fix="check where it came from") from None
    return Grid((height, width), np.eye(3)), bands, {"I": "int32", "F": "float32", "I;16": "uint16"}.get(mode, "uint8")
