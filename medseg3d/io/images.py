"""One way to read and write an image, whatever its format: NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, one DICOM image.

SimpleITK thinks in LPS; the volumes that leave this module are RAS+ and (C, *spatial). Pictures are in ``pictures``.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from medseg3d.checks import InputError, tell
from medseg3d.io.atomic import atomic_fill
from medseg3d.io.dicom_magic import is_dicom
from medseg3d.io.nifti import read_nifti
from medseg3d.io.nifti_writing import write_nifti
from medseg3d.io.pictures import PICTURE_SUFFIXES, read_picture, write_picture
from medseg3d.io.values import NonFinite, image_values, label_values
from medseg3d.volume import SHEAR_TOLERANCE, Grid, Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
DICOM_SUFFIXES = (".dcm", ".dicom")
"""Of DICOM files that have one; many have none."""
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, *PICTURE_SUFFIXES)
COPY_AGAIN = "copy it again, with the data file that belongs to it"
LIKELY_MM = (0.05, 20.0)
"""Voxel sizes outside are most often a wrong unit."""
RGB = ("red", "green", "blue")
"""What the three channels of a picture are called."""


def image_suffix(path: str | Path) -> str | None:
    """The suffix in ``SUFFIXES`` that a file name ends in, or None."""
    name = Path(path).name.lower()
    return next((s for s in SUFFIXES if name.endswith(s) and len(name) > len(s)), None)


def image_stem(path: str | Path) -> str:
    """A file's name without its suffix; ``.nii.gz`` is one, and that of DICOM counts."""
    name = Path(path).name
    suffix = image_suffix(name) or next((s for s in DICOM_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def is_picture(path: str | Path) -> bool:
    """Whether a file of a case is a picture: by its suffix, or a single DICOM image, which has none of ``SUFFIXES``."""
    return image_suffix(path) in (None, *PICTURE_SUFFIXES)


def read_volume(path: str | Path, *, labels: bool = False, nonfinite: NonFinite = "error") -> Volume:
    """Read an image or a label map; the suffix decides the format, and what has none of them may be one DICOM image.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha``, ``.mhd``, ``.png``, ``.jpg``, ``.tif``, or DICOM.
        labels: the values are labels: integers, exactly, never through float32.
        nonfinite: what NaN and infinity in an image are: ``"error"`` or ``"zero"``.

    Returns:
        Data ``(C, *spatial)`` with the stored type, and the affine to RAS+ mm. A picture is ``(C, rows, columns)``
        with one mm per pixel, a DICOM image ``(C, rows, columns)`` with the size that it says; ``medseg3d.io.dicom``
        reads series.

    Raises:
        InputError: with the code of what is wrong.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix is None:
        if not labels and is_dicom(path):
            from medseg3d.io.dicom_image import read_dicom_image  # pydicom is loaded where there is DICOM

            return read_dicom_image(path)
        known = ", ".join(SUFFIXES)
        raise InputError(
            "E-FORMAT", f"the suffix {path.suffix!r} is no known image format", file=path, fix=f"known are {known}"
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError("E-NOT-READABLE", f"the file {what}", file=path, fix="check the path")
    if suffix in NIFTI_SUFFIXES:
        volume = read_nifti(path, labels=labels, nonfinite=nonfinite)
    elif suffix in PICTURE_SUFFIXES:
        return read_picture(path, labels=labels, nonfinite=nonfinite)
    else:
        data, affine = _read_itk(path, ITK_SUFFIXES[suffix])
        volume = Volume(label_values(data, path) if labels else image_values(data, path, nonfinite), affine)
    tell_about_grid(volume.grid, path)
    return volume


def tell_about_grid(grid: Grid, path: str | Path) -> None:
    """Say what is odd about a grid that is legal."""
    low, high = LIKELY_MM
    if min(grid.spacing_mm) < low or max(grid.spacing_mm) > high:
        size = " x ".join(f"{s:g}" for s in grid.spacing_mm)
        message = f"a voxel of {size} mm is unusual ({low:g} to {high:g} mm is usual)"
        tell("W-VOXEL-SIZE", message, file=path, fix="is the unit right?")
    if grid.spatial_dims == 3 and 1 in grid.shape:
        message = f"a single slice ({' x '.join(map(str, grid.shape))}): distances across it mean nothing"
        tell("W-SINGLE-SLICE", message, file=path, fix="take surface distances of it with care, or a task of two axes")


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write an image or a label map atomically, in its own type and with geometry alone: no text from elsewhere.

    Args:
        volume: 3D for any of ``.nii.gz``, ``.nii``, ``.nrrd``, ``.mha``; 2D also for ``.png`` and ``.tif``, there
            of type uint8 or uint16 with one channel, or uint8 with three.
        path: where to write; the suffix decides the format.

    Raises:
        InputError: where the format cannot hold the volume, or the file cannot be written.
    """
    suffix = image_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        write_nifti(volume, path)
    elif suffix in (".nrrd", ".mha"):
        _write_itk(volume, Path(path), ITK_SUFFIXES[suffix])
    elif suffix in (".png", ".tif", ".tiff"):
        write_picture(volume, Path(path))
    else:
        rule = "written are .nii.gz, .nii, .nrrd, .mha, and .png and .tif for 2D"
        raise InputError("E-FORMAT", f"nothing is written as {Path(path).suffix!r}", file=path, fix=rule)


def write_labels(volume: Volume, path: str | Path) -> None:
    """Write a label map as ``write_volume`` does; as a ``.png`` of up to 256 values it is indexed, each value with its colour."""
    if Path(path).suffix.lower() == ".png" and volume.data.dtype == np.uint8:
        from medseg3d.io.colours import palette

        write_picture(volume, Path(path), palette=palette())
    else:
        write_volume(volume, path)


def _read_itk(path: Path, image_io: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path), imageIO=image_io)
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if line.startswith("[nrrd]")][-1:]
        what = "cut short, damaged or not of this format" + "".join(f" ({r[7:]})" for r in reason)
        raise InputError("E-CORRUPT", what, file=path, fix=COPY_AGAIN) from None
    if image_io == "MetaImageIO":
        known = check_metaimage(path)
    else:
        known = image.HasMetaDataKey("NRRD_space")
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError("E-DTYPE", f"voxels are {image.GetPixelIDTypeAsString()}; real numbers are read", file=path)
    dims = image.GetDimension()
    data = sitk.GetArrayFromImage(image)
    data = data.transpose(*reversed(range(data.ndim))) if data.ndim > dims else data.T[None]
    if dims == 4:  # scalar voxels along a fourth axis, such as time
        data, dims = np.moveaxis(data[0], -1, 0), 3
    if dims not in (2, 3) or data.ndim != dims + 1:
        message = f"{image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} values per voxel"
        raise InputError("E-DTYPE", message, file=path, fix="split it into images of 2 or 3 axes")
    return data, itk_affine(image, dims, known, path)


