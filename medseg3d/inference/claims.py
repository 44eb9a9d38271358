"""Several processes, one folder: whoever works on a file holds its lock, and the system drops it with the process."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from medseg3d.checks import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)
CLAIMS_FOLDER = ".claims"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What a file system without locks says."""
ATTEMPTS = 100
"""How often a lock file may vanish between opening and locking before that is called an error."""


class Claims:
    """The locks that this process holds in one output folder.

    A claim is a lock on ``.claims/NAME.lock``. The system drops it when its holder ends, however that happens, so a
    claim is never stale and nothing has to be cleaned up after a crash. Should two machines of a broken file system
    both get one, a case is computed twice; results stay whole, because every file is replaced in one step.

    Args:
        folder: the output folder.

    Raises:
        InputError: ``E-NOT-WRITABLE`` where nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CLAIMS_FOLDER
        self._held: dict[str, int] = {}
        self._guard = threading.Lock()
        self._locks_work = True
        self.started_ns = self._clock_of_the_folder()

    def take(self, name: str) -> bool:
        """Claim a name; False where another process (or another call in this one) holds it."""
        path = self.folder / f"{name}.lock"
        for _ in range(ATTEMPTS if self._locks_work else 0):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except (FileNotFoundError, FileExistsError):  # the last holder of a claim has just removed the folder
                continue
            except OSError as error:
                raise _not_writable(path, error) from None
            if not self._lock(handle):
                os.close(handle)
                return False
            if _is_still_at(handle, path):
                with contextlib.suppress(OSError):  # for people who look; the lock is what counts
                    os.write(handle, f"{socket.gethostname()} {os.getpid()}\n".encode())
                with self._guard:
                    self._held[name] = handle
                return True
            os.close(handle)  # its last holder removed it between our opening and locking
        if self._locks_work:
            raise InputError("E-NOT-WRITABLE", "no lock file can be made here, or it vanishes at once", file=path)
        return True

    def release(self, name: str) -> None:
        """Give a claim back; nothing happens where none is held."""
        with self._guard:
            handle = self._held.pop(name, None)
        if handle is None:
            return
        path = self.folder / f"{name}.lock"
        if sys.platform == "win32":
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is held: whoever waits for this file will see that it is gone
            os.close(handle)

    @contextlib.contextmanager
    def waiting_for(self, name: str) -> Iterator[None]:
        """Hold a claim, however long another process keeps it."""
        while not self.take(name):
            time.sleep(0.05)
        try:
            yield
        finally:
            self.release(name)

    def close(self) -> None:
        """Give everything back, and remove the folder of claims where no other process has one."""
        for name in list(self._held):
            self.release(name)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _lock(self, handle: int) -> bool:
        try:
            if sys.platform == "win32":
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                return False
            self._locks_work = False
            logger.warning(
                "the file system of %s keeps no locks, so nothing tells processes apart; give each its own --part K/N",
                self.folder.parent,
            )
        return True

    def _clock_of_the_folder(self) -> int:
        """When this object was made by the clock of the folder's file system, which all processes share."""
        for _ in range(ATTEMPTS):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder) as file:
                    file.write(b"now")
                    file.flush()
                    return os.fstat(file.fileno()).st_mtime_ns
            except (FileNotFoundError, FileExistsError):
                continue
            except OSError as error:
                raise _not_writable(self.folder.parent, error) from None
        raise InputError("E-NOT-WRITABLE", "no folder can be made here, or it vanishes at once", file=self.folder)


def _is_still_at(handle: int, path: Path) -> bool:
    if sys.platform == "win32":
        return True  # an open file cannot be removed there
    try:
        there = path.stat()
    except OSError:
        return False
    own = os.fstat(handle)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _not_writable(path: Path, error: OSError) -> InputError:
    message = f"cannot be written ({error.strerror or error})"
    return InputError("E-NOT-WRITABLE", message, file=path, fix="write to a folder that you may write to")
