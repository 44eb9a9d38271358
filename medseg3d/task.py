"""A task is data: what the channels and labels are called, and on what grid the network works."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import index
from pathlib import Path
from typing import Any

import yaml

from medseg3d.checks import ConfigError

INTENSITIES = ("zscore", "ct", "range", "minmax_slices")
"""zscore: per channel, mean 0 and deviation 1 over its non-zero part. ct: clipped to the 0.5 and 99.5 percentile of the
labelled voxels of the training set and scaled by their mean and deviation. range: the type's range to 0..1.
minmax_slices: each slice of the last axis to 0..1 (the published SegFormer3D recipe)."""
KINDS = ("segmentation", "classification")
SLICES = ("sagittal", "coronal", "axial", "thickest")
"""What slices a 2D network sees volumes in: those across left-right, posterior-anterior or inferior-superior (the first three,
in this order), or those along whose normal a scan's voxels are largest, its own thick slices."""
MOST_NEIGHBOURS = 8
DICOM_RULE = {"modality": str, "description": str, "without": str, "contrast": bool}


def plain_name(name: str) -> str:
    """Lower case, letters and digits alone: how names are compared."""
    return re.sub(r"[\W_]", "", name.casefold())


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
        self._check()

    def _check(self) -> None:
        def refuse(message: str) -> None:
            raise ConfigError(f"task {self.name!r}: {message}")

        if not self.channels:
            refuse("no channels; name at least one")
        if not self.labels:
            refuse("no labels; name at least one")
        if len(self.patch_size) not in (2, 3) or min(self.patch_size) < 1:
            refuse(f"patch_size {self.patch_size} must be 2 or 3 positive sizes")
        if self.spacing_mm is not None and (len(self.spacing_mm) != self.network_dims or min(self.spacing_mm) <= 0):
            refuse(f"spacing_mm {self.spacing_mm} must be {self.network_dims} positive numbers, as patch_size has axes")
        if self.intensity not in INTENSITIES:
            refuse(f"intensity {self.intensity!r} is none of {', '.join(INTENSITIES)}")
        if self.kind not in KINDS:
            refuse(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if any(a not in range(self.network_dims) for a in self.mirror_axes):
            refuse(f"mirror_axes {self.mirror_axes} must lie in 0..{self.network_dims - 1}, the axes of patch_size")
        self._check_slices(refuse)
        known = [self.channel_named(name) for name in self.numbered]
        if self.numbered and (wrong := [c for c in self.channels if known.count(c) != 1]):
            refuse(
                f"numbered {list(self.numbered)} must name each channel once; {wrong[0]!r} is there {known.count(wrong[0])} times"
            )
        if set(self.write) != set(self.labels):
            refuse(f"write names {sorted(self.write)}, labels names {sorted(self.labels)}; they must be the same")
        if self.kind == "segmentation":
            if any(i < 1 or i > 65535 for ids in self.labels.values() for i in ids):
                refuse(f"label ids must lie in 1..65535 (0 is background), got {dict(self.labels)}")
            self._check_painting(refuse)
            if self.ignore is not None and (self.ignore in self.values or not 1 <= self.ignore <= 65535):
                refuse(
                    f"ignore {self.ignore} must lie in 1..65535 and be no value of a label (labels have {self.values})"
                )
        if unknown := sorted(set(self.aliases) - set(self.labels)):
            refuse(f"aliases name {unknown[0]!r}, which is no label; labels are {', '.join(self.labels)}")
        if unknown_ids := sorted(set(self.ids) - {0, *self.values}):
            refuse(f"ids name the value {unknown_ids[0]}, which no label holds; values are {self.values}")
        self._check_dicom(refuse)
        for name, code in self.codes.items():
            if self.label_named(name) is None and self.id_named(name) is None:
                refuse(f"codes name {name!r}, which is no label; labels are {', '.join(self.labels)}")
            if len(code) not in (4, 5):
                refuse(
                    f"the code of {name} is {list(code)}; it must be category, scheme, value, meaning and maybe a side"
                )
        labels = {name: (name, *self.aliases.get(name, ())) for name in self.labels}
        for what, names in (
            ("channel", {c: (c, *aliases) for c, aliases in self.channels.items()}),
            ("label", labels),
            ("value", {str(value): aliases for value, aliases in self.ids.items()}),
        ):
            seen: dict[str, str] = {}
            for key, aliases in names.items():
                for alias in aliases:
                    if seen.setdefault(plain_name(alias), key) != key:
                        refuse(f"the name {alias!r} means both {what} {seen[plain_name(alias)]!r} and {key!r}")

    def _check_slices(self, refuse: Any) -> None:
        if self.slices is not None:
            if self.slices not in SLICES:
                refuse(f"slices {self.slices!r} is none of {', '.join(SLICES)}")
            if self.network_dims != 2:
                refuse(
                    f"patch_size {self.patch_size} must be the 2 sizes of a slice, since slices: {self.slices} is given"
                )
            if self.kind != "segmentation":
                refuse(f"slices: {self.slices} is for segmentation; a class belongs to a whole scan")
        most = 0 if self.slices is None else MOST_NEIGHBOURS
        if not 0 <= self.neighbours <= most:
            hint = "" if self.slices else f"; without slices ({', '.join(SLICES)}) there are none"
            refuse(f"neighbours {self.neighbours} must lie in 0..{most}{hint}")

    def _check_dicom(self, refuse: Any) -> None:
        for channel, rule in self.dicom.items():
            if unknown := sorted(set(rule) - set(DICOM_RULE)):
                refuse(f"the dicom rule of {channel} has the key {unknown[0]!r}; known are {', '.join(DICOM_RULE)}")
            for key, value in rule.items():
                if not isinstance(value, DICOM_RULE[key]):
                    refuse(f"the dicom rule of {channel} has {key}: {value!r}, which is no {DICOM_RULE[key].__name__}")
            for key in ("description", "without"):
                try:
                    re.compile(rule.get(key, ""))
                except re.error as error:
                    refuse(f"the dicom rule of {channel} has {key}: {rule[key]!r}, no regular expression ({error})")

    def _check_painting(self, refuse: Any) -> None:
        """Painting a label map's regions must give a map with the same regions (DESIGN.md, decision 5)."""
        for value in self.values:
            inside = [name for name in self.write if value in self.labels[name]]
            painted = self.write[inside[-1]]
            again = [name for name in self.write if painted in self.labels[name]]
            if again != inside:
                refuse(
                    f"value {value} lies in {inside}, but is written as {painted}, which reads back as {again}; "
                    "list write from large to small regions and give each a value of its own"
                )

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
