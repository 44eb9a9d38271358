"""The sample data are what the generator makes, say what they claim to be, and are not solved by something trivial."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from medseg3d import sample_data_folder
from medseg3d.sample_data.brats import LABELS as TUMOUR_LABELS
from medseg3d.sample_data.ct import LABELS as ORGANS
from medseg3d.sample_data.generate import PARTS, generate

SAMPLE = sample_data_folder()
HEADS = sorted(p.name for p in (SAMPLE / "brats" / "imagesTr").glob("*.nii.gz"))
TORSOS = sorted(p.name for p in (SAMPLE / "ct" / "imagesTr").glob("*.nii.gz"))
GREY_LEVEL = 1
"""Images may differ by rounding from one numpy to the next, labels may not."""


def files_of(root: Path) -> list[Path]:
    return sorted(p.relative_to(root) for part in PARTS for p in (root / part).rglob("*") if p.is_file())


def canonical(part: str, kind: str, name: str) -> np.ndarray:
    """The voxels of a file in RAS order."""
    return np.asarray(nib.as_closest_canonical(nib.load(SAMPLE / part / kind / name)).dataobj)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def touched_outside(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of the voxels next to ``inner`` (and not in it) that lie outside ``outer``."""
    grown = np.pad(inner, 1)
    for axis in range(3):
        for step in (-1, 1):
            grown = grown | np.roll(np.pad(inner, 1), step, axis)
    shell = grown[1:-1, 1:-1, 1:-1] & ~inner
    return np.count_nonzero(shell & ~outer) / np.count_nonzero(shell)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample_data")
    generate(folder)
    return folder


@pytest.fixture(scope="module")
def heads() -> list[tuple[np.ndarray, np.ndarray]]:
    """Image (x, y, z, 4) and label of every head, RAS."""
    return [(canonical("brats", "imagesTr", n), canonical("brats", "labelsTr", n)) for n in HEADS]


def test_generator_makes_these_files(made: Path) -> None:
    assert files_of(made) == files_of(SAMPLE)


def test_generator_makes_these_volumes(made: Path) -> None:
    volumes = [p for p in files_of(SAMPLE) if p.suffix == ".gz"]
    assert len(volumes) == 2 * (len(HEADS) + len(TORSOS))
    for path in volumes:
        ours, stored = nib.load(made / path), nib.load(SAMPLE / path)
        np.testing.assert_allclose(ours.affine, stored.affine, atol=1e-4, err_msg=str(path))
        for field in ("qform_code", "sform_code", "xyzt_units", "datatype"):
            assert ours.header[field] == stored.header[field], (path, field)
        difference = np.abs(np.asarray(ours.dataobj).astype(int) - np.asarray(stored.dataobj))
        assert difference.max() <= (0 if "labelsTr" in path.parts else GREY_LEVEL), path


def test_generator_makes_these_images_and_texts(made: Path) -> None:
    for path in files_of(SAMPLE):
        if path.suffix == ".png":
            ours, stored = (np.asarray(Image.open(root / path)).astype(int) for root in (made, SAMPLE))
            assert np.abs(ours - stored).max() <= (0 if "labels" in path.parts else GREY_LEVEL), path
        elif path.suffix == ".json":
            assert json.loads((made / path).read_text()) == json.loads((SAMPLE / path).read_text()), path


def test_generator_makes_this_dicom_series(made: Path) -> None:
    slices = [p for p in files_of(SAMPLE) if p.suffix == ".dcm"]
    assert len(slices) > 30
    for path in slices:
        ours, stored = pydicom.dcmread(made / path), pydicom.dcmread(SAMPLE / path)
        assert np.abs(ours.pixel_array.astype(int) - stored.pixel_array).max() <= GREY_LEVEL, path
        for ds in (ours, stored):
            del ds.PixelData
        assert ours == stored, path


def test_volumes_are_small_enough_to_carry() -> None:
    assert sum((SAMPLE / p).stat().st_size for p in files_of(SAMPLE)) < 10e6
    assert sum((SAMPLE / p).stat().st_size for p in files_of(SAMPLE) if p.parts[0] == "brats") < 6e6