def itk_affine(image: Any, dims: int, known: bool, path: Path) -> NDArray[np.float64]:
    """The affine to RAS+ mm of what SimpleITK has read, or its header.

    Args:
        image: a SimpleITK image, or a reader that has read the header.
        dims: 2 or 3, of which the affine is to be.
        known: whether the file gives patient directions.
        path: the file, for messages.

    Raises:
        InputError: ``E-NO-ORIENTATION``, ``E-AFFINE`` or ``E-SHEAR``.
    """
    if dims == 3 and not known:
        message = "no patient directions in the header, so left, right, front and back are unknown"
        raise InputError("E-NO-ORIENTATION", message, file=path, fix="export it again with its orientation")
    n = image.GetDimension()
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = (np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing())[:dims, :dims]
    affine[:dims, dims] = image.GetOrigin()[:dims]
    affine[:2] *= -1  # LPS to RAS
    norms = np.linalg.norm(affine[:dims, :dims], axis=0)
    if not np.isfinite(affine).all() or norms.min() == 0 or abs(np.linalg.det(affine[:dims, :dims] / norms)) < 1e-3:
        raise InputError("E-AFFINE", "the directions are singular or not finite", file=path, fix="correct the header")
    shear = Grid((1,) * dims, affine).shear
    if shear > SHEAR_TOLERANCE:
        message = f"the axes are sheared (cosine {shear:.3g} between two of them)"
        raise InputError("E-SHEAR", message, file=path, fix="resample it to an orthogonal grid")
    return affine


def check_metaimage(path: Path) -> bool:
    """Verify the checksum of packed voxels, which SimpleITK passes over, and say whether directions are given."""
    raw, header = path.read_bytes(), {}
    while raw and "ElementDataFile" not in header:
        line, _, raw = raw.partition(b"\n")
        key, _, value = line.decode("latin-1").partition("=")
        header[key.strip()] = value.strip()
    if header.get("CompressedData", "").lower() == "true":
        data_file = header.get("ElementDataFile", "LOCAL")
        try:
            isal_zlib.decompress(raw if data_file == "LOCAL" else (path.parent / data_file).read_bytes())
        except (isal_zlib.error, OSError) as error:  # type: ignore[misc]  # isal's stub says Any
            raise InputError(
                "E-CORRUPT", f"the packed voxels are damaged ({error})", file=path, fix=COPY_AGAIN
            ) from None
    return any(key in header for key in ("TransformMatrix", "Orientation", "Rotation"))


def _write_itk(volume: Volume, path: Path, image_io: str) -> None:
    import SimpleITK as sitk

    d = len(volume.shape)
    data = volume.data.astype(np.uint8) if volume.data.dtype == np.bool_ else volume.data
    several = volume.channels > 1
    image = sitk.GetImageFromArray(data.transpose(*reversed(range(d + 1))) if several else data[0].T, isVector=several)
    affine = volume.affine.copy()
    affine[:2] *= -1  # RAS to LPS
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(affine[:d, d].tolist())
    image.SetDirection((affine[:d, :d] / volume.spacing_mm).ravel().tolist())

    def fill(temporary: Path) -> None:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True, imageIO=image_io)
            sitk.ReadImage(str(temporary), imageIO=image_io)  # on a full disk the writer says nothing
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, f"the file was not written whole: {error}") from None

    atomic_fill(path, fill, needed_bytes=data.nbytes)
