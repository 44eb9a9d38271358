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


def with_label(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path], Made]:
    """A case whose label has other values, ``(1, x, y, z)``."""

    def make(folder: Path) -> Made:
        path = label_file(write_balls(folder))
        label = read_volume(path, labels=True)
        write_volume(Volume(change(label.data), label.affine), path)
        return Made(folder, None)

    return make


def with_image(change: Callable[[Volume], Volume]) -> Callable[[Path], Made]:
    """A case whose image is another."""

    def make(folder: Path) -> Made:
        path = image_file(write_balls(folder))
        write_volume(change(read_volume(path)), path)
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


def moved_label(folder: Path) -> Made:
    """The label has the size of the image and lies 5 mm beside it."""
    path = label_file(write_balls(folder))
    label = read_volume(path, labels=True)
    affine = label.affine.copy()
    affine[0, 3] += 5
    write_volume(Volume(label.data, affine), path)
    return Made(folder, None)


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


def same_content(folder: Path) -> Made:
    """Two cases to train on are one."""
    first, second = parts()[0][:2]
    write_balls(folder)
    shutil.copy(image_file(folder, first), image_file(folder, second))
    shutil.copy(label_file(folder, first), label_file(folder, second))
    return Made(folder, None)


def same_label(folder: Path) -> Made:
    """Two images have the label of one of them."""
    write_balls(folder)
    shutil.copy(label_file(folder, NAMES[0]), label_file(folder, SPOILT))
    return Made(folder, None)


def swapped_label(folder: Path) -> Made:
    """The label belongs to another image: most of it lies in the air around the head."""
    write_balls(folder)
    image, label = read_volume(image_file(folder)), read_volume(label_file(folder), labels=True)
    data = np.where(np.roll(label.data, 8, axis=1) > 0, image.data, 0)
    write_volume(Volume(data, image.affine), image_file(folder))
    return Made(folder, None)


def same_name(folder: Path) -> Made:
    """Two cases whose names differ in capitals alone: on many discs their results are one file."""
    write_balls(folder)
    for file in (image_file, label_file):
        file(folder).rename(file(folder, "BALL_0"))
    return Made(folder, None)


def reserved_name(folder: Path) -> Made:
    """A case that no Windows machine can hold."""
    write_balls(folder)
    for file in (image_file, label_file):
        file(folder).rename(file(folder, "aux"))
    return Made(folder, None)


def constant(volume: Volume) -> Volume:
    return volume.with_data(np.full_like(volume.data, 100))


def small(folder: Path) -> Made:
    """A case of 10 slices for a patch of 16."""
    write_balls(folder)
    for path, labels in ((image_file(folder), False), (label_file(folder), True)):
        volume = read_volume(path, labels=labels)
        write_volume(Volume(volume.data[..., 4:14], volume.affine), path)
    return Made(folder, None)


def coarse(folder: Path) -> Made:
    """One case has voxels of 8 mm where the others have 1 mm."""
    write_balls(folder)
    for path, labels in ((image_file(folder), False), (label_file(folder), True)):
        volume = read_volume(path, labels=labels)
        write_volume(Volume(volume.data, np.diag([1, 1, 8, 1.0])), path)
    return Made(folder, None)


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
    BadInput("place", "label 5 mm beside its image", moved_label, "E-GRID"),
    BadInput("no label", "an image without a label", no_label, "E-LABEL-MISSING"),
    BadInput("empty label", "a label without foreground", with_label(np.zeros_like), "I-EMPTY-LABEL"),
    BadInput("absent class", "a class that no label holds", absent_class, "E-CLASS-ABSENT"),
    BadInput("leakage", "one image in training and validation", leakage, "E-LEAKAGE"),
    BadInput("same content", "one image twice in training", same_content, "W-SAME-CONTENT"),
    BadInput("same label", "one label for two images", same_label, "W-SAME-LABEL"),
    BadInput("swapped label", "a label outside the image's content", swapped_label, "W-LABEL-OUTSIDE"),
    BadInput("same name", "names that differ in capitals alone", same_name, "E-SAME-NAME"),
    BadInput("reserved name", "a name that Windows reserves", reserved_name, "W-NAME"),
    BadInput("constant", "an image of one value", with_image(constant), "W-CONSTANT"),
    BadInput("small", "an image smaller than the patch", small, "I-PADDED"),
    BadInput("spacing", "one case of 8 mm slices among 1 mm", coarse, "W-SPACING"),
    BadInput("three channels", "three volumes where one is expected", with_image(three_channels), "E-CHANNEL-COUNT"),
    BadInput("two axes", "a 2-D image for a 3-D task", with_image(one_slice), "E-DIMENSIONS"),
)
"""Every row of the catalogue about labels and data sets, and the finding that the engine must give."""
