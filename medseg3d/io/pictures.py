"""Pictures: PNG, JPEG, TIFF, in grey or in red, green and blue; rows and columns in place of a patient's axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import InputError, tell
from medseg3d.io.atomic import atomic_write
from medseg3d.io.values import NonFinite, image_values, label_values
from medseg3d.volume import Volume

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
GREY_MODES = ("L", "I", "F")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr", "LA")
"""What stands for red, green and blue (or grey) without loss."""
ORIENTATION = 0x0112
"""The EXIF element that tells a viewer to turn the picture."""


def read_picture(path: Path, *, labels: bool = False, nonfinite: NonFinite = "error") -> Volume:
    """Read a picture, as it is stored: no orientation, colour profile or resolution of the file is applied.

    Args:
        path: of one of ``PICTURE_SUFFIXES``.
        labels: the values are labels: those of a grey picture, or the indices of one with a palette.
        nonfinite: what NaN and infinity are: ``"error"`` or ``"zero"``.

    Returns:
        ``(1, rows, columns)`` of grey values or ``(3, rows, columns)`` of red, green and blue, in the stored type, with one mm
        per pixel. Transparency is dropped.

    Raises:
        InputError: with the code of what is wrong.
    """
    from PIL import Image, UnidentifiedImageError

    if labels and path.suffix.lower() in (".jpg", ".jpeg"):
        fix = "store label maps as .png"
        raise InputError("E-LABEL-LOSSY", "JPEG changes values, so it cannot hold labels", file=path, fix=fix)
    try:
        with Image.open(path) as picture:
            data = _picture_values(picture, path, labels)
    except UnidentifiedImageError:
        raise InputError(
            "E-CORRUPT", "not a picture of a known format", file=path, fix="check where it came from"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError("E-HEADER", str(error), file=path, fix="cut it into tiles") from None
    except (OSError, SyntaxError, ValueError) as error:
        message = f"cut short or damaged ({error})"
        raise InputError("E-TRUNCATED", message, file=path, fix="copy or download it again") from None
    data = label_values(data, path) if labels else image_values(data, path, nonfinite)
    return Volume(data, np.eye(3))


def _picture_values(picture: Image.Image, path: Path, labels: bool) -> NDArray[Any]:
    """``(C, rows, columns)``: one channel of grey or of palette indices, or red, green and blue."""
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        raise InputError("E-DTYPE", f"{pages} pages; a picture has one", file=path, fix="split it")
    # How colours are stored, such as RGB;16B, is known before anything is decoded.
    stored = [str(t.args if isinstance(t.args, str) else t.args[0]) for t in getattr(picture, "tile", []) if t.args]
    deep = any(";16" in mode for mode in stored)
    if (turned := picture.getexif().get(ORIENTATION, 1)) not in (0, 1):
        message = f"the file tells viewers to turn it (EXIF orientation {turned}); it is read, and its result written, unturned"
        tell("W-EXIF", message, file=path, fix="store it upright")
    if picture.mode == "P" and labels:
        return np.asarray(picture)[None].copy()
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)[None]
    if picture.mode in GREY_MODES or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        return values.astype(values.dtype.newbyteorder("="))[None]
    if picture.mode not in COLOUR_MODES:
        message = f"colours are {picture.mode}, which become red, green and blue in more than one way"
        raise InputError("E-DTYPE", message, file=path, fix="convert it to RGB or grey with its colour profile")
    if "A" in picture.getbands() and (clear := int(np.count_nonzero(np.asarray(picture.getchannel("A")) < 255))):
        message = f"{clear} of {picture.width * picture.height} pixels are transparent; the colours stored below count"
        tell("W-ALPHA", message, file=path, fix="flatten it onto the background that is meant")
    if deep and any(mode.startswith("LA") for mode in stored):
        message = "16 bits of grey with transparency, of which no reader here keeps more than 8"
        raise InputError("E-DTYPE", message, file=path, fix="store it without transparency")
    if deep:
        values = _deep(path)
    elif picture.mode == "LA":
        values = np.asarray(picture.getchannel("L"))[None]
    else:
        values = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    if not labels:
        return np.ascontiguousarray(values)
    if (values != values[:1]).any():
        message = "a label map in colours; labels are the values of a grey or indexed picture"
        raise InputError("E-DTYPE", message, file=path, fix="convert the colours to label values")
    return values[:1].copy()


def _deep(path: Path) -> NDArray[np.uint16]:
    """Colours of 16 bits, of which Pillow keeps 8: through SimpleITK."""
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path), imageIO="PNGImageIO" if path.suffix.lower() == ".png" else "TIFFImageIO")
    except RuntimeError:
        raise InputError("E-CORRUPT", "cut short or damaged", file=path, fix="copy or download it again") from None
    values = sitk.GetArrayFromImage(image)
    if values.ndim != 3 or values.shape[-1] not in (3, 4) or values.dtype != np.uint16:
        message = f"colours of 16 bits in an unusual form ({values.dtype} of shape {values.shape})"
        raise InputError("E-DTYPE", message, file=path, fix="store it with 8 bits per colour, or as plain 16-bit RGB")
    return np.moveaxis(values[..., :3], -1, 0)


def write_picture(volume: Volume, path: Path, *, palette: Sequence[int] | None = None) -> None:
    """Write a picture atomically.

    Args:
        volume: 2D, with one channel of uint8 or uint16, or three of uint8.
        path: ``.png``, ``.tif`` or ``.tiff``.
        palette: red, green and blue of each value in turn; the values stay what they are, and viewers show the colours.

    Raises:
        InputError: where a picture cannot hold the volume, or the file cannot be written.
    """
    from PIL import Image

    data = volume.data.astype(np.uint8) if volume.data.dtype == np.bool_ else volume.data
    grey = volume.channels == 1 and data.dtype in (np.uint8, np.uint16)
    if data.ndim != 3 or not (grey or (volume.channels == 3 and data.dtype == np.uint8)):
        message = f"{volume!r} does not fit into a picture: 2D, with one channel of uint8 or uint16 or three of uint8"
        raise InputError("E-FORMAT", message, file=path, fix="write .nii.gz")
    picture = Image.fromarray(np.ascontiguousarray(data[0] if grey else np.moveaxis(data, 0, -1)))
    if palette is not None:
        picture.putpalette(list(palette))
    file_format = "PNG" if path.suffix.lower() == ".png" else "TIFF"
    atomic_write(path, lambda file: picture.save(file, file_format))
