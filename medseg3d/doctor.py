"""What medseg3d finds on this machine: versions, processor, GPU, memory, decoders; and advice where it costs speed.

What it says can be shown to anyone: no names of hosts, users or folders, and no value of a variable but numbers and known words.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.processors import usable_cores

GIB = 2**30
PACKAGES = (
    "torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom", "highdicom", "safetensors", "isal",
)  # fmt: skip
DECODERS = {
    "JPEG 2000, HTJ2K": ("pylibjpeg-openjpeg", "pip install pylibjpeg-openjpeg"),
    "JPEG-LS": ("pyjpegls", "pip install pyjpegls"),
    "JPEG of 8 bits": ("pillow", "pip install pillow"),
    "JPEG lossless": ("pylibjpeg-libjpeg", "pip install pylibjpeg-libjpeg, which is GPL"),
}
OPTIONAL = {
    "Hugging Face hub": ("huggingface-hub", "pip install 'medseg3d[hub]'"),
    "export to ONNX": ("onnx", "pip install 'medseg3d[export]'"),
    "ONNX Runtime": ("onnxruntime", "pip install 'medseg3d[export]'"),
    "viewer in notebooks": ("ipyniivue", "pip install 'medseg3d[notebook]'"),
    "transformers": ("transformers", "pip install transformers"),
    "MLflow": ("mlflow", "pip install mlflow"),
    "Weights & Biases": ("wandb", "pip install wandb"),
}
FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX bf16", "amx_int8": "AMX int8"}
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME", "CUDA_VISIBLE_DEVICES",
             "MEDSEG3D_DOWNLOAD_URL")  # fmt: skip
HARMLESS = re.compile(r"[\d, -]*|active|passive|true|false|none|disabled|compact|scatter", re.IGNORECASE)
"""Values of variables that are shown; of others it is said that they are set."""
LITTLE_MEMORY, LITTLE_DISK = 8 * GIB, 10 * GIB
SECONDS = 10
"""For the driver of the GPU to answer."""


@dataclass(frozen=True)
class Diagnosis:
    """What is there.

    Args:
        versions: of Python, medseg3d and the packages it needs; None for one that is missing.
        processor: name, cores, threads that torch takes, and features that count for speed.
        gpu: those that the driver names, and what torch was built for.
        memory: bytes of memory and disk, total and free.
        decoders, optional: versions by what they are for; None for what is missing.
        environment: variables that matter and are set.
        advice: what costs speed or may fail, and what to do.
    """

    versions: dict[str, str | None]
    processor: dict[str, Any]
    gpu: dict[str, Any]
    memory: dict[str, int | None]
    decoders: dict[str, str | None]
    optional: dict[str, str | None]
    environment: dict[str, str]
    advice: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """For people: a line a thing."""
        processor, gpu, memory = self.processor, self.gpu, self.memory
        lines = ["versions", *_listed(self.versions)]
        features = ", ".join(processor["features"]) or "none that count"
        lines += ["processor", f"  {processor['name']}", f"  {'cores':22} {processor['cores']}"]
        lines += [f"  {'threads of torch':22} {processor['threads']}", f"  {'features':22} {features}"]
        names = gpu["devices"] or ["none found"]
        lines += ["GPU", *[f"  {name}" for name in names], f"  {'torch is built for':22} {gpu['torch_built_for']}"]
        sizes = {"memory": "memory", "disk_here": "disk, this folder", "disk_temporary": "disk, temporary files"}
        lines += ["memory"]
        for key, words in sizes.items():
            free, total = memory[f"{key}_free"], memory[f"{key}_total"]
            known = "unknown" if free is None or total is None else f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
            lines.append(f"  {words:22} {known}")
        lines += [
            "DICOM decoders",
            *_listed(self.decoders, DECODERS),
            "optional packages",
            *_listed(self.optional, OPTIONAL),
        ]
        lines += ["environment", *(_listed(self.environment) or ["  nothing that matters is set"])]
        return "\n".join([*lines, "advice", *([f"  {line}" for line in self.advice] or ["  none: all is well"])])


def _listed(values: Mapping[str, str | None], remedies: Mapping[str, tuple[str, str]] | None = None) -> list[str]:
    """A line a thing; what is missing with what brings it."""
    lines = []
    for name, value in values.items():
        missing = f"not installed ({remedies[name][1]})" if remedies else "not installed"
        lines.append(f"  {name:22} {missing if value is None else value}")
    return lines


def diagnose() -> Diagnosis:
    """Look at this machine, without importing what takes seconds."""
    versions = {"python": platform.python_version(), "medseg3d": __version__, **{p: _version(p) for p in PACKAGES}}
    processor, gpu, memory = _processor(), _gpu(), _memory()
    decoders = {name: _version(package) for name, (package, _) in DECODERS.items()}
    optional = {name: _version(package) for name, (package, _) in OPTIONAL.items()}
    environment = {name: _shown(os.environ[name]) for name in VARIABLES if name in os.environ}
    advice = [f"{name} is missing: pip install medseg3d" for name, found in versions.items() if found is None]
    advice += _advice_on_speed(processor, gpu, environment) + _advice_on_room(memory)
    return Diagnosis(versions, processor, gpu, memory, decoders, optional, environment, advice)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _shown(value: str) -> str:
    return value if HARMLESS.fullmatch(value.strip()) else "set"


def _processor() -> dict[str, Any]:
    name, flags, cores = platform.machine(), set[str](), set[tuple[str, str]]()
    text = _read("/proc/cpuinfo")
    for block in text.split("\n\n"):
        values: dict[str, str] = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", block, re.MULTILINE))
        name = values.get("model name", name)
        flags |= set(values.get("flags", values.get("Features", "")).split())
        if "core id" in values:
            cores.add((values.get("physical id", "0"), values["core id"]))
    usable = usable_cores()
    physical = min(len(cores) or usable, usable)
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return {
        "name": name,
        "cores": physical,
        "logical_cores": usable,
        "quota": _quota(),
        "threads": int(asked) if asked.isdigit() and int(asked) else physical,
        "features": [words for flag, words in FEATURES.items() if flag in flags],
        "bf16": "avx512_bf16" in flags,
        "amx": "amx_bf16" in flags,
    }


def _quota() -> float | None:
    """Cores that a container may use, where it is limited."""
    match = re.fullmatch(r"(\d+) (\d+)\s*", _read("/sys/fs/cgroup/cpu.max"))
    return int(match[1]) / int(match[2]) if match else None


def _gpu() -> dict[str, Any]:
    return {"devices": _devices(), "torch_built_for": _torch_build()}


def _devices() -> list[str]:
    """What the driver says, which takes no import of torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    question = ["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run([program, *question], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in done.stdout.splitlines():
        name, total, free, driver = [part.strip() for part in line.split(",")]
        found.append(f"{name}, {free} of {total} free, driver {driver}")
    return found


def _torch_build() -> str:
    """The kind of processor that torch was built for, from the file in which it says so."""
    spec = find_spec("torch")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    text = _read(str(folder / "version.py"))
    for name, words in (("cuda", "CUDA"), ("hip", "ROCm")):
        if match := re.search(rf"^{name}\b[^=]*=\s*'([\d.]+)", text, re.MULTILINE):
            return f"{words} {match[1]}"
    return "processors alone"


def _memory() -> dict[str, int | None]:
    values = {
        key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    }
    total, free = values.get("MemTotal"), values.get("MemAvailable")
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit() and total is not None and free is not None and int(limit) < total:
        total, free = int(limit), min(free, max(int(limit) - int(used), 0))
    found: dict[str, int | None] = {"memory_total": total, "memory_free": free}
    for key, place in (("disk_here", Path()), ("disk_temporary", Path(tempfile.gettempdir()))):
        usage = shutil.disk_usage(place)
        found |= {f"{key}_total": usage.total, f"{key}_free": usage.free}
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _advice_on_speed(processor: Mapping[str, Any], gpu: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    said = []
    cores, threads, quota = processor["cores"], processor["threads"], processor["quota"]
    if threads < cores:
        said.append(
            f"OMP_NUM_THREADS lets torch use {threads} of {cores} cores: unset it, unless other work needs them"
        )
    if threads > processor["logical_cores"]:
        said.append(
            f"OMP_NUM_THREADS asks for {threads} threads on {processor['logical_cores']} cores: set it to {cores}"
        )
    if quota is not None and threads > max(round(quota), 1):
        said.append(
            f"this container may use {quota:g} cores and torch takes {threads}: OMP_NUM_THREADS={max(round(quota), 1)}"
        )
    if environment.get("OMP_WAIT_POLICY", "").lower() == "active":
        said.append("OMP_WAIT_POLICY=ACTIVE lets waiting threads spin, which slows whatever runs beside them: unset it")
    if not gpu["devices"] and not processor["bf16"]:
        said.append("neither a GPU nor bf16 in the processor: predictions run in float32, trainings take long")
    if gpu["devices"] and gpu["torch_built_for"] == "processors alone":
        said.append(
            "there is a GPU, and torch is built for processors alone: install the build for CUDA, see pytorch.org"
        )
    return said


def _advice_on_room(memory: Mapping[str, int | None]) -> list[str]:
    said = []
    free = memory["memory_free"]
    if free is not None and free < LITTLE_MEMORY:
        said.append(f"{free / GIB:.1f} GiB of memory are free: predict with --max-ram {max(free / 1e9 * 0.8, 0.5):.1f}")
    for key, words in (("disk_here", "in this folder"), ("disk_temporary", "for temporary files (TMPDIR)")):
        room = memory[f"{key}_free"]
        if room is not None and room < LITTLE_DISK:
            said.append(f"{room / GIB:.1f} GiB of disk are free {words}: make room before a training")
    return said
