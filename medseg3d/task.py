"""A task is data: what the channels and labels are called, and on what grid the network works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import index
from pathlib import Path
from typing import Any

import yaml

from medseg3d.checks import ConfigError
from medseg3d.task_rules import check_task, plain_name


@dataclass(frozen=True)
class Task:
    """What is segmented in what, as written in ``configs/tasks/NAME.yaml``.

    Args:
        name: the task's name.
        channels: input channels in the network's order, each with the other names it goes by in data sets.
        labels: ``name: ids``; one output each. Ids that several labels share make them regions (sigmoid).
        ids: names that the single label values go by in data sets, for mapping other numberings by name; those of 0
            count as background, and ``"*"`` there means every label that the task does not know.
        aliases: other names that the labels go by in data sets.
        write: value each label is painted with when regions become one label map, in the order of painting;
            default each label's first id, in the order of ``labels``.
        spacing_mm: of the network grid, per RAS axis (of a slice, where there are ``slices``); None keeps each image's own.
        patch_size: voxels of the network grid; its length says 2D or 3D.
        slices: for volumes that a 2D network sees slice by slice, one of ``SLICES``. ``patch_size``, ``spacing_mm`` and
            ``mirror_axes`` are then of the two axes of a slice, in RAS order; slices stay as far apart as they are.
        neighbours: slices on either side that the network sees too, as channels (2.5D).
        intensity: one of ``INTENSITIES``.
        crop: cut the surroundings of the non-zero part before the network sees it.
        mirror_axes: axes (0 left-right, 1 posterior-anterior, 2 inferior-superior) along which flipped anatomy is
            plausible.
        network: preset of ``medseg3d.networks`` the task is trained with.
        kind: ``segmentation`` or ``classification``.
        numbered: what channels are called whose files are numbered (nnU-Net's ``NAME_0000``, ``NAME_0001``), from 0 on, where no
            ``dataset.json`` lies beside them; each channel of the task once, and names of channels that it does not use.
        ignore: label value of voxels that nobody has judged: they are neither trained on nor scored.
        train: values for the keys of train.yaml that this task wants otherwise.
        dicom: for channels, how their series is found in a DICOM study: ``modality``, and regular expressions that its
            ``description`` matches and does not match (``without``), and whether ``contrast`` was given.
        codes: what DICOM files call labels (or values, by a name in ``ids``) that ``configs/codes.yaml`` does not know:
            category, coding scheme, value, meaning, as that file has them.

    Raises:
        ConfigError: where the values contradict each other.
    """

    name: str
    channels: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[int]]
    patch_size: Sequence[int]
    ids: Mapping[int, Sequence[str]] = field(default_factory=dict)
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    write: Mapping[str, int] = field(default_factory=dict)
    spacing_mm: Sequence[float] | None = None
    intensity: str = "zscore"
    crop: bool = False
    mirror_axes: Sequence[int] = ()
    network: str = "default"
    kind: str = "segmentation"
    train: Mapping[str, Any] = field(default_factory=dict)
    dicom: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ignore: int | None = None
    slices: str | None = None
    neighbours: int = 0
    numbered: Sequence[str] = ()

    def __post_init__(self) -> None:
        def put(key: str, value: Any) -> None:
            object.__setattr__(self, key, value)

        try:
            put("channels", {str(k): tuple(map(str, v or ())) for k, v in self.channels.items()})
            put("labels", {str(k): tuple(index(i) for i in v) for k, v in self.labels.items()})
            put("ids", {int(k): tuple(map(str, v)) for k, v in self.ids.items()})
            put("aliases", {str(k): tuple(map(str, v)) for k, v in self.aliases.items()})
            put("patch_size", tuple(index(n) for n in self.patch_size))
            put("spacing_mm", None if self.spacing_mm is None else tuple(float(s) for s in self.spacing_mm))
            put("mirror_axes", tuple(index(a) for a in self.mirror_axes))
            put("write", {str(k): index(v) for k, v in self.write.items()} or {k: v[0] for k, v in self.labels.items()})
            put("train", dict(self.train))
            put("ignore", None if self.ignore is None else index(self.ignore))
            put("neighbours", index(self.neighbours))
            put("numbered", tuple(map(str, self.numbered)))
            put("dicom", {str(k): dict(v) for k, v in self.dicom.items()})
            put("codes", {str(k): tuple(map(str, v)) for k, v in self.codes.items()})
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"task {self.name!r}: a value has the wrong form ({error}); see configs/tasks for examples"
            ) from None
        check_task(self)

    @property
    def spatial_dims(self) -> int:
        """Axes of the images."""
        return len(self.patch_size) if self.slices is None else 3

    @property
    def network_dims(self) -> int:
        """Axes of what the network sees: of slices, one fewer than of the images."""
        return len(self.patch_size)

    @property
    def regions(self) -> bool:
        """Whether labels share ids, so that they are trained with a sigmoid each instead of one softmax."""
        return len(self.values) < sum(len(v) for v in self.labels.values())

    @property
    def values(self) -> tuple[int, ...]:
        """Every label value that a label map of this task may hold besides 0."""
        return tuple(sorted({i for ids in self.labels.values() for i in ids}))

    @property
    def painting(self) -> tuple[tuple[int, int], ...]:
        """``(index of the label, value)`` in the order in which labels are painted into one map; the later one wins."""
        names = list(self.labels)
        return tuple((names.index(name), value) for name, value in self.write.items())

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self.channels)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's input channels: the images', with neighbouring slices each channel's slices in turn."""
        offsets = range(-self.neighbours, self.neighbours + 1)
        return tuple(f"{name} {o:+d}" if o else name for name in self.channels for o in offsets)

    @property
    def out_channels(self) -> int:
        """Logit channels of the network: a background channel comes first where a softmax decides."""
        return len(self.labels) + (self.kind == "segmentation" and not self.regions)

    def channel_named(self, name: str) -> str | None:
        """The channel that goes by ``name`` (case, spaces and punctuation do not count), or None."""
        plain = plain_name(name)
        return next((c for c, aliases in self.channels.items() if plain in map(plain_name, (c, *aliases))), None)

    def id_named(self, name: str) -> int | None:
        """The label value that goes by ``name``, or None. A label of a single id lends it its names."""
        plain = plain_name(name)
        for value, aliases in self.ids.items():
            if plain and plain in map(plain_name, aliases):
                return value
        label = self.label_named(name)
        return self.labels[label][0] if label is not None and len(self.labels[label]) == 1 else None

    def label_named(self, name: str) -> str | None:
        """The label that goes by ``name``, or None."""
        plain = plain_name(name)
        names = {label: (label, *self.aliases.get(label, ())) for label in self.labels}
        return next((label for label in names if plain in map(plain_name, names[label])), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``Task.from_dict`` reads them back."""

        def plain(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {str(k): plain(v) for k, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Raises ConfigError for unknown or missing keys."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(map(str, set(values) - known)):
            raise ConfigError(f"task key {unknown[0]!r} does not exist; known are {', '.join(sorted(known))}")
        if missing := [k for k in ("name", "channels", "labels", "patch_size") if k not in values]:
            raise ConfigError(f"task without {missing[0]!r}; a task needs name, channels, labels and patch_size")
        return cls(**values)


def task_folder() -> Path:
    """Where the tasks that come with medseg3d lie."""
    from medseg3d import configs_folder

    return configs_folder() / "tasks"


def task_names() -> list[str]:
    """The tasks that come with medseg3d."""
    return sorted(p.stem for p in task_folder().glob("*.yaml"))


def load_task(name: str | Path) -> Task:
    """Read a task by name (one of ``task_names``) or from a YAML file.

    Raises:
        ConfigError: unknown name, unreadable YAML, or values that contradict each other.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = task_folder() / f"{name}.yaml"
        if str(name) not in task_names():
            raise ConfigError(
                f"unknown task {str(name)!r}; known are {', '.join(task_names())}, or give a path to a .yaml file"
            )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no task file {path}; known tasks are {', '.join(task_names())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"task file {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"task file {path} holds no mapping; see configs/tasks for examples")
    task = Task.from_dict(values)
    if unknown := sorted(set(task.dicom) - set(task.channels)):  # of a task in memory, channels may be taken away
        known = ", ".join(task.channels)
        raise ConfigError(
            f"task {task.name!r}: dicom has a rule for {unknown[0]!r}, which is none of its channels: {known}"
        )
    return task
