"""ONNX: any batch, any size, run and compared in onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg3d.checks import ConfigError
from medseg3d.export.pt2 import program
from medseg3d.inference.model import METADATA, SECTION, TrainedModel

INPUT, OUTPUT = "image", "logits"
AXES = "xyz"


def write(model: TrainedModel, run: Path, path: Path) -> None:
    """Write the graph; its metadata properties hold what the model needs of images and what it gives.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name} is needed for ONNX: pip install 'medseg3d[export]'") from None
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            done: Any = torch.onnx.export(
                program(model, fixed=False), input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    finally:
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)
    graph = done.model_proto
    names = ["batch", None, *AXES[: model.task.network_dims]]
    for value in (*graph.graph.input, *graph.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if name is not None and dim.dim_param:
                dim.dim_param = name
    section = json.loads((run / METADATA).read_text(encoding="utf-8"))[SECTION]
    onnx.helper.set_model_props(
        graph, {key: json.dumps(section[key]) for key in ("task", "preprocessing", "inference")}
    )
    onnx.checker.check_model(graph)
    onnx.save_model(graph, path)


def run(path: Path, model: TrainedModel) -> Callable[[Tensor], Tensor]:
    """The written graph in onnxruntime, on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])
