"""The settings of a training: the keys of ``configs/train.yaml`` above its wiring, and nothing else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import torch
import yaml

from medseg3d import configs_folder
from medseg3d.checks import ConfigError
from medseg3d.inference.precision import autocast_type
from medseg3d.task import Task
from medseg3d.training.initial import initial_config
from medseg3d.training.losses import build_loss
from medseg3d.training.optimizer import learning_rate_factor
from medseg3d.training.parts import TASK_SETTINGS, network_config, task_with
from medseg3d.training.tracking import TRACKERS

RUN_MARK = "# --- the run"
LEAST = {
    **dict.fromkeys(("epochs", "steps_per_epoch", "batch_size", "accumulate", "validation_interval", "shares"), 1),
    **dict.fromkeys(("weight_decay", "warmup_epochs", "patience", "workers", "seed", "in_memory_gb"), 0),
    **dict.fromkeys(("augmentation", "low_resolution", "foreground_share"), 0),
}
"""Smallest value of settings that have one."""
GENTLE_RATE = 0.001
"""Learning rate of networks for pictures and slices, and of those that classify (docs/results.md, choices)."""
POSITIVE = ("learning_rate", "gradient_clip")
BELOW_ONE = ("ema", "overlap", "channel_dropout")
NULLABLE = {"spacing_mm": list, "workers": int, "shares": int, "cache": str, "fine_tune": str, "logger": str}
"""Settings that may be null, and what they are otherwise."""


def template() -> str:
    """The text of ``configs/train.yaml`` that comes with medseg3d."""
    return (configs_folder() / "train.yaml").read_text(encoding="utf-8")


def default_settings(task: Task) -> dict[str, Any]:
    """Every setting with the value it has before anything is changed: train.yaml's, and what follows from the task."""
    values: dict[str, Any] = yaml.safe_load(template().split(RUN_MARK)[0])
    plain = task.as_dict()
    if task.network_dims == 2 or task.kind == "classification":
        values["learning_rate"] = GENTLE_RATE
    return values | {name: plain[name] for name in TASK_SETTINGS}


def merge_settings(task: Task, *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after changes, the later before the earlier, checked.

    Args:
        task: whose values are the defaults of ``patch_size`` and the like.
        changes: keys of train.yaml; ``network.KEY`` changes one option of the network.

    Returns:
        Every setting; ``network`` is complete.

    Raises:
        ConfigError: unknown keys, values of the wrong type or out of range, names that do not exist.
    """
    defaults = default_settings(task)
    merged = dict(defaults)
    network: dict[str, Any] = dict(merged["network"])
    for change in changes:
        for key, value in change.items():
            refuse_code(key, value)
            name, _, option = key.partition(".")
            if name not in defaults:
                raise ConfigError(_unknown(key, list(defaults)))
            if name == "network":
                if not option and not isinstance(value, Mapping):
                    raise ConfigError(f"network={value!r} must be options by name; did you mean network.name={value}?")
                network |= {option: value} if option else value
            elif option:
                raise ConfigError(f"setting {key!r} does not exist; {name} has no parts")
            else:
                merged[name] = _typed(name, value, defaults[name])
    _check_ranges(merged)
    chosen = task_with(task, **{name: merged[name] for name in TASK_SETTINGS})
    merged |= {name: chosen.as_dict()[name] for name in TASK_SETTINGS}
    kept = {} if merged["fine_tune"] is None else initial_config(merged["fine_tune"], chosen)
    merged["network"] = network_config(chosen, {**kept, **network})
    build_loss(merged["loss"], chosen)
    if merged["deep_supervision"] and chosen.kind != "segmentation":
        raise ConfigError(f"deep_supervision needs a task that segments, and {chosen.name!r} is {chosen.kind}")
    learning_rate_factor(0, total_steps=1, warmup_steps=0, schedule=merged["schedule"])
    autocast_type(merged["precision"], torch.device("cpu"))
    if not str(merged["device"]).startswith("$"):
        try:
            torch.empty(0, device=merged["device"])
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device {merged['device']!r} cannot be used: {reason}; use cpu or cuda") from None
    return merged


def render(values: Mapping[str, Any]) -> str:
    """The text of train.yaml with other values for some of its top-level keys; comments stay."""
    lines = []
    for line in template().splitlines():
        match = re.match(r"(\w+):[^#]*?(\s+#.*)?$", line)
        if match and match[1] in values:
            value = values[match[1]]
            flow = None if isinstance(value, (Mapping, list)) else False  # None: only what holds no more lists
            text = yaml.safe_dump({match[1]: value}, default_flow_style=flow, sort_keys=False, width=1000)
            first, _, rest = text.rstrip("\n").partition("\n")
            line = first + (match[2] or "") + ("\n" + rest if rest else "")
        lines.append(line)
    return "\n".join(lines) + "\n"


def refuse_code(key: str, value: Any) -> None:
    """Refuse data that MONAI's configs would run or look up: a task is data (DESIGN.md, decision 1).

    Raises:
        ConfigError: for a key or text that starts with ``$``, ``@`` or ``%``, or contains ``::`` or ``_target_``.
    """
    if isinstance(value, Mapping):
        for inner, content in value.items():
            refuse_code(f"{key}.{inner}", str(inner))
            refuse_code(f"{key}.{inner}", content)
    elif isinstance(value, (list, tuple)):
        for content in value:
            refuse_code(key, content)
    elif isinstance(value, str) and (
        value.lstrip().startswith(("$", "@", "%")) or "::" in value or "_target_" in value
    ):
        raise ConfigError(f"{key}: {value!r} would be run as code; settings and tasks are plain data")


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
    return f"setting {key!r} does not exist; {hint}"


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value as the type of the default; YAML reads 1e-3 as text, and it is meant as a number."""
    if name in NULLABLE and value is None:
        return None
    wanted: type = NULLABLE.get(name) or type(default)
    try:
        if wanted is bool and isinstance(value, bool):
            return value
        if wanted is list and isinstance(value, (list, tuple)):
            return list(value)
        if wanted in (int, float) and not isinstance(value, (bool, list, dict, type(None))):
            number = float(value)
            if wanted is float or number == int(number):
                return wanted(number)
        if wanted is str and isinstance(value, str):
            return value
    except (OverflowError, ValueError):
        pass
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list such as [48, 48, 48]",
    }
    raise ConfigError(f"setting {name}={value!r} must be {words[wanted]}")


def _check_ranges(values: Mapping[str, Any]) -> None:
    for name, least in LEAST.items():
        if values[name] is not None and not values[name] >= least:
            raise ConfigError(f"setting {name}={values[name]} must be at least {least}")
    for name in POSITIVE:
        if not 0 < values[name] < float("inf"):
            raise ConfigError(f"setting {name}={values[name]} must be above 0")
    for name in BELOW_ONE:
        if not 0 <= values[name] < 1:
            raise ConfigError(f"setting {name}={values[name]} must be at least 0 and below 1")
    for name in ("foreground_share", "low_resolution"):
        if values[name] > 1:
            raise ConfigError(f"setting {name}={values[name]} must be at most 1")
    if values["logger"] not in (None, *TRACKERS):
        raise ConfigError(f"logger {values['logger']!r} is none of {', '.join(TRACKERS)}")
    if values["batch_size"] % values["accumulate"]:
        raise ConfigError(
            f"batch_size={values['batch_size']} must be divisible by accumulate={values['accumulate']}, the pieces that a "
            "batch is computed in"
        )
