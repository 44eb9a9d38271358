"""Results in the formats of hospitals, beside the NIfTI file of each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg3d.checks import ConfigError, some_names
from medseg3d.io.dataset import Case
from medseg3d.io.segments import segments_of
from medseg3d.task import Task
from medseg3d.volume import Volume

FORMATS = ("nifti", "seg", "rtstruct")
SEG_KINDS = {"BINARY": "seg", "LABELMAP": "labelmap"}
"""What the two kinds of DICOM SEG are called among the outputs."""
DICOM_KINDS = (*SEG_KINDS.values(), "rtstruct")


def dicom_kinds(formats: Sequence[str], seg_kind: str, task: Task, cases: Sequence[Case]) -> tuple[str, ...]:
    """Which outputs the formats stand for besides the label map.

    Args:
        formats: of ``FORMATS``.
        seg_kind: ``BINARY`` or ``LABELMAP``.
        task: of the model.
        cases: to be predicted.

    Raises:
        ConfigError: for an unknown format, and for DICOM where the scans or the results are of another kind.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ConfigError(f"unknown format {unknown[0]!r}; known are {', '.join(FORMATS)}")
    if seg_kind not in SEG_KINDS:
        raise ConfigError(f"unknown kind of DICOM SEG {seg_kind!r}; known are {', '.join(SEG_KINDS)}")
    kinds = tuple(SEG_KINDS[seg_kind] if f == "seg" else f for f in FORMATS if f in formats and f != "nifti")
    if kinds and task.kind == "classification":
        raise ConfigError(f"task {task.name!r} is a classification: it gives no segmentation to write as DICOM")
    without = [case.name for case in cases if not any(file.series for file in case.images)]
    if kinds and without:
        raise ConfigError(
            f"format {' and '.join(f for f in formats if f != 'nifti')} refers to DICOM images, and {some_names(without)} "
            "came from other files; give the DICOM series, or leave the format away for NIfTI"
        )
    return kinds


def write_dicom(path: Path, kind: str, labels: Volume, case: Case, task: Task, *, model: str) -> None:
    """Write the labels of a case, referring to the series on whose grid they lie, and read them back.

    Args:
        path: where to write.
        kind: of ``DICOM_KINDS``.
        labels, case, task: as predicted.
        model: its name, for the record.

    Raises:
        InputError: as of ``write_seg`` and ``write_rtstruct``.
    """
    from medseg3d.io.dicom_cases import reference_series
    from medseg3d.io.dicom_rt import write_rtstruct
    from medseg3d.io.dicom_seg import write_seg

    series = reference_series(case)
    assert series is not None  # dicom_kinds refuses others
    segments = segments_of(task)
    if kind == "rtstruct":
        write_rtstruct(path, labels, segments, series.files, model=model)
    else:
        label_map = kind == SEG_KINDS["LABELMAP"]
        write_seg(path, labels, segments, series.files, kind="LABELMAP" if label_map else "BINARY", model=model)
