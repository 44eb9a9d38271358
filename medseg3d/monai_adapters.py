"""The one place that knows MONAI's types: medseg3d's preprocessing, windows and decoding as transforms and an inferer."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.inferers import Inferer
from monai.transforms import MapTransform, Transform
from monai.utils import SpaceKeys
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medseg3d.checks import ConfigError, InputError
from medseg3d.inference.decode import full_logits, restore_labels
from medseg3d.inference.precision import autocast_type
from medseg3d.inference.windows import sliding_logits
from medseg3d.io import Case, ChannelFile, find_cases, read_image
from medseg3d.io.images import is_picture, write_labels
from medseg3d.networks.folding import folded
from medseg3d.networks.segformer import SegFormer
from medseg3d.networks.slices import SliceNetwork
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import AxisMap, Grid, Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From LPS+ to RAS+ world coordinates and back."""


def volume_of(image: MetaTensor) -> Volume:
    """An image as MONAI's transforms hold it as a volume: the same values, its affine in RAS+ mm.

    Shape: ``(C, *spatial)``, channels first.
    """
    affine = np.asarray(image.affine, dtype=np.float64)
    if image.meta.get("space") == SpaceKeys.LPS:
        affine = to_affine_nd(len(affine) - 1, LPS) @ affine
    return Volume(_plain(image).cpu().numpy(), to_affine_nd(image.ndim - 1, affine))


def meta_tensor(data: Tensor, grid: Grid, meta: Mapping[str, Any] | None = None) -> MetaTensor:
    """Values ``(C, *spatial)`` on a grid as MONAI's transforms take them.

    Args:
        data: the values.
        grid: theirs.
        meta: what else is known of them, such as ``filename_or_obj``; what it says of the affine is replaced.
    """
    kept = {k: v for k, v in (meta or {}).items() if k not in ("affine", "space")}
    return MetaTensor(_plain(data), affine=torch.from_numpy(_affine_3d(grid)), meta=kept)


def _affine_3d(grid: Grid) -> NDArray[np.float64]:
    """MONAI's affines are 4 x 4, for 2D images too."""
    return np.asarray(to_affine_nd(3, grid.affine), dtype=np.float64)


def _plain(values: Any) -> Tensor:
    """Without what MONAI knows of them."""
    return torch.as_tensor(values).as_subclass(Tensor)


def find_items(folder: str | Path, task: Mapping[str, Any], *, labels: bool = False) -> list[dict[str, Any]]:
    """The cases of a folder as a MONAI data list: ``{"image": [file of each channel], "index": [channel in it], "name"}``.

    Args:
        folder: in any layout that ``find_cases`` knows.
        task: ``Task.as_dict()``.
        labels: those that have a label map, under ``label``.
    """
    cases = find_cases(folder, Task.from_dict(task), labels=labels).cases
    return [
        {"name": c.name, "image": [str(f.path) for f in c.images], "index": [f.index for f in c.images]}
        | ({"label": str(c.label)} if c.label is not None else {})
        for c in cases
    ]


