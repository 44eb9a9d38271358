"""DICOM series to NIfTI files with neutral names, each with a JSON of what was found beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.checks import ConfigError, Finding, InputError, collected
from medseg3d.io.atomic import atomic_write
from medseg3d.io.dicom import Listing, Series, find_series, read_series
from medseg3d.io.label_conversion import convert_labels, is_label_file
from medseg3d.io.nifti_writing import write_nifti

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """What became of the series of a folder.

    Args:
        output: the folder written to.
        written: NIfTI file of each series that could be read, by its number.
        failed: why the others could not, by number.
        left_out: numbers of localizers, which are not converted.
    """

    output: Path
    written: Mapping[int, Path]
    failed: Mapping[int, Finding]
    left_out: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "written": {str(n): path.name for n, path in self.written.items()},
            "failed": {str(n): finding.as_dict() for n, finding in self.failed.items()},
            "left_out": list(self.left_out),
        }


def convert(
    path: str | Path,
    output: str | Path,
    *,
    series: str | int | None = None,
    timepoint: int | None = None,
    force: bool = False,
    images: str | Path | None = None,
) -> Conversion:
    """Write every series of a folder, or the one that is named, as NIfTI; a SEG or RTSTRUCT file as a label map.

    Files are called ``series_NN_ID``, after the number that ``medseg3d info`` shows and a hash of the identifier, never
    after what headers say, which may name the patient. The JSON holds geometry, type and findings, and no text of headers.

    Args:
        path: a folder with DICOM, or one file.
        output: folder to write to; made where it is missing.
        series: number or identifier of ``find_series``, or a SeriesInstanceUID.
        timepoint, force: as of ``find_series``.
        images: of a SEG or RTSTRUCT file, as of ``convert_labels``.

    Raises:
        ConfigError: where there is no DICOM file.
        InputError: where there is no series, or not the one that is asked for.
    """
    if is_label_file(path):
        return Conversion(Path(output), {1: convert_labels(path, output, images=images, series=series)}, {}, ())
    listing, output = find_series(path, timepoint=timepoint, force=force), Path(output)
    if listing.empty and listing.root.is_dir():
        raise ConfigError(f"no DICOM file in {path}; give the folder of a study or a series")
    if series is not None or not listing.series:
        chosen: tuple[Series, ...] = (listing.choose(series),)
    else:
        chosen = tuple(s for s in listing.series if not s.localizer)
    left_out = tuple(s.number for s in listing.series if s.localizer and s not in chosen)
    written: dict[int, Path] = {}
    failed: dict[int, Finding] = {}
    output.mkdir(parents=True, exist_ok=True)
    for one in chosen:
        try:
            written[one.number] = _convert_one(one, listing, output)
        except InputError as error:
            failed[one.number] = error.finding
            log.error("series %d is refused: %s", one.number, error)
    return Conversion(output, written, failed, left_out)


def _convert_one(series: Series, listing: Listing, output: Path) -> Path:
    name = f"series_{series.number:02d}_{series.identifier}"
    file = output / f"{name}.nii.gz"
    found: dict[str, Any] = {
        "medseg3d": __version__,
        "series": series.as_dict(),
        "folder": listing.as_dict()["findings"],
    }
    try:
        with collected():
            volume = read_series(series)
    except InputError as error:
        refused = error.finding.as_dict() | {"file": error.finding.file and Path(error.finding.file).name}
        atomic_write(output / f"{name}.json", _json(found | {"nifti": None, "refused": refused}))
        raise
    for finding in series.findings:
        log.log(
            logging.WARNING if finding.severity == "warning" else logging.INFO, "series %d: %s", series.number, finding
        )
    values = {"dtype": volume.data.dtype.name, "min": float(volume.data.min()), "max": float(volume.data.max())}
    write_nifti(volume, file)
    atomic_write(output / f"{name}.json", _json(found | {"nifti": file.name, "values": values}))
    log.info("series %d: %r is %s", series.number, volume, file.name)
    return file


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