@pytest.mark.parametrize(("part", "labels"), [("brats", TUMOUR_LABELS), ("ct", ORGANS)])
def test_index_names_what_is_there(part: str, labels: dict[int, str]) -> None:
    index = json.loads((SAMPLE / part / "dataset.json").read_text())
    assert index["labels"] == {"0": "background"} | {str(k): v for k, v in labels.items()}
    assert index["numTraining"] == len(index["training"]) == (len(HEADS) if part == "brats" else len(TORSOS))
    for entry in index["training"]:
        image, label = (nib.load(SAMPLE / part / entry[kind]) for kind in ("image", "label"))
        assert image.shape == (*label.shape, len(index["modality"]))[: image.ndim]
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(label.dataobj)) == {0, *labels}, entry


def test_heads_have_enough_cases_and_sizes() -> None:
    assert len(HEADS) >= 20
    shapes = {nib.load(SAMPLE / "brats" / "labelsTr" / n).shape for n in HEADS}
    assert len(shapes) > 10
    assert all(32 <= n <= 72 for shape in shapes for n in shape)


def test_heads_have_all_kinds_of_geometry() -> None:
    codes, forms, oblique, anisotropic, handed = set(), set(), 0, 0, set()
    for name in HEADS:
        image = nib.load(SAMPLE / "brats" / "imagesTr" / name)
        spacing = nib.affines.voxel_sizes(image.affine)
        codes.add("".join(nib.aff2axcodes(image.affine)))
        forms.add((int(image.header["qform_code"]), int(image.header["sform_code"])))
        oblique += np.rad2deg(nib.affines.obliquity(image.affine).max()) > 5
        anisotropic += spacing.max() / spacing.min() > 1.3
        handed.add(bool(np.linalg.det(image.affine) > 0))
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(
            image.get_qform() if image.header["qform_code"] else image.affine, image.affine, atol=1e-3
        )
    assert codes >= {"RAS", "LAS", "LPS", "ASR", "PIR", "LSA"}
    assert forms == {(1, 1), (1, 0), (0, 1)}
    assert oblique >= 3
    assert anisotropic >= 3
    assert handed == {True, False}