class PreparedImaged(Transform):
    """Bring an item to the network's grid: one of ``find_items``, which is read, or an image that MONAI has loaded.

    An item without ``index`` names one file with all channels, or one file per channel. A MetaTensor ``(C, *spatial)``, as
    ``LoadImaged`` and ``EnsureChannelFirstd`` give it, has the task's channels in their order; it needs no turning or resampling.

    Args:
        task: ``Task.as_dict()``.
        preprocessing: ``Preprocessing.as_dict()``.

    Shape: gives the item with ``image``, a MetaTensor ``(C, *network grid)`` float32 with its affine there and otherwise the meta
    it came with, and ``source``: where it came from, as JSON.

    Raises:
        InputError: for an image of other channels or axes than the task's.
    """

    def __init__(self, task: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> None:
        self.task = Task.from_dict(task)
        self.preprocessing = Preprocessing.from_dict(preprocessing)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        volume, name, meta = self._loaded(item) if isinstance(item["image"], MetaTensor) else self._read(item)
        grid = self.preprocessing.plan(volume)
        source = {"name": name, "grid": grid_as_dict(grid), "header": volume.header}
        return {
            **{key: value for key, value in item.items() if key != "index"},
            "image": meta_tensor(self.preprocessing.tensor(volume, grid), grid.grid, meta),
            "source": json.dumps(source, default=lambda value: np.asarray(value).tolist()),
        }

    def _loaded(self, item: Mapping[str, Any]) -> tuple[Volume, str, dict[str, Any]]:
        image: MetaTensor = item["image"]
        file = str(image.meta.get("filename_or_obj") or "")
        if len(image) != self.task.in_channels:
            raise InputError(
                "E-CHANNEL-COUNT",
                f"{len(image)} channels, and the task has {', '.join(self.task.channels)}",
                file=file or None,
                fix="give channels first (EnsureChannelFirstd), and the task's in their order",
            )
        return (
            volume_of(image),
            str(item.get("name") or Path(file).name.split(".")[0] or "image") + ".nii.gz",
            image.meta,
        )

    def _read(self, item: Mapping[str, Any]) -> tuple[Volume, str, dict[str, Any]]:
        files = [item["image"]] if isinstance(item["image"], (str, Path)) else list(item["image"])
        channels = self.task.in_channels
        one_file = len(files) == 1 and channels > 1
        index = item.get("index") or (range(channels) if one_file else [None] * len(files))
        files = files * channels if one_file else files
        images = tuple(ChannelFile(Path(f), i) for f, i in zip(files, index, strict=True))
        case = Case(str(item.get("name") or images[0].path.name.split(".")[0]), images)
        volume = read_image(case, self.task)
        picture = is_picture(images[0].path)
        meta = {
            "filename_or_obj": str(images[0].path),
            "original_affine": _affine_3d(volume.grid),
            "spatial_shape": np.array(volume.shape),
        }
        return volume, case.name + (".png" if picture else ".nii.gz"), meta


class StrideInferer(Inferer):
    """Sliding windows blended at the network's stride, then upsampled: full logits on the network grid.

    Args:
        roi_size: window in voxels.
        overlap: of neighbouring windows.
        precision: as for ``Predictor``.

    Shape: images ``(B, C, *s)`` to logits ``(B, K, *s)``; a MetaTensor gives one with the same meta. A 2D network takes volumes
    slice by slice: the first axis runs across slices, and ``roi_size`` is that in each.
    """

    def __init__(self, roi_size: Sequence[int], *, overlap: float = 0.5, precision: str = "auto") -> None:
        super().__init__()
        self.roi_size = tuple(roi_size)
        self.overlap = overlap
        self.precision = precision

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        if not isinstance(network, SegFormer):
            raise ConfigError(
                f"{type(network).__name__} has no logits at a stride; StrideInferer needs a SegFormer of medseg3d"
            )
        images = _plain(inputs)
        dtype = autocast_type(self.precision, images.device) or torch.float32
        # As the predictor does, so that both give the same labels to the last bit; weights may change between calls.
        ready = folded(network, dtype).to(images.device)
        window: tuple[int, ...] = self.roi_size
        if images.ndim == 5 and getattr(network.encoder, "spatial_dims", 3) == 2:
            ready, window = _over_slices(ready, network, images.shape[1]), (1, *window)
        logits = []
        for image in images:
            coarse = sliding_logits(ready, image.to(dtype), roi_size=window, overlap=self.overlap)
            logits.append(full_logits(coarse, image.shape[1:], ready.stride))  # type: ignore[arg-type]
        found = torch.stack(logits)
        return MetaTensor(found).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else found


def _over_slices(ready: nn.Module, network: SegFormer, channels: int) -> nn.Module:
    """A 2D network for volumes whose first axis runs across slices; its channels tell how many neighbours it sees."""
    several, left = divmod(network.encoder.in_channels, channels)  # type: ignore[operator]
    if left or not several % 2:
        raise ConfigError(
            f"a 2D network of {network.encoder.in_channels} channels does not fit slices of a volume of {channels}; it "
            "takes an odd number of slices of each"
        )
    return SliceNetwork(ready, several // 2)


class RestoredLabelsd(MapTransform):
    """From full logits ``(K, *network grid)`` to labels ``(1, *spatial)`` on the scan's own grid, a MetaTensor with its affine.

    Args:
        task: ``Task.as_dict()``.
        keys: of the logits; ``source`` of ``PreparedImaged`` must stand beside them.
    """

    def __init__(self, task: Mapping[str, Any], keys: Sequence[str] = ("pred",)) -> None:
        super().__init__(keys)
        self.task = Task.from_dict(task)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        grid = grid_from_dict(json.loads(data["source"])["grid"])
        restored = {}
        for key in self.key_iterator(dict(data)):
            labels = restore_labels(_plain(data[key]), grid, self.task)[None]
            # A file of labels has no axis of channels: MONAI's writer takes a volume for a 2D image where the meta say else.
            meta = {**getattr(data[key], "meta", {}), "original_channel_dim": float("nan")}
            restored[key] = meta_tensor(_plain(labels), grid.source, meta)
        return {**data, **restored}


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
            write_labels(
                Volume(_plain(data[key]).cpu().numpy(), affine, source["header"]), self.output_dir / source["name"]
            )
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
