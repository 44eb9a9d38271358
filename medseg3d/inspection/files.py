"""Files without a task: each read by itself, labels against the images of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg3d.checks import ConfigError, Finding, InputError, collected
from medseg3d.inspection.case import Facts, content_of, in_threads, tell_if_constant, tell_if_empty
from medseg3d.inspection.result import Inspection, count_of
from medseg3d.inspection.series import inspect_series
from medseg3d.inspection.together import copies
from medseg3d.io.dataset import Case, ChannelFile
from medseg3d.io.dicom import find_series
from medseg3d.io.images import PICTURE_SUFFIXES, SUFFIXES, image_stem, image_suffix, read_volume
from medseg3d.io.layouts import LABEL_FOLDERS, image_files
from medseg3d.io.parts import NUMBERED, is_label_name, split_tail
from medseg3d.io.rules import require_grid, require_one_channel
from medseg3d.volume import Volume

DEPTH = 5
"""How deep folders are looked into."""


def inspect_files(path: Path) -> Inspection:
    """Every image file and every DICOM series at ``path`` or below.

    Raises:
        ConfigError: where there is none.
    """
    if path.is_file():
        return _inspect_images(path, [path]) if image_suffix(path) else inspect_series(find_series(path))
    files, listing = list(_below(path, DEPTH)), find_series(path)
    if not listing.empty:  # pictures beside DICOM are previews
        files = [file for file in files if image_suffix(file) not in PICTURE_SUFFIXES]
    if not files and listing.empty:
        raise ConfigError(f"no image in {path}; looked for DICOM and for files ending in {', '.join(SUFFIXES)}")
    if not files:
        return inspect_series(listing)
    images = _inspect_images(path, files)
    if listing.empty:
        return images
    series = inspect_series(listing)
    heading = f"{images.heading}\n{series.heading}"
    about_series = [f for f in series.findings if f.code != "I-SKIPPED"]  # what is no DICOM was looked at
    return Inspection(path, heading, (*images.findings, *about_series), images.cases + series.cases)


def _inspect_images(path: Path, files: Sequence[Path]) -> Inspection:
    facts = in_threads(_examine, files, "checking")
    labels = [one for one in facts if is_label_file(Path(one.file))]
    images = [one for one in facts if not is_label_file(Path(one.file))]
    findings = [f for one in facts for f in one.findings]
    findings += [finding for label in labels if (finding := _other_grid(label, images)) is not None]
    findings += copies({"files": images})
    heading = f"{count_of(len(images), 'image')} and {count_of(len(labels), 'label map')} in {path}"
    if path.is_file():
        heading = f"{path}: {'a label map' if labels else 'an image'}"
        grid = facts[0].grid
        if grid is not None:
            size, spacing = (" x ".join(f"{v:g}" for v in values) for values in (grid.shape, grid.spacing_mm))
            heading += f" of {size} voxels, {spacing} mm, {''.join(grid.axcodes)}"
    else:
        heading += "; each file is looked at by itself, give --task for the data set as a whole"
    return Inspection(path, heading, tuple(findings), len(files))


def is_label_file(path: Path) -> bool:
    """Whether its name, or that of its folder, says that a file is a label map."""
    return path.parent.name.lower() in LABEL_FOLDERS or split_tail(image_stem(path), is_label_name) is not None


def _below(folder: Path, depth: int) -> Iterator[Path]:
    yield from image_files(folder)
    if depth > 1:
        for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))):
            yield from _below(sub, depth - 1)


def _examine(path: Path) -> Facts:
    case = Case(image_stem(path), (ChannelFile(path),))
    labels, volume = is_label_file(path), None
    with collected() as findings:
        try:
            volume = _read(path, labels)
        except InputError as error:
            findings.append(error.finding)
    if volume is None:
        return Facts(case, tuple(findings))
    return Facts(case, tuple(findings), volume.grid, content_of(volume.data))


def _read(path: Path, labels: bool) -> Volume:
    volume = read_volume(path, labels=labels)
    if labels:
        require_one_channel(volume, what="the label", file=path)
        tell_if_empty(volume, path)
    else:
        for number, values in enumerate(volume.data):
            tell_if_constant(values, "the image" if volume.channels == 1 else f"channel {number}", path)
    return volume


def _other_grid(label: Facts, images: Sequence[Facts]) -> Finding | None:
    """What is wrong where a label does not lie on the grid of any image of its name."""
    difference: Finding | None = None
    stem = image_stem(label.file)
    cut = split_tail(stem, is_label_name)
    name = cut[0] if cut else stem
    for image in images:
        numbered = NUMBERED.fullmatch(image_stem(image.file))
        there = numbered[1] if numbered else image_stem(image.file)
        beside = Path(image.file).parent == Path(label.file).parent and there.startswith((f"{name}_", f"{name}-"))
        if (there in (name, stem) or beside) and image.grid is not None and label.grid is not None:
            try:
                require_grid(
                    label.grid, image.grid, what="the label", than=Path(image.file).name, file=Path(label.file)
                )
            except InputError as error:
                difference = difference or error.finding
            else:
                return None
    return difference
