"""Names decide: which channel of a data set is which of the task's, and which label value. A doubt is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.checks import InputError
from medseg3d.task import Task
from medseg3d.task_rules import plain_name

UNSPECIFIC = {"", "image", "img", "intensity", "channel0", "0", "grey", "gray", "nonorm", "zscore"}
"""Channel names that say nothing against any task of one channel (nnU-Net names normalisations)."""

LABELS_TO_2021 = {1: "NCR", 2: "ED", 4: "ET"}
LABELS_SINCE_2023 = {1: "NETC", 2: "SNFH", 3: "ET"}
"""What the label values of BraTS mean; ``t1ce`` in file names says up to 2021, ``t1n``, ``t2w`` or ``t2f`` from 2023."""
IGNORE = "ignore"
"""What nnU-Net calls voxels that nobody has judged, in the labels of a ``dataset.json``."""
TAILS_TO_2021 = {"t1ce"}
TAILS_SINCE_2023 = {"t1n", "t2w", "t2f"}


@dataclass(frozen=True)
class Names:
    """What a ``dataset.json`` says of a data set.

    Args:
        file: the dataset.json.
        channels: names of the channels by index; empty where it does not say.
        labels: name -> label values (several for a region); empty where it does not say.
        ignore: value of voxels that nobody has judged, which is no label.
        training: image and label of each case, as listed; None where no list is given (nnU-Net).
    """

    file: Path
    channels: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    training: tuple[Mapping[str, Any], ...] | None
    ignore: int | None = None


def read_names(file: Path) -> Names:
    """Read a ``dataset.json`` of MSD, nnU-Net (both directions of its dictionaries) or MONAI.

    Raises:
        InputError: ``E-DATASET-JSON`` where it is no JSON or its entries have another form.
    """

    def refuse(message: str) -> InputError:
        fix = "see the dataset.json of MSD or nnU-Net for the form"
        return InputError("E-DATASET-JSON", message, file=file, fix=fix)

    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise refuse("holds no JSON object")
    try:
        channels = _by_index(content.get("channel_names", content.get("modality", {})))
        labels = _label_values(content.get("labels", {}))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise refuse(f"channel_names, modality or labels have an unknown form ({error!r})") from None
    ignored = labels.pop(IGNORE, None)
    if ignored is not None and (len(ignored) != 1 or ignored[0] < 1):
        raise refuse(f"the label {IGNORE!r} is {list(ignored)}; it must be one value above 0")
    training = content.get("training")
    if training is not None and not (isinstance(training, list) and all(isinstance(t, (dict, str)) for t in training)):
        raise refuse("training is no list of {image, label}")
    listed = None if not training else tuple(t if isinstance(t, dict) else {"image": t} for t in training)
    if listed is not None and any("image" not in entry for entry in listed):
        raise refuse("an entry of training has no image")
    return Names(file, channels, labels, listed, None if ignored is None else ignored[0])


def _by_index(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(map(str, value))
    if all(str(k).isdigit() for k in value):
        pairs = {int(k): str(v) for k, v in value.items()}
    else:
        pairs = {int(v): str(k) for k, v in value.items()}
    if sorted(pairs) != list(range(len(pairs))) or len(pairs) != len(value):
        raise ValueError(f"indices {sorted(pairs)} are not 0..{len(value) - 1}")
    return tuple(pairs[i] for i in range(len(pairs)))


def _label_values(value: Any) -> dict[str, tuple[int, ...]]:
    if value and all(str(k).isdigit() and isinstance(v, str) for k, v in value.items()):
        out: dict[str, tuple[int, ...]] = {}
        for k, v in value.items():
            out[v] = (*out.get(v, ()), int(k))
        return out
    return {str(k): tuple(int(i) for i in (v if isinstance(v, list) else [v])) for k, v in value.items()}


def match_channels(names: Sequence[str], task: Task, where: Path) -> dict[str, int]:
    """Index of each of the task's channels among ``names``.

    Raises:
        InputError: ``E-CHANNEL-MISSING`` or ``E-CHANNEL-AMBIGUOUS``.
    """
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        channel = task.channel_named(name)
        if channel in found:
            message = f"{names[found[channel]]!r} and {name!r} both mean channel {channel!r} of task {task.name!r}"
            raise InputError("E-CHANNEL-AMBIGUOUS", message, file=where, fix="give each channel a name of its own")
        if channel is not None:
            found[channel] = index
    if not found and task.in_channels == len(names) == 1:
        name = plain_name(names[0])
        any_mr = name in ("mri", "mr") and task.channel_named("CT") is None
        if name in UNSPECIFIC or any_mr:
            return {next(iter(task.channels)): 0}
    if missing := [c for c in task.channels if c not in found]:
        raise channel_missing(missing, [repr(n) for n in names], task, where)
    return {channel: found[channel] for channel in task.channels}


def channel_missing(missing: Sequence[str], there: Sequence[str], task: Task, where: Path) -> InputError:
    """The error that names what is missing, what is there, and what would be recognised."""
    aliases = "; ".join(f"{c} also as {', '.join(task.channels[c])}" for c in missing if task.channels[c])
    found = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    return InputError(
        "E-CHANNEL-MISSING",
        f"no channel {', '.join(missing)}; task {task.name!r} needs {', '.join(task.channels)}, found {found or 'none'}",
        file=where,
        fix="add the file, or the name it goes by to channels in the task file" + (f" ({aliases})" if aliases else ""),
    )


def match_labels(labels: Mapping[str, tuple[int, ...]], task: Task, where: Path) -> dict[int, int]:
    """Value of the task for each label value of a data set, by the names of values and of regions.

    Raises:
        InputError: ``E-LABEL-NAME`` for a name that the task does not know, or a value of the task that has no name.
    """
    values = sorted({v for ids in labels.values() for v in ids if v != 0})
    for name, ids in labels.items():
        if plain_name(name) == "background" and ids != (0,):
            message = f"background is called {list(ids)}; the rule is 0"
            raise InputError("E-LABEL-NAME", message, file=where, fix="renumber the labels")
    found = {value: _task_value(value, labels, task, where) for value in values}
    reached = {_signature(target, task) for target in found.values()}
    for value in task.values:
        if _signature(value, task) not in reached:
            called = ", ".join((*task.ids.get(value, ()), *_signature(value, task)))
            message = f"no label for value {value} of task {task.name!r} ({called}); named are {', '.join(labels)}"
            fix = "add the name it goes by to ids or aliases in the task file"
            raise InputError("E-LABEL-NAME", message, file=where, fix=fix)
    return found


def _signature(value: int, task: Task) -> tuple[str, ...]:
    """The labels that a value lies in: values with the same ones are the same to the network."""
    return tuple(name for name, ids in task.labels.items() if value in ids)


def _task_value(value: int, labels: Mapping[str, tuple[int, ...]], task: Task, where: Path) -> int:
    inside = [name for name, ids in labels.items() if value in ids]
    by_name = {t for n in inside if labels[n] == (value,) and (t := task.id_named(n)) is not None}
    regions = {task.label_named(n) for n in inside} - {None}
    by_region = [t for t in task.values if set(_signature(t, task)) == regions] if regions else []
    if len(by_name) == 1:
        return by_name.pop()
    if not by_name and by_region:
        return by_region[0]
    if not by_name and not regions and "*" in task.ids.get(0, ()):
        return 0
    if not by_name and not regions:
        names = [n for v, ids in task.ids.items() if v for n in ids] + list(task.labels)
        message = f"label {value} is called {', '.join(map(repr, inside))}, which task {task.name!r} does not know"
        fix = (
            f"known are {', '.join(dict.fromkeys(names))}; add it to ids in the task file (under 0 if it is background)"
        )
        raise InputError("E-LABEL-NAME", message, file=where, fix=fix)
    message = f"label {value} ({', '.join(inside)}) fits no single value of task {task.name!r}"
    raise InputError(
        "E-LABEL-NAME", message, file=where, fix="make the names agree with labels, ids and aliases of the task"
    )


def brats_labels(tails: set[str], task: Task, where: Path) -> tuple[dict[int, int], dict[int, str]] | None:
    """Values and names of BraTS labels by the year that the channels' names in files betray; None for other names."""
    old, new = bool(tails & TAILS_TO_2021), bool(tails & TAILS_SINCE_2023)
    if old and new:
        message = "names of BraTS up to 2021 (t1ce) and from 2023 (t1n, t2w, t2f) in one folder; their labels differ"
        raise InputError("E-LABEL-AMBIGUOUS", message, file=where, fix="keep the years in folders of their own")
    if not old and not new:
        return None
    names = LABELS_TO_2021 if old else LABELS_SINCE_2023
    return match_labels({name: (value,) for value, name in names.items()}, task, where), names
