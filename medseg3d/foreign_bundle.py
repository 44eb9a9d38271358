"""Someone else's MONAI bundle on a folder of scans; its config is code, run only where it is trusted (DESIGN.md, decision 3)."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.checks import ConfigError, Finding, InputError, ModelError
from medseg3d.io import Case, find_cases, read_volume, write_volume
from medseg3d.task import Task
from medseg3d.volume import Grid, Volume

log = logging.getLogger(__name__)
CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
WEIGHTS = "models/model.pt"
PARTS = ("network_def", "inferer", "preprocessing", "postprocessing")
"""What is taken from the config. Its datalist, evaluator, handlers and writers are not run."""
WRITERS = ("SaveImaged", "SaveImage")
KEYS = ("state_dict", "model", "network")
"""Under which a checkpoint may hold its weights."""


@dataclass
class BundleResult:
    """What became of each case: names of those ``done`` and ``skipped``, findings of those ``failed``."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Finding] = field(default_factory=dict)


def predict_bundle(
    bundle: str | Path,
    input: str | Path,
    output: str | Path,
    *,
    trust: bool = False,
    device: str | None = None,
    overwrite: bool = False,
) -> BundleResult:
    """Segment a folder of scans with the network, inferer and transforms of a MONAI bundle; no datalist is needed.

    Each case becomes ``NAME.nii.gz`` on its scan's own grid with its geometry fields: the values of the bundle's ``pred`` after
    its postprocessing, in as many channels as that has. The transforms must take ``image`` as a file and give ``pred`` back on its
    grid (``Invertd``).

    Args:
        bundle: its folder, with ``configs/inference.json`` (or ``.yaml``), ``configs/metadata.json`` and ``models/model.pt``.
        input: folder of scans in any layout that ``find_cases`` knows, by the channel names of the metadata; no DICOM.
        output: folder to write to.
        trust: run the config, which may do anything that a program may; refused without.
        device: to compute on; default a GPU where there is one.
        overwrite: do again what is there.

    Raises:
        ConfigError: without ``trust``, or where there is nothing to predict.
        ModelError: for a bundle that lacks a part, or weights that are not of its network.
    """
    root, output = Path(bundle), Path(output)
    config = _config_of(root)
    if not trust:
        raise ConfigError(
            f"{config} is code: it may read, delete or send any file that you can, and MONAI runs it as it is. Read it and the "
            f"Python files below {root}; where you trust whoever wrote them, give --trust"
        )
    log.warning("%s is code by someone else, and is run, because you trust it", config)
    task = task_of(_metadata(root), root.name)
    data = find_cases(input, task, labels=False)
    log.info("%s", data.describe())
    if not data.cases and not data.refused:
        raise ConfigError(f"{input} holds no case to predict")
    result = BundleResult(failed=dict(data.refused))
    parts: dict[str, Any] = {}
    with _importable(root):
        for case in data.cases:
            place = output / f"{case.name}.nii.gz"
            if place.is_file() and not overwrite:
                result.skipped.append(case.name)
                continue
            parts = parts or _parts(root, config, device)
            try:
                write_volume(_predicted(case, parts), place)
            except InputError as error:
                result.failed[case.name] = error.finding
            except Exception as error:  # of the bundle's own code: the other cases are done all the same
                log.debug("case %s", case.name, exc_info=error)
                message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
                result.failed[case.name] = Finding("E-BUNDLE", "error", str(case.images[0].path), message)
            else:
                result.done.append(case.name)
                log.info("case %s: done", case.name)
    return result


def task_of(metadata: Mapping[str, Any], name: str) -> Task:
    """Channels and labels as a bundle's metadata names them.

    Raises:
        ModelError: where the metadata do not say.
    """
    try:
        formats = metadata["network_data_format"]
        image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
        channels = _names(image, "image")
        labels = {n: [i] for i, n in enumerate(_names(pred, "label")) if i or n.casefold() != "background"}
        if any(0 in ids for ids in labels.values()):
            labels = {n: [i + 1] for n, (i,) in labels.items()}
        return Task(name or "bundle", {c: [] for c in channels}, labels, (32,) * len(image["spatial_shape"]))
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise ModelError(f"the bundle's metadata.json does not describe its image and pred ({error!r})") from None


