"""The figures of benchmarks/training.py, computed again from the cases' scores that the pieces left, and as tables to paste."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.metrics.interval import mean_interval

FOLDS = 5
OURS = "medseg3d"
METRICS = ("dice", "hd95_mm", "nsd")
RIVALS = {"dynunet": "", "dynunet_bf16": "_bf16"}
"""Whom plans are compared with, and what the figures' names end in."""
LACKING = ("", "nan", "inf")


def case_means(table: Path) -> dict[str, dict[str, float]]:
    """Of each case its mean over labels, of each metric that is defined; ``lost``: the part not found at all."""
    by_case: dict[str, dict[str, list[float]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            if row["dice"] in LACKING:  # neither there nor found
                continue
            of_case = by_case.setdefault(row["case"], {})
            of_case.setdefault("lost", []).append(float(row["hd95_mm"] in LACKING))
            for metric in METRICS:
                if row[metric] not in LACKING:
                    of_case.setdefault(metric, []).append(float(row[metric]))
    return {
        name: {metric: statistics.fmean(values) for metric, values in of_case.items()}
        for name, of_case in by_case.items()
    }


def mean_of(cases: Sequence[Mapping[str, float]], metric: str) -> float | None:
    """Over the cases that have it."""
    values = [case[metric] for case in cases if metric in case]
    return round(statistics.fmean(values), 5) if values else None


def means(cases: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Of every metric but Dice, which each place keeps under a key of its own."""
    return {"hd95_mm": mean_of(cases, "hd95_mm"), "nsd_1mm": mean_of(cases, "nsd"), "lost": mean_of(cases, "lost")}


def collect(pieces: Path) -> dict[str, Any]:
    """All figures of accuracy.

    Args:
        pieces: the folder that they left their scores in.
    """
    results: dict[str, Any] = {}
    by_fold: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    by_seed: dict[str, dict[str, dict[int, dict[str, dict[str, float]]]]] = {}
    minutes: dict[str, float] = {}
    for file in sorted(pieces.glob("*/piece.json")):
        about = json.loads(file.read_text())
        scores = case_means(file.parent / "per_case.csv")
        cases = list(scores.values())
        if about["fold"] is not None:
            by_fold.setdefault(about["side"], {})[about["fold"]] = scores
            minutes[about["side"]] = about["minutes"]
            continue
        key = f"dice_{about['minutes']:g}min"
        by_seed.setdefault(key, {}).setdefault(about["side"], {})[about["seed"]] = scores
        entry = results.setdefault(key, {}).setdefault(about["side"], {"seeds": {}})
        entry["seeds"][str(about["seed"])] = mean_of(cases, "dice")
        entry.setdefault("surface", {})[str(about["seed"])] = means(cases)
        entry["parameters"] = about["parameters"]
    for key, sides in results.items():
        for side, entry in sides.items():
            entry.update(ahead_of(by_seed[key][side], by_seed[key].get(OURS, {})) if side != OURS else {})
            values = list(entry["seeds"].values())
            entry["mean"] = round(statistics.fmean(values), 5)
            entry["spread"] = round(max(values) - min(values), 5)
            for metric in ("hd95_mm", "nsd_1mm", "lost"):
                of_seeds = [s[metric] for s in entry["surface"].values() if s[metric] is not None]
                entry[metric] = round(statistics.fmean(of_seeds), 5) if of_seeds else None
            del entry["surface"]
    if by_fold:
        results[f"dice_{FOLDS}fold"] = {
            side: {
                "mean": mean_of([case for scores in folds.values() for case in scores.values()], "dice"),
                **means([case for scores in folds.values() for case in scores.values()]),
                **(ahead_of(folds, by_fold.get(OURS, {})) if side != OURS else {}),
                "folds": {str(fold): mean_of([*scores.values()], "dice") for fold, scores in sorted(folds.items())},
                "minutes": minutes[side],
            }
            for side, folds in by_fold.items()
        }
    if plans := collect_plans(pieces / "plans"):
        results["plans"] = plans
    return results


def ahead_of(
    theirs: Mapping[int, Mapping[str, Mapping[str, float]]], ours: Mapping[int, Mapping[str, Mapping[str, float]]]
) -> dict[str, Any]:
    """How far ours is ahead in Dice, and the 95 % interval of that over cases, by those seeds or folds that both have.

    Args:
        theirs, ours: by seed or fold, by case.
    """
    gains: dict[str, list[float]] = {}
    for part in theirs.keys() & ours.keys():
        for case in theirs[part].keys() & ours[part].keys():
            gains.setdefault(case, []).append(ours[part][case]["dice"] - theirs[part][case]["dice"])
    if len(gains) < 2:
        return {}
    by_case = [statistics.fmean(gains[case]) for case in sorted(gains)]
    interval = [round(end, 5) for end in mean_interval(by_case)]
    return {"ours_ahead": round(statistics.fmean(by_case), 5), "ours_ahead_interval": interval}


def collect_plans(pieces: Path) -> dict[str, Any]:
    """Of each data set all sides at the longest time that most were given, and how many data sets ours wins."""
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for file in sorted(pieces.glob("*/piece.json")):
        about = json.loads(file.read_text())
        cases = list(case_means(file.parent / "per_case.csv").values())
        entry = {"dice": mean_of(cases, "dice"), **means(cases), "steps": about["steps"]}
        found.setdefault(about["dataset"], {}).setdefault(about["minutes"], {})[about["side"]] = entry
    plans: dict[str, Any] = {}
    for name, times in found.items():
        minutes = max(times, key=lambda m: (len(times[m]), m))
        sides = times[minutes]
        plans[name] = {
            **{side: entry["dice"] for side, entry in sides.items()},
            "minutes": minutes,
            "scores": sides,
        }
    figures: dict[str, int] = {}
    for rival, key in RIVALS.items():
        compared = [p for p in plans.values() if {"medseg3d", rival} <= set(p)]
        if compared:
            figures[f"wins{key}"] = sum(p["medseg3d"] > p[rival] for p in compared)
            figures[f"compared{key}"] = len(compared)
    return plans | figures


def tables(results: Mapping[str, Any]) -> str:
    """What ``collect`` found, in Markdown."""
    parts = []
    timed = {float(key[5:-3]): key for key in results if key.startswith("dice_") and key.endswith("min")}
    if timed:
        lines = [
            "| minutes | side | mean Dice | spread | seeds | ours ahead [95 % CI] | HD95, mm | NSD at 1 mm | parameters |",
            "|" + "---|" * 9,
        ]
        for minutes, key in sorted(timed.items()):
            for side, entry in _ranked(results[key]):
                seeds = ", ".join(f"{dice:.4f}" for _, dice in sorted(entry["seeds"].items(), key=lambda x: int(x[0])))
                lines.append(
                    f"| {minutes:g} | {side} | {entry['mean']:.4f} | {entry['spread']:.4f} | {seeds} | {ahead(entry)} "
                    f"| {_distance(entry)} | {number(entry['nsd_1mm'], 4)} | {entry['parameters'] / 1e6:.2f} M |"
                )
        parts.append("\n".join(lines))
    if folds := results.get(f"dice_{FOLDS}fold"):
        lines = [
            "| side | minutes a fold | mean Dice | ours ahead [95 % CI] | HD95, mm | NSD at 1 mm | Dice by fold |",
            "|" + "---|" * 7,
        ]
        for side, entry in _ranked(folds):
            each = ", ".join(f"{fold}: {dice:.4f}" for fold, dice in entry["folds"].items())
            lines.append(
                f"| {side} | {entry['minutes']:g} | {entry['mean']:.4f} | {ahead(entry)} "
                f"| {_distance(entry)} | {number(entry['nsd_1mm'], 4)} | {each} |"
            )
        parts.append("\n".join(lines))
    if plans := results.get("plans"):
        lines = ["| data | minutes | side | Dice | HD95, mm | NSD at 1 mm | steps |", "|" + "---|" * 7]
        for name, plan in plans.items():
            if not isinstance(plan, Mapping):
                continue
            for side, entry in plan["scores"].items():
                lines.append(
                    f"| {name} | {plan['minutes']:g} | {side} | {number(entry['dice'], 4)} | {_distance(entry)} "
                    f"| {number(entry['nsd_1mm'], 4)} | {entry['steps']} |"
                )
        parts.append("\n".join(lines))
        parts += [
            f"medseg3d ahead of {rival} on {plans[f'wins{key}']} of {plans[f'compared{key}']}."
            for rival, key in RIVALS.items()
            if f"wins{key}" in plans
        ]
    return "\n\n".join(parts) or "no pieces yet"


def _ranked(sides: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(sides.items(), key=lambda item: -item[1]["mean"])


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def ahead(entry: Mapping[str, Any]) -> str:
    """Of ``ahead_of``, in words; empty where it found nothing."""
    if "ours_ahead" not in entry:
        return ""
    low, high = entry["ours_ahead_interval"]
    return f"{entry['ours_ahead']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _distance(entry: Mapping[str, Any]) -> str:
    """Where labels were not found at all, which part of them: they have no distance, and do not count in the mean."""
    lost = entry["lost"]
    return number(entry["hd95_mm"], 2) + (f" ({lost:.1%} not found)" if lost else "")
