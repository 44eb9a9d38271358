"""One side of benchmarks/predict.py, in a process of its own: makes the scan, then predicts it each time it is asked to.

Not run by hand. Requests, one per line: ``run``, ``labels FILE`` (write the last result), ``quit``; answers are JSON lines.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medseg3d.inference.model import load_model
from medseg3d.inference.predictor import Predictor
from medseg3d.io import read_volume
from medseg3d.networks import build_network
from medseg3d.preprocessing import NetworkGrid, Preprocessing, interpolate
from medseg3d.task import Task
from medseg3d.volume import Volume
from tests.shared import DATA

SCANS = {
    "brats": (
        "msd_task01_brain_tumour_box/BRATS_009_box_4ch.nii.gz",
        "msd_task01_brain_tumour_box/BRATS_009_box_label.nii.gz",
    ),
    "ct": ("totalsegmentator_ct/example_ct_sm.nii.gz", "totalsegmentator_ct/example_seg.nii.gz"),
}
"""Real scans, continued by reflection to the sizes of the benchmark."""


@dataclass(frozen=True)
class Scene:
    """What is predicted.

    Args:
        shape: of the network's grid, or of the source where ``spacing_mm`` is given.
        roi: edge of the windows.
        outputs: of the network; ignored with ``weights``.
        regions: whether the outputs are regions.
        channels: of the scan.
        scan: key of ``SCANS``, or None for noise.
        spacing_mm: of the source; the network works at 1.5 mm then.
        weights: run directory with trained weights, or None for random ones.
        network: config for random weights.
        max_ram_gb: budget of our side.
    """

    shape: tuple[int, ...]
    roi: tuple[int, ...]
    outputs: int = 3
    regions: bool = False
    channels: int = 1
    scan: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    weights: str | None = None
    network: str = "segformer3d"
    max_ram_gb: float | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Scene:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()})


class AsIs(Preprocessing):
    """For images that are prepared already: both sides begin with the same tensor."""

    def tensor(self, volume: Volume, grid: NetworkGrid, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(volume.data)


def model_of(scene: Scene) -> tuple[torch.nn.Module, Task, Preprocessing]:
    if scene.weights:
        model = load_model(scene.weights)
        return model.network, model.task, model.preprocessing
    torch.manual_seed(0)
    dims = len(scene.shape)
    network = build_network(
        {"name": scene.network, "spatial_dims": dims, "in_channels": scene.channels, "out_channels": scene.outputs}
    )
    labels: dict[str, Any] = {f"l{i}": [i] for i in range(1, scene.outputs)}
    if scene.regions:
        labels = {f"l{i}": list(range(i, scene.outputs + 1)) for i in range(1, scene.outputs + 1)}
    channels = {f"c{i}": () for i in range(scene.channels)}
    write = {name: ids[0] for name, ids in labels.items()}
    task = Task("noise", channels, labels, scene.roi, write=write, intensity="range")
    statistics = [{"low": -1000.0, "high": 1000.0, "mean": 0.0, "std": 300.0}] * scene.channels
    return network.eval(), task, Preprocessing(dims, None, "ct", False, tuple(statistics))


def reflected(data: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Continued by reflection, or cut, to a size."""
    out = data
    for axis, n in enumerate(shape, start=data.ndim - len(shape)):
        index = np.arange(n) % (2 * data.shape[axis])
        out = np.take(out, np.minimum(index, 2 * data.shape[axis] - 1 - index), axis=axis)
    return np.ascontiguousarray(out)


def scan_of(scene: Scene, task: Task, preparing: Preprocessing) -> tuple[Volume, NDArray[Any] | None, Preprocessing]:
    """The volume both sides begin with, its reference, and how it is prepared."""
    have = scene.scan is not None and scene.weights is not None and (DATA / SCANS[scene.scan][0]).exists()
    if scene.scan is None or not have:
        rng = np.random.default_rng(0)
        coarse = rng.standard_normal((scene.channels, *(math.ceil(n / 8) + 1 for n in scene.shape)), dtype=np.float32)
        at = [np.arange(n) / 8 for n in scene.shape]
        data = interpolate(torch.from_numpy(coarse), at).numpy()
        for channel in data:
            for plane in channel:
                plane += rng.standard_normal(plane.shape, dtype=np.float32) / 10
        data *= 300 if scene.spacing_mm else 1
        reference = None
    else:
        image, label = (read_volume(DATA / f, labels=i) for i, f in enumerate(SCANS[scene.scan]))
        values = np.where(np.isin(label.data, task.values), label.data, 0)
        if scene.spacing_mm is None:
            here = replace(preparing, spacing_mm=None, crop=False)
            data = reflected(here.image(image, here.plan(image)), scene.shape)
            reference = reflected(values[0], scene.shape)
        else:
            size = tuple(math.ceil(n * s / 1.5) + 1 for n, s in zip(scene.shape, scene.spacing_mm, strict=True))
            at = [np.arange(n) * s / 1.5 for n, s in zip(scene.shape, scene.spacing_mm, strict=True)]
            data = interpolate(torch.from_numpy(reflected(image.data.astype(np.float32), size)), at).numpy()
            reference = reflected(values[0], size)[np.ix_(*(np.rint(a).astype(int) for a in at))]
    if scene.spacing_mm is None:
        prepared = AsIs(len(scene.shape), None, "zscore", False)
        return Volume(data.astype(np.float32, copy=False), np.eye(len(scene.shape) + 1)), reference, prepared
    affine = np.diag([*scene.spacing_mm, 1.0])
    return Volume(data, affine), reference, replace(preparing, spacing_mm=(1.5,) * len(scene.shape), crop=False)


