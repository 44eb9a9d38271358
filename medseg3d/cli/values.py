"""How values are written on the command line."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any


def seconds(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``1h30m`` as seconds."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 30m or 1h30m")
    return total


def gigabytes(text: str) -> float:
    """``8GB``, ``8`` or ``512MB`` as 10^9 bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|G|MB|M)?", text.strip(), re.IGNORECASE)
    size = float(match[1]) / (1000 if (match[2] or "g").lower().startswith("m") else 1) if match else 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 8GB")
    return size


def setting(text: str) -> tuple[str, Any]:
    """``key=value`` with the value read as YAML."""
    import yaml

    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} must have the form key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"the value of {text!r} is not valid YAML") from None


def label(text: str) -> tuple[str, list[int]]:
    """``NAME=1,2`` as a name and its values."""
    name, sign, values = text.partition("=")
    try:
        ids = [int(value) for value in values.split(",")]
    except ValueError:
        ids = []
    if not sign or not name.strip() or not ids:
        raise argparse.ArgumentTypeError(f"{text!r} must have the form NAME=1 or NAME=1,2")
    return name.strip(), ids


def sizes(text: str) -> tuple[int, ...]:
    """``96,96,64`` as numbers of voxels."""
    try:
        found = tuple(int(part) for part in re.split("[,x]", text))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must have the form 96,96,64, or 512,512 for pictures")
    return found


def not_negative(text: str) -> float:
    """``50`` or ``0.5``: a number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of 0 or more")
    return value


def whole(text: str) -> int:
    """``3``: a whole number from 0 on."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of 0 or more")
    return int(text)


def names(text: str) -> list[str]:
    """``A,B`` as names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> dict[int, str]:
    """``0000=A,0001=B`` as names by number."""
    pairs = [part.partition("=") for part in text.split(",")]
    found = {int(number): name.strip() for number, _, name in pairs if number.strip().isdecimal() and name.strip()}
    if len(found) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} must have the form 0000=NAME,0001=NAME, each number once")
    return found