def _names(entry: Mapping[str, Any], fallback: str) -> list[str]:
    count = int(entry["num_channels"])
    given = {int(k): str(v) for k, v in (entry.get("channel_def") or {}).items()}
    return [given.get(i, fallback if count == 1 else f"{fallback}{i}") for i in range(count)]


def _config_of(root: Path) -> Path:
    for name in CONFIGS:
        if (root / "configs" / name).is_file():
            return root / "configs" / name
    raise ModelError(f"{root} is no MONAI bundle: it has no configs/{CONFIGS[0]} or .yaml")


def _metadata(root: Path) -> dict[str, Any]:
    file = root / "configs" / "metadata.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{file} cannot be read ({error})") from None


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """The bundle's own Python files, such as its ``scripts``, can be imported meanwhile."""
    sys.path.insert(0, str(root.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(root.resolve()))


def _parts(root: Path, config: Path, device: str | None) -> dict[str, Any]:
    import torch
    from monai.bundle import ConfigParser

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        parser = ConfigParser()
        parser.read_config(str(config))
        parser.read_meta(str(root / "configs" / "metadata.json"))
        parser["bundle_root"], parser["device"] = str(root), where
        after = parser.get("postprocessing")
        if isinstance(after, dict) and isinstance(after.get("transforms"), list):
            kept = [t for t in after["transforms"] if str(t.get("_target_", "")).split(".")[-1] not in WRITERS]
            parser["postprocessing"]["transforms"] = kept
        parts = {name: parser.get_parsed_content(name) for name in PARTS}
    except Exception as error:
        raise ModelError(f"{config} cannot be run ({type(error).__name__}: {error})") from error
    network = parts["network_def"].to(where).eval()
    try:
        weights = torch.load(root / WEIGHTS, map_location=where, weights_only=True)
        network.load_state_dict(next((weights[key] for key in KEYS if key in weights), weights))
    except Exception as error:
        raise ModelError(f"{root / WEIGHTS} holds no weights of the bundle's network ({error})") from None
    return {**parts, "network": network, "device": where}


def _predicted(case: Case, parts: Mapping[str, Any]) -> Volume:
    import torch
    from monai.data import MetaTensor

    paths = list(dict.fromkeys(file.path for file in case.images))
    if any(file.series is not None for file in case.images):
        raise InputError("E-FORMAT", "bundles read no DICOM series here", file=paths[0], fix="medseg3d convert first")
    item = parts["preprocessing"]({"image": str(paths[0]) if len(paths) == 1 else [str(p) for p in paths]})
    image = item["image"]
    with torch.inference_mode():
        found = parts["inferer"](image[None].to(parts["device"]), parts["network"])
    operations = getattr(image, "applied_operations", None)
    pred = MetaTensor(torch.as_tensor(found[0]).cpu(), meta=getattr(image, "meta", None), applied_operations=operations)
    pred = parts["postprocessing"]({**item, "pred": pred})["pred"]
    scan = read_volume(paths[0], nonfinite="zero")
    data = np.asarray(torch.as_tensor(pred))
    lies = Grid(data.shape[1:], np.asarray(pred.affine, dtype=np.float64)[: data.ndim, : data.ndim])
    if len(lies.shape) != len(scan.shape) or (difference := lies.differs_from(scan.grid)):
        what = "other axes" if len(lies.shape) != len(scan.shape) else difference
        fix = "a bundle must bring its pred back to the image (Invertd)"
        raise InputError(
            "E-GRID", f"the bundle's result lies on another grid than the scan: {what}", file=paths[0], fix=fix
        )
    whole = np.array_equal(data, np.rint(data)) and data.min() >= 0
    kind = (np.uint8 if data.max() < 256 else np.uint16) if whole else np.float32
    return Volume(data.astype(kind), scan.affine, scan.header)
