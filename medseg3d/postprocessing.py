"""What is done to a finished label map: small pieces taken away, holes filled; rules that cross-validation chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg3d.checks import ConfigError
from medseg3d.task import Task

Labels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Cleaning:
    """What is done to the mask of one label, in this order. Pieces hang together across corners.

    Args:
        largest: keep the largest piece alone.
        min_ml: take away pieces smaller than this, in millilitres.
        fill_holes: fill what the mask encloses.

    Raises:
        ConfigError: for a size below 0.
    """

    largest: bool = False
    min_ml: float = 0.0
    fill_holes: bool = False

    def __post_init__(self) -> None:
        if not self.min_ml >= 0:
            raise ConfigError(f"min_ml {self.min_ml} must be at least 0 ml")

    def __bool__(self) -> bool:
        return self.largest or self.min_ml > 0 or self.fill_holes

    def __str__(self) -> str:
        words = [
            *(["largest piece alone"] if self.largest else []),
            *([f"pieces of at least {self.min_ml:g} ml"] if self.min_ml else []),
            *(["holes filled"] if self.fill_holes else []),
        ]
        return ", ".join(words) or "as it is"

    def __call__(self, mask: NDArray[np.bool_], voxel_ml: float) -> NDArray[np.bool_]:
        """The cleaned mask; the one given stays as it is.

        Args:
            mask: ``(*spatial)``.
            voxel_ml: volume of a voxel, ml.
        """
        if not self or not mask.any():
            return mask
        from scipy import ndimage  # not wanted where nothing is cleaned: it takes a while to load

        # Nothing outside the mask's own box can change.
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        inner = mask[box]
        if self.largest or self.min_ml:
            pieces, count = ndimage.label(inner, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
            sizes = np.bincount(pieces.ravel(), minlength=count + 1)
            sizes[0] = 0
            kept = sizes * voxel_ml >= self.min_ml
            if self.largest:
                kept &= np.arange(count + 1) == sizes.argmax()
            kept[0] = False
            inner = kept[pieces]
        if self.fill_holes:
            inner = ndimage.binary_fill_holes(inner)
        out = np.zeros_like(mask)
        out[box] = inner
        return out


def rules_from_dict(values: Mapping[str, Mapping[str, Any]], task: Task) -> dict[str, Cleaning]:
    """Rules by label from plain JSON types.

    Raises:
        ConfigError: for labels or rules that do not exist.
    """
    try:
        rules = {str(name): Cleaning(**rule) for name, rule in values.items()}
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"postprocessing {values!r} has the wrong form ({error})") from None
    if unknown := sorted(set(rules) - set(task.labels)):
        raise ConfigError(f"postprocessing names {unknown[0]!r}, which is no label of task {task.name!r}")
    return rules


def rules_as_dict(rules: Mapping[str, Cleaning]) -> dict[str, dict[str, Any]]:
    """Plain JSON types; ``rules_from_dict`` reads them back."""
    return {name: asdict(rule) for name, rule in rules.items()}


def clean(labels: Labels, rules: Mapping[str, Cleaning], task: Task, spacing_mm: Sequence[float]) -> Labels:
    """A label map with each label's rule applied.

    A voxel that a label loses becomes background, a hole that it fills becomes the label where it was background. Of regions
    each is cleaned as a whole; a voxel that a region loses leaves the regions inside it, too.

    Args:
        labels: ``(*spatial)`` with the values that the task writes.
        rules: by label.
        task: what the values mean.
        spacing_mm: of the voxels.
    """
    rules = {name: rule for name, rule in rules.items() if rule}
    if not rules:
        return labels
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    if not task.regions:
        out = labels.copy()
        for name, rule in rules.items():
            mask = labels == task.write[name]
            cleaned = rule(mask, voxel_ml)
            out[mask & ~cleaned] = 0
            out[cleaned & (out == 0)] = task.write[name]
        return out
    masks = {name: np.isin(labels, ids) for name, ids in task.labels.items()}
    masks |= {name: rule(masks[name], voxel_ml) for name, rule in rules.items()}
    out = np.zeros_like(labels)
    names = list(task.labels)
    for index, value in task.painting:
        mask = masks[names[index]]
        for around, ids in task.labels.items():
            if set(task.labels[names[index]]) < set(ids):
                mask = mask & masks[around]
        out[mask] = value
    return out
