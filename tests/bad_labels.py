"""Data sets with something wrong in the labels or between the cases; task and images are those of ``training_helpers``.

Five balls in ``images/`` and ``labels/``, of which each case spoils something.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.io import Case, read_volume, split_cases, write_volume
from medseg3d.volume import Volume
from tests.bad_input import BadInput, Made
from tests.training_helpers import write_balls

NAMES = [f"ball_{i}" for i in range(5)]
SPOILT = "ball_3"


def image_file(folder: Path, name: str = SPOILT) -> Path:
    return folder / "images" / f"{name}.nii.gz"


def label_file(folder: Path, name: str = SPOILT) -> Path:
    return folder / "labels" / f"{name}.nii.gz"


def changed(change: Callable[[Volume], Volume], *files: Callable[[Path], Path]) -> Callable[[Path], Made]:
    """A case whose image, label or both (``image_file``, ``label_file``) are others."""

    def make(folder: Path) -> Made:
        write_balls(folder)
        for file in files:
            write_volume(change(read_volume(file(folder), labels=file is label_file)), file(folder))
        return Made(folder, None)

    return make


def with_label(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path], Made]:
    """A case whose label has other values, ``(1, x, y, z)``."""
    return changed(lambda label: Volume(change(label.data), label.affine), label_file)


def renamed(name: str) -> Callable[[Path], Made]:
    """A case that is called otherwise."""

    def make(folder: Path) -> Made:
        write_balls(folder)
        for file in (image_file, label_file):
            file(folder).rename(file(folder, name))
        return Made(folder, None)

    return make


def copied(first: str, second: str, *files: Callable[[Path, str], Path]) -> Callable[[Path], Made]:
    """A case of which the image, the label or both are those of another."""

    def make(folder: Path) -> Made:
        write_balls(folder)
        for file in files:
            shutil.copy(file(folder, first), file(folder, second))
        return Made(folder, None)

    return make


def one_voxel(value: float, dtype: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(data: NDArray[Any]) -> NDArray[Any]:
        data = data.astype(dtype)
        data[0, 11, 10, 9] = value
        return data

    return change


def cropped_label(data: NDArray[Any]) -> NDArray[Any]:
    return data[:, :-2]


def no_label(folder: Path) -> Made:
    """A data set that says which cases it trains on; one of them has no label."""
    write_balls(folder)
    (folder / "images").rename(folder / "imagesTr")
    (folder / "labels").rename(folder / "labelsTr")
    (folder / "labelsTr" / f"{SPOILT}.nii.gz").unlink()
    return Made(folder, None)


def absent_class(folder: Path) -> Made:
    """No label of any case holds the core."""
    for name in NAMES:
        path = label_file(write_balls(folder) if name == NAMES[0] else folder, name)
        label = read_volume(path, labels=True)
        write_volume(Volume(np.minimum(label.data, 1), label.affine), path)
    return Made(folder, None)


def parts() -> tuple[list[str], list[str]]:
    """Names that train and names that validate."""
    training, validation = split_cases([Case(name, ()) for name in NAMES])
    return [c.name for c in training], [c.name for c in validation]


def leakage(folder: Path) -> Made:
    """The image that validates is also one to train on, under another name and in another type."""
    training, validation = parts()
    image = read_volume(image_file(write_balls(folder), validation[0]))
    write_volume(Volume(image.data.astype(np.float64), image.affine), image_file(folder, training[0]))
    shutil.copy(label_file(folder, validation[0]), label_file(folder, training[0]))
    return Made(folder, None)


def exchanged(folder: Path) -> Made:
    """Two cases on one grid have each other's label."""
    first, second = (label_file(write_balls(folder), name) for name in ("ball_1", SPOILT))
    first.rename(folder / "aside.nii.gz")
    second.rename(first)
    (folder / "aside.nii.gz").rename(second)
    return Made(folder, None)


def swapped_label(folder: Path) -> Made:
    """The label belongs to another image: most of it lies in the air around the head."""
    write_balls(folder)
    image, label = read_volume(image_file(folder)), read_volume(label_file(folder), labels=True)
    data = np.where(np.roll(label.data, 8, axis=1) > 0, image.data, 0)
    write_volume(Volume(data, image.affine), image_file(folder))
    return Made(folder, None)


def constant(volume: Volume) -> Volume:
    return volume.with_data(np.full_like(volume.data, 100))


def moved(label: Volume) -> Volume:
    """As large as before, 5 mm beside it."""
    affine = label.affine.copy()
    affine[0, 3] += 5
    return Volume(label.data, affine)


def few_slices(volume: Volume) -> Volume:
    """10 slices, for a patch of 16."""
    return Volume(volume.data[..., 4:14], volume.affine)


def thick_slices(volume: Volume) -> Volume:
    """Slices of 8 mm where the other cases have 1 mm."""
    return Volume(volume.data, np.diag([1, 1, 8, 1.0]))


def three_channels(volume: Volume) -> Volume:
    return Volume(np.repeat(volume.data, 3, axis=0), volume.affine)


def one_slice(volume: Volume) -> Volume:
    return Volume(volume.data[..., 9], np.eye(3))


CASES = (
    BadInput("foreign value", "a label value outside the classes", with_label(one_voxel(7, "uint8")), "E-LABEL-VALUE"),
    BadInput("fraction", "a label value of 1.9", with_label(one_voxel(1.9, "float32")), "E-LABEL-FRACTION"),
    BadInput("negative", "a negative label value", with_label(one_voxel(-1, "int16")), "E-LABEL-VALUE"),
    BadInput("above 255", "label value 300 (44 in uint8)", with_label(one_voxel(300, "uint16")), "E-LABEL-VALUE"),
    BadInput("size", "label smaller than its image", with_label(cropped_label), "E-GRID"),
    BadInput("place", "label 5 mm beside its image", changed(moved, label_file), "E-GRID"),
    BadInput("no label", "an image without a label", no_label, "E-LABEL-MISSING"),
    BadInput("empty label", "a label without foreground", with_label(np.zeros_like), "I-EMPTY-LABEL"),
    BadInput("absent class", "a class that no label holds", absent_class, "E-CLASS-ABSENT"),
    BadInput("leakage", "one image in training and validation", leakage, "E-LEAKAGE"),
    BadInput(
        "same content", "one image twice in training", copied(*parts()[0][:2], image_file, label_file), "W-SAME-CONTENT"
    ),
    BadInput("same label", "one label for two images", copied(NAMES[0], SPOILT, label_file), "W-SAME-LABEL"),
    BadInput("exchanged labels", "the labels of two cases exchanged", exchanged, "W-LABEL-SWAPPED"),
    BadInput("swapped label", "a label outside the image's content", swapped_label, "W-LABEL-OUTSIDE"),
    BadInput("same name", "names that differ in capitals alone", renamed("BALL_0"), "E-SAME-NAME"),
    BadInput("reserved name", "a name that Windows reserves", renamed("aux"), "W-NAME"),
    BadInput("constant", "an image of one value", changed(constant, image_file), "W-CONSTANT"),
    BadInput("small", "an image smaller than the patch", changed(few_slices, image_file, label_file), "I-PADDED"),
    BadInput(
        "spacing", "one case of 8 mm slices among 1 mm", changed(thick_slices, image_file, label_file), "W-SPACING"
    ),
    BadInput(
        "three channels", "three volumes where one is expected", changed(three_channels, image_file), "E-CHANNEL-COUNT"
    ),
    BadInput("two axes", "a 2-D image for a 3-D task", changed(one_slice, image_file), "E-DIMENSIONS"),
)
"""Every row of the catalogue about labels and data sets, and the finding that the engine must give."""
