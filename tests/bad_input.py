"""What the catalogues of bad inputs (bad_nifti, bad_labels, bad_dicom) are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medseg3d.volume import Volume


@dataclass(frozen=True)
class Made:
    """A bad input on disk.

    Args:
        path: the file or folder to give to a reader.
        truth: the values and the geometry (RAS+ mm) that were meant, whatever the order of the axes; None where the
            input has no single right reading, so that any answer without a word is wrong.
    """

    path: Path
    truth: Volume | None


@dataclass(frozen=True)
class BadInput:
    """One row of a catalogue.

    Args:
        name: short, unique in its catalogue.
        what: what is wrong with it, in words for a table.
        make: writes it into an empty folder.
        code: that of the finding it must give: ``E-`` refuses, ``W-`` and ``I-`` come with data that equal the truth; None
            where it reads right and there is nothing to say.
    """

    name: str
    what: str
    make: Callable[[Path], Made]
    code: str | None

    @property
    def refused(self) -> bool:
        return self.code is not None and self.code.startswith("E-")
