"""Numbers as people and programs read them: columns of text, and JSON without inf and NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def short(value: float, digits: int) -> str:
    """A number with so many digits behind the point, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(found: Mapping[str, Any], digits: int) -> str:
    """A mean, its interval where there is one, and how many infinite values stand beside it."""
    text = short(found["mean"], digits)
    if not math.isnan(found["ci_low"]):
        text += f" [{short(found['ci_low'], digits)}, {short(found['ci_high'], digits)}]"
    return text + (f" (+ {found['n_inf']} inf)" if found["n_inf"] else "")


def json_text(values: Mapping[str, Any]) -> str:
    """JSON, which has neither inf (here the text ``"inf"``) nor NaN (here null)."""
    return json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
