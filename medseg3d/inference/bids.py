"""Results under the names of BIDS derivatives: a tree of hard links in ``bids/``, which takes no room."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.inference.results import output_files
from medseg3d.inference.sidecar import DONE, read_sidecar, sidecar_path
from medseg3d.io.atomic import atomic_fill, atomic_write
from medseg3d.io.case_names import comparable
from medseg3d.io.colours import label_colour
from medseg3d.io.dataset import Case
from medseg3d.io.images import image_suffix
from medseg3d.io.segments import segments_of
from medseg3d.task import Task

FOLDER = "bids"
BIDS_VERSION = "1.10.0"
ENTITY = re.compile(r"(?P<key>[a-zA-Z]+)-(?P<value>[a-zA-Z0-9]+)")
OURS = ("space", "desc", "label", "res")
"""Entities of a source's name that a result's are put in place of."""
SUFFIXES = {"labels": "dseg", "probabilities": "probseg"}


def bids_name(name: str) -> tuple[Path, str]:
    """The folder of a case in a BIDS tree, and the entities that its files begin with.

    Args:
        name: of the case. One in BIDS' own form (``sub-01_ses-2_run-1_T1w``) keeps its entities; of any other the letters and
            digits become the subject's label.
    """
    found = [ENTITY.fullmatch(part) for part in name.split("_")]
    entities = {m["key"].lower(): m["value"] for m in found if m is not None}
    if "sub" not in entities:
        entities = {"sub": re.sub(r"[^a-zA-Z0-9]", "", name) or "case"}
    first = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    rest = [f"{key}-{value}" for key, value in entities.items() if key not in ("sub", "ses", *OURS)]
    return Path(*first, "anat"), "_".join([*first, *rest])


def write_bids(cases: Iterable[Case], output: Path, task: Task) -> list[str]:
    """Lay out the results of cases that are done as a BIDS derivative in ``bids/`` of the output folder.

    ``sub-.._space-orig_desc-TASK_dseg.nii.gz`` (probabilities ``_probseg``) with a JSON of what it is, ``desc-TASK_dseg.tsv``
    with the values' names and colours, and ``dataset_description.json``.

    Args:
        cases: with results in ``output``; those without are left out.
        output: the folder.
        task: of the model.

    Returns:
        Names of cases that have the BIDS name of another, and are not there.
    """
    root = output / FOLDER
    plain = re.sub(r"[^a-zA-Z0-9]", "", task.name) or "segmentation"
    taken: dict[str, str] = {}
    twice = []
    for case in cases:
        files = output_files(case, output)
        sidecar = read_sidecar(sidecar_path(files["labels"]))
        if sidecar is None or sidecar["status"] != DONE:
            continue
        folder, entities = bids_name(case.name)
        if taken.setdefault(comparable(f"{folder}/{entities}"), case.name) != case.name:
            twice.append(case.name)
            continue
        for kind, suffix in SUFFIXES.items():
            if kind in sidecar["outputs"] and files[kind].is_file():
                stem = root / folder / f"{entities}_space-orig_desc-{plain}_{suffix}"
                _link(files[kind], Path(f"{stem}{image_suffix(files[kind]) or files[kind].suffix}"))
                atomic_write(f"{stem}.json", _json(_about(sidecar, kind)))
    atomic_write(root / f"desc-{plain}_dseg.tsv", _table(task))
    description = {
        "Name": f"medseg3d {task.name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medseg3d", "Version": __version__}],
    }
    atomic_write(root / "dataset_description.json", _json(description))
    return twice


def _about(sidecar: dict[str, Any], kind: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "Manual": False,
        "SpatialReference": sidecar["inputs"][0]["file"],
        "Sources": [entry["file"] for entry in sidecar["inputs"]],
        "Models": [{key: model.get(key) for key in ("name", "weights_sha256")} for model in sidecar["models"]],
    }
    if kind == "probabilities":
        about["LabelMap"] = sidecar.get("probabilities", {}).get("channels")
    return about


def _table(task: Task) -> str:
    lines = ["index\tname\tcolor", "0\tbackground\t#000000"]
    for segment in segments_of(task):
        lines.append(f"{segment.value}\t{segment.name}\t#{bytes(label_colour(segment.value)).hex().upper()}")
    return "\n".join(lines) + "\n"


def _link(file: Path, place: Path) -> None:
    """The file under another name: a hard link, or a copy where the file system has none."""
    if place.is_file() and place.samefile(file):
        return

    def fill(temporary: Path) -> None:
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)

    atomic_fill(place, fill)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
