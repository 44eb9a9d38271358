"""One safetensors file that holds the weights and, in its header, the network they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from medseg3d.inference.model import METADATA, SECTION, TrainedModel
from medseg3d.weights import HEADER, read_network


def write(model: TrainedModel, run: Path, path: Path) -> None:
    """Write the weights, with the model's section of metadata in the header."""
    section = json.loads((run / METADATA).read_text(encoding="utf-8"))[SECTION]
    weights = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    path.write_bytes(save(weights, metadata={"format": "pt", HEADER: json.dumps(section)}))


def run(path: Path, model: TrainedModel) -> Callable[[Tensor], Tensor]:
    """The written network."""
    return read_network(path)
