"""What every benchmark shares: interleaved timing, the machine in words, a table, a JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg3d.processors import usable_cores


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each side; every round runs each side once, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def machine() -> str:
    """Processor, cores in use and versions; no host or user names."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            elif line.startswith("flags"):
                flags = set(line.split(":", 1)[1].split())
    features = [f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in flags]
    words = [model, f"{usable_cores()} cores", " ".join(features[:2]), f"Python {platform.python_version()}"]
    words += [f"{name} {sys.modules[name].__version__}" for name in ("torch", "monai", "numpy") if name in sys.modules]
    return ", ".join(w for w in words if w)


def arguments(description: str) -> argparse.Namespace:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a flat JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; its figures mean nothing"
    )
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def report(title: str, rows: Mapping[str, float], figures: Mapping[str, Any], file: Path | None) -> None:
    """Print a table of seconds, the figures, and write the figures where asked."""
    print(f"{title}\n{machine()}")
    for name, seconds in rows.items():
        print(f"  {name:58} {seconds * 1000:10.1f} ms")
    for name, value in figures.items():
        print(f"  {name:58} {value:10.3g}" if isinstance(value, float) else f"  {name:58} {value}")
    if file is not None:
        file.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")
