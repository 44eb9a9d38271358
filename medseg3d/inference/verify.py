"""Was this file made from what its sidecar says? Do it again and compare."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.inference.extras import ROI_SUBSET, kept_labels, only
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.provenance import Model, models_of, versions
from medseg3d.inference.sidecar import DONE, damage, read_sidecar, sidecar_path
from medseg3d.io.case_reading import read_image
from medseg3d.io.cases import Case, ChannelFile
from medseg3d.io.digest import sha256_of_channel
from medseg3d.io.images import read_volume

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Verification:
    """How a result compares with the same computed again.

    Args:
        file: name of the file verified.
        identical: whether every voxel (for classification: the class) is the same.
        agreement: share of voxels that are the same, 0 to 1.
        foreground_agreement: the same among the voxels that either of the two labels; 1 where there are none.
        changed: what is wrong with the file itself: it is not the one that was written; None where it is.
        versions: of what differs between then and now: ``{"torch": ("2.10", "2.11")}``.
    """

    file: str
    identical: bool
    agreement: float
    foreground_agreement: float
    changed: str | None
    versions: Mapping[str, tuple[str, str]]

    def __str__(self) -> str:
        words = [
            f"{self.file}: identical"
            if self.identical
            else f"{self.file}: {self.agreement:.6%} of all voxels agree, {self.foreground_agreement:.4%} of the foreground"
        ]
        if self.changed:
            words.append(f"the file was changed since: {self.changed}")
        words += [f"{name} was {before}, is {now}" for name, (before, now) in self.versions.items()]
        return "; ".join(words)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    file: str | Path,
    *,
    model: Model | None = None,
    input: str | Path | None = None,
    device: str | None = None,
) -> Verification:
    """Predict once more from what the sidecar of a result names, with the same options and precision, and compare.

    Args:
        file: a result of ``predict_folder``, or its sidecar.
        model: run directory or bundle it was made with, or all of an ensemble; default where the sidecar says they lay.
        input: folder that the sidecar's names of inputs are relative to; default where the sidecar says it lay.
        device: to compute on; another kind than then may round differently.

    Raises:
        ConfigError: where the file has no sidecar, or model or input are nowhere.
        InputError: ``E-CHANGED`` where an input is not the one it was.
        ModelError: where the model is not the one it was.
    """
    file = Path(file)
    path = file if file.name.endswith(".json") else sidecar_path(file)
    sidecar = read_sidecar(path)
    if sidecar is None:
        raise ConfigError(f"{path} is no sidecar of a prediction; give a file that medseg3d predict has written")
    if sidecar.get("status") != DONE:
        raise ConfigError(
            f"{path.name}: this case was not predicted ({sidecar.get('status')}); there is nothing to verify"
        )
    try:
        return _compared(path, sidecar, model, input, device)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(f"{path.name} is damaged, or of another version of medseg3d ({error!r})") from None


def _compared(
    path: Path,
    sidecar: Mapping[str, Any],
    model: Model | None,
    input: str | Path | None,
    device: str | None,
) -> Verification:
    hints = sidecar.get("hints", {})
    if model is None:
        model = [_from_hint(path.parent, way, "model", "--model") for way in hints["models"]]
    root = Path(input) if input is not None else _from_hint(path.parent, hints["input"], "input folder", "--input")
    if isinstance(model, Predictor):
        predictor = model
        _in_their_order([predictor], models_of(predictor), sidecar)
    else:
        directories = [model] if isinstance(model, (str, Path)) else list(model)
        directories = _in_their_order(directories, models_of(directories), sidecar)
        options = {k: v for k, v in sidecar["options"].items() if k not in ("nonfinite", ROI_SUBSET)}
        options |= {"precision": sidecar["computed_on"]["precision"], "device": device}
        predictor = Predictor.from_bundle(directories, **options)
    case = _case(sidecar, root)
    image = read_image(case, predictor.task, nonfinite=sidecar["options"].get("nonfinite", "error"))
    outputs = sidecar["outputs"]
    shares = sidecar.get("classes")
    if shares is not None:
        classes = predictor.classify(image)
        same = max(classes, key=classes.__getitem__) == max(shares, key=shares.__getitem__)
        numbers = (same, float(same), float(same))
        name = path.name
    else:
        name = Path(outputs["labels"]["file"]).name
        before = read_volume(path.parent / name, labels=True).data
        again = predictor.predict(image, uncertainty="uncertainty" in outputs)
        kept = kept_labels(predictor.task, sidecar["options"].get(ROI_SUBSET) or ())
        numbers = _agreement(before, only(again.labels, predictor.task, kept).data)
    now = versions()
    different = {k: (str(v), now[k]) for k, v in sidecar["versions"].items() if k in now and now[k] != v}
    return Verification(name, *numbers, damage(sidecar, path.parent, list(outputs)), different)


def _agreement(before: np.ndarray, now: np.ndarray) -> tuple[bool, float, float]:
    """Whether two label maps are identical, the share of voxels that agree, and that of the foreground of either."""
    if before.shape != now.shape:
        return False, 0.0, 0.0
    same = before == now
    foreground = (before != 0) | (now != 0)
    labelled = int(foreground.sum())
    return bool(same.all()), float(same.mean()), float(same[foreground].mean()) if labelled else 1.0


def _from_hint(folder: Path, way: str | None, what: str, option: str) -> Path:
    place = None if way is None else folder / way
    if place is None or not place.exists():
        where = "does not say where it lay" if way is None else f"says it lay in {way}, and it is not there"
        raise ConfigError(f"the {what} is needed: the sidecar {where}; give {option}")
    return place


def _in_their_order(models: Sequence[T], now: Sequence[Mapping[str, Any]], sidecar: Mapping[str, Any]) -> list[T]:
    """The models in the order in which they made the file, as a mean is rounded by it; ``now`` is what they are."""
    before = sidecar["models"]
    if len(now) != len(before):
        names = ", ".join(repr(m["name"]) for m in before)
        raise ModelError(f"{len(before)} model{'s' * (len(before) > 1)} made the file ({names}), and {len(now)} given")
    left = list(range(len(now)))
    order = []
    for old in before:
        found = [i for i in left if now[i]["weights_sha256"] == old["weights_sha256"]]
        same = next((i for i in found if now[i]["metadata_sha256"] == old["metadata_sha256"]), None)
        if same is None:
            key, what = ("metadata_sha256", "metadata") if found else ("weights_sha256", "weights")
            raise ModelError(
                f"these are other {what} than those of model {old['name']!r} that made the file: sha256 "
                f"{now[(found or left)[0]][key][:12]}..., and it was {old[key][:12]}...; give the model it was made with"
            )
        left.remove(same)
        order.append(models[same])
    return order


def _case(sidecar: Mapping[str, Any], root: Path) -> Case:
    """The case of a sidecar, where its files are there with the hashes they had."""
    files = []
    for entry in sidecar["inputs"]:
        name = PurePosixPath(entry["file"])
        if name.is_absolute() or ".." in name.parts:
            raise ConfigError(f"input {entry['file']!r} of the sidecar lies outside of the input folder")
        place = root / name if root.is_dir() else root
        series = None
        if "series" in entry:
            from medseg3d.io.dicom_cases import series_of_file

            series = series_of_file(place)
        file = ChannelFile(place, entry["index"], series)
        if sha256_of_channel(file) != entry["sha256"]:
            message = "not the input that the file was made from: its sha256 is another"
            raise InputError("E-CHANGED", message, file=place, fix="give the folder with the original inputs")
        files.append(file)
    return Case(str(sidecar["case"]), tuple(files))
