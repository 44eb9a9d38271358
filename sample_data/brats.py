"""BraTS-like heads: four MR channels of a skull-stripped brain with the three nested tumour regions.

The head is a scene in mm that any grid can look at, so axis orders, spacings and oblique grids show the same anatomy.
A bright FLAIR is no tumour by itself: white matter lesions, the ventricles' halo and an old scar are as bright and differ
in T1w and T2w alone. Bright T1gd is no enhancing tumour by itself: vessels, dura, choroid plexus and old blood are bright too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .shapes import (
    Array,
    centred_affine,
    coverage,
    ellipsoid_mm,
    grid_points,
    paint,
    rotation,
    shape_covering,
    tube_mm,
    waves,
)
from .write import write_msd_index, write_nifti

CHANNELS = ("FLAIR", "T1w", "T1gd", "T2w")
LABELS = {1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
EDEMA, CORE, ENHANCING = LABELS
CASES = 24
SEED = 20260

TISSUES = {
    "white": (0.44, 0.68, 0.69, 0.42),
    "grey": (0.62, 0.50, 0.53, 0.56),
    "csf": (0.13, 0.18, 0.19, 0.97),
    "halo": (0.86, 0.58, 0.59, 0.50),
    "lesion": (0.90, 0.60, 0.61, 0.56),
    "scar": (0.88, 0.25, 0.26, 0.88),
    "blood": (0.62, 0.95, 0.97, 0.50),
    "vessel": (0.22, 0.33, 0.98, 0.25),
    "edema": (0.80, 0.45, 0.46, 0.80),
    "enhancing": (0.60, 0.46, 0.96, 0.66),
    "necrosis": (0.43, 0.27, 0.29, 0.88),
}
"""Signal of each tissue in ``CHANNELS``, 1 about the brightest."""

CHANNEL_JITTER = 0.05
"""Relative deviation of a tissue's signal between cases."""
FOLD_MM = 34.0
"""Wavelength of the cortex's folds."""
RIM_MM = 4.5
"""Least thickness of the edema around the core, and of the enhancing rim around the necrosis."""
NOISE = 0.035
BIAS = 0.10
"""Deviation of the logarithm of the coil's sensitivity over the head."""


@dataclass(frozen=True)
class Look:
    """How one scan lays its grid over the head.

    Args:
        axcodes: direction of each array axis.
        spacing_mm: along each array axis.
        degrees: how far the grid is turned about x, y and z.
        forms: ``"both"``, ``"qform"`` or ``"sform"``: where the header keeps the geometry.
    """

    axcodes: str = "RAS"
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0)
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    forms: str = "both"


LOOKS = {
    1: Look("LPS"),
    3: Look(spacing_mm=(2.8, 2.8, 4.2)),
    5: Look(degrees=(12.0, -7.0, 15.0)),
    7: Look("LAS", forms="sform"),
    9: Look("ASR", (3.0, 3.0, 3.6)),
    11: Look("LPS", (2.7, 2.7, 4.5), (-14.0, 0.0, 6.0), "qform"),
    13: Look(spacing_mm=(3.2, 3.2, 3.2), forms="qform"),
    15: Look("PIR", (3.1, 2.9, 3.0), (4.0, 3.0, -5.0)),
    17: Look("LAS", (3.0, 3.0, 4.0)),
    19: Look("RAS", degrees=(0.0, 20.0, 0.0)),
    21: Look("LSA", (3.0, 3.0, 3.3)),
}
"""The cases that are not plain RAS at 3 mm."""

HEAD_MIDDLE_MM = np.array([0.0, -4.0, -6.0])
HEAD_MM = np.array([148.0, 188.0, 144.0])
"""Middle and least size of the field of view along left-right, posterior-anterior and inferior-superior."""


def brain_mm(p: Array) -> Array:
    """Depth below the brain's surface, mm. Right frontal and left occipital lobes are the larger ones, the front is narrower."""
    x, y, z = p.T
    half = 64 - 0.06 * y + 0.07 * y * np.sign(x)
    front = np.where(y > 0, 80.0, 88.0)
    top = np.where(z > 0, 62.0, 34.0)
    level = (np.abs(x / half) ** 2.3 + np.abs(y / front) ** 2.3 + np.abs(z / top) ** 2.3) ** (1 / 2.3)
    depth = (1 - level) * 60
    for part in (
        ellipsoid_mm(p, (-41, 8, -28), (20, 40, 22)),  # temporal lobes, the left one larger
        ellipsoid_mm(p, (41, 10, -27), (18, 37, 20)),
        ellipsoid_mm(p, (0, -54, -36), (52, 34, 28)),  # cerebellum
        ellipsoid_mm(p, (0, -22, -48), (13, 14, 34)),  # brainstem
    ):
        depth = np.maximum(depth, part)
    return depth


