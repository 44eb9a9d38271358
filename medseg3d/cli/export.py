"""Models in other formats."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medseg3d.cli.exits import OK
from medseg3d.cli.parser import add_json


def export_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("model", type=Path, metavar="RUN", help="run directory of a training")
    add("--to", required=True, choices=("bundle", "onnx", "pt2", "safetensors", "hf"))
    add("-o", "--output", type=Path, metavar="FILE", help="file, or folder for hf; default: the run's name here")
    add_json(sub)


def export(options: argparse.Namespace) -> int:
    """Write a model as MONAI bundle, ONNX, torch.export, safetensors or Hugging Face folder, and compare it with the original."""
    from medseg3d.export import export as write

    done = write(options.model, options.to, options.output)
    if options.json:
        print(json.dumps({"path": str(done.path), "difference": done.difference, "sizes": done.sizes}, indent=2))
    else:
        print(f"written: {done}")
    return OK
