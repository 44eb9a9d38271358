"""A program of ``torch.export``: runs in torch without medseg3d, at other sizes and batches than it was traced with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from medseg3d.export.compare import thin
from medseg3d.inference.model import METADATA, TrainedModel
from medseg3d.networks.portable import portable

EXTRA = "metadata.json"


def program(model: TrainedModel, *, fixed: bool) -> ExportedProgram:
    """The traced network: any batch, any size.

    Args:
        model: its weights are baked in.
        fixed: trace axes of the window that are ``thin`` as they are, for runtimes that hold to what was traced.
    """
    # No two axes alike, and none a multiple of what the network divides by, so that the tracer assumes neither.
    sizes = [70, 93, 41][: model.task.network_dims]
    axes: dict[int, Any] = {0: Dim.AUTO, **dict.fromkeys(range(2, 2 + len(sizes)), Dim.AUTO)}
    for i, (n, single) in enumerate(zip(model.roi_size, thin(model), strict=True)):
        if fixed and single:
            sizes[i], axes[i + 2] = n, Dim.STATIC
    image = torch.zeros(2, len(model.task.inputs), *sizes)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        return torch.export.export(portable(model.network), (image,), dynamic_shapes=(axes,))


def write(model: TrainedModel, run: Path, path: Path) -> None:
    """Write the program, with the model's metadata as an extra file of the archive."""
    section = json.loads((run / METADATA).read_text(encoding="utf-8"))
    torch.export.save(program(model, fixed=True), path, extra_files={EXTRA: json.dumps(section)})


def run(path: Path, model: TrainedModel) -> Callable[[Tensor], Tensor]:
    """The written program."""
    return torch.export.load(path).module()
