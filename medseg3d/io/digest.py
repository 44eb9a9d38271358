"""What a file is, whatever it is called: the hash of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medseg3d.checks import InputError
from medseg3d.io.dataset import ChannelFile


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes.

    Raises:
        InputError: ``E-NOT-READABLE``.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise InputError("E-NOT-READABLE", reason, file=path, fix="check the file and its permissions") from None


def sha256_of_channel(file: ChannelFile) -> str:
    """Hash of the file of a channel; for a DICOM series that of the hashes of its files, in order."""
    if file.series is None:
        return sha256_of(file.path)
    return hashlib.sha256("".join(map(sha256_of, file.series.files)).encode()).hexdigest()