def test_tumour_regions_are_nested_in_the_brain(heads: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for name, (image, label) in zip(HEADS, heads, strict=True):
        whole, core, necrosis = label > 0, label > 1, label == 2
        brain = (image > 0).all(-1)
        np.testing.assert_array_equal(brain, (image > 0).any(-1))
        assert not (whole & ~brain).any(), name
        assert touched_outside(core, whole | ~brain) < 0.02, name
        assert touched_outside(necrosis, core | ~brain) < 0.02, name


def test_tumours_are_large_enough_for_stride_4() -> None:
    for name in HEADS:
        label = nib.load(SAMPLE / "brats" / "labelsTr" / name)
        litre = np.prod(nib.affines.voxel_sizes(label.affine)) / 1e6
        whole, enhancing = (
            np.count_nonzero(m) * litre for m in (np.asarray(label.dataobj) > 0, np.asarray(label.dataobj) == 3)
        )
        assert 0.05 < whole < 0.4, name
        assert enhancing > 0.012, name


@pytest.mark.parametrize(("channel", "least_label", "bound"), [(0, 1, 0.6), (2, 3, 0.6)])
def test_no_threshold_finds_the_tumour(
    heads: list[tuple[np.ndarray, np.ndarray]], channel: int, least_label: int, bound: float
) -> None:
    """The best threshold on FLAIR does not give the whole tumour, the best one on T1gd not the enhancing part."""
    thresholds = np.arange(-0.5, 4, 0.25)
    scores = np.zeros((len(heads), len(thresholds)))
    for i, (image, label) in enumerate(heads):
        signal = image[..., channel].astype(float)
        brain = signal > 0
        z = np.where(brain, (signal - signal[brain].mean()) / signal[brain].std(), -np.inf)
        scores[i] = [dice(z > t, label >= least_label) for t in thresholds]
    best = scores.mean(0).max()
    assert 0.2 < best < bound


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_tumours_miss(heads: list[tuple[np.ndarray, np.ndarray]], axis: int) -> None:
    assert np.mean([dice(label > 0, np.flip(label, axis) > 0) for _, label in heads]) < 0.45
    assert np.mean([dice(label == 3, np.flip(label, axis) == 3) for _, label in heads]) < 0.3


def test_scar_tells_right_from_left(heads: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The scar (bright in FLAIR and T2w, dark in T1w, not labelled) lies in the front of the right hemisphere."""
    sides = []
    for image, label in heads:
        brain = image[..., 0] > 0
        rank = [(image[..., c] - image[brain][:, c].mean()) / image[brain][:, c].std() for c in (0, 1, 3)]
        scar = brain & (label == 0) & (rank[0] > 0.7) & (rank[1] < -1.2) & (rank[2] > 0.7)
        middle = np.argwhere(brain).mean(0)
        sides.append(np.median(np.argwhere(scar), axis=0) - middle if np.count_nonzero(scar) > 20 else np.zeros(3))
    assert np.mean([side[0] > 3 and side[1] > 3 for side in sides]) > 0.6
    assert np.mean([side[0] < -3 for side in sides]) < 0.05


@pytest.mark.parametrize("name", TORSOS)
def test_organs_lie_where_they_should(name: str) -> None:
    label = nib.load(SAMPLE / "ct" / "labelsTr" / name)
    data = np.asarray(label.dataobj)
    image = np.asarray(nib.load(SAMPLE / "ct" / "imagesTr" / name).dataobj)
    value = {organ: v for v, organ in ORGANS.items()}
    centre = {o: nib.affines.apply_affine(label.affine, np.argwhere(data == v)).mean(0) for o, v in value.items()}
    assert centre["liver"][0] > centre["aorta"][0] > centre["spleen"][0]
    assert centre["kidney_right"][0] > centre["aorta"][0] > centre["kidney_left"][0]
    assert centre["kidney_left"][2] > centre["kidney_right"][2] + 5
    assert centre["liver"][1] > centre["kidney_right"][1]
    assert 80 < np.median(image[data == value["liver"]]) < 140
    assert 120 < np.median(image[data == value["aorta"]]) < 200
    assert np.median(image[0, 0]) == pytest.approx(-1000, abs=15)
    assert image.dtype == np.int16
    assert image.max() > 500
    turned = canonical("ct", "labelsTr", name)
    for axis in range(3):
        flipped = [dice(turned == v, np.flip(turned, axis) == v) for v in ORGANS]
        assert np.mean(flipped) < 0.5, (axis, flipped)


def test_dicom_series_equals_nifti_in_the_world() -> None:
    (folder,) = (SAMPLE / "ct" / "dicom").iterdir()
    stored = nib.load(SAMPLE / "ct" / "imagesTr" / f"{folder.name}.nii.gz")
    hu = np.asarray(stored.dataobj)
    seen = np.zeros(hu.shape, int)
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        along_row, down_column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        rows, columns = np.indices(ds.pixel_array.shape)
        lps = (
            np.array(ds.ImagePositionPatient, float)
            + columns[..., None] * float(ds.PixelSpacing[1]) * along_row
            + rows[..., None] * float(ds.PixelSpacing[0]) * down_column
        )
        index = nib.affines.apply_affine(np.linalg.inv(stored.affine), lps * (-1, -1, 1))
        nearest = np.rint(index).astype(int)
        assert np.abs(index - nearest).max() < 1e-3
        at = tuple(nearest.reshape(-1, 3).T)
        values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_array_equal(values.ravel(), hu[at])
        seen[at] += 1
    assert (seen == 1).all()


def test_nuclei_and_shapes() -> None:
    images = sorted((SAMPLE / "images" / "images").glob("*.png"))
    assert len(images) >= 20
    for path in images:
        image = np.asarray(Image.open(path))
        label = np.asarray(Image.open(SAMPLE / "images" / "labels" / path.name))
        assert image.shape == (*label.shape, 3)
        assert set(np.unique(label)) == {0, 1}
        assert 0.05 < label.mean() < 0.4
    classes = {p.name: len(list(p.glob("*.png"))) for p in (SAMPLE / "classification").iterdir()}
    assert classes == {"elongated": 40, "round": 40, "star": 40}
