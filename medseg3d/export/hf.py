"""A folder as the Hugging Face hub has them: ``config.json``, ``model.safetensors``, a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from medseg3d.bundle import LICENSE
from medseg3d.export import safetensors
from medseg3d.export.card import card
from medseg3d.inference.model import METADATA, TrainedModel, load_model
from medseg3d.io.atomic import atomic_write
from medseg3d.weights import CONFIG, FILES, HEADER, read_network


def write(model: TrainedModel, run: Path, path: Path) -> None:
    """Write the folder. It is a model directory, too: ``configs/metadata.json`` is what ``predict --model`` reads."""
    path.mkdir(parents=True)
    metadata = json.loads((run / METADATA).read_text(encoding="utf-8"))
    config = {
        "model_type": HEADER,
        "architectures": [type(model.network).__name__],
        "id2label": _names(model),
        **metadata[HEADER],
    }
    atomic_write(path / CONFIG, json.dumps(config, indent=2))
    safetensors.write(model, run, path / FILES[0])
    atomic_write(path / METADATA, json.dumps(metadata, indent=2))
    if (run / "LICENSE").is_file():
        shutil.copyfile(run / "LICENSE", path / "LICENSE")
    else:
        atomic_write(path / "LICENSE", LICENSE)
    atomic_write(path / "README.md", card(model, run, place=path.name, front_matter=True))


def run(path: Path, model: TrainedModel) -> Callable[[Tensor], Tensor]:
    """The network as ``predict`` finds it in the folder; ``from_pretrained`` must give the same."""
    network, again = load_model(path).network, read_network(path)
    same = {k: v.equal(again.state_dict()[k]) for k, v in network.state_dict().items()}
    if not all(same.values()):
        raise ValueError(f"{CONFIG} and {METADATA} name different networks")
    return network


def _names(model: TrainedModel) -> dict[str, str]:
    names = [*(["background"] if model.task.out_channels > len(model.task.labels) else []), *model.task.labels]
    return {str(i): name for i, name in enumerate(names)}
