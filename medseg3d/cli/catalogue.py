"""What there is: tasks, weights, public data, and this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg3d.cli.exits import OK
from medseg3d.cli.parser import add_json


def tasks(options: argparse.Namespace) -> int:
    """List the tasks that come with medseg3d."""
    from medseg3d.task import load_task, task_names

    found = [load_task(name) for name in task_names()]
    if options.json:
        print(json.dumps([task.as_dict() for task in found], indent=2))
        return OK
    for task in found:
        labels = ", ".join(task.labels)
        kind = f"{task.spatial_dims}D {task.kind}" + (" slice by slice" if task.slices else "")
        print(f"{task.name:18} {kind}: {' + '.join(task.channels)} -> {labels}")
    return OK


def models_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--get", metavar="NAME", help="fetch these weights and check them")
    add("--from", dest="file", type=Path, metavar="FILE", help="install them from a file fetched by other means")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="default: runs/NAME for the model of a task, else weights/NAME",
    )
    add("--list", type=Path, metavar="YAML", help="a list of your own in place of the one that comes with medseg3d")
    add_json(sub)


def models(options: argparse.Namespace) -> int:
    """List weights that can be had, with their licences; fetch one, or install it from a file."""
    from medseg3d.zoo import install, named, table, zoo

    entries = zoo(options.list)
    if options.get is None:
        print(json.dumps([e.as_dict() for e in entries], indent=2) if options.json else table(entries))
        return OK
    entry = named(entries, options.get)
    folder = install(entry, options.output, file=options.file)
    if options.json:
        print(json.dumps(entry.as_dict() | {"folder": str(folder)}, indent=2))
        return OK
    whole = (folder / "configs").is_dir()
    print(f"weights: {folder}\nlicence: {entry.licence}")
    print(
        f"next: medseg3d {f'predict --model {folder} -i IN -o OUT' if whole else f'train --task NAME --init {folder}'}"
    )
    return OK


def download_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--task", required=True, help="name of a task with a public data set, such as hippocampus")
    sub.add_argument("-o", "--output", type=Path, default=Path("data"), metavar="FOLDER", help="default: data")


def download(options: argparse.Namespace) -> int:
    """Fetch a task's public data set (Medical Segmentation Decathlon), with its checksum."""
    from medseg3d.download import download as fetch

    folder = fetch(options.task, options.output)
    print(f"data: {folder}\nnext: medseg3d train --task {options.task} --data {folder}")
    return OK


def doctor(options: argparse.Namespace) -> int:
    """Say what is on this machine: versions, processor, GPU, memory, decoders, and what costs speed."""
    from medseg3d.doctor import diagnose

    found = diagnose()
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.text())
    return OK
