"""HD95, NSD and ASSD of the same masks by medseg3d, MONAI and DeepMind's surface-distance, in one process, interleaved.

    python -m benchmarks.metrics [--json FILE] [--quick] [--all-classes]

MONAI needs three calls, one for each metric; surface-distance and medseg3d measure distances once. Ratios are theirs / ours:
larger is better. Of the 104 classes MONAI is timed on every 13th, in the order of size, and the time multiplied;
--all-classes times all of them, which takes a quarter of an hour. Then HD95 against the truth of shapes given by formulas, at
5 x 0.7 x 0.7 mm: mean absolute error by definition (hd95_error_mm is that of mesh), and the time of mesh / surface.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.closed_forms import FAMILIES, masks, shape_pairs, true_hausdorff_mm
from benchmarks.measure import arguments, interleaved, report
from benchmarks.metric_scenes import body, liver, tumour
from medseg3d.metrics import measure_case, surface_distances

TOLERANCE_MM = 2.0
THICK_MM = (5.0, 0.7, 0.7)
EVERY = 13
Mask = NDArray[np.bool_]
Numbers = tuple[float, float, float]
"""HD95, ASSD (surface-distance: of the mean of its two directions), NSD."""


def ours(a: Mask, b: Mask, spacing_mm: tuple[float, ...], definition: Any = "surface") -> Numbers:
    found = surface_distances(a, b, spacing_mm, definition=definition)
    return found.hausdorff(95), found.assd(), found.nsd(TOLERANCE_MM)


def deepmind() -> Callable[..., Numbers] | None:
    """What a user of surface-distance writes; None where it is not installed."""
    try:
        import surface_distance
    except ImportError:
        print("surface-distance is not installed, so its figures are left out: pip install surface-distance")
        return None

    def measure(a: Mask, b: Mask, spacing_mm: tuple[float, ...]) -> Numbers:
        found = surface_distance.compute_surface_distances(a, b, spacing_mm)
        return (
            surface_distance.compute_robust_hausdorff(found, 95),
            float(np.mean(surface_distance.compute_average_surface_distance(found))),
            surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
        )

    return measure


def monai() -> Callable[..., Numbers] | None:
    """What a user of MONAI writes; None where it is not installed."""
    try:
        import torch
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
    except ImportError:
        print("MONAI is not installed, so its figures are left out: pip install monai")
        return None

    def measure(a: Mask, b: Mask, spacing_mm: tuple[float, ...]) -> Numbers:
        y, y_pred = (torch.from_numpy(x)[None, None] for x in (a, b))
        both = {"y_pred": y_pred, "y": y, "include_background": True, "spacing": spacing_mm}
        return (
            float(compute_hausdorff_distance(**both, percentile=95)),
            float(compute_average_surface_distance(**both, symmetric=True)),
            float(compute_surface_dice(**both, class_thresholds=[TOLERANCE_MM])),
        )

    return measure


def pairs_in_turn(options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """The tumour and the liver: seconds of all sides, ratios, and by how much their numbers differ."""
    rows: dict[str, float] = {}
    figures: dict[str, Any] = {}
    peers = {"monai": monai(), "deepmind": deepmind()}
    for name, make in (("tumour", tumour), ("liver", liver)):
        (a, b), spacing = make(options.quick)
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda a=a, b=b, s=spacing: ours(a, b, s),
            "ours, mesh": lambda a=a, b=b, s=spacing: ours(a, b, s, "mesh"),
        }
        for peer, measure in peers.items():
            if measure is not None:
                sides[peer] = lambda m=measure, a=a, b=b, s=spacing: m(a, b, s)
        seconds = interleaved(sides, 1 if options.quick else min(options.repeats, 7 if name == "tumour" else 3))
        rows |= {f"{name} {' x '.join(map(str, a.shape))}, {side}": value for side, value in seconds.items()}
        for peer in peers:
            figures[f"{name}_vs_{peer}"] = seconds[peer] / seconds["ours"] if peer in seconds else None
        figures[f"{name}_mesh_time"] = seconds["ours, mesh"] / seconds["ours"]
        surface, voxel = ours(a, b, spacing), ours(a, b, spacing, "voxel")
        if peers["deepmind"] is not None:  # its mean of two means is no ASSD, so only HD95 and NSD are compared
            theirs = peers["deepmind"](a, b, spacing)
            figures[f"{name}_difference_to_deepmind"] = max(abs(surface[i] - theirs[i]) for i in (0, 2))
        if peers["monai"] is not None:
            theirs = peers["monai"](a, b, spacing)
            figures[f"{name}_voxel_difference_to_monai"] = max(abs(x - y) for x, y in zip(voxel, theirs, strict=True))
    return rows, figures


def classes(options: Any, *, every: int) -> tuple[dict[str, float], dict[str, Any]]:
    """All classes of a whole body: ours in one pass, MONAI class by class."""
    a, b, spacing, number = body(options.quick)
    labels = {str(i): [i] for i in range(1, number + 1)}
    chosen = range(1, number + 1, every)
    name = f"{number} classes {' x '.join(map(str, a.shape))}"
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: measure_case(a, b, labels, spacing, tolerance_mm=TOLERANCE_MM)
    }
    measure = monai()
    if measure is not None:
        sides["monai"] = lambda: [measure(a == i, b == i, spacing) for i in chosen]
    seconds = interleaved(sides, 1)
    rows = {f"{name}, ours": seconds["ours"]}
    if measure is None:
        return rows, {"classes104_vs_monai": None}
    scaled = seconds["monai"] * number / len(chosen)
    rows[f"{name}, monai ({len(chosen)} of them measured)"] = scaled
    return rows, {"classes104_vs_monai": scaled / seconds["ours"]}


def truth(options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """HD95 against formulas: mean error by definition and family, and the time of the mesh definition."""
    definitions = ("surface", "mesh", "voxel")
    errors: dict[str, dict[str, list[float]]] = {d: {f: [] for f in FAMILIES} for d in definitions}
    pairs = shape_pairs(len(FAMILIES) if options.quick else 40, THICK_MM[0])
    images = []
    for family, *shapes in pairs:
        expected = true_hausdorff_mm(shapes, 95, points=30_000 if options.quick else 300_000)
        a, b = masks(shapes, THICK_MM)
        images.append((a, b))
        for definition in definitions:
            found = surface_distances(a, b, THICK_MM, definition=definition).hausdorff(95)
            errors[definition][family].append(abs(found - expected))
    sides: dict[str, Callable[[], Any]] = {
        d: lambda d=d: [ours(a, b, THICK_MM, d) for a, b in images] for d in ("surface", "mesh")
    }
    seconds = interleaved(sides, 1 if options.quick else options.repeats)
    rows = {f"{len(pairs)} closed forms at 5 x 0.7 x 0.7 mm, {d}": value for d, value in seconds.items()}
    mean = {d: float(np.mean(np.concatenate(list(found.values())))) for d, found in errors.items()}
    figures = {
        "hd95_error_mm": mean["mesh"],
        "hd95_error_surface_mm": mean["surface"],
        "hd95_error_voxel_mm": mean["voxel"],
        "closed_forms_mesh_time": seconds["mesh"] / seconds["surface"],
    }
    for family in FAMILIES:
        for d in definitions:
            figures[f"hd95_error_{d}_{family.replace(' ', '_')}_mm"] = float(np.mean(errors[d][family]))
    return rows, figures


def main() -> None:
    every = EVERY
    if "--all-classes" in sys.argv:
        sys.argv.remove("--all-classes")
        every = 1
    options = arguments(__doc__ or "")
    for category in (DeprecationWarning, FutureWarning):  # surface-distance's of scipy's old names, MONAI's of its own
        warnings.filterwarnings("ignore", category=category)
    rows: dict[str, float] = {}
    figures: dict[str, Any] = {}
    for part in (pairs_in_turn(options), classes(options, every=every), truth(options)):
        rows |= part[0]
        figures |= part[1]
    report("HD95, ASSD and NSD at 2 mm", rows, figures, options.json)


if __name__ == "__main__":
    main()
