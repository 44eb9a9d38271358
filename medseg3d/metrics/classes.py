"""How often a class was right, and which were taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def summarise_classes(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy and confusion matrix.

    Args:
        rows: one per case, with the names of two labels: ``reference`` and ``predicted``.
        labels: names, in the order wanted.

    Returns:
        ``accuracy``; ``confusion``: reference -> predicted -> number of cases; ``labels``: per label ``n_total``,
        ``sensitivity`` (NaN where no case has it) and ``precision`` (NaN where it was never predicted).
    """
    confusion = {a: dict.fromkeys(labels, 0) for a in labels}
    for row in rows:
        confusion[row["reference"]][row["predicted"]] += 1
    found = {}
    for label in labels:
        total, predicted = sum(confusion[label].values()), sum(confusion[a][label] for a in labels)
        right = confusion[label][label]
        found[label] = {
            "n_total": total,
            "sensitivity": right / total if total else float("nan"),
            "precision": right / predicted if predicted else float("nan"),
        }
    right = sum(confusion[label][label] for label in labels)
    return {"accuracy": right / len(rows) if rows else float("nan"), "labels": found, "confusion": confusion}
