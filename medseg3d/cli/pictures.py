"""What people look at: report, preview."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg3d.cli.exits import OK
from medseg3d.cli.parser import add_json


def report_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("source", type=Path, metavar="FOLDER", help="run directory, or the output folder of evaluate")
    add("-o", "--output", type=Path, metavar="FILE", help="default: report.html in FOLDER")
    add("--data", type=Path, metavar="FOLDER", help="data set with scans and references; for a run: where it lies now")
    add("--images", type=Path, metavar="FOLDER", help="for an evaluation: the scans alone")
    add("--reference", type=Path, metavar="FOLDER", help="for an evaluation: the reference label maps")
    add("--prediction", type=Path, metavar="FOLDER", help="for an evaluation: predictions; default: FOLDER itself")
    add("--task", help="for an evaluation with a task of your own: its .yaml file")
    add("--channel", action="append", dest="channels", metavar="NAME", help="show this channel; may be repeated")
    add("--cases", type=int, default=20, metavar="N", help="pictures of the N worst cases; default 20")
    add("--anonymous", action="store_true", help="number the cases instead of naming them")


def report(options: argparse.Namespace) -> int:
    """Write one HTML file, readable offline, of a run or an evaluation."""
    from medseg3d.report import write_report

    keys = ("data", "images", "reference", "prediction", "task", "channels", "cases", "anonymous")
    given = {key: getattr(options, key) for key in keys}
    file = write_report(options.source, options.output or options.source / "report.html", progress=True, **given)
    print(f"report: {file}")
    return OK


def preview_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("file", type=Path, metavar="FILE", help="a scan or a label map")
    add("--labels", type=Path, metavar="FILE", help="a label map to draw on it")
    add("-o", "--output", type=Path, metavar="PNG", help="default: NAME_preview.png in the current folder")
    add_json(sub)


def preview(options: argparse.Namespace) -> int:
    """Three planes of a scan as one PNG, and quick statistics."""
    from medseg3d.io.images import image_stem
    from medseg3d.report import preview as look
    from medseg3d.report.quick_look import table

    output = options.output or Path(f"{image_stem(options.file)}_preview.png")
    found = look(options.file, output, labels=options.labels)
    print(json.dumps(found, indent=2) if options.json else f"{table(found)}\npicture: {output}")
    return OK