def ours(scene: Scene, side: str) -> tuple[Callable[[], NDArray[Any]], NDArray[Any] | None]:
    network, task, preparing = model_of(scene)
    volume, reference, preparing = scan_of(scene, task, preparing)
    options = {"mode": "whole" if "whole" in side else "windows", "precision": "float32" if "fp32" in side else "bf16"}
    predictor = Predictor(
        network, task, preparing, roi_size=scene.roi, skip_empty=False, max_ram=scene.max_ram_gb, **options
    )
    del network
    return lambda: predictor(volume).data[0], reference


def theirs(scene: Scene, sw_batch_size: int) -> tuple[Callable[[], NDArray[Any]], NDArray[Any] | None]:
    from monai.data import MetaTensor
    from monai.inferers import sliding_window_inference
    from monai.transforms import Spacing

    from benchmarks.plain_segformer import PlainSegFormer

    network, task, preparing = model_of(scene)
    volume, reference, preparing = scan_of(scene, task, preparing)
    plain = PlainSegFormer(network).eval()

    def logits(image: torch.Tensor) -> torch.Tensor:
        size = image.shape[1:]
        missing = [-n % 4 for n in size]
        image = F.pad(image, [p for m in reversed(missing) for p in (0, m)])
        out = sliding_window_inference(image[None], scene.roi, sw_batch_size, plain, overlap=0.5, mode="gaussian")[0]
        return out[(slice(None), *map(slice, size))]

    def decided(values: torch.Tensor) -> NDArray[Any]:
        if not task.regions:
            return values.argmax(0).to(torch.uint8).numpy()
        out = np.zeros(values.shape[1:], dtype=np.uint8)
        for index, value in task.painting:
            out[(values[index] > 0).numpy()] = value
        return out

    written = np.array([0, *(task.write[name] for name in task.labels)], dtype=np.uint8)

    @torch.inference_mode()
    def run() -> NDArray[Any]:
        if scene.spacing_mm is None:
            found = decided(logits(torch.from_numpy(volume.data)))
        else:
            assert preparing.statistics is not None
            s = preparing.statistics[0]
            spacing = Spacing(pixdim=preparing.spacing_mm, mode="bilinear", padding_mode="border", dtype=torch.float32)
            image = spacing(MetaTensor(torch.from_numpy(volume.data), affine=torch.from_numpy(volume.affine)))
            scaled = (image.as_tensor().clamp(s["low"], s["high"]) - s["mean"]) / s["std"]
            back = spacing.inverse(
                MetaTensor(logits(scaled), meta=image.meta, applied_operations=image.applied_operations)
            )
            found = decided(back.as_tensor())
        return found if task.regions else written[found]

    return run, reference


def peak_bytes() -> int:
    """Largest resident size of this process since ``forget_peak``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark needs Linux: it reads the peak from /proc/self/status")


def forget_peak() -> None:
    """What making the scan took does not count (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    side, scene, sw_batch_size = sys.argv[1], Scene.from_json(sys.argv[2]), int(sys.argv[3])
    run, reference = theirs(scene, sw_batch_size) if side == "theirs" else ours(scene, side)
    if reference is not None and len(sys.argv) > 4:
        np.save(sys.argv[4], reference)
    forget_peak()
    print(json.dumps({"ready": side, "bytes": peak_bytes()}), flush=True)
    result: NDArray[Any] = np.zeros(0, np.uint8)
    for line in sys.stdin:
        request, _, argument = line.strip().partition(" ")
        if request == "run":
            start = time.perf_counter()
            result = run()
            print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak_bytes()}), flush=True)
        elif request == "labels":
            np.save(Path(argument), result)
            print(json.dumps({"written": argument}), flush=True)
        else:
            return


if __name__ == "__main__":
    main()
