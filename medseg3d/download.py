"""Fetch public data sets: the Medical Segmentation Decathlon, with MONAI's addresses and checksums."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg3d.checks import ConfigError, InputError
from medseg3d.task import Task

log = logging.getLogger("medseg3d")

DECATHLON = {
    "brats": "Task01_BrainTumour",
    "brats-segformer3d": "Task01_BrainTumour",
    "hippocampus": "Task04_Hippocampus",
    "spleen": "Task09_Spleen",
}
"""The data set of the Decathlon that a task is made for."""
URL_VARIABLE = "MEDSEG3D_DOWNLOAD_URL"
CHECKSUM_VARIABLE = "MEDSEG3D_DOWNLOAD_CHECKSUM"
HASH_TYPES = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def download(
    task: Task | str,
    folder: str | Path = "data",
    *,
    url: str | None = None,
    checksum: str | None = None,
    progress: bool = True,
) -> Path:
    """Download, verify and unpack a task's data set; what is already there is not fetched again.

    The folder of the data set appears under its name only when it is complete, so that an interrupted call can be
    repeated. A downloaded archive is used again if its checksum is right.

    Args:
        task: a task or its name, or a name of the Decathlon such as ``Task02_Heart``.
        folder: where the data set's folder is put.
        url: another address of the same archive (http or https); default the environment's ``MEDSEG3D_DOWNLOAD_URL``,
            then MONAI's.
        checksum: md5, sha1, sha256 or sha512 of the archive, told apart by length; default the environment's
            ``MEDSEG3D_DOWNLOAD_CHECKSUM``, then MONAI's.
        progress: show a bar.

    Returns:
        The data set's folder.

    Raises:
        ConfigError: for a task without a public data set, or a checksum or address of unknown form.
        InputError: ``E-DOWNLOAD``, ``E-CHECKSUM`` or ``E-ARCHIVE``.
    """
    name = _data_set_name(task.name if isinstance(task, Task) else task)
    folder = Path(folder)
    target = folder / name
    if (target / "dataset.json").is_file():
        log.info("%s is already there", target)
        return target
    if target.exists():
        raise ConfigError(f"{target} exists, but holds no dataset.json; move it away and download again")
    url, checksum = _source(name, url, checksum)
    if len(checksum) not in HASH_TYPES:
        raise ConfigError(
            f"checksum {checksum!r} has {len(checksum)} characters; md5 has 32, sha1 40, sha256 64, sha512 128"
        )
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"address {url!r} must start with http:// or https://")
    archive = folder / f"{name}.tar"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made ({error.strerror})") from None
    fetch(url, archive, checksum, progress=progress)
    _unpack(archive, target)
    archive.unlink()
    return target


def _data_set_name(name: str) -> str:
    if name.startswith("Task") or name in DECATHLON:
        return DECATHLON.get(name, name)
    known = ", ".join(DECATHLON)
    message = f"task {name!r} has no data set that can be fetched without an account; tasks that have one: {known}"
    raise ConfigError(f"{message}, and Task01_BrainTumour to Task10_Colon of the Medical Segmentation Decathlon")


def _source(name: str, url: str | None, checksum: str | None) -> tuple[str, str]:
    url = url or os.environ.get(URL_VARIABLE)
    checksum = checksum or os.environ.get(CHECKSUM_VARIABLE)
    if url is None or checksum is None:
        from monai.apps import DecathlonDataset

        if name not in DecathlonDataset.resource:
            raise ConfigError(f"data set {name!r} is none of {', '.join(DecathlonDataset.resource)}")
        url = url or DecathlonDataset.resource[name]
        checksum = checksum or DecathlonDataset.md5[name]
    return url, checksum.lower()


def fetch(
    url: str,
    path: Path,
    checksum: str,
    *,
    progress: bool = True,
    otherwise: str = f"set {URL_VARIABLE} to another address",
) -> None:
    """Download one file and compare its checksum; the right file, where it is there already, is kept.

    Args:
        url: http or https.
        path: where to put it.
        checksum: as for ``matches``.
        progress: show a bar.
        otherwise: what to do where there is no network, for the message.

    Raises:
        ConfigError: an address of another kind.
        InputError: ``E-DOWNLOAD`` or ``E-CHECKSUM``.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"address {url!r} must start with http:// or https://")
    kind = HASH_TYPES.get(len(checksum), "sha256")
    if path.exists() and not matches(path, checksum):
        log.warning("%s is damaged or incomplete; fetching it again", path)
        path.unlink()
    if path.exists():
        return
    try:
        # It warns that no checksum was given: it is compared below.
        with warnings.catch_warnings(action="ignore"), _monai_utils() as monai:
            monai.download_url(url, path, progress=progress)
        if not path.is_file():
            raise OSError(f"cannot write {path}")
    except (OSError, RuntimeError) as error:
        message = f"{url} could not be fetched ({error})"
        fix = f"check the network and the room in {tempfile.gettempdir()}, or {otherwise}"
        raise InputError("E-DOWNLOAD", message, fix=fix) from None
    if not matches(path, checksum):
        path.unlink()
        message = f"{url} is not the file that was expected: its {kind} is not {checksum}"
        fix = "try again; if it stays so, the file has changed at its source"
        raise InputError("E-CHECKSUM", message, fix=fix)


def matches(path: Path, checksum: str) -> bool:
    """Whether a file has a checksum: md5, sha1, sha256 or sha512, told apart by length, or the first digits of a sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, HASH_TYPES.get(len(checksum), "sha256")).hexdigest()
    return digest.startswith(checksum.lower())


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside ``target`` and rename, so that a folder of that name is whole."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=archive.parent) as temporary:
        try:
            with _monai_utils() as monai:
                monai.extractall(archive, temporary, file_type="tar")
        except (ValueError, tarfile.TarError, EOFError) as error:
            fix = "do not use this archive"
            raise InputError("E-ARCHIVE", f"unsafe or damaged archive ({error})", file=archive, fix=fix) from None
        except OSError as error:
            free = shutil.disk_usage(archive.parent).free / 2**30
            message = f"could not be unpacked ({error}); {free:.1f} GiB are free"
            raise InputError("E-ARCHIVE", message, file=archive, fix="make room and try again") from None
        found = [p.parent for p in sorted(Path(temporary).glob("*/dataset.json"))]
        if len(found) != 1:
            message = "the archive holds no folder with a dataset.json"
            raise InputError("E-ARCHIVE", message, file=archive, fix="is it an archive of the Decathlon?")
        found[0].replace(target)


@contextmanager
def _monai_utils() -> Iterator[Any]:
    """MONAI's functions, without the lines that their logger writes to standard output, where programs read JSON."""
    import monai.apps.utils

    logger: logging.Logger = monai.apps.utils.logger
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield monai.apps.utils
    finally:
        logger.setLevel(before)