def ventricles_mm(p: Array) -> Array:
    """Depth below the walls of the ventricles, mm; the left one is larger."""
    bent = p - np.stack([0.15 * np.abs(p[:, 1]) * np.sign(p[:, 0]), np.zeros(len(p)), -0.004 * p[:, 1] ** 2], 1)
    parts = (
        ellipsoid_mm(bent, (-12, -2, 12), (9, 42, 11)),
        ellipsoid_mm(bent, (11, -1, 12), (7, 37, 9)),
        ellipsoid_mm(p, (0, -8, -4), (3, 14, 10)),
        ellipsoid_mm(p, (0, -38, -34), (7, 6, 9)),
    )
    return np.max(parts, axis=0)


def healthy(rng: np.random.Generator, p: Array, tissues: dict[str, Array], width_mm: float) -> tuple[Array, Array]:
    """Signals ``(4, N)`` of a brain without a tumour, and the depth below the ventricles' walls ``(N,)``."""
    depth, ventricle = brain_mm(p), ventricles_mm(p)
    fine = waves(rng, p, 11)
    sulcus = np.abs(waves(rng, p, FOLD_MM)) * FOLD_MM / (2 * np.pi)  # mm to the middle of the next sulcus, about
    values = np.repeat(tissues["white"][:, None], len(p), axis=1)
    cortex = np.maximum(5 - depth, np.minimum(15 - depth, 4.5 - sulcus))
    values = paint(values, coverage(cortex, width_mm), tissues["grey"])
    nuclei = [
        ellipsoid_mm(p, (side * at, y, z), radii)
        for side in (-1, 1)
        for at, y, z, radii in ((11, -12, 2, (9, 14, 8)), (26, 6, 2, (7, 19, 11)))
    ]
    values = paint(values, coverage(np.max(nuclei, axis=0), width_mm), tissues["grey"])
    values = paint(values, coverage(ventricle + 5, 2 * width_mm), tissues["halo"])
    values *= 1 + 0.03 * fine
    fissure = np.where(p[:, 2] > 24, 2 - np.abs(p[:, 0]), -9)
    values = paint(values, coverage(np.maximum(np.minimum(13 - depth, 1 - sulcus), fissure), width_mm), tissues["csf"])
    for _ in range(rng.integers(12, 20)):
        spot = rng.uniform((-48, -60, 0), (48, 55, 42))
        values = paint(values, coverage(ellipsoid_mm(p, spot, rng.uniform(4, 10, 3)), width_mm), tissues["lesion"])
    scar = rng.uniform((34, 22, 8), (42, 42, 26))  # always right frontal
    scar_mm = ellipsoid_mm(p, scar, rng.uniform(15, 20, 3)) + 2 * fine
    values = paint(values, coverage(scar_mm, width_mm), tissues["scar"])
    values = paint(values, coverage(ventricle, width_mm), tissues["csf"])
    return values, ventricle


def vessels(rng: np.random.Generator, p: Array, values: Array, tissues: dict[str, Array], width_mm: float) -> Array:
    """Add what takes up contrast agent in every head: sinuses, arteries, dura and choroid plexus; old blood in some."""
    depth = brain_mm(p)
    tubes = [
        tube_mm(p, [(0, 70, 30), (0, 20, 62), (0, -50, 52), (2, -86, 4)], 4.5),
        tube_mm(p, [(2, -86, 4), (34, -66, -16), (50, -38, -20)], 4.0),
        ellipsoid_mm(p, (-14, -18, 8), (4, 15, 3)),
        ellipsoid_mm(p, (13, -18, 8), (4, 14, 3)),
    ]
    for side in (-1, 1):
        bend = rng.normal((side * 22, 12, -12), 3)
        tubes.append(tube_mm(p, [(0, 8, -24), bend, (side * 46, 2, 6), (side * 52, -24, 24)], 2.2))
    dura = coverage(2.0 + 1.5 * waves(rng, p, 45) - depth, width_mm) * 0.8
    values = paint(values, np.maximum(coverage(np.max(tubes, axis=0), width_mm), dura), tissues["vessel"])
    if rng.random() < 0.5:
        spot = rng.uniform((-50, -60, -5), (-25, 40, 35))
        values = paint(values, coverage(ellipsoid_mm(p, spot, rng.uniform(6, 10, 3)), width_mm), tissues["blood"])
    return values


