"""Prepared cases on disk: made once, used while scans, labels, settings and versions are the same, made again where damaged.

One safetensors file per case: uncompressed, so that patches are read from the mapped file and nothing else of it is. Its key is
a hash of the contents of the source files, of what is done to them, and of the versions that do it; its arrays carry checksums.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medseg3d import __version__
from medseg3d.io import Case, DataSet
from medseg3d.io.atomic import atomic_write
from medseg3d.io.digest import sha256_of
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import AxisMap, Grid

logger = logging.getLogger(__name__)

IGNORED = 255
"""In a target: nobody has judged this voxel."""
FORMAT = "medseg3d.prepared/1"
"""Counts up when preparing gives other arrays or the file another form."""
VERSIONS = {"medseg3d": __version__, **{name: version(name) for name in ("torch", "numpy", "nibabel", "SimpleITK")}}


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the network's grid.

    Args:
        name: of the case.
        image: ``(C, *grid.shape)`` float32, normalised.
        target: ``(1, *grid.shape)`` uint8 as ``encode_labels`` gives, or None for classification.
        class_index: for classification.
        grid: where the image lies.
    """

    name: str
    image: Tensor
    target: Tensor | None
    class_index: int | None
    grid: NetworkGrid

    @property
    def bytes(self) -> int:
        """Of the arrays."""
        return self.image.nbytes + (0 if self.target is None else self.target.nbytes)


@dataclass(frozen=True)
class Cache:
    """A folder of prepared cases, which any number of runs and processes may share.

    Args:
        folder: made where it is missing.
    """

    folder: Path

    def key(self, case: Case, dataset: DataSet, task: Task, preprocessing: Preprocessing) -> str:
        """What a prepared case depends on, as a hash.

        Raises:
            InputError: ``E-NOT-READABLE``.
        """
        files = dict.fromkeys([*(f.path for f in case.images), *([case.label] if case.label else [])])
        hashes = {path: sha256_of(path) for path in files}
        values = {
            "format": FORMAT,
            "versions": VERSIONS,
            "images": [[hashes[f.path], f.index] for f in case.images],
            "label": None if case.label is None else hashes[case.label],
            "values": {str(k): v for k, v in dataset.label_values.items()},
            "class": case.class_index,
            "task": {k: v for k, v in task.as_dict().items() if k in ("kind", "labels", "ignore")},
            "preprocessing": preprocessing.as_dict(),
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def path(self, name: str, key: str) -> Path:
        """Where a case lies; names of cases may hold what names of files may not."""
        safe = re.sub(r"[^\w.-]", "_", name)[:80]
        return self.folder / f"{safe}-{key[:16]}.safetensors"

    def load(self, name: str, key: str) -> PreparedCase | None:
        """The case, mapped into memory; None where it is not there, of another key, or damaged."""
        path = self.path(name, key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["medseg3d"])
                arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (it is no mapping)
            if about["key"] != key:
                return None
            wrong = [k for k, checksum in about["checksums"].items() if checksum_of(arrays[k]) != checksum]
            if wrong:
                raise ValueError(f"its {wrong[0]} does not match its checksum")
            return PreparedCase(name, arrays["image"], arrays.get("target"), about["class"], _grid(about["grid"]))
        except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
            logger.warning("%s is damaged (%s); case %s is prepared again", path, error, name)
            return None

    def store(self, case: PreparedCase, key: str) -> PreparedCase:
        """Write a case, whole or not at all; returns it as it is read back.

        Raises:
            InputError: ``E-DISK-FULL`` and the like.
        """
        arrays = {"image": case.image.contiguous()}
        if case.target is not None:
            arrays["target"] = case.target.contiguous()
        about = {
            "key": key,
            "class": case.class_index,
            "grid": _grid_as_dict(case.grid),
            "checksums": {k: checksum_of(a) for k, a in arrays.items()},
        }
        atomic_write(self.path(case.name, key), save(arrays, {"medseg3d": json.dumps(about)}))
        return self.load(case.name, key) or case


def checksum_of(array: Tensor) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(array.numpy().reshape(-1).view(np.uint8).data)


def _grid_as_dict(grid: NetworkGrid) -> dict[str, Any]:
    axis_map = grid.axis_map
    return {
        "source_shape": grid.source.shape,
        "source_affine": grid.source.affine.tolist(),
        "axes": axis_map.axes,
        "start": axis_map.start,
        "step": axis_map.step,
        "shape": grid.shape,
    }


def _grid(values: Mapping[str, Any]) -> NetworkGrid:
    axis_map = AxisMap(tuple(values["axes"]), tuple(values["start"]), tuple(values["step"]))
    source = Grid(tuple(values["source_shape"]), np.array(values["source_affine"]))
    return NetworkGrid(source, axis_map, tuple(values["shape"]))
