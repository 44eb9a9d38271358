"""Medical volumetric segmentation with SegFormer: from a folder of scans to a model, segmentations and scores."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Predictor": "medseg3d.inference.predictor",
    "Preprocessing": "medseg3d.preprocessing",
    "SegFormer": "medseg3d.networks.segformer",
    "Task": "medseg3d.task",
    "Volume": "medseg3d.volume",
    "calibrate": "medseg3d.training.calibration",
    "compare": "medseg3d.comparison",
    "cross_validate": "medseg3d.training.crossval",
    "evaluate": "medseg3d.evaluation",
    "load_task": "medseg3d.task",
    "predict_folder": "medseg3d.inference.folder",
    "read_volume": "medseg3d.io",
    "train": "medseg3d.training.run",
    "validate": "medseg3d.training.run",
    "verify": "medseg3d.inference.verify",
    "write_report": "medseg3d.report",
    "write_volume": "medseg3d.io",
}
__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Resolve public names on first use, so that ``import medseg3d`` costs nothing (DESIGN.md, decision 4)."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medseg3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _beside(package: str, folder: str) -> Path:
    """A folder that the wheel carries inside the package and a checkout holds at its top level."""
    spec = find_spec(f"medseg3d.{package}")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    return Path(__file__).resolve().parent.parent / folder


def configs_folder() -> Path:
    """The workflow and task configs that come with medseg3d."""
    return _beside("configs", "configs")


def sample_data_folder() -> Path:
    """The sample data that come with medseg3d."""
    return _beside("sample_data", "sample_data")
