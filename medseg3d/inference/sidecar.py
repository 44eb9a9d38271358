"""The JSON file beside each result: what it was made from, by what, and what is in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg3d.checks import Finding, InputError
from medseg3d.inference.provenance import finding_without_paths, versions
from medseg3d.io.atomic import atomic_write
from medseg3d.io.digest import sha256_of

logger = logging.getLogger(__name__)
FORMAT = "medseg3d.prediction/1"
DONE, FAILED = "done", "failed"


def sidecar_path(file: Path) -> Path:
    """Where the sidecar of a result lies: ``case.nii.gz`` has ``case.nii.gz.json``."""
    return file.with_name(f"{file.name}.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The content of a sidecar; None where there is none, or it is damaged, or another kind of file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and _is_sound(values) else None


def _is_sound(values: Mapping[str, Any]) -> bool:
    """Whether what every reader relies on is there."""
    if values.get("format") != FORMAT or not isinstance(values.get("case"), str):
        return False
    if values.get("status") == FAILED:
        finding = values.get("finding")
        return isinstance(finding, Mapping) and set(finding) == {f.name for f in fields(Finding)}
    outputs, seconds = values.get("outputs"), values.get("seconds")
    if values.get("status") != DONE or not isinstance(outputs, Mapping) or not isinstance(seconds, Mapping):
        return False
    return all(isinstance(o, Mapping) and isinstance(o.get("file"), str) for o in outputs.values())


@dataclass(frozen=True)
class Origin:
    """What the results of one run come from; the same origin and the same inputs give the same result.

    Args:
        root: folder that the names of inputs are relative to.
        models: from ``models_of``.
        options: from ``options_of``.
        computed_on: device and precision, for the record.
        hints: where model and inputs lie as seen from the output folder, as far as that may be told.
    """

    root: Path
    models: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    computed_on: Mapping[str, str]
    hints: Mapping[str, Any]

    def same_run(self, sidecar: Mapping[str, Any]) -> bool:
        """Whether a sidecar was written with these models and options."""
        return self.difference(sidecar, None) is None

    def difference(self, sidecar: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]] | None) -> str | None:
        """What has changed since a sidecar was written, in words; ``inputs`` of None are not compared."""
        if inputs is not None and _keys(sidecar.get("inputs"), "channel", "index", "sha256") != _keys(
            inputs, "channel", "index", "sha256"
        ):
            return "the input changed"
        before, now = len(sidecar.get("models") or ()), len(self.models)
        if before != now:
            return f"{now} model{'s' * (now != 1)} instead of {before}"
        for key, what in (("weights_sha256", "the weights"), ("metadata_sha256", "the model's metadata")):
            if _keys(sidecar.get("models"), key) != _keys(self.models, key):
                return f"{what} changed"
        options = sidecar.get("options")
        options = options if isinstance(options, Mapping) else {}
        for name in sorted({*options, *self.options}):
            if options.get(name) != self.options.get(name):
                return f"{name} is {self.options.get(name)}, and was {options.get(name)}"
        return None

    def done(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Mapping[str, Path],
        content: Mapping[str, Any],
        seconds: Mapping[str, float],
    ) -> dict[str, Any]:
        """The sidecar of a result.

        Args:
            inputs: from ``inputs_of``.
            outputs: the files written, by what they are (``labels``, ``probabilities``, ``uncertainty``).
            content: what is in them, from ``medseg3d.inference.description``, or the classes.
            seconds: per stage.
        """
        files = {
            kind: {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for kind, file in outputs.items()
        }
        return {
            "format": FORMAT,
            "status": DONE,
            "inputs": list(inputs),
            "models": list(self.models),
            "options": dict(self.options),
            "outputs": files,
            **content,
            "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
            "computed_on": dict(self.computed_on),
            "versions": versions(),
            "hints": dict(self.hints),
            "finished": _now(),
        }

    def failed(self, finding: Finding) -> dict[str, Any]:
        """The sidecar of a case that could not be predicted."""
        return {
            "format": FORMAT,
            "status": FAILED,
            "finding": finding_without_paths(finding, self.root),
            "models": list(self.models),
            "options": dict(self.options),
            "computed_on": dict(self.computed_on),
            "versions": versions(),
            "finished": _now(),
        }


def write_sidecar(path: Path, case: str, values: Mapping[str, Any]) -> None:
    """Write a sidecar in one step."""
    first = {"format": values["format"], "case": case}
    atomic_write(path, json.dumps({**first, **values}, indent=2, ensure_ascii=False) + "\n")


def damage(sidecar: Mapping[str, Any], folder: Path, kinds: Collection[str]) -> str | None:
    """What is wrong with the files that a sidecar speaks of, in words; None where each re-reads with its hash.

    Args:
        sidecar: of a case that is done.
        folder: where the files lie.
        kinds: which of them are needed.
    """
    for kind in kinds:
        entry = sidecar["outputs"].get(kind)
        if entry is None:
            return f"it has no {kind} yet"
        file = folder / Path(entry["file"]).name
        try:
            if not file.is_file():
                return f"{file.name} is not there any more"
            if file.stat().st_size != entry.get("bytes") or sha256_of(file) != entry.get("sha256"):
                return f"{file.name} is not the file that was written"
        except (InputError, OSError):
            return f"{file.name} cannot be read"
    return None


def _keys(entries: Any, *keys: str) -> list[tuple[Any, ...]] | None:
    if not isinstance(entries, Sequence) or not all(isinstance(e, Mapping) for e in entries):
        return None
    return [tuple(e.get(k) for k in keys) for e in entries]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
