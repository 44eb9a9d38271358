"""The one place that knows MONAI's types: medseg3d's preprocessing, windows and decoding as transforms and an inferer."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import MapTransform, Transform
from torch import Tensor

from medseg3d.checks import ConfigError
from medseg3d.inference.decode import full_logits, restore_labels
from medseg3d.inference.precision import autocast_type
from medseg3d.inference.windows import sliding_logits
from medseg3d.io import Case, ChannelFile, find_cases, read_image, write_volume
from medseg3d.io.images import PICTURE_SUFFIXES
from medseg3d.networks.folding import folded
from medseg3d.networks.segformer import SegFormer
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import AxisMap, Grid, Volume


def find_items(folder: str | Path, task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cases of a folder as a MONAI data list: ``{"image": [file of each channel], "index": [channel in it], "name"}``.

    Args:
        folder: in any layout that ``find_cases`` knows.
        task: ``Task.as_dict()``.
    """
    cases = find_cases(folder, Task.from_dict(task), labels=False).cases
    return [
        {"name": c.name, "image": [str(f.path) for f in c.images], "index": [f.index for f in c.images]} for c in cases
    ]


class PreparedImaged(Transform):
    """Read an item of ``find_items`` and bring it to the network's grid.

    An item without ``index`` names one file with all channels, or one file per channel.

    Args:
        task: ``Task.as_dict()``.
        preprocessing: ``Preprocessing.as_dict()``.

    Shape: gives ``{"image": (C, *network grid) float32, "source": where it came from, as JSON}``.
    """

    def __init__(self, task: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> None:
        self.task = Task.from_dict(task)
        self.preprocessing = Preprocessing.from_dict(preprocessing)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        files = [item["image"]] if isinstance(item["image"], (str, Path)) else list(item["image"])
        channels = self.task.in_channels
        one_file = len(files) == 1 and channels > 1
        index = item.get("index") or (range(channels) if one_file else [None] * len(files))
        files = files * channels if one_file else files
        images = tuple(ChannelFile(Path(f), i) for f, i in zip(files, index, strict=True))
        case = Case(str(item.get("name") or images[0].path.name.split(".")[0]), images)
        volume = read_image(case, self.task)
        grid = self.preprocessing.plan(volume)
        picture = images[0].path.suffix.lower() in PICTURE_SUFFIXES
        source = {
            "name": case.name + (".png" if picture else ".nii.gz"),
            "grid": grid_as_dict(grid),
            "header": volume.header,
        }
        return {
            "image": torch.from_numpy(self.preprocessing.image(volume, grid)),
            "source": json.dumps(source, default=lambda value: np.asarray(value).tolist()),
        }


class StrideInferer(Inferer):
    """Sliding windows blended at the network's stride, then upsampled: full logits on the network grid.

    Args:
        roi_size: window in voxels.
        overlap: of neighbouring windows.
        precision: as for ``Predictor``.

    Shape: images ``(B, C, *s)`` to logits ``(B, K, *s)``.
    """

    def __init__(self, roi_size: Sequence[int], *, overlap: float = 0.5, precision: str = "auto") -> None:
        super().__init__()
        self.roi_size = tuple(roi_size)
        self.overlap = overlap
        self.precision = precision

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(network, SegFormer):
            raise ConfigError(
                f"{type(network).__name__} has no logits at a stride; StrideInferer needs a SegFormer of medseg3d"
            )
        images = torch.as_tensor(inputs).as_subclass(Tensor)
        dtype = autocast_type(self.precision, images.device) or torch.float32
        # As the predictor does, so that both give the same labels to the last bit; weights may change between calls.
        ready = folded(network, dtype).to(images.device)
        logits = []
        for image in images:
            coarse = sliding_logits(ready, image.to(dtype), roi_size=self.roi_size, overlap=self.overlap)
            logits.append(full_logits(coarse, image.shape[1:], network.stride))
        return torch.stack(logits)


class RestoredLabelsd(MapTransform):
    """From full logits ``(K, *network grid)`` to labels ``(1, *spatial)`` on the scan's own grid.

    Args:
        task: ``Task.as_dict()``.
        keys: of the logits; ``source`` of ``PreparedImaged`` must stand beside them.
    """

    def __init__(self, task: Mapping[str, Any], keys: Sequence[str] = ("pred",)) -> None:
        super().__init__(keys)
        self.task = Task.from_dict(task)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        grid = grid_from_dict(json.loads(data["source"])["grid"])
        changed = {
            key: restore_labels(torch.as_tensor(data[key]).as_subclass(Tensor), grid, self.task)[None]
            for key in self.key_iterator(dict(data))
        }
        return {**data, **changed}


class SavedLabelsd(MapTransform):
    """Write label maps as ``medseg3d predict`` does: ``NAME.nii.gz`` with the scan's geometry fields, ``NAME.png`` for pictures.

    Args:
        output_dir: folder to write to.
        keys: of the label maps.
    """

    def __init__(self, output_dir: str | Path, keys: Sequence[str] = ("pred",)) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        source = json.loads(data["source"])
        affine = grid_from_dict(source["grid"]).source.affine
        for key in self.key_iterator(dict(data)):
            write_volume(Volume(np.asarray(data[key]), affine, source["header"]), self.output_dir / source["name"])
        return dict(data)


def grid_as_dict(grid: NetworkGrid) -> dict[str, Any]:
    """A network grid as JSON types; floats keep every bit."""
    return {
        "source_shape": list(grid.source.shape),
        "affine": grid.source.affine.tolist(),
        "axes": list(grid.axis_map.axes),
        "start": [float(s) for s in grid.axis_map.start],
        "step": [float(s) for s in grid.axis_map.step],
        "shape": [int(n) for n in grid.shape],
    }


def grid_from_dict(values: Mapping[str, Any]) -> NetworkGrid:
    """The network grid that ``grid_as_dict`` wrote."""
    return NetworkGrid(
        Grid(tuple(values["source_shape"]), np.array(values["affine"])),
        AxisMap(tuple(values["axes"]), tuple(values["start"]), tuple(values["step"])),
        tuple(values["shape"]),
    )
