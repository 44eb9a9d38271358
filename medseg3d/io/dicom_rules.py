"""Which series of a DICOM study is which channel of a task: by the rules of the task's file, or as the user says.

A rule is a mapping with any of ``modality`` (of the series), ``description`` (a regular expression found in its
description, protocol or sequence name; case does not count), ``without`` (one that is not found there) and ``contrast``
(whether a contrast agent was given). What the descriptions say is compared and never told: they may name the patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.checks import ConfigError, InputError, some_names
from medseg3d.io.dicom_series import Series
from medseg3d.task import Task

WITH_CONTRAST = re.compile(r"(?<![a-z])(post|gd|gad[a-z]*|ce|\+ ?c|c ?\+|km|contrast|enhanced)(?![a-z])")
WITHOUT_CONTRAST = re.compile(r"(?<![a-z])(pre|plain|nativ[a-z]*|non?[- ]?(contrast|enhanced)|without|w/?o)(?![a-z])")


def wanted_series(texts: Sequence[str], task: Task) -> dict[str, str]:
    """``--series 3`` or ``--series T1=3`` (several times) as channel -> number, identifier or UID.

    Raises:
        ConfigError: for a channel that the task does not have, or a number without a channel where there are several.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        channel = task.channel_named(name) if sign else next(iter(task.channels)) if task.in_channels == 1 else None
        if channel is None:
            what = (
                f"names no channel of task {task.name!r}"
                if sign
                else f"does not say which channel of {task.name!r} it is"
            )
            example = ", ".join(f"--series {c}=NUMBER" for c in task.channels)
            raise ConfigError(f"series {text!r} {what}; write {example}")
        found[channel] = value.strip()
    return found


def is_meant(series: Series, wanted: str) -> bool:
    """Whether a number, an identifier or a UID means this series."""
    return wanted in (str(series.number), series.identifier, series.series_uid)


def has_contrast(series: Series) -> bool:
    """Whether an agent was given: by the words of the description where it has any, else by the header."""
    words = _words(series)
    if WITHOUT_CONTRAST.search(words):
        return False
    return series.contrast or WITH_CONTRAST.search(words) is not None


def match_series(study: Sequence[Series], task: Task, wanted: Mapping[str, str], where: Path) -> dict[str, Series]:
    """One series of a study for each channel of a task.

    Args:
        study: its series.
        task: whose channels are looked for; its ``dicom`` has the rules.
        wanted: channel -> number, identifier or UID of the series that the user names.
        where: the folder, for messages.

    Raises:
        InputError: ``E-SERIES``, ``E-CHANNEL-MISSING`` or ``E-CHANNEL-AMBIGUOUS``.
    """
    found: dict[str, Series] = {}
    for channel in task.channels:
        if channel in wanted:
            named = [s for s in study if is_meant(s, wanted[channel])]
            if len(named) != 1:
                message = f"no series {wanted[channel]!r} for channel {channel}; there are {_listed(study)}"
                raise InputError("E-SERIES", message, file=where, fix="medseg3d info shows the numbers")
            found[channel] = named[0]
        else:
            found[channel] = _by_rule(study, channel, task, where)
    used: dict[str, str] = {}
    for channel, series in found.items():
        if (other := used.setdefault(series.series_uid, channel)) != channel:
            message = f"series {series.number} fits both channel {other} and channel {channel}"
            raise InputError("E-CHANNEL-AMBIGUOUS", message, file=where, fix=_fix(channel))
    return found


def _by_rule(study: Sequence[Series], channel: str, task: Task, where: Path) -> Series:
    rule = rule_of(channel, task)
    scans = [s for s in study if not s.localizer]
    same_kind = [s for s in scans if s.modality == rule.get("modality", s.modality)]
    fitting = [s for s in same_kind if _fits(s, rule)]
    if task.in_channels == 1 and len(fitting) != 1 and len(same_kind) == 1:
        fitting = same_kind  # the only one there is
    if len(fitting) > 1:
        fitting = [s for s in fitting if not s.errors] or fitting
    if not rule and task.in_channels > 1:
        message = f"task {task.name!r} has no rule that finds channel {channel} among {_listed(scans)}"
        raise InputError(
            "E-CHANNEL-MISSING", message, file=where, fix=f"{_fix(channel)}, or add dicom to the task file"
        )
    if not fitting:
        message = (
            f"no series is channel {channel} by its rule ({rule_words(channel, task)}); there are {_listed(scans)}"
        )
        raise InputError("E-CHANNEL-MISSING", message, file=where, fix=_fix(channel))
    if len(fitting) > 1:
        code = "E-SERIES" if task.in_channels == 1 else "E-CHANNEL-AMBIGUOUS"
        message = f"{len(fitting)} series could be channel {channel}: {_listed(fitting)}"
        raise InputError(code, message, file=where, fix=_fix(channel))
    return fitting[0]


def rule_of(channel: str, task: Task) -> dict[str, Any]:
    """The rule of a channel; a task for CT in Hounsfield units that has none wants CT."""
    given = task.dicom.get(channel)
    return dict(given) if given is not None else {"modality": "CT"} if task.intensity == "ct" else {}


def rule_words(channel: str, task: Task) -> str:
    """A rule to read: ``MR 't1|mprage' with contrast``."""
    rule = rule_of(channel, task)
    words = [rule.get("modality", "any modality")]
    words += [f"{before}{rule[key]!r}" for key, before in (("description", ""), ("without", "not ")) if key in rule]
    words += ["with contrast" if rule["contrast"] else "without contrast"] if "contrast" in rule else []
    return " ".join(words)


def _fits(series: Series, rule: Mapping[str, Any]) -> bool:
    words = _words(series)
    if "description" in rule and not re.search(rule["description"], words, re.IGNORECASE):
        return False
    if "without" in rule and re.search(rule["without"], words, re.IGNORECASE):
        return False
    return "contrast" not in rule or has_contrast(series) == rule["contrast"]


def _words(series: Series) -> str:
    return " ".join((series.description, series.protocol, series.sequence_name)).casefold().replace("_", " ")


def _listed(series: Sequence[Series]) -> str:
    words = [f"{s.number} ({s.modality} {' x '.join(map(str, s.shape))}, {s.identifier})" for s in series]
    return some_names(words, 8)


def _fix(channel: str) -> str:
    return f"say which with --series {channel}=NUMBER; medseg3d info shows the numbers"
