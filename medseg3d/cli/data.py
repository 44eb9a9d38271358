"""What is in files: check, info, convert."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg3d.checks import InputError
from medseg3d.cli.exits import OK, of_cases
from medseg3d.cli.parser import add_json


def check_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("data", type=Path, metavar="DATA", help="data set in any layout, folder of scans (also DICOM), or one file")
    add("--task", help="what the data are for: name or .yaml file; without it files are looked at one by one")
    add("--strict", action="store_true", help="warnings count as errors")
    add_json(sub)


def check(options: argparse.Namespace) -> int:
    """Look for what is wrong in a data set, a folder of scans or a file, before it is used."""
    from medseg3d.inspection import inspect
    from medseg3d.task import load_task

    found = inspect(options.data, load_task(options.task) if options.task else None)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
    refused = found.count("error") + (found.count("warning") if options.strict else 0)
    return InputError.exit_code if refused else OK


def dicom_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--timepoint", type=int, metavar="N", help="of a DICOM series of several volumes, the N-th; from 1")
    add("--force", action="store_true", help="read DICOM data sets without their preamble, too")


def info_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", type=Path, metavar="PATH", help="folder of DICOM or image files, or one file")
    dicom_options(sub)
    add_json(sub)


def info(options: argparse.Namespace) -> int:
    """Say what is in a folder or file: series, sizes, spacing, orientation, warnings."""
    from medseg3d.io.description import describe

    found = describe(options.path, timepoint=options.timepoint, force=options.force)
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
    return OK


def convert_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("-i", "--input", type=Path, required=True, metavar="DICOM", help="folder of DICOM files, or one file")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    add("--series", metavar="NUMBER", help="this one alone: number or id as medseg3d info shows them, or its UID")
    add("--images", type=Path, metavar="FOLDER", help="of a SEG or RTSTRUCT: the DICOM images that it was drawn on")
    add("--assume-orientation", metavar="CODE", help="of NIfTI files that do not say how they lie, such as RAS")
    dicom_options(sub)
    add_json(sub)


def convert(options: argparse.Namespace) -> int:
    """Write DICOM series as NIfTI, each with a JSON of what was found; a SEG or RTSTRUCT as a label map."""
    from medseg3d.io.conversion import convert as to_nifti

    chosen = {
        "series": options.series,
        "timepoint": options.timepoint,
        "force": options.force,
        "images": options.images,
    }
    if options.assume_orientation:
        from medseg3d.io.orienting import assume_orientation

        what, result = "files", assume_orientation(options.input, options.output, options.assume_orientation)
    else:
        what, result = "series", to_nifti(options.input, options.output, **chosen)
    if options.json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        total = len(result.written) + len(result.failed)
        print(f"{len(result.written)} of {total} {what} are converted in {options.output}")
    return of_cases(result.written, result.failed)
