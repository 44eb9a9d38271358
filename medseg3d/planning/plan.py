"""From a folder of scans to a task file: what is there, what follows from it, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d import __version__
from medseg3d.checks import ConfigError, Finding
from medseg3d.inspection.result import summarised
from medseg3d.inspection.together import compare
from medseg3d.io.cases import find_cases
from medseg3d.io.split import split_cases
from medseg3d.networks.strides import Strides, plain, stage_strides
from medseg3d.planning.choices import LEAST_STEPS, USED, Choices, Limits, choose
from medseg3d.planning.cost import GB, fixed_bytes, guessed_step, measured_step, voxel_bytes
from medseg3d.planning.declared import declared_task
from medseg3d.planning.fingerprint import Fingerprint, measure
from medseg3d.planning.strides import least_patch, voxel_work
from medseg3d.planning.written import render
from medseg3d.task import Task

logger = logging.getLogger(__name__)

LARGER = {"mit_tiny": ("mit_b0", 1.3), "default": ("mit_b1", 3.5)}
"""The next larger network, and what a step of it takes in steps of the smaller."""
ENOUGH_STEPS = 40_000
"""In which a network has learned what it can: with more, a larger one is taken."""
VALIDATION_SHARE = 0.2
FORWARD = 1 / 3
"""Of a training step, per voxel."""


@dataclass(frozen=True)
class Plan:
    """A task for a data set.

    Args:
        data: what was looked at.
        task: ready to train with.
        reasons: by key of the task, and ``train.KEY``.
        fingerprint: what was found in the data.
        findings: what is wrong or odd about them.
        heading: what was found, in words.
    """

    data: Path
    task: Task
    reasons: dict[str, str]
    fingerprint: Fingerprint
    findings: tuple[Finding, ...]
    heading: tuple[str, ...]

    @property
    def text(self) -> str:
        """The task file, with every reason as a comment."""
        return render(self.task, self.reasons, self.heading)

    def summary(self) -> str:
        """The task file and what is to be said about the data, to read."""
        return "\n".join([self.text.rstrip("\n"), *summarised(self.findings, self.data)])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "task": self.task.as_dict(),
            "reasons": dict(self.reasons),
            "fingerprint": self.fingerprint.as_dict(),
            "findings": [f.as_dict() for f in self.findings],
        }


def plan(data: str | Path, *, budget_s: float | None = None, memory_gb: float = 8.0, measure_step: bool = True) -> Plan:
    """Look at a data set and choose a task for it.

    Without a time budget the same files give the same plan on any machine; a budget is turned into steps by what a step takes here.

    Args:
        data: labelled cases in a layout that ``find_cases`` knows.
        budget_s: seconds that the training may take; None leaves its length to train.yaml.
        memory_gb: what it may take of memory, in 10^9 bytes.
        measure_step: measure two steps for the budget; otherwise they are guessed.

    Raises:
        ConfigError: no data, or limits that hold no training.
        InputError: data that cannot be read.
    """
    declared = declared_task(data)
    dataset = find_cases(data, declared, labels=True)
    if declared.in_channels > 1:
        declared = replace(declared, numbered=dataset.numbering)
    for note in dataset.notes:
        logger.info("note: %s", note)
    fingerprint, findings = measure(dataset, declared)
    limits = Limits(memory_gb, budget_s)
    chosen = _choose(fingerprint, limits)
    step_s = guessed_step(chosen.task, chosen.task.train["batch_size"]) * _voxel_work(chosen.task)
    if budget_s is not None:
        if measure_step:
            step_s = measured_step(chosen.task, _settings(chosen.task))
            logger.info("%.2f s a step of %s voxels, measured", step_s, _by(chosen.task.patch_size))
        voxel_s = step_s / _step_work(chosen.task)
        chosen = _choose(fingerprint, replace(limits, voxel_s=voxel_s))
        step_s = voxel_s * _step_work(chosen.task)
        name, cost = LARGER[chosen.task.network]
        if chosen.task.kind == "segmentation" and USED * budget_s / step_s / cost >= ENOUGH_STEPS:
            chosen = _choose(fingerprint, replace(limits, voxel_s=cost * voxel_s), name)
            step_s = cost * voxel_s * _step_work(chosen.task)
        chosen, more = _with_length(chosen, fingerprint, budget_s, step_s, measured=measure_step)
        findings = [*findings, *more]
    findings = [*findings, *_together(fingerprint, chosen.task, Path(data))]
    task = chosen.task
    heading = _heading(fingerprint, task, memory_gb, budget_s)
    return Plan(
        Path(data), task, _reasons(task) | dict(chosen.reasons), fingerprint, tuple(dict.fromkeys(findings)), heading
    )


def _choose(fingerprint: Fingerprint, limits: Limits, network: str = "default") -> Choices:
    from medseg3d.training.parts import network_config, new_network

    names = fingerprint.task

    def build(strides: Strides) -> Any:
        return new_network(network_config(replace(names, network=network), {"strides": plain(strides)}), 0)

    usual = stage_strides(None, names.spatial_dims)
    net = build(usual)
    least = fixed_bytes(net) + voxel_bytes(net, names.in_channels) * math.prod(least_patch(usual))
    if (limits.memory_gb - limits.data_gb) * GB < least:
        raise ConfigError(
            f"{limits.memory_gb:g} GB hold no training of this network; give at least {2 * least / GB:.1f} GB"
        )
    return choose(fingerprint, build, limits, network_name=network)


def _reasons(task: Task) -> dict[str, str]:
    """For what a ``dataset.json`` says."""
    ignore = "so dataset.json calls voxels that nobody has judged: neither trained on nor scored"
    numbered = "what _0000, _0001, ... are by dataset.json; counts for scans with none beside them"
    return ({} if task.ignore is None else {"ignore": ignore}) | ({"numbered": numbered} if task.numbered else {})


def _settings(task: Task) -> dict[str, Any]:
    from medseg3d.training.settings import merge_settings

    return merge_settings(task, task.train)


def _step_work(task: Task) -> float:
    """Voxels of a step, as many as take as long with the usual strides."""
    return int(task.train["batch_size"]) * math.prod(task.patch_size) * _voxel_work(task)


def _voxel_work(task: Task) -> float:
    strides = task.train.get("network", {}).get("strides")
    return voxel_work(stage_strides(strides, task.spatial_dims))


def _with_length(
    chosen: Choices, fingerprint: Fingerprint, budget_s: float, step_s: float, *, measured: bool
) -> tuple[Choices, list[Finding]]:
    """The epochs that a budget holds, and what is to be said about too few."""
    from medseg3d.training.budget import fit_budget

    task = chosen.task
    settings = _settings(task)
    spacing = np.array(task.spacing_mm or fingerprint.spacing_mm)
    voxels = float(np.median(np.prod(np.maximum(fingerprint.extents_mm / spacing, task.patch_size), axis=1)))
    work = voxels * _voxel_work(task) / _step_work(task)
    validation_s = VALIDATION_SHARE * fingerprint.total * work * FORWARD * step_s
    try:
        length = fit_budget(
            USED * budget_s, step_s, validation_s, settings["steps_per_epoch"], settings["validation_interval"]
        )
    except ConfigError:
        raise ConfigError(
            f"a budget of {budget_s:.0f} s holds not even one step ({step_s:.1f} s) and one validation ({validation_s:.0f} s); "
            "give more time"
        ) from None
    steps = length["epochs"] * length["steps_per_epoch"]
    how = "measured here" if measured else "guessed, not measured"
    reason = f"{steps} steps of {step_s:.2g} s ({how}) fill {budget_s / 60:.3g} minutes"
    keys = {k: v for k, v in length.items() if k == "epochs" or v != settings[k]}
    reasons = {**chosen.reasons, "train.epochs": reason}
    reasons |= {
        f"train.{k}": "so that validations take a tenth of the time" for k in keys if k == "validation_interval"
    }
    reasons |= {f"train.{k}": "less than one epoch fits" for k in keys if k == "steps_per_epoch"}
    more = []
    if steps < LEAST_STEPS / 2:
        message = f"the budget holds {steps} steps; below {LEAST_STEPS // 2} a network has hardly begun to learn"
        more.append(Finding("W-BUDGET", "warning", None, message, "give more time, or a machine that is faster"))
    return Choices(replace(task, train={**task.train, **keys}), reasons), more


def _together(fingerprint: Fingerprint, task: Task, data: Path) -> list[Finding]:
    """What ``medseg3d check`` says about the cases as a whole, and whether they can be split."""
    used = np.array(task.spacing_mm or fingerprint.spacing_mm)
    facts = []
    for case in fingerprint.cases:
        size = np.array(case.shape) * np.array(case.spacing_mm) / used
        covered = float(np.prod(np.minimum(size / np.array(task.patch_size), 1)))
        facts.append(replace(case.facts, covered=covered))
    findings = compare({"training": facts}, task, data)
    if np.median([f.covered for f in facts]) >= 1 / 3:  # a patch that holds the largest image is meant to be larger
        findings = [f for f in findings if f.code != "I-PADDED"]
    if len(facts) < fingerprint.total:  # the others may hold what these lack
        findings = [f for f in findings if f.code != "E-CLASS-ABSENT"]
    try:
        split_cases([f.case for f in facts], VALIDATION_SHARE)
    except ConfigError as error:
        fix = "add cases of other patients"
        findings.append(Finding("W-SPLIT", "warning", str(data), str(error), fix))
    return findings


def _heading(fingerprint: Fingerprint, task: Task, memory_gb: float, budget_s: float | None) -> tuple[str, ...]:
    looked = "" if len(fingerprint.cases) == fingerprint.total else f" ({len(fingerprint.cases)} looked at)"
    limits = f"{memory_gb:g} GB" + ("" if budget_s is None else f" and {budget_s / 60:.3g} minutes")
    median = np.median(fingerprint.shapes, axis=0)
    found = f"{fingerprint.total} case{'s' if fingerprint.total != 1 else ''}{looked} of {_by(median)} voxels"
    if task.spatial_dims == 3 or any(s != 1 for s in fingerprint.spacing_mm):
        found += f" of {_by(fingerprint.spacing_mm)} mm"
    return (
        f"Planned by medseg3d {__version__} for {limits}: medseg3d train --task THIS_FILE --data FOLDER",
        f"{found} (medians)" if fingerprint.total > 1 else found,
    )


def _by(sizes: Sequence[float] | np.ndarray[Any, Any]) -> str:
    return " x ".join(f"{s:.3g}" if s < 100 else f"{s:.0f}" for s in sizes)
