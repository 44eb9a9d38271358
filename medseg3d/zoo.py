"""What weights can be had where, under which licence; fetched with their checksum, or installed from a file."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from medseg3d import configs_folder
from medseg3d.checks import ConfigError, InputError, ModelError
from medseg3d.download import fetch, matches
from medseg3d.io.archive import unpack_zip
from medseg3d.io.atomic import atomic_write
from medseg3d.io.digest import sha256_of

logger = logging.getLogger(__name__)

LEAST_DIGITS = 8
"""So many digits of a checksum at least; some publishers state no more."""
NOTE = "ORIGIN.md"


@dataclass(frozen=True)
class Entry:
    """Weights that someone publishes.

    Args:
        name: by which they are asked for.
        what: they are, in a few words.
        licence: of the weights; what is known, and no more.
        page: where a person finds them.
        url: of the file, for programs.
        sha256: of that file, or its first digits, at least 8.
        hub: name on the Hugging Face hub.
        task: that the whole network was trained for.
        encoder: number of parameters of the encoder, to be checked.
    """

    name: str
    what: str
    licence: str
    page: str
    url: str | None = None
    sha256: str | None = None
    hub: str | None = None
    task: str | None = None
    encoder: int | None = None

    @property
    def access(self) -> str:
        """How it is to be had: ``download``, ``hub`` or ``by hand``."""
        return "download" if self.url else "hub" if self.hub else "by hand"

    def as_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if v is not None} | {"access": self.access}


def zoo(path: str | Path | None = None) -> list[Entry]:
    """The entries of a list, by default the one that comes with medseg3d.

    Args:
        path: a list of one's own, as configs/zoo.yaml is written.

    Raises:
        ConfigError: a file that cannot be read, or an entry with unknown, missing or contradicting keys.
    """
    path = Path(path) if path is not None else configs_folder() / "zoo.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from None
    if not isinstance(values, list):
        raise ConfigError(f"{path} must hold a list of entries with name, what, licence and page")
    entries = [_entry(value, path) for value in values]
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: {twice[0]!r} is listed twice")
    return entries


def _entry(values: Any, path: Path) -> Entry:
    known = [f.name for f in fields(Entry)]
    if not isinstance(values, Mapping) or not all(values.get(key) for key in known[:4]):
        raise ConfigError(f"{path}: {values!r} lacks one of {', '.join(known[:4])}")
    if unknown := sorted(map(str, set(values) - set(known))):
        raise ConfigError(f"{path}: {values['name']!r} has the key {unknown[0]!r}; known are {', '.join(known)}")
    texts: dict[str, Any] = {str(k): v if k == "encoder" else str(v) for k, v in values.items()}
    entry = Entry(**texts)
    digits = entry.sha256 or ""
    if bool(entry.url) != bool(digits) or (digits and (not _is_hex(digits) or not LEAST_DIGITS <= len(digits) <= 64)):
        raise ConfigError(
            f"{path}: {entry.name!r} must have both url and sha256 ({LEAST_DIGITS} to 64 hexadecimal digits, in quotes), or neither"
        )
    return entry


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text.lower())


def install(entry: Entry, output: Path | None = None, *, file: Path | None = None, progress: bool = True) -> Path:
    """Put an entry's weights where medseg3d reads them, checked: they can be read, and are what the entry says.

    Args:
        entry: from ``zoo``.
        output: folder; default ``runs/NAME`` for the model of a task (it becomes a model directory), else ``weights/NAME``.
        file: the file (or Hugging Face folder) fetched by other means, for machines without a network.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder holds something, or the entry can only be fetched by hand.
        InputError: ``E-DOWNLOAD`` or ``E-CHECKSUM``.
        ModelError: for a file that holds other weights than the entry says.
    """
    output = output or Path("runs" if _is_model(entry, file) else "weights", entry.name)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists; give another output folder (-o)")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".zoo-", dir=output.parent) as temporary:
        source = _given(entry, file) if file is not None else _fetched(entry, Path(temporary), progress)
        made = _made(entry, source, Path(temporary, "made"))
        digest = sha256_of(source) if source.is_file() else None
        atomic_write(made / NOTE, _note(entry, digest))
        if entry.task is not None:
            atomic_write(
                made / "LICENSE", f"{_note(entry, digest)}\nThe configs come from medseg3d (Apache License 2.0).\n"
            )
        if output.exists():
            output.rmdir()
        made.replace(output)
    return output


def _is_model(entry: Entry, file: Path | None) -> bool:
    return entry.task is not None or str(file or entry.url).endswith(".zip")


def _given(entry: Entry, file: Path) -> Path:
    if not file.exists():
        raise ConfigError(f"no file or folder {file}; {entry.name} is to be had at {entry.page}")
    if entry.sha256 and file.is_file() and not matches(file, entry.sha256):
        message = f"is not the file that {entry.name!r} is: its sha256 does not begin with {entry.sha256}"
        raise InputError("E-CHECKSUM", message, file=file, fix=f"fetch it again from {entry.url}")
    return file


def _fetched(entry: Entry, folder: Path, progress: bool) -> Path:
    by_hand = f"fetch it by hand from {entry.page} and give it with --from FILE"
    if entry.url and entry.sha256:
        path = folder / entry.url.rsplit("/", 1)[-1]
        fetch(entry.url, path, entry.sha256, progress=progress, otherwise=by_hand)
        return path
    if entry.hub:
        from medseg3d.weights import WITHOUT_HUB, locate

        try:
            return locate(entry.hub).parent
        except ModelError as error:
            raise InputError("E-DOWNLOAD", str(error).removesuffix(f"; {WITHOUT_HUB}"), fix=by_hand) from None
    raise ConfigError(f"{entry.name} cannot be fetched by a program: {by_hand} ({entry.licence})")


def _made(entry: Entry, source: Path, folder: Path) -> Path:
    """The folder to install, from what was fetched."""
    from medseg3d.inference.model import load_model
    from medseg3d.published import make_bundle
    from medseg3d.task import load_task
    from medseg3d.weights import CONFIG, FILES, locate, read_network

    if source.suffix == ".zip":
        bundle = _unpacked(source, folder)
        load_model(bundle)
        return bundle
    if entry.task is not None:
        return make_bundle(source, load_task(entry.task), folder)
    network = read_network(source, encoder_only=True)
    count = sum(p.numel() for p in network.parameters())
    if entry.encoder not in (None, count):
        raise ModelError(f"{source} has an encoder of {count:,} parameters, and {entry.name} has {entry.encoder:,}")
    path = locate(source)
    folder.mkdir()
    files = [path, path.with_name(CONFIG)] if path.name in FILES else [path]
    for item in files:
        if item.is_file():
            shutil.copyfile(item, folder / item.name)
    return folder


def _unpacked(archive: Path, folder: Path) -> Path:
    """A zipped model directory, such as ``export --to bundle`` writes."""
    unpack_zip(archive, folder)
    found = [p.parent.parent for p in folder.glob("*/configs/metadata.json")]
    if len(found) != 1:
        raise InputError(
            "E-ARCHIVE", "holds no model directory", file=archive, fix="is it a bundle of medseg3d export?"
        )
    return found[0]


def _note(entry: Entry, digest: str | None) -> str:
    lines = [f"# {entry.name}", "", entry.what, "", f"Licence: {entry.licence}", f"From: {entry.url or entry.page}"]
    return "\n".join([*lines, *([f"sha256: {digest}"] if digest else [])]) + "\n"


def named(entries: list[Entry], name: str) -> Entry:
    """The entry of a name.

    Raises:
        ConfigError: where there is none.
    """
    for entry in entries:
        if entry.name == name:
            return entry
    raise ConfigError(f"no weights by the name {name!r}; known are {', '.join(e.name for e in entries)}")


def table(entries: list[Entry]) -> str:
    """The entries as text for people, under their licences."""
    lines: list[str] = []
    for licence, group in itertools.groupby(entries, key=lambda entry: entry.licence):
        lines += [*([""] if lines else []), f"licence: {licence}"]
        lines += [f"  {e.name:18} {e.access:9} {e.what}\n{'':31}{e.page}" for e in group]
    return "\n".join(lines)
