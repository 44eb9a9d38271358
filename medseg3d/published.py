"""Published weights as a model directory, so that predict, verify, export and the rest need to know directories alone."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg3d import configs_folder
from medseg3d.bundle import LICENSE, write_metadata
from medseg3d.checks import ConfigError, ModelError
from medseg3d.inference.model import METADATA, SECTION
from medseg3d.io.atomic import atomic_write
from medseg3d.io.digest import sha256_of
from medseg3d.networks.inflation import reversed_axes
from medseg3d.networks.segformer import SegFormer, SegFormerClassifier
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task, load_task
from medseg3d.training.checkpoint import save_weights
from medseg3d.training.initial import PUBLISHED_TASK
from medseg3d.weights import SUFFIXES, family_in, locate, read_network

logger = logging.getLogger(__name__)

ORIGIN = "origin"
"""Key of metadata.json's section that says where weights come from."""
WINDOW = (128, 128, 128)
"""What the published SegFormer3D was validated on, in one window; it was trained on patches of 96."""
STATEMENT = (
    "prepared as the published SegFormer3D code does: channels FLAIR, T1, T1Gd, T2, axes in RAS order, every axial slice scaled "
    "to 0..1 by its own minimum and maximum, voxels of 1 mm, windows of 128; outputs TC, WT, ET by a sigmoid above 0.5. One "
    "thing is not as there: it cuts a fixed box of 128 voxels out of the middle and misses what lies outside; here all that is not "
    "zero is segmented."
)
TURNED = "that code has arrays z, y, x; its kernels are turned to x, y, z, the axes of medseg3d's grids"


def make_bundle(source: str | Path, task: Task, folder: Path, *, attention_scale: str | None = None) -> Path:
    """Write a model directory from published weights; nothing is trained.

    Args:
        source: what ``read_network`` takes.
        task: that the weights were trained for: its channels and labels are theirs, in their order.
        folder: where to write; must be empty or missing.
        attention_scale: as for ``read_network``.

    Returns:
        ``folder``.

    Raises:
        ConfigError: the folder holds something.
        ModelError: for weights that cannot be read, or are not those of such a task.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give another output folder")
    path = locate(source)
    network: Any = read_network(path, attention_scale=attention_scale)
    _check_fit(network, task, path)
    if family_in(path) == "segformer3d":
        network = reversed_axes(network)
        logger.info("%s: %s", path.name, TURNED)
    if task.name == PUBLISHED_TASK:
        logger.info("%s: %s", path.name, STATEMENT)
    else:
        logger.warning(
            "%s: prepared as task %r says; what its own code does with images is not in its weights",
            path.name,
            task.name,
        )
    metadata = write_metadata(
        folder,
        task=task,
        network=network.config,
        preprocessing=Preprocessing.from_task(task),
        roi_size=WINDOW if task.name == PUBLISHED_TASK else task.patch_size,
        phantom=False,
    )
    metadata[SECTION][ORIGIN] = {"weights": path.name, "sha256": sha256_of(path)}
    metadata |= {"changelog": {metadata["version"]: f"made from {path.name}"}}
    atomic_write(folder / METADATA, json.dumps(metadata, indent=2))
    atomic_write(
        folder / "configs" / "inference.yaml", (configs_folder() / "inference.yaml").read_text(encoding="utf-8")
    )
    atomic_write(folder / "LICENSE", LICENSE)
    save_weights(folder / "models", network.state_dict())
    return folder


def _check_fit(network: Any, task: Task, path: Path) -> None:
    config = network.config
    wanted = SegFormer if task.kind == "segmentation" else SegFormerClassifier
    if not isinstance(network, wanted):
        raise ModelError(
            f"{path} holds a {type(network).__name__} and task {task.name!r} needs a {wanted.__name__}; begin a training with it: "
            f"medseg3d train --task {task.name} --init {path}"
        )
    for key, number, names, does in (
        ("spatial_dims", task.spatial_dims, (), "gives the kernels of a 2D network a third axis"),
        ("in_channels", task.in_channels, task.channels, "makes the first layer from the mean of its kernels"),
        ("out_channels", task.out_channels, task.labels, "makes the last layer anew"),
    ):
        if config[key] != number:
            listed = f" ({', '.join(names)})" if names else ""
            raise ModelError(
                f"{path} has {config[key]} {key} and task {task.name!r} needs {number}{listed}: these weights were trained for "
                f"something else. To fine-tune them: medseg3d train --task {task.name} --init {path}, which {does}"
            )


@contextmanager
def model_directories(
    models: Sequence[Path], task: str | Path | None, attention_scale: str | None = None
) -> Iterator[list[Path]]:
    """Model directories for what a user gave as models; those of published weights last as long as the context.

    Args:
        models: model directories, or what ``read_network`` takes.
        task: name or file of the task that published weights were trained for.
        attention_scale: as for ``read_network``.

    Raises:
        ConfigError: a task without published weights.
        ModelError: published weights without a task, or that cannot be used.
    """
    published = [model for model in models if _is_published(model) or (task is not None and not model.exists())]
    if task is not None and not published:
        raise ConfigError("--task says what published weights were trained for; a run directory knows its own task")
    if published and task is None:
        raise ModelError(
            f"{published[0]} is no run directory; for a file of published weights say what they were trained for, such as "
            f"--task {PUBLISHED_TASK}"
        )
    with tempfile.TemporaryDirectory(prefix="medseg3d-") as temporary:
        out = []
        for i, model in enumerate(models):
            if model in published and task is not None:
                folder = Path(temporary, str(i), model.name.split(".")[0])
                model = make_bundle(model, load_task(task), folder, attention_scale=attention_scale)
            out.append(model)
        yield out


def _is_published(model: Path) -> bool:
    """Whether this is a file of weights, or a folder with them, and no model directory."""
    if not model.is_dir():
        return model.is_file()
    return not (model / METADATA).is_file() and any(file.suffix in SUFFIXES for file in model.iterdir())
