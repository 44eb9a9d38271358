"""A run directory is a MONAI bundle: configs, metadata, models, docs (DESIGN.md, decision 2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medseg3d import __version__, configs_folder
from medseg3d.checks import ConfigError
from medseg3d.io.atomic import atomic_write
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task

OVERLAP = 0.5
"""Of neighbouring windows when the trained model is used."""
LICENSE = """The code and configs in this directory come from medseg3d, which is under the Apache License 2.0.
The weights in models/ belong to whoever trained them, and may be bound by the terms of the data they were trained on:
write here what others may do with them before you pass them on.
"""
README = """# {name}

{description}

Segment scans, on their own grids:

    medseg3d predict --model {folder} -i SCANS -o SEGMENTATIONS

The same with MONAI:

    python -m monai.bundle run --config_file {folder}/configs/inference.yaml \\
        --bundle_root {folder} --dataset_dir SCANS --output_dir SEGMENTATIONS

`configs/metadata.json` says what the model is, `configs/train.yaml` how it was trained and on what split
(`configs/data.json`), `metrics.csv` how that went. Configs are code: run them only where you trust their author.
`medseg3d predict` reads metadata and weights alone.
"""


def create(
    folder: Path,
    *,
    train_config: str,
    data: Mapping[str, Any],
    task: Task,
    network: Mapping[str, Any],
    preprocessing: Preprocessing,
    phantom: bool,
    channel_dropout: float = 0.0,
    init: Mapping[str, Any] | None = None,
) -> None:
    """Make a run directory that MONAI can run from its first second.

    Args:
        folder: the run directory.
        train_config: text of ``configs/train.yaml``.
        data: content of ``configs/data.json``: the cases and their split.
        task, network, preprocessing, phantom, channel_dropout, init: as for ``write_metadata``.
    """
    configs = folder / "configs"
    (folder / "models").mkdir(parents=True, exist_ok=True)
    metadata = write_metadata(
        folder,
        task=task,
        network=network,
        preprocessing=preprocessing,
        roi_size=task.patch_size,
        phantom=phantom,
        channel_dropout=channel_dropout,
        init=init,
    )
    atomic_write(configs / "data.json", json.dumps(data, indent=1))
    for name in ("inference.yaml", "evaluate.yaml"):
        atomic_write(configs / name, (configs_folder() / name).read_text(encoding="utf-8"))
    atomic_write(folder / "LICENSE", LICENSE)
    atomic_write(
        folder / "docs" / "README.md",
        README.format(name=metadata["name"], description=metadata["description"], folder=folder.as_posix()),
    )
    atomic_write(configs / "train.yaml", train_config)


def write_metadata(
    folder: Path,
    *,
    task: Task,
    network: Mapping[str, Any],
    preprocessing: Preprocessing,
    roi_size: Sequence[int],
    phantom: bool,
    channel_dropout: float = 0.0,
    init: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``configs/metadata.json``: MONAI's keys, and under ``medseg3d`` all that prediction needs besides weights.

    Args:
        folder: the run directory.
        task: that the network is trained for.
        network: its config.
        preprocessing: of its images.
        roi_size: window for prediction.
        phantom: whether it is trained on made-up data.
        channel_dropout: part of the training samples that each channel was missing from; above 0 the network can do without.
        init: name and hash of the weights that the training began with, where they were not random.

    Returns:
        What was written.
    """
    metadata: dict[str, Any] = json.loads((configs_folder() / "metadata.json").read_text(encoding="utf-8"))
    what = "classifies" if task.kind == "classification" else "segments"
    metadata |= {
        "version": __version__,
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            p: version(p) for p in ("nibabel", "pytorch-ignite", "safetensors", "scipy", "isal")
        }
        | {"medseg3d": __version__},
        "name": task.name,
        "task": f"{what} {', '.join(task.labels)} in {', '.join(task.channels)}",
        "description": f"A SegFormer that {what} {', '.join(task.labels)} in "
        f"{'slices of ' if task.slices else ''}{task.spatial_dims}D images "
        f"({', '.join(task.channels)})." + (" Trained on phantoms: it knows no real scan." if phantom else ""),
        "network_data_format": network_data_format(task, roi_size),
        "medseg3d": {
            "version": __version__,
            "task": task.as_dict(),
            "network": dict(network),
            "preprocessing": preprocessing.as_dict(),
            "inference": {
                "roi_size": list(roi_size),
                "overlap": OVERLAP,
                **({"channel_dropout": channel_dropout} if channel_dropout else {}),
            },
            "phantom": phantom,
            **({} if init is None else {"init": dict(init)}),
        },
    }
    atomic_write(folder / "configs" / "metadata.json", json.dumps(metadata, indent=2))
    return metadata


def network_data_format(task: Task, roi_size: Sequence[int]) -> dict[str, Any]:
    """What goes into the network and comes out, in the words of MONAI's bundle specification."""
    image = {
        "type": "image",
        "format": "hounsfield" if task.intensity == "ct" else "magnitude",
        "modality": "CT" if task.intensity == "ct" else "MR" if task.spatial_dims == 3 else "RGB",
        "num_channels": len(task.inputs),
        "spatial_shape": list(roi_size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(task.inputs)},
    }
    names = [*(["background"] if task.out_channels > len(task.labels) else []), *task.labels]
    logits = {
        "type": "probabilities" if task.kind == "classification" else "image",
        "format": "classification" if task.kind == "classification" else "segmentation",
        "num_channels": task.out_channels,
        "spatial_shape": [] if task.kind == "classification" else list(roi_size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(names)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": logits}}


def read_data(folder: Path) -> dict[str, Any]:
    """The cases and split of a run directory.

    Raises:
        ConfigError: the folder is no run directory.
    """
    path = folder / "configs" / "data.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); {folder} is no run directory of medseg3d train") from None
    return dict(values)
