"""The checks of ``medseg3d check`` before a training begins: everything that is wrong is said at once, nothing is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg3d import __version__
from medseg3d.inspection import require_good
from medseg3d.io import Case, DataSet
from medseg3d.io.atomic import atomic_write
from medseg3d.task import Task
from medseg3d.training.dataset import fingerprint


def check_once(
    dataset: DataSet, parts: Mapping[str, Sequence[Case]], task: Task, *, cache: str | Path | None = None
) -> None:
    """Refuse bad data.

    Args:
        dataset: from ``find_cases``.
        parts: the cases that train and validate.
        task: what they are for.
        cache: folder of prepared cases; data that passed once with it are not read again for this.

    Raises:
        InputError: the first error; the others are in the log.
    """
    names = {part: [case.name for case in cases] for part, cases in parts.items()}
    what = json.dumps([__version__, task.as_dict(), fingerprint(dataset.cases), names], sort_keys=True)
    passed = None if cache is None else Path(cache, f"checked-{hashlib.sha256(what.encode()).hexdigest()[:16]}.txt")
    if passed is not None and passed.exists():
        return
    require_good(dataset, parts, task)
    if passed is not None:
        atomic_write(passed, "medseg3d check found no error in these cases\n")
