"""A zipped MONAI bundle, as the model zoo has them: MONAI's own tools load, verify and run it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from medseg3d import configs_folder
from medseg3d.bundle import LICENSE
from medseg3d.checks import ModelError
from medseg3d.export.card import card
from medseg3d.inference.model import METADATA, TrainedModel
from medseg3d.io.archive import unpack_zip
from medseg3d.io.atomic import atomic_write
from medseg3d.training.checkpoint import save_weights

CONFIGS = ("inference", "evaluate")
MANDATORY = (
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)


def write(model: TrainedModel, run: Path, path: Path) -> None:
    """Write the zip: one folder of the file's name. The training's configs stay behind: they name the cases and where they lie."""
    name = path.stem
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, name)
        metadata = json.loads((run / METADATA).read_text(encoding="utf-8"))
        if missing := [key for key in MANDATORY if not metadata.get(key)]:
            raise ModelError(f"{run / METADATA} lacks {', '.join(missing)}, which MONAI wants")
        atomic_write(folder / METADATA, json.dumps(metadata, indent=2))
        for config in CONFIGS:
            # MONAI's load looks for JSON.
            values = yaml.safe_load((configs_folder() / f"{config}.yaml").read_text(encoding="utf-8"))
            atomic_write(folder / "configs" / f"{config}.json", json.dumps(values, indent=2))
        save_weights(folder / "models", model.network.state_dict())
        if (run / "LICENSE").is_file():
            shutil.copyfile(run / "LICENSE", folder / "LICENSE")
        else:
            atomic_write(folder / "LICENSE", LICENSE)
        atomic_write(folder / "docs" / "README.md", card(model, run, place=name, front_matter=False))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(temporary).as_posix())


def run(path: Path, model: TrainedModel) -> Callable[[Tensor], Tensor]:
    """The network that ``monai.bundle.load`` gives for the unpacked zip, after MONAI's own check of what it takes and gives."""
    from monai.bundle.scripts import load, verify_net_in_out

    with tempfile.TemporaryDirectory() as temporary, _quiet():
        unpack_zip(path, Path(temporary))
        folder = Path(temporary, path.stem)
        config = folder / "configs" / "inference.json"
        verify_net_in_out("network_def", device="cpu", meta_file=str(folder / METADATA), config_file=str(config))
        network: Any = load(path.stem, bundle_dir=temporary, workflow_type="inference", device="cpu", source="github")
    return network.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without MONAI's listing of its arguments, and its warning of configs from elsewhere: this one is ours."""
    logging.disable(logging.WARNING)  # its loggers have levels of their own
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
