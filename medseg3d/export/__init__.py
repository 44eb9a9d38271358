"""A trained model in other forms: each is written, read back, run and compared with the original before it gets its name."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from medseg3d.checks import ConfigError
from medseg3d.inference.model import load_model


@dataclass(frozen=True)
class Format:
    """One form of export.

    Args:
        suffix: of its file; empty for a folder.
        tolerance: largest difference of logits, relative to their largest, that counts as equal.
        module: that has ``write(model, run, path)`` and ``run(path, model)``, the written model as a function of a batch.
    """

    suffix: str
    tolerance: float
    module: str


FORMATS = {
    "bundle": Format(".zip", 1e-5, "bundle"),
    "onnx": Format(".onnx", 1e-4, "onnx"),
    "pt2": Format(".pt2", 1e-4, "pt2"),
    "safetensors": Format(".safetensors", 1e-5, "safetensors"),
    "hf": Format("", 1e-5, "hf"),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: where.
        difference: largest difference of logits from the original's, relative to their largest.
        sizes: of the images they were compared on.
    """

    path: Path
    difference: float
    sizes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        sizes = " and ".join(" x ".join(map(str, size)) for size in self.sizes)
        most = f"at most {self.difference:.1e} of the largest"
        return f"{self.path}\nits logits differ from the model's by {most}, on images of {sizes}"


def export(run: str | Path, to: str, output: str | Path | None = None) -> Exported:
    """Write a model in another form.

    Args:
        run: model directory.
        to: a key of ``FORMATS``.
        output: file, or folder for ``hf``; default the run's name in the current folder, with the form's suffix.

    Raises:
        ConfigError: an unknown form, a path with another suffix, a folder that holds something, or a missing package.
        ModelError: for a model that cannot be read, or whose export is not equal to it; nothing is left then.
    """
    from medseg3d.export.compare import compared

    if to not in FORMATS:
        raise ConfigError(f"export to {to!r} is none of {', '.join(FORMATS)}")
    form, run = FORMATS[to], Path(run)
    path = Path(output) if output is not None else Path(run.resolve().name + (form.suffix or "-hf"))
    if form.suffix and path.suffix != form.suffix:
        raise ConfigError(f"{path} must end in {form.suffix}")
    if not form.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists; give another folder (-o)")
    model = load_model(run)
    module = import_module(f"medseg3d.export.{form.module}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as temporary:
        # Its own name, because some forms store it.
        draft = Path(temporary, path.name)
        module.write(model, run, draft)
        difference, sizes = compared(model, module.run(draft, model), form.tolerance, what=f"the {to} export")
        _put(draft, path)
    return Exported(path, difference, sizes)


def _put(draft: Path, path: Path) -> None:
    if draft.is_dir() and path.is_dir():
        shutil.copytree(draft, path, dirs_exist_ok=True)  # an empty folder that the user has made
        return
    if draft.is_file():
        with draft.open("rb") as file:
            os.fsync(file.fileno())
    draft.replace(path)
