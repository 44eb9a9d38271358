"""The model card: what a model is, what it was trained on, how good it is, what it is for, under which terms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from medseg3d.inference.model import METADATA, SECTION, TrainedModel
from medseg3d.weights import described

FRONT_MATTER = """---
library_name: medseg3d
license: other
license_name: see-LICENSE
license_link: LICENSE
pipeline_tag: {pipeline}
tags: [medical, segformer, {dims}d]
---

"""
USE = """## Use

    medseg3d predict --model {place} -i SCANS -o SEGMENTATIONS

The network alone, in Python:

    from medseg3d import SegFormer
    network = SegFormer.from_pretrained("{place}")
    logits = network(image)  # {shape} in, {classes} logits out: {outputs}
"""
INTENDED = """## Intended use and limits

{intended}. Not for diagnosis or treatment. It knows scans like those it was trained on: other scanners, sequences, ages or
diseases need a test on labelled scans of their own (`medseg3d evaluate`) before any use.
"""
PHANTOM = "**Trained on made-up phantoms: it knows no real scan.**\n"
TERMS = """## Licence

See LICENSE. The weights belong to whoever trained them, and may be bound by the terms of the data (and of the weights) that the
training began with.
"""
SETTINGS = ("epochs", "steps_per_epoch", "batch_size", "learning_rate", "loss", "patch_size", "seed")


def card(model: TrainedModel, run: Path, *, place: str, front_matter: bool) -> str:
    """The card as Markdown.

    Args:
        model: the model.
        run: its directory, with whatever is known of its training and validation.
        place: the card's own folder, as commands name it.
        front_matter: begin with the YAML that the Hugging Face hub reads.
    """
    task, metadata = model.task, json.loads((run / METADATA).read_text(encoding="utf-8"))
    section = metadata[SECTION]
    classifies = task.kind == "classification"
    head = FRONT_MATTER.format(
        pipeline="image-classification" if classifies else "image-segmentation", dims=task.network_dims
    )
    outputs = [*(["background"] if task.out_channels > len(task.labels) else []), *task.labels]
    shape = f"(B, {len(task.inputs)}, {', '.join('xyz'[: task.network_dims])})"
    parts = [
        f"# {metadata['name']}\n\n{metadata['description']}\n",
        PHANTOM if model.phantom else "",
        "\n".join(["## Model", "", described(model.network), "", *_preparation(model)]) + "\n",
        "\n".join(["## Data", "", *_data(run, section)]) + "\n",
        "\n".join(["## Scores", "", *_scores(run)]) + "\n",
        USE.format(place=place, shape=shape, classes=task.out_channels, outputs=", ".join(outputs)),
        INTENDED.format(intended=str(metadata.get("intended_use", "research; not a medical device")).capitalize()),
        TERMS,
        "\n".join(["## References", "", *(f"- {r}" for r in metadata.get("references", []))]) + "\n",
    ]
    return (head if front_matter else "") + "\n".join(part for part in parts if part)


def _preparation(model: TrainedModel) -> Iterator[str]:
    task, prep = model.task, model.preprocessing
    yield f"- channels, in this order: {', '.join(task.inputs)}"
    yield f"- labels: {', '.join(f'{name} (values {_joined(ids)})' for name, ids in task.labels.items())}"
    spacing = "that of each image" if prep.spacing_mm is None else f"{_joined(prep.spacing_mm, ' x ')} mm"
    window = _joined(model.roi_size, " x ")
    if task.slices:
        yield f"- volumes slice by slice ({task.slices}); {task.neighbours} neighbouring slices on either side are channels"
    yield f"- axes in RAS order, spacing {spacing}, intensity `{prep.intensity}`, windows of {window} voxels"


def _data(run: Path, section: Mapping[str, Any]) -> Iterator[str]:
    data, config = run / "configs" / "data.json", run / "configs" / "train.yaml"
    if data.is_file():
        values = json.loads(data.read_text(encoding="utf-8"))
        training, validation = len(values["training"]), len(values["validation"])
        cases = f"{training} case{'s' if training != 1 else ''}, validated on {validation} other{'s' if validation != 1 else ''}"
        yield f"Trained on {cases}. Names and places of cases are not passed on."
    else:
        yield "Nothing is known here of the data it was trained on; ask its authors."
    if config.is_file():
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        yield ""
        yield "Settings: " + ", ".join(f"{k} {settings[k]}" for k in SETTINGS if k in settings) + "."
    for key in ("origin", "init"):
        if isinstance(section.get(key), Mapping) and "weights" in section[key]:
            yield ""
            yield f"Its weights {'are' if key == 'origin' else 'began as'} those of `{section[key]['weights']}`."


def _scores(run: Path) -> Iterator[str]:
    file = run / "validation" / "summary.json"
    if not file.is_file():
        yield "No validation is recorded with this model."
        return
    summary = json.loads(file.read_text(encoding="utf-8"))
    if "accuracy" in summary:
        yield f"Accuracy {summary['accuracy']:.3f} on {summary['n_cases']} validation cases."
        return
    distance = next((key for key in summary["mean"] if key.startswith("hd")), None)
    unit = "" if distance is None else f" {distance.removesuffix('_mm').upper()} in mm (mean [95 % CI]) |"
    yield f"Mean over the {summary['n_cases']} validation cases, which no step was trained on, with its 95 % confidence interval."
    yield "The weights are those that scored best on these cases, so an independent test can come out lower."
    yield ""
    yield f"| label | cases | Dice (mean [95 % CI]) |{unit}"
    yield "|---" * (3 if distance is None else 4) + "|"
    for name, values in summary["labels"].items():
        last = "" if distance is None else f" {_interval(values[distance], 1)} |"
        yield f"| {name} | {values['n_total']} | {_interval(values['dice'], 3)} |{last}"


def _interval(values: Mapping[str, Any], digits: int) -> str:
    """A mean and its interval; null stands for a number that there is none of."""
    if values["mean"] is None:
        return "-"
    text = f"{values['mean']:.{digits}f}"
    if values["ci_low"] is not None:
        text += f" [{values['ci_low']:.{digits}f}, {values['ci_high']:.{digits}f}]"
    return text


def _joined(values: Any, sign: str = ", ") -> str:
    return sign.join(f"{v:g}" for v in values)
