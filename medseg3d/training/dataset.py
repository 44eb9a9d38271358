"""A data set on the network's grid: read, checked and preprocessed once, before the first step; in memory, or mapped from disk."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from medseg3d.checks import ConfigError, InputError
from medseg3d.io import Case, ChannelFile, DataSet, read_image, read_label
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.training.cache import IGNORED, Cache, PreparedCase

READERS = min(4, os.cpu_count() or 1)
IN_MEMORY_GB = 4.0
"""What the prepared cases of a part may take of memory, in 10^9 bytes."""
HASHED_BYTES = 2**20
"""How much of the beginning and of the end of each file its fingerprint covers, besides its size."""
T = TypeVar("T")


class Cases(list[PreparedCase]):
    """Prepared cases; a class of its own so that ``load_cases`` can remember it weakly."""


_loaded: weakref.WeakValueDictionary[str, Cases] = weakref.WeakValueDictionary()


def load_cases(
    data_file: str | Path,
    part: str,
    *,
    dataset_dir: str | Path,
    task: Task,
    preprocessing: Preprocessing,
    bundle_root: str | Path,
    cache: str | Path | None = None,
    in_memory_gb: float = IN_MEMORY_GB,
) -> Cases:
    """The cases of one part of a run's data.

    A call with the same arguments returns the same object while somebody holds it: ``train`` loads, so that bad input stops it
    before anything is written, and train.yaml names the same cases again.

    Args:
        data_file: the run's ``configs/data.json``.
        part: ``training`` or ``validation``.
        dataset_dir: what the paths in ``data_file`` are relative to.
        task: of the run.
        preprocessing: of the run.
        bundle_root: the run directory, whose ``cache`` takes what does not fit into memory.
        cache, in_memory_gb: as for ``prepare``.

    Raises:
        ConfigError: no such data file.
        InputError: for the first case (in the file's order) that does not fit the task.
    """
    try:
        text = Path(data_file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no {data_file}; give the run directory as bundle_root") from None
    dataset, parts = dataset_from_dict(json.loads(text), dataset_dir)
    return prepare(
        dataset,
        parts[part],
        task=task,
        preprocessing=preprocessing,
        cache=cache,
        overflow=Path(bundle_root, "cache"),
        in_memory_gb=in_memory_gb,
    )


def prepare(
    dataset: DataSet,
    cases: Sequence[Case],
    *,
    task: Task,
    preprocessing: Preprocessing,
    cache: str | Path | None = None,
    overflow: str | Path | None = None,
    in_memory_gb: float = IN_MEMORY_GB,
) -> Cases:
    """Read, check and preprocess cases, or take them from where that was done before.

    Args:
        dataset: where the cases come from.
        cases: of it.
        task, preprocessing: what is done to them.
        cache: folder of prepared cases, used for all of them; None keeps them in memory alone.
        overflow: folder for those that do not fit into memory, where there is no ``cache``; None takes memory for all.
        in_memory_gb: what cases may take of memory, in 10^9 bytes; those beyond are mapped from their files.

    Raises:
        InputError: for the first case that does not fit the task.
    """
    key = json.dumps(
        [str(dataset.root), dataset_as_dict(dataset, {"": cases}), task.as_dict(), preprocessing.as_dict()]
    )
    found = _loaded.get(key)
    if found is None:
        shelf = _Shelf(cache, overflow, in_memory_gb)
        found = Cases(_in_order(lambda case: shelf.take(case, dataset, task, preprocessing), cases, "reading"))
        _loaded[key] = found
    return found


class _Shelf:
    """Where prepared cases lie: memory as long as it lasts, then files; several threads take from it."""

    def __init__(self, cache: str | Path | None, overflow: str | Path | None, in_memory_gb: float) -> None:
        self.cache = None if cache is None else Cache(Path(cache))
        self.overflow = None if overflow is None else Cache(Path(overflow))
        self.left = in_memory_gb * 1e9
        self._lock = threading.Lock()

    def take(self, case: Case, dataset: DataSet, task: Task, preprocessing: Preprocessing) -> PreparedCase:
        if self.cache is None:
            made = prepare_case(case, dataset, task, preprocessing)
            if self._fits(made) or self.overflow is None:
                return made
            return self.overflow.store(made, self.overflow.key(case, dataset, task, preprocessing))
        key = self.cache.key(case, dataset, task, preprocessing)
        kept = self.cache.load(case.name, key)
        if kept is None:
            kept = self.cache.store(prepare_case(case, dataset, task, preprocessing), key)
        if not self._fits(kept):
            return kept
        return replace(kept, image=kept.image.clone(), target=None if kept.target is None else kept.target.clone())

    def _fits(self, case: PreparedCase) -> bool:
        with self._lock:
            fits = case.bytes <= self.left
            self.left -= case.bytes if fits else 0
        return fits


def prepare_case(case: Case, dataset: DataSet, task: Task, preprocessing: Preprocessing) -> PreparedCase:
    """Read, check and preprocess one case."""
    image = read_image(case, task)
    grid = preprocessing.plan(image)
    data = torch.from_numpy(preprocessing.image(image, grid))
    if task.kind == "classification":
        return PreparedCase(case.name, data, None, case.class_index, grid)
    label = preprocessing.labels(read_label(case, dataset, task, image.grid), grid)
    return PreparedCase(case.name, data, torch.from_numpy(encode_labels(label, task)), None, grid)


def encode_labels(labels: NDArray[np.unsignedinteger[Any]], task: Task) -> NDArray[np.uint8]:
    """Label values as what the loss wants: class numbers (0 background, then the task's labels in order), or for regions 0 and
    ``i + 1`` for ``task.values[i]``, the rows of ``losses.region_table``; ``IGNORED`` where nobody has judged.

    Raises:
        ConfigError: for more than 254 different values.
    """
    if len(task.values) >= IGNORED:
        raise ConfigError(
            f"task {task.name!r} has {len(task.values)} label values; training handles up to {IGNORED - 1}"
        )
    table = np.zeros(max((*task.values, task.ignore or 0)) + 1, dtype=np.uint8)
    if task.ignore is not None:
        table[task.ignore] = IGNORED
    for row, value in enumerate(task.values, start=1):
        table[value] = (
            row if task.regions else 1 + next(i for i, ids in enumerate(task.labels.values()) if value in ids)
        )
    return table[labels]


def _in_order(work: Callable[[Case], T], cases: Sequence[Case], what: str) -> Iterable[T]:
    """The results in the cases' order, a few at a time; the first failure stops the rest."""
    with ThreadPoolExecutor(READERS) as pool:
        futures = [pool.submit(work, case) for case in cases]
        try:
            return [f.result() for f in tqdm(futures, desc=what, unit="case", disable=None, leave=False)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def dataset_as_dict(dataset: DataSet, parts: Mapping[str, Sequence[Case]]) -> dict[str, Any]:
    """A data set and its split as JSON types, with paths relative to its root; ``dataset_from_dict`` reads it back."""

    def relative(path: Path) -> str:
        return Path(os.path.relpath(path, dataset.root)).as_posix()

    def case_dict(case: Case) -> dict[str, Any]:
        return {
            "name": case.name,
            "images": [[relative(f.path), f.index] for f in case.images],
            "label": None if case.label is None else relative(case.label),
            "class_index": case.class_index,
        }

    return {
        "layout": dataset.layout,
        "channel_names": dict(dataset.channel_names),
        "label_values": {str(k): v for k, v in dataset.label_values.items()},
        "numbering": list(dataset.numbering),
        **{part: [case_dict(case) for case in cases] for part, cases in parts.items()},
    }


def dataset_from_dict(values: Mapping[str, Any], root: str | Path) -> tuple[DataSet, dict[str, list[Case]]]:
    """The data set and its parts that ``dataset_as_dict`` wrote, with ``root`` as the folder that paths are relative to."""
    root = Path(root)
    parts = {
        part: [
            Case(
                entry["name"],
                tuple(ChannelFile(root / path, index) for path, index in entry["images"]),
                None if entry["label"] is None else root / entry["label"],
                entry["class_index"],
            )
            for entry in values[part]
        ]
        for part in ("training", "validation")
    }
    dataset = DataSet(
        root=root,
        layout=values["layout"],
        cases=tuple(case for cases in parts.values() for case in cases),
        channel_names=dict(values["channel_names"]),
        label_values={int(k): int(v) for k, v in values["label_values"].items()},
        notes=(),
        numbering=tuple(map(str, values.get("numbering", ()))),
    )
    return dataset, parts


def fingerprint(cases: Sequence[Case]) -> str:
    """What a run remembers its data by: names, file sizes and the beginning and end of every file; not where they lie.

    Raises:
        InputError: ``E-NOT-READABLE`` for a file that cannot be read.
    """

    def of_file(path: Path) -> str:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(HASHED_BYTES))
            if size > HASHED_BYTES:
                file.seek(max(HASHED_BYTES, size - HASHED_BYTES))
                digest.update(file.read())
        return f"{size} {digest.hexdigest()}"

    def of_case(case: Case) -> str:
        paths = {f.path for f in case.images} | ({case.label} if case.label else set())
        try:
            return "\n".join([case.name, str(case.class_index), *(of_file(p) for p in sorted(paths))])
        except OSError as error:
            raise InputError("E-NOT-READABLE", f"cannot be read ({error.strerror})", file=error.filename) from error

    return hashlib.sha256("\n\n".join(of_case(c) for c in sorted(cases, key=lambda c: c.name)).encode()).hexdigest()
