"""``SHA256SUMS`` beside files that must not change unseen; ``sha256sum -c SHA256SUMS`` reads it, too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from medseg3d.io.atomic import atomic_write
from medseg3d.io.digest import sha256_of

SUMS = "SHA256SUMS"
ATTEMPTS = 3
"""So often a file and its hash are looked at, since a training may replace both meanwhile."""


class Checksums:
    """The hashes of a folder's files.

    While a file is replaced both its hashes are listed, the new one before the file is there: a process that is killed at any
    moment leaves a file whose hash is known.

    Args:
        folder: that holds the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listed(self) -> dict[str, set[str]]:
        """Names of files with their hashes; empty where nothing is listed."""
        try:
            text = (self.folder / SUMS).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return {}
        found: dict[str, set[str]] = {}
        for match in re.finditer(r"^([0-9a-f]{64})  ([^/\n]+)$", text, re.MULTILINE):
            found.setdefault(match[2], set()).add(match[1])
        return found

    def expect(self, hashes: Mapping[str, str]) -> None:
        """List what files are going to be, besides what they are."""
        listed = self.listed()
        self._write({**listed, **{name: listed.get(name, set()) | {digest} for name, digest in hashes.items()}})

    def settle(self, hashes: Mapping[str, str]) -> None:
        """List what files are now, and nothing else for them."""
        self._write({**self.listed(), **{name: {digest} for name, digest in hashes.items()}})

    def verified(self, path: Path) -> str | None:
        """The hash of a file; None where others than this are listed under its name.

        Raises:
            InputError: ``E-NOT-READABLE``.
        """
        for _ in range(ATTEMPTS):
            hashes = self.listed().get(path.name)
            digest = sha256_of(path)
            if hashes is None or digest in hashes:
                return digest
        return None

    def good(self, names: Iterable[str]) -> list[str]:
        """Of some names, those of files that are there, listed and unchanged."""
        listed = self.listed()
        there = [name for name in names if name in listed and (self.folder / name).is_file()]
        return [name for name in there if self.verified(self.folder / name) is not None]

    def _write(self, hashes: Mapping[str, Iterable[str]]) -> None:
        lines = [f"{digest}  {name}\n" for name in sorted(hashes) for digest in sorted(hashes[name])]
        atomic_write(self.folder / SUMS, "".join(lines))
