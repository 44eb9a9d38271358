"""Cases out of DICOM folders: one per study, its series mapped to a task's channels and brought onto one grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import InputError, tell
from medseg3d.io.dataset import Case, ChannelFile, DataSet
from medseg3d.io.dicom import find_series, read_series
from medseg3d.io.dicom_rules import is_meant, match_series, rule_words, wanted_series
from medseg3d.io.dicom_series import Listing, Series, short_hash
from medseg3d.task import Task
from medseg3d.volume import Grid, Volume


def find_dicom_cases(root: Path, task: Task, series: Sequence[str] = ()) -> DataSet:
    """A case per study of a folder (or file), with one series per channel.

    Cases are called after the folder their study lies in, never after what headers say.

    Args:
        root: the folder of a study, of several, or of a series.
        task: whose rules say which series is which channel.
        series: what the user says instead: ``NUMBER``, or ``CHANNEL=NUMBER``; studies without any of these are left out.

    Raises:
        ConfigError: for a series given without its channel.
        InputError: where there is no series, or no study can be used, for the reason of the first.
    """
    listing = find_series(root)
    wanted = wanted_series(series, task)
    if not listing.series:
        listing.choose()
    studies: dict[str, list[Series]] = {}
    for one in listing.series:
        studies.setdefault(one.study_uid, []).append(one)
    asked = {uid for uid, study in studies.items() if any(is_meant(s, w) for s in study for w in wanted.values())}
    left = [uid for uid in studies if not wanted or uid in asked] or list(studies)
    names = _names(root, {uid: studies[uid] for uid in left})
    cases, refused, mappings = [], {}, {}
    for uid in left:
        try:
            found = match_series(studies[uid], task, wanted, root)
            _check(found, task)
        except InputError as error:
            refused[names[uid]] = error.finding
            continue
        cases.append(Case(names[uid], tuple(ChannelFile(s.files[0], series=s) for s in found.values())))
        mappings[names[uid]] = {c: f"series {s.number} ({s.identifier})" for c, s in found.items()}
    if not cases:
        reasons = list(refused.values())
        first = next((f for f in reasons if f.code != "E-CHANNEL-MISSING"), reasons[0])
        raise InputError(first.code, first.message, file=first.file, fix=first.fix)
    notes = _notes(listing, len(studies) - len(left))
    if len(cases) == 1:
        channels = mappings[cases[0].name]
    else:
        channels = {c: f"series {wanted[c]}" if c in wanted else rule_words(c, task) for c in task.channels}
        notes += [f"{name}: {', '.join(f'{c} <- {s}' for c, s in found.items())}" for name, found in mappings.items()]
    cases.sort(key=lambda c: c.name)
    return DataSet(root, "DICOM, a case per study", tuple(cases), channels, {}, tuple(notes), refused)


def refuse_broken(root: Path) -> None:
    """Say what is wrong with a folder whose files are DICOM but for their first bytes, where it holds nothing else.

    Raises:
        InputError: ``E-NO-PREAMBLE``.
    """
    listing = find_series(root)
    if not listing.empty:
        listing.choose()


def series_of_file(path: Path) -> Series:
    """The series that a file belongs to, out of the folder it lies in.

    Raises:
        InputError: where it belongs to none.
    """
    for one in find_series(path.parent).series:
        if path in one.files:
            return one
    raise InputError("E-NOT-DICOM", "belongs to no series that can be read", file=path, fix="check the folder")


def reference_series(case: Case) -> Series | None:
    """The series on whose grid a case is read and its result written: the finest; None for other images."""
    series = [f.series for f in case.images if f.series is not None]
    return min(series, key=lambda s: _voxel_mm3(s.grid), default=None)


def read_dicom_channels(case: Case) -> dict[Path, Volume]:
    """The volume of each series of a case, all on the grid of the finest.

    Raises:
        InputError: where a series is damaged, or lies on another grid in another frame of reference.
    """
    reference = reference_series(case)
    assert reference is not None
    assert reference.grid is not None
    volumes: dict[Path, Volume] = {}
    for file in case.images:
        series = file.series
        if series is None or file.path in volumes:
            continue
        volume = read_series(series)
        if difference := reference.grid.differs_from(volume.grid):
            if series.frame_of_reference_uid != reference.frame_of_reference_uid:
                message = (
                    f"series {series.number} and {reference.number} lie in different frames of reference ({difference})"
                )
                raise InputError("E-FRAME-OF-REFERENCE", message, file=series.where, fix="register them to each other")
            message = (
                f"series {series.number} is resampled (linear) onto the grid of series {reference.number}: {difference}"
            )
            tell("I-RESAMPLED", message, file=series.where)
            volume = _on_grid(volume, reference.grid)
        volumes[file.path] = volume
    return volumes


def _on_grid(volume: Volume, grid: Grid) -> Volume:
    """Linear interpolation at the voxels of another grid, whose axes may be oblique to it; the least value outside."""
    from scipy import ndimage

    matrix = np.linalg.inv(volume.affine) @ grid.affine
    data: NDArray[np.float32] = np.pad(volume.data[0].astype(np.float32), 1, mode="edge")  # half a voxel beyond centres
    lowest = float(data.min())
    offset = matrix[:3, 3] + 1
    values = ndimage.affine_transform(data, matrix[:3, :3], offset, grid.shape, order=1, cval=lowest, output=np.float32)
    return Volume(values[None], grid.affine)


def _voxel_mm3(grid: Grid | None) -> float:
    return float("inf") if grid is None else float(np.prod(grid.spacing_mm))


def _check(found: dict[str, Series], task: Task) -> None:
    """Refuse series that cannot be read, or whose values are not what the task was trained on."""
    for series in found.values():
        for finding in series.findings:
            if finding.severity == "error":
                raise InputError(finding.code, finding.message, file=finding.file, fix=finding.fix)
            if finding.code == "W-NOT-HU" and task.intensity == "ct":
                message = f"task {task.name!r} needs Hounsfield units: {finding.message}"
                raise InputError("E-NOT-HU", message, file=finding.file, fix=finding.fix)


def _names(root: Path, studies: dict[str, list[Series]]) -> dict[str, str]:
    """A name for each study: that of its folder as seen from ``root``, and a hash where two studies share it."""
    places = {}
    for uid, study in studies.items():
        folder = Path(os.path.commonpath([file.parent for s in study for file in s.files]))
        inside = folder.relative_to(root).parts if root.is_dir() else ()
        places[uid] = "_".join(inside) or (root.resolve().name if root.is_dir() else root.stem)
    shared = {name for name in places.values() if list(places.values()).count(name) > 1}
    return {uid: f"{name}_{short_hash(uid)}" if name in shared else name for uid, name in places.items()}


def _notes(listing: Listing, left_out: int) -> list[str]:
    notes = [f.message for f in listing.findings if f.code not in ("I-SUBFOLDERS",)]
    if left_out:
        notes.append(f"{left_out} {'studies' if left_out > 1 else 'study'} without the series asked for left out")
    return notes
