"""The catalogues of bad inputs through medseg3d, SimpleITK, MONAI and highdicom: what is right, refused, or wrong in silence.

    python -m benchmarks.bad_inputs [--json FILE] [--quick]

Every case is generated (tests/bad_nifti.py, tests/bad_dicom.py), so what was meant is known. A side is right where the values
and their places in the patient are those that were meant, refuses where it raises, and is wrong otherwise; where it said
anything that it does not say of sound files (Python's warnings and logging, or the standard error of its C++), it is "wrong,
warned", else "WRONG, SILENT". One of two series and a volume whose place is unknown count as wrong.

Every peer is called as its documentation has it: sitk.ReadImage, and GetGDCMSeriesFileNames with ImageSeriesReader;
monai.transforms.LoadImage with its default reader, for DICOM with PydicomReader; highdicom's get_volume_from_series and
imread().get_volume(), which read DICOM alone, with the files that pydicom calls DICOM.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import highdicom
import monai.data
import monai.transforms
import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from benchmarks.measure import arguments, machine
from medseg3d.checks import Finding, InputError, collected
from medseg3d.io import read_volume
from medseg3d.io.dicom import find_series, read_series
from medseg3d.volume import Volume
from tests.bad_dicom import CASES as DICOM
from tests.bad_input import BadInput, Made
from tests.bad_nifti import CASES as NIFTI
from tests.bad_nifti import LABEL_CASES as LABELS

RIGHT, REFUSED, WARNED, SILENT, ABSENT = "right", "refused", "wrong, warned", "WRONG, SILENT", "-"
MULTIFRAME = ("enhanced, shared", "enhanced, per frame")
SOUND = ("uint16", "oblique", "implicit VR", "sagittal", "three slices")
"""Files with nothing odd about them at all."""
Reader = Callable[[BadInput, Path], Volume]


def by_simpleitk(case: BadInput, path: Path) -> Volume:
    """SimpleITK's image, its LPS turned into RAS."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else ()
    if path.is_dir() and not names:
        raise RuntimeError("no series")
    if names and case.name not in MULTIFRAME:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        image = reader.Execute()
    else:
        image = sitk.ReadImage(names[0] if names else str(path))
    n = image.GetDimension()
    data, d = sitk.GetArrayFromImage(image), min(n, 3)
    several = image.GetNumberOfComponentsPerPixel() > 1
    data = np.moveaxis(data, -1, 0) if several else data[None]
    affine = np.eye(d + 1)
    affine[:d, :d] = (np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing())[:d, :d]
    affine[:d, d] = image.GetOrigin()[:d]
    affine[:2] *= -1
    if n > 3:
        data = data.reshape(-1, *data.shape[-3:])
    return Volume(data.transpose(0, *range(data.ndim - 1, 0, -1)), affine)


def by_monai(case: BadInput, path: Path) -> Volume:
    reader = "PydicomReader" if case in DICOM else None
    image: Any = monai.transforms.LoadImage(reader=reader, image_only=True)(str(path))
    dtype = np.complex64 if image.is_complex() else np.float64
    return _channels_last(np.asarray(image.numpy(), dtype), np.asarray(image.affine, np.float64))


def by_highdicom(case: BadInput, path: Path) -> Volume:
    files = [p for p in sorted(path.iterdir()) if p.is_file() and pydicom.misc.is_dicom(p)] if path.is_dir() else [path]
    if case.name in MULTIFRAME:
        volume = highdicom.imread(files[0]).get_volume()
    else:
        volume = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in files])
    return _channels_last(volume.array, np.diag([-1.0, -1, 1, 1]) @ volume.affine)


def _channels_last(data: NDArray[Any], affine: NDArray[np.float64]) -> Volume:
    while data.ndim > 3 and data.shape[3] == 1:
        data = data[..., 0] if data.ndim == 4 else data[:, :, :, 0]
    if data.ndim == 2:
        plane = np.eye(3)
        plane[:2, :2], plane[:2, 2] = affine[:2, :2], affine[:2, 3]
        return Volume(data[None], plane)
    return Volume(data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0), affine)


PEERS: dict[str, Reader] = {"simpleitk": by_simpleitk, "monai": by_monai, "highdicom": by_highdicom}
"""Each gives values ``(C, x, y, z)`` and the affine to RAS+ mm, or raises."""


def ours(case: BadInput, path: Path) -> tuple[Volume | None, list[Finding]]:
    """What medseg3d reads, and all it says."""
    volume: Volume | None = None
    said: list[Finding] = []
    with collected() as findings:
        try:
            if case in DICOM:
                listing = find_series(path)
                said += listing.findings
                volume = read_series(listing.choose())
            else:
                volume = read_volume(path, labels=case in LABELS)
        except InputError as error:
            findings.append(error.finding)
    return volume, list(dict.fromkeys([*said, *findings]))


