"""Training and validation parts that depend on names alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from medseg3d.checks import ConfigError
from medseg3d.io.dataset import Case


def subject_of(name: str) -> str:
    """The patient a case belongs to, where its name shows a time point or frame: BraTS 2023, ACDC, BIDS sessions."""
    brats = re.fullmatch(r"(BraTS-[A-Za-z]+-\d+)-\d+", name)
    if brats:
        return brats[1]
    return re.sub(r"[-_.](frame|time|tp|ses|visit)[-_]?\w+$", "", name, flags=re.IGNORECASE) or name


def split_cases(cases: Sequence[Case], fraction: float = 0.2, seed: int = 0) -> tuple[list[Case], list[Case]]:
    """Training and validation part, by the names alone: the same for any order and on any machine.

    All cases of one patient (``subject_of``) fall on one side.

    Args:
        cases: to be split.
        fraction: of the cases that validate, in [0, 1); at least one does unless it is 0, and at least one trains.
        seed: another one gives another split.

    Raises:
        ConfigError: where there are fewer than two patients, or the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"validation fraction {fraction} must be at least 0 and below 1")
    ordered = sorted(cases, key=lambda c: c.name)
    if fraction == 0:
        return ordered, []
    subjects: dict[str, list[Case]] = {}
    for case in cases:
        subjects.setdefault(subject_of(case.name), []).append(case)
    if len(subjects) < 2:
        raise ConfigError(
            f"{len(subjects)} patient in {len(cases)} cases cannot be split, and training with validation needs two; "
            "add a patient, or train without validation (validation_fraction=0 of medseg3d.train)"
        )
    order = sorted(subjects, key=lambda s: hashlib.sha256(f"{seed}:{s}".encode()).digest())
    wanted, validation = max(1, round(fraction * len(cases))), set()
    count = 0
    for subject in order[: len(order) - 1]:
        if count >= wanted:
            break
        validation.add(subject)
        count += len(subjects[subject])
    train = [c for c in ordered if subject_of(c.name) not in validation]
    return train, [c for c in ordered if subject_of(c.name) in validation]
