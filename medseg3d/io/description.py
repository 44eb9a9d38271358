"""What lies in a folder or file: DICOM series and image files, as their headers describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg3d.checks import ConfigError, Finding
from medseg3d.io.headers import ImageHeader, read_image_header
from medseg3d.io.images import SUFFIXES, image_suffix
from medseg3d.io.layouts import image_files

if TYPE_CHECKING:
    from medseg3d.io.dicom_label_objects import LabelObject
    from medseg3d.io.dicom_series import Listing, Series
    from medseg3d.volume import Grid

DEPTH = 4
"""How deep folders are searched for image files."""
SHOWN = 40
"""Image files that are printed one by one."""


@dataclass(frozen=True)
class Description:
    """DICOM series and image files of a folder, or one of either.

    Args:
        path: what was looked at.
        dicom: its series; None where there is no DICOM.
        images: its other image files.
        labels: its DICOM SEG and RTSTRUCT files.
    """

    path: Path
    dicom: Listing | None
    images: tuple[ImageHeader, ...]
    labels: tuple[LabelObject, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types. Of the texts of DICOM headers, which may name the patient, the names of segments alone are there."""
        images = [h.as_dict() | {"file": self._name(h.path)} for h in self.images]
        labels = [one.as_dict() | {"file": self._name(one.path)} for one in self.labels]
        found: dict[str, Any] = {"series": [], "findings": []} if self.dicom is None else self.dicom.as_dict()
        return {"series": found["series"], "images": images, "segmentations": labels, "findings": found["findings"]}

    def text(self) -> str:
        """The same to read on a screen, where the descriptions of series are shown, too."""
        parts = []
        if self.dicom is not None and (self.dicom.series or self.dicom.findings):
            parts.append(_series_text(self.dicom))
        parts += [self._labels_text(one) for one in self.labels]
        if self.images:
            parts.append(self._images_text())
        return "\n\n".join(parts)

    def _name(self, file: Path) -> str:
        root = self.path if self.path.is_dir() else self.path.parent
        return file.relative_to(root).as_posix()

    def _labels_text(self, one: LabelObject) -> str:
        findings = (f"  {f.severity}: {_short(f, one.path)}" for f in one.findings)
        return "\n".join([*segment_lines(one, self.path), *findings])

    def _images_text(self) -> str:
        rows = [("file", "voxels", "mm", "axes", "channels", "type")]
        for h in self.images[:SHOWN]:
            rows.append((self._name(h.path), *_grid_words(h.grid), str(h.channels or "-"), h.dtype or "-"))
        lines = [
            f"{self.path}: {len(self.images)} image file{'s' if len(self.images) > 1 else ''}"
        ] * self.path.is_dir()
        lines += _table(rows)
        if len(self.images) > SHOWN:
            lines.append(f"  ... and {len(self.images) - SHOWN} more")
        lines += [f"  {f.severity}: {f}" for h in self.images for f in h.findings]
        return "\n".join(lines)


def describe(path: str | Path, *, timepoint: int | None = None, force: bool = False) -> Description:
    """Look at a folder or file, reading headers alone, and of DICOM SEG how many voxels each segment has.

    Args:
        path: a folder with DICOM or image files, up to a few levels deep, or one file.
        timepoint, force: as of ``find_series``.

    Raises:
        ConfigError: where there is nothing to describe.
        InputError: where a file is of no known format.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a folder or a file")
    if path.is_file():
        files = [path] if image_suffix(path) else []
    else:
        files = _below(path, DEPTH)
    headers = tuple(read_image_header(file) for file in files)
    if path.is_file() and files:
        return Description(path, None, headers)
    from medseg3d.io.dicom import find_series

    listing = find_series(path, timepoint=timepoint, force=force)
    if listing.empty:
        if path.is_file():
            listing.choose()
        if not headers:
            raise ConfigError(
                f"nothing to describe in {path}; looked for DICOM, and files ending in {', '.join(SUFFIXES)}"
            )
        return Description(path, None, headers)
    if not listing.labels:
        return Description(path, listing, headers)
    from medseg3d.io.dicom_label_objects import describe_labels  # highdicom is loaded where there are labels

    labels = tuple(describe_labels(file) for file in listing.labels)
    return Description(path, replace(listing, findings=listing.remarks), headers, labels)


def segment_lines(one: LabelObject, root: Path) -> list[str]:
    """The segments of a DICOM SEG or RTSTRUCT at or below ``root``, as a table under a heading."""
    number, what = len(one.segments), "region" if one.kind == "RTSTRUCT" else "segment"
    where = one.path if one.path == root else one.path.relative_to(root).as_posix()
    heading = f"{where}: DICOM {one.kind}, {number} {what}{'' if number == 1 else 's'}"
    return [heading, *(_table(one.rows()) if number else [])]


def _below(folder: Path, depth: int) -> list[Path]:
    found = image_files(folder)
    if depth > 1:
        for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))):
            found += _below(sub, depth - 1)
    return found


def _series_text(listing: Listing) -> str:
    studies = len({s.study_uid for s in listing.series})
    number = len(listing.series)
    words = f"{number} series" + (f" in {studies} studies" if studies > 1 else "")
    rows = [("#", "id", "kind", "voxels", "mm", "axes", "files", "")]
    for s in listing.series:
        size = " x ".join(map(str, s.shape))
        spacing = _spacing_words(s.spacing_mm) if s.grid else "-"
        rows.append(
            (f"{s.number}", s.identifier, s.modality, size, spacing, s.orientation or "-", f"{len(s.files)}", _about(s))
        )
    lines = [f"{listing.root}: DICOM, {words}", *(_table(rows) if listing.series else [])]
    for s in listing.series:
        lines += [f"  series {s.number}: {f.severity}: {_short(f, listing.root)}" for f in s.findings]
    lines += [f"  {f.severity}: {_short(f, listing.root)}" for f in listing.findings]
    return "\n".join(lines)


def _about(s: Series) -> str:
    words = [s.description or s.protocol, "contrast" if s.contrast else "", "localizer" if s.localizer else "", s.units]
    compressed = s.syntax if "Endian" not in s.syntax else ""
    return ", ".join(w for w in (*words, compressed) if w)


def _short(finding: Finding, root: Path) -> str:
    """The finding with its file as seen from ``root``."""
    file = finding.file
    if file is not None and Path(file).is_relative_to(root):
        file = Path(file).relative_to(root).as_posix().removeprefix(".") or None
    return str(Finding(finding.code, finding.severity, file, finding.message, finding.fix))


def _grid_words(grid: Grid | None) -> tuple[str, str, str]:
    if grid is None:
        return "-", "-", "-"
    axes = "".join(grid.axcodes) if grid.spatial_dims == 3 else "-"
    return " x ".join(map(str, grid.shape)), _spacing_words(grid.spacing_mm), axes


def _spacing_words(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing_mm)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [("  " + "  ".join(f"{v:{w}}" for v, w in zip(row, widths, strict=True))).rstrip() for row in rows]