def is_right(volume: Volume, truth: Volume | None) -> bool:
    """Whether the values lie where they were meant to, whatever the order of the axes."""
    if truth is None or volume.data.ndim != truth.data.ndim:
        return False
    if not np.isfinite(volume.affine).all() or min(volume.spacing_mm) <= 0:
        return False
    read, meant = volume.canonical(), truth.canonical()
    if read.data.shape != meant.data.shape or read.grid.differs_from(meant.grid, tolerance_voxels=0.01):
        return False
    if not np.allclose(read.spacing_mm, meant.spacing_mm, rtol=1e-3):
        return False
    return bool(np.allclose(read.data, meant.data, rtol=1e-6, atol=1e-6, equal_nan=True))


class Ears(logging.Handler):
    """Notes what is said, by whichever way Python and C++ have; numbers and paths in it do not count."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.add(plain(record.getMessage()))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While entered, warnings, logs and standard error are heard, and shown to no one."""
        self.heard = set()
        sys.stderr.flush()
        kept = os.dup(2)
        logging.getLogger().addHandler(self)
        with tempfile.TemporaryFile() as spoken, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            os.dup2(spoken.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
                logging.getLogger().removeHandler(self)
                spoken.seek(0)
                lines = spoken.read().decode(errors="replace").splitlines()
                self.heard |= {plain(line) for line in [*lines, *(str(w.message) for w in warned)]} - {""}


def plain(text: str) -> str:
    return re.sub(r"\S*[/\d]\S*", "", text).strip()


def usual_words(ears: Ears) -> dict[str, set[str]]:
    """What each peer says of files with nothing wrong: it says nothing about one that is."""
    usual: dict[str, set[str]] = {}
    for side, read in PEERS.items():
        usual[side] = set()
        for case in (*NIFTI, *DICOM):
            if case.name in SOUND:
                with tempfile.TemporaryDirectory() as temporary, ears.listening(), suppress(Exception):
                    read(case, case.make(Path(temporary)).path)
                usual[side] |= ears.heard
    return usual


def verdict_of_peer(read: Reader, case: BadInput, made: Made, ears: Ears, usual: set[str]) -> str:
    with ears.listening():
        try:
            volume = read(case, made.path)
        except Exception:  # whatever a peer raises is a refusal
            return REFUSED
    return RIGHT if is_right(volume, made.truth) else WARNED if ears.heard - usual else SILENT


def verdict_of_ours(case: BadInput, made: Made) -> tuple[str, str]:
    """The verdict, and what was said."""
    volume, findings = ours(case, made.path)
    codes = ", ".join(f.code for f in findings)
    if volume is None:
        return REFUSED, codes
    return (RIGHT if is_right(volume, made.truth) else WARNED if findings else SILENT), codes


def main() -> None:
    options = arguments(__doc__ or "")
    step, ears = 5 if options.quick else 1, Ears()
    logging.getLogger("medseg3d").propagate = False
    counts: dict[str, Counter[str]] = {side: Counter() for side in ("medseg3d", *PEERS)}
    print("| input | medseg3d | SimpleITK | MONAI | highdicom |\n|---|---|---|---|---|")
    number, usual = 0, usual_words(ears)
    for kind, cases in (("NIfTI", NIFTI), ("NIfTI label", LABELS), ("DICOM", DICOM)):
        for case in cases[::step]:
            number += 1
            with tempfile.TemporaryDirectory() as temporary:
                made = case.make(Path(temporary))
                verdict, codes = verdict_of_ours(case, made)
                found = {"medseg3d": verdict}
                for side, read in PEERS.items():
                    absent = side == "highdicom" and case not in DICOM
                    found[side] = ABSENT if absent else verdict_of_peer(read, case, made, ears, usual[side])
            for side, its in found.items():
                counts[side][its] += 1
            words = f"{verdict} {codes}".strip()
            print(f"| {kind}: {case.what} | {words} | {' | '.join(found[side] for side in PEERS)} |", flush=True)
    figures: dict[str, Any] = {"cases": number}
    for side, its in counts.items():
        start = "" if side == "medseg3d" else f"{side}_"
        figures |= {
            f"{start}silently_wrong": its[SILENT],
            f"{start}wrong_but_warned": its[WARNED],
            f"{start}refused": its[REFUSED],
            f"{start}right": its[RIGHT],
        }
    print(f"\n{number} cases; right / refused / wrong with a warning / wrong in silence:")
    for side, its in counts.items():
        print(f"  {side:10} {its[RIGHT]:3} {its[REFUSED]:3} {its[WARNED]:3} {its[SILENT]:3}")
    peers = {
        "SimpleITK": sitk.Version.VersionString(),
        "highdicom": highdicom.__version__,
        "pydicom": pydicom.__version__,
    }
    print(f"{machine()}, {', '.join(f'{name} {version}' for name, version in peers.items())}")
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
