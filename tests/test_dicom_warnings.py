"""pydicom's warnings repeat values of the file: ours are kept to ourselves, the user's own are told as ever."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pydicom
import pytest

from medseg3d.io.dicom import find_series, read_series
from medseg3d.io.dicom_planes import read_planes
from medseg3d.io.dicom_warnings import LOGGERS, without_warnings
from tests.dicom_series import save, slices
from tests.shared import ROOT

CANARY = "ZZCANARY"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A series whose character set there is not, and whose name nothing can decode."""
    folder = tmp_path / "odd"
    for number, dataset in enumerate(slices(PatientName="Jo"), start=1):
        path = save(dataset, folder / f"{number}.dcm")
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ZZCANARY 0"))
    return folder


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.name for record in caplog.records if record.name.split(".")[0] in ("pydicom", "highdicom")]


def test_reading_is_silent_and_the_users_own_reading_is_not(odd: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "pydicom")  # which the command line, or pydicom's own settings, may have raised
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        listing = find_series(odd)
        read_series(listing.choose())
        assert listing.choose().description == "noise"
        read_planes([odd / "1.dcm", odd / "2.dcm"])
        assert told(caplog) == []
        assert not [w for w in heard if CANARY in str(w.message)]
        assert str(pydicom.dcmread(odd / "1.dcm").PatientName) == "Jo"
    assert "pydicom" in told(caplog)
    assert any(CANARY in str(w.message) for w in heard)


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_is_heard_outside_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(name)
    with without_warnings():
        logger.error("inside")
    logger.error("outside")
    assert caplog.messages == ["outside"]


def test_the_loggers_of_pydicom_are_all_known_and_left_as_they_are() -> None:
    """Those that exist once everything is imported that reads and writes DICOM."""
    code = (
        "import logging, pydicom; log = logging.getLogger('pydicom'); before = log.level, list(log.handlers); "
        "import medseg3d.io.dicom, medseg3d.io.dicom_seg, medseg3d.io.dicom_rt, medseg3d.io.dicom_warnings as w; "
        "assert before == (log.level, list(log.handlers)); "
        "real = {n for n, x in logging.root.manager.loggerDict.items() if isinstance(x, logging.Logger)}; "
        "print(*(n for n in real if n.startswith('pydicom') and n not in w.LOGGERS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
