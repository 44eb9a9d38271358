"""Zip files from elsewhere: unpacked only where every member stays in its folder and the whole stays in bounds."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from medseg3d.checks import InputError

MOST_MEMBERS = 10_000
MOST_BYTES = 50 * 2**30
MOST_RATIO = 1000
"""Of the unpacked size to the packed; deflate reaches about 1030 with zeros alone."""


def unpack_zip(archive: Path, folder: Path) -> None:
    """Unpack a zip file; nothing is written where any part of it is not as it should be.

    Args:
        archive: the file.
        folder: to unpack into.

    Raises:
        InputError: ``E-ARCHIVE``: damaged; a member with an absolute name, one that leads upwards, a link or another special
            file, or the same twice; too many members, or too large.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            wrong = _wrong(members)
            if wrong is None and (damaged := file.testzip()) is not None:
                wrong = f"{damaged} does not match its checksum"
            if wrong is not None:
                raise InputError("E-ARCHIVE", f"is refused: {wrong}", file=archive, fix="do not use this archive")
            file.extractall(folder)
    except (OSError, EOFError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError("E-ARCHIVE", f"cannot be unpacked ({error})", file=archive, fix="fetch it again") from None


def _wrong(members: list[zipfile.ZipInfo]) -> str | None:
    """What speaks against unpacking, in words."""
    if len(members) > MOST_MEMBERS:
        return f"it has {len(members)} members; at most {MOST_MEMBERS} are unpacked"
    names: set[str] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or set("\\:") & set(member.filename):
            return f"member {member.filename!r} leads out of the folder"
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return f"member {member.filename!r} is a link or a special file"
        if str(path).casefold() in names:
            return f"member {member.filename!r} is there twice"
        names.add(str(path).casefold())
    total, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if total > MOST_BYTES or total > MOST_RATIO * max(packed, 1):
        return f"its {packed:,} bytes would become {total:,}"
    return None