def tumour_depths(rng: np.random.Generator, p: Array) -> dict[int, Array]:
    """Depth below the surface of whole tumour, core and necrosis, mm, keyed by the label whose outer surface it is."""
    foci = [(rng.uniform(31, 38), _tumour_centre(rng))]
    if rng.random() < 0.3:
        foci.append((rng.uniform(20, 24), _tumour_centre(rng)))
    rough, core_rough = waves(rng, p, 60), waves(rng, p, 45)
    whole = np.full(len(p), -np.inf)
    core, necrosis = whole, whole
    for radius, centre in foci:
        radii = radius * rng.uniform(0.85, 1.2, size=3)
        shift = rng.uniform(-0.12, 0.12, size=3) * radius
        turned = (p - centre) @ rotation(rng.uniform(0, 180, size=3))
        share = rng.uniform(0.66, 0.77)
        hollow = rng.uniform(0.42, 0.54)
        whole = np.maximum(whole, ellipsoid_mm(turned, (0, 0, 0), radii) + 0.11 * radius * rough)
        core = np.maximum(core, ellipsoid_mm(turned, shift, share * radii) + 0.07 * radius * core_rough)
        necrosis = np.maximum(necrosis, ellipsoid_mm(turned, shift, hollow * share * radii) + 0.05 * radius * rough)
    core = np.minimum(core, whole - RIM_MM)
    return {EDEMA: whole, ENHANCING: core, CORE: np.minimum(necrosis, core - RIM_MM)}


def _tumour_centre(rng: np.random.Generator) -> Array:
    """A place in one of the hemispheres, in the left one twice as often."""
    x, y, z = rng.uniform((20, -48, -4), (36, 40, 28))
    return np.array([x if rng.random() < 1 / 3 else -x, y, z])


def head(rng: np.random.Generator, points: Array, width_mm: float) -> tuple[Array, NDArray[np.uint8]]:
    """Signals ``(4, N)`` and labels ``(N,)`` of one random patient at world positions ``points`` (N, 3) mm; 0 outside the brain."""
    size = rng.uniform(0.94, 1.04, size=3)
    p = points @ rotation(rng.uniform(-6, 6, size=3)) / size
    tissues = {
        name: np.array(signal) * rng.normal(1, CHANNEL_JITTER, size=len(CHANNELS)) for name, signal in TISSUES.items()
    }
    inside = brain_mm(p) > 0
    p = p[inside]
    values, ventricle = healthy(rng, p, tissues, width_mm)
    values = vessels(rng, p, values, tissues, width_mm)

    depths = tumour_depths(rng, p)
    depths[EDEMA] = np.maximum(np.minimum(depths[EDEMA], -ventricle), depths[ENHANCING] + RIM_MM)
    texture = 1 + 0.06 * waves(rng, p, 14)
    labels = np.zeros(len(p), np.uint8)
    for label, tissue in ((EDEMA, "edema"), (ENHANCING, "enhancing"), (CORE, "necrosis")):
        depth = np.minimum(depths[label], depths[EDEMA])
        values = paint(values, coverage(depth, width_mm), tissues[tissue][:, None] * texture)
        labels[depth > 0] = label

    values *= np.exp(BIAS * np.stack([waves(rng, p, 260, count=6) for _ in CHANNELS]))
    real, imaginary = rng.normal(0, NOISE, size=(2, *values.shape))
    signals = np.zeros((len(CHANNELS), len(points)))
    signals[:, inside] = np.hypot(values + real, imaginary)
    full_labels = np.zeros(len(points), np.uint8)
    full_labels[inside] = labels
    return signals, full_labels


def scan(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Array, Look]:
    """Image ``(x, y, z, 4)``, label ``(x, y, z)``, affine and look of case ``number``; each has a seed of its own.

    The brightest grey level differs from case to case and stays far below 255: coarse steps compress well.
    """
    rng = np.random.default_rng((SEED, number))
    look = LOOKS.get(number, Look())
    shape = shape_covering(look.axcodes, look.spacing_mm, HEAD_MM + rng.uniform(0, 12, size=3))
    centre = rng.uniform(-12, 12, size=3)
    affine = centred_affine(look.axcodes, look.spacing_mm, shape, centre, look.degrees)
    width = float(np.mean(look.spacing_mm))
    signals, labels = head(rng, grid_points(shape, affine) - centre + HEAD_MIDDLE_MM, width)
    grey = np.rint(signals * rng.uniform(55, 95, size=(len(CHANNELS), 1))).clip(0, 255)
    grey = np.maximum(grey, signals > 0).astype(np.uint8)
    return grey.T.reshape(*shape, len(CHANNELS)), labels.reshape(shape), affine, look


def write_brats(folder: Path) -> None:
    """Write all heads into ``folder`` in MSD layout."""
    names = [f"head_{number:02d}" for number in range(CASES)]
    for number, name in enumerate(names):
        image, label, affine, look = scan(number)
        forms = {"qform": look.forms != "sform", "sform": look.forms != "qform"}
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", image, affine, **forms)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label, affine, **forms)
    write_msd_index(folder, "BraTS-like phantoms", modality=CHANNELS, labels=LABELS, cases=names, size="4D")
