"""``medseg3d doctor``: what is there, what costs speed, and nothing about whose machine it is."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medseg3d import __version__, doctor
from medseg3d.cli import main
from tests.shared import ROOT

CPUINFO = """processor\t: {0}
model name\t: Some Processor
physical id\t: 0
core id\t\t: {1}
flags\t\t: fpu avx2 avx512f {2}

"""
MEMINFO = "MemTotal:       33554432 kB\nMemFree:         1 kB\nMemAvailable:   {} kB\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Four cores of two threads each, bf16, 32 GiB of which 16 are free, no GPU; the tests change it."""
    files = {
        "/proc/cpuinfo": "".join(CPUINFO.format(i, i // 2, "avx512_bf16 amx_bf16") for i in range(8)),
        "/proc/meminfo": MEMINFO.format(16 * 2**20),
    }
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    usage = type("usage", (), {"total": 200 * 2**30, "free": 100 * 2**30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    for name in doctor.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return files


def test_what_is_there(machine: dict[str, str]) -> None:
    found = doctor.diagnose()
    assert found.versions["medseg3d"] == __version__
    assert found.versions["torch"]
    assert found.processor["name"] == "Some Processor"
    assert (found.processor["cores"], found.processor["logical_cores"], found.processor["threads"]) == (4, 8, 4)
    assert found.processor["features"] == ["AVX2", "AVX-512", "bf16", "AMX bf16"]
    assert found.memory["memory_free"] == 16 * 2**30
    assert found.decoders["JPEG-LS"]
    assert found.advice == []
    assert "16.0 of 32.0 GiB free" in found.text()
    assert "none: all is well" in found.text()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OMP_NUM_THREADS", "1", "lets torch use 1 of 4 cores"),
        ("OMP_NUM_THREADS", "64", "asks for 64 threads on 8 cores: set it to 4"),
        ("OMP_WAIT_POLICY", "ACTIVE", "lets waiting threads spin"),
    ],
)
def test_what_costs_speed(
    variable: str, value: str, words: str, machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    found = doctor.diagnose()
    assert len(found.advice) == 1
    assert words in found.advice[0]
    assert found.environment == {variable: value}


def test_a_small_container(machine: dict[str, str]) -> None:
    machine["/sys/fs/cgroup/cpu.max"] = "200000 100000\n"
    machine["/sys/fs/cgroup/memory.max"] = str(4 * 2**30)
    machine["/sys/fs/cgroup/memory.current"] = str(3 * 2**30)
    found = doctor.diagnose()
    assert found.processor["quota"] == 2
    assert (found.memory["memory_total"], found.memory["memory_free"]) == (4 * 2**30, 2**30)
    threads, memory = found.advice
    assert "may use 2 cores and torch takes 4: OMP_NUM_THREADS=2" in threads
    assert "1.0 GiB of memory are free: predict with --max-ram 0.9" in memory


def test_an_old_processor_and_a_gpu_that_torch_cannot_use(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["/proc/cpuinfo"] = CPUINFO.format(0, 0, "")
    assert "neither a GPU nor bf16" in doctor.diagnose().advice[0]
    monkeypatch.setattr(doctor, "_devices", lambda: ["A GPU, 70000 MiB of 80000 MiB free, driver 1"])
    found = doctor.diagnose()
    assert "torch is built for processors alone" in found.advice[0]
    monkeypatch.setattr(doctor, "_torch_build", lambda: "CUDA 12.8")
    assert doctor.diagnose().advice == []


def test_missing_packages_are_said_with_what_brings_them(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    found = doctor.diagnose()
    assert "highdicom is missing: pip install medseg3d" in found.advice
    assert "JPEG lossless          not installed (pip install pylibjpeg-libjpeg, which is GPL)" in found.text()


def test_other_systems_have_none_of_these_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_read", lambda path: "")
    found = doctor.diagnose()
    assert found.processor["cores"] >= 1
    assert "memory                 unknown" in found.text()


def test_no_names_of_hosts_users_and_folders(tmp_path: Path) -> None:
    home = tmp_path / "ZZSECRET-home"
    home.mkdir()
    names = dict.fromkeys((*doctor.VARIABLES, "USER", "LOGNAME", "USERNAME", "HOSTNAME", "TMPDIR"), "ZZSECRET")
    environment = {**os.environ, **names, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT)}
    for option in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "medseg3d", "doctor", *option],
            capture_output=True, text=True, check=True, env=environment, cwd=home,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert "ZZSECRET" not in said
        assert str(Path(sys.prefix)) not in said
        if option:
            assert json.loads(done.stdout)["environment"]["OMP_NUM_THREADS"] == "set"


def test_no_name_is_even_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a name was asked for")

    for module, name in ((platform, "node"), (platform, "uname"), (socket, "gethostname"), (Path, "home")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(doctor.platform, "machine", lambda: "a machine")
    doctor.diagnose().text()


def test_it_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from medseg3d.cli import main; main(['doctor']); "
        "print('loaded', *sorted({'torch', 'monai', 'numpy', 'pydicom', 'nibabel'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1].split() == ["loaded"]
    assert main(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        "versions", "processor", "gpu", "memory", "decoders", "optional", "environment", "advice",
    }  # fmt: skip
