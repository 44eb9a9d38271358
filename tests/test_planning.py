"""From numbers about a data set to a task: each rule with data whose right answer a person can work out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg3d.inspection.case import Facts
from medseg3d.io import Case, ChannelFile
from medseg3d.networks import build_network
from medseg3d.networks.strides import Strides
from medseg3d.planning.choices import Choices, Limits, choose
from medseg3d.planning.cost import largest_batch_voxels, voxel_bytes
from medseg3d.planning.fingerprint import CaseMeasures, ChannelValues, Fingerprint, Structure, evenly
from medseg3d.planning.thickness import thickness_mm
from medseg3d.planning.written import render
from medseg3d.task import Task, load_task

MR = ChannelValues(low=0, median=90, high=400, minimum=3, mean=120, std=60, whole=True)
CT = ChannelValues(low=-1024, median=-500, high=1200, minimum=-1024, mean=-300, std=500, whole=True)


def fingerprint(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    labels: Mapping[str, float | None] | None = None,
    channel: str = "MRI",
    values: Sequence[ChannelValues] = (MR,),
    offset: Sequence[float] = (0, 0, 0),
    share: float = 0.05,
    content: float = 1.0,
    cases: int = 8,
) -> Fingerprint:
    """A data set of equal cases; ``labels`` gives the thickness of each in mm."""
    labels = {"organ": 20.0} if labels is None else labels
    dims = len(shape)
    task = Task("made", {channel: ()}, {n: (i,) for i, n in enumerate(labels, start=1)}, (1,) * dims)
    measures = []
    for number in range(cases):
        case = Case(f"c{number}", (ChannelFile(Path(f"c{number}.nii.gz")),))
        structures = {n: Structure(10.0, share, tuple(offset[:dims]), t) for n, t in labels.items()}
        value = values[number % len(values)]
        measures.append(
            CaseMeasures(case.name, tuple(shape), tuple(spacing), content, (value,), structures, 0.3, Facts(case, ()))
        )
    return Fingerprint(cases, tuple(measures), task)


def chosen(found: Fingerprint, **limits: Any) -> Choices:
    def build(strides: Strides) -> Any:
        outputs = len(found.task.labels) + 1
        dims = found.task.spatial_dims
        return build_network(
            {"name": "segformer", "spatial_dims": dims, "in_channels": 1, "out_channels": outputs, "strides": strides}
        )

    return choose(found, build, Limits(**limits))


@pytest.mark.parametrize("voxels", [1, 2, 3, 4, 5, 8])
def test_a_plate_is_as_thick_as_it_has_voxels(voxels: int) -> None:
    mask = np.zeros((20, 24, 24), bool)
    mask[6 : 6 + voxels, 2:22, 2:22] = True
    assert thickness_mm(mask, (1, 1, 1)) == voxels
    assert thickness_mm(mask, (0.5, 0.5, 0.5)) == voxels / 2
    assert thickness_mm(mask[:, :, 12], (1, 1)) == voxels


def test_thickness_is_that_of_the_thin_tenth() -> None:
    distance = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    assert 14 <= thickness_mm(distance < 9, (1, 1, 1)) <= 18  # a ball of diameter 18
    plate = np.zeros((40, 40, 40), bool)
    plate[4:24, 4:36, 10:20] = True  # 10 thick, 6400 voxels
    tail = plate.copy()
    tail[24:38, 4:36, 14:16] = True  # 2 thick, 896 voxels: an eighth
    assert thickness_mm(plate, (1, 1, 1)) >= 9
    assert thickness_mm(tail, (1, 1, 1)) <= 3
    assert thickness_mm(np.zeros((8, 8, 8), bool), (1, 1, 1)) == 0
    assert thickness_mm(np.ones((60, 60, 60), bool), (1, 1, 1)) == 24  # more is not told apart


def test_a_thin_structure_gets_a_finer_grid_and_a_thick_one_does_not() -> None:
    # Logits come at 4x, two across: 4.8 mm want 0.6 mm.
    thin = chosen(fingerprint((40, 56, 40), (1, 1, 1), labels={"tail": 4.8}))
    assert thin.task.spacing_mm == (0.6, 0.6, 0.6)
    assert "tail is 4.8 mm thin" in thin.reasons["spacing_mm"]
    # 40 / 0.6 = 67 and 56 / 0.6 = 93 voxels, in steps of 16.
    assert thin.task.patch_size == (80, 96, 80)
    assert "whole" in thin.reasons["patch_size"]
    middle = chosen(fingerprint((40, 56, 40), (1, 1, 1), labels={"body": 30.0, "neck": 6.4}))
    assert middle.task.spacing_mm == (0.8, 0.8, 0.8)
    thick = chosen(fingerprint((40, 56, 40), (1, 1, 1), labels={"body": 30.0}))
    assert thick.task.spacing_mm == (1, 1, 1)
    assert thick.task.patch_size == (48, 64, 48)
    thinnest = chosen(fingerprint((40, 56, 40), (1, 1, 1), labels={"vessel": 1.0}))
    assert thinnest.task.spacing_mm == (0.6, 0.6, 0.6)  # not 0.125


def test_a_finer_grid_may_not_cost_the_view_of_half_an_image() -> None:
    found = chosen(fingerprint((200, 200, 160), (1, 1, 1), labels={"tumour": 2.0}))
    spacing, patch = found.task.spacing_mm, found.task.patch_size
    assert spacing is not None and 0.6 < spacing[0] <= 1
    assert "half" in found.reasons["spacing_mm"] or "view" in found.reasons["spacing_mm"]
    assert math.prod(patch) <= 128**3 and all(n % 16 == 0 for n in patch)


def test_large_images_of_thick_structures_are_looked_at_coarser() -> None:
    found = chosen(fingerprint((512, 512, 400), (0.7, 0.7, 1.0), labels={"liver": 40.0}, channel="CT", values=(CT,)))
    spacing = np.array(found.task.spacing_mm)
    assert (spacing > 1.2).all() and (spacing <= 5).all()  # 40 / 8
    seen = math.prod(found.task.patch_size) / np.prod(np.array([358.4, 358.4, 400.0]) / spacing)
    assert 0.1 < seen < 0.2
    fine = chosen(fingerprint((512, 512, 400), (0.7, 0.7, 1.0), labels={"vessel": 4.0}, channel="CT", values=(CT,)))
    assert fine.task.spacing_mm == (0.7, 0.7, 1.0)


def test_slices_are_kept_apart_by_a_logit_each() -> None:
    found = chosen(fingerprint((320, 320, 20), (0.8, 0.8, 6.0), labels={"prostate": 24.0}))
    # Logits of 3.2 mm in the plane, and a step of 2 would make them 12 mm across slices, more than twice as much.
    assert found.task.train["network"] == {"strides": [[4, 4, 1], 2, 2, 2]}
    assert "3.2 x 3.2 x 6 mm" in found.reasons["train.network"]
    # The grid is the scans' own: no slice is made up.
    assert found.task.spacing_mm == (0.8, 0.8, 6.0)
    assert "slices are 6 mm apart" in found.reasons["spacing_mm"]
    # Each voxel is four times the work: 128^3 / 4 of the 320 x 320 x 20.
    patch = found.task.patch_size
    assert 0.8 * 2**19 < math.prod(patch) <= 2**19
    assert [n % m for n, m in zip(patch, (16, 16, 4), strict=True)] == [0, 0, 0]
    thin = chosen(fingerprint((160, 160, 12), (1.0, 1.0, 8.0), labels={"wall": 8.0}))
    assert thin.task.spacing_mm == (1.0, 1.0, 8.0)
    assert thin.task.patch_size == (160, 160, 12)
    assert thin.task.train["batch_size"] == 2  # of 307,200 voxels: the fewest, and more would pass 2^20 / 4


@pytest.mark.parametrize(
    ("spacing", "thickness", "strides"),
    [
        ((1.0, 1.0, 2.0), 40.0, None),  # not more than twice
        ((1.0, 1.0, 2.1), 40.0, [[4, 4, 2], 2, 2, 2]),  # 4.2 mm; 8.4 would be more than twice 4
        ((0.8, 0.8, 2.5), 40.0, [[4, 4, 2], 2, 2, 2]),
        ((0.8, 0.8, 2.5), 9.0, [[4, 4, 1], 2, 2, 2]),  # two logits across 9 mm
        ((5.0, 0.9, 0.9), 40.0, [[1, 4, 4], 2, 2, 2]),
        ((0.5, 0.5, 8.0), 40.0, [[4, 4, 1], [2, 2, 1], 2, 2]),  # tokens of 2 x 2 x 8 mm, then 4 x 4 x 8
        ((0.3, 0.3, 10.0), 40.0, [[4, 4, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1]]),  # 4.8 mm, at last
    ],
)
def test_strides_make_logits_and_tokens_as_even_as_can_be(
    spacing: Sequence[float], thickness: float, strides: list[Any] | None
) -> None:
    shape = [round(120 / s) for s in spacing]
    train = chosen(fingerprint(shape, spacing, labels={"organ": thickness})).task.train
    assert train.get("network") == (None if strides is None else {"strides": strides})


def test_a_grid_made_coarser_for_the_view_steps_over_more_slices() -> None:
    near = fingerprint((512, 512, 40), (0.7, 0.7, 2.0), labels={"liver": 60.0})
    far = fingerprint((512, 512, 300), (0.7, 0.7, 2.0), labels={"liver": 60.0})
    assert chosen(near).task.train["network"] == {"strides": [[4, 4, 2], 2, 2, 2]}
    wide = chosen(far)
    assert wide.task.spacing_mm is not None and wide.task.spacing_mm[0] >= 1
    assert "network" not in wide.task.train  # 4 x 2 mm are no longer more than twice 4 x 1 mm


@pytest.mark.parametrize("channel", ["CT", "ct_venous", "CBCT"])
def test_ct_is_known_by_its_name(channel: str) -> None:
    found = chosen(fingerprint((64, 64, 64), (1, 1, 1), channel=channel, values=(MR,), content=0.4))
    assert (found.task.intensity, found.task.crop) == ("ct", False)


def test_ct_is_known_by_its_values_where_no_name_speaks_against_it() -> None:
    assert chosen(fingerprint((64, 64, 64), (1, 1, 1), channel="image", values=(CT,))).task.intensity == "ct"
    assert chosen(fingerprint((64, 64, 64), (1, 1, 1), channel="T1", values=(CT,))).task.intensity == "zscore"
    assert chosen(fingerprint((64, 64, 64), (1, 1, 1), channel="image", values=(MR,))).task.intensity == "zscore"
    halves = replace(CT, whole=False)
    assert chosen(fingerprint((64, 64, 64), (1, 1, 1), channel="image", values=(halves,))).task.intensity == "zscore"


def test_pictures_keep_their_grid_and_their_brightness_where_it_means_something() -> None:
    dark, light = replace(MR, low=0, high=90, mean=20, std=10), replace(MR, low=90, high=250, mean=200, std=10)
    varied = chosen(fingerprint((256, 256), (1, 1), labels={"nucleus": 12.0}, values=(dark, light), channel="image"))
    assert (varied.task.intensity, varied.task.spacing_mm) == ("zscore", None)
    assert varied.task.patch_size == (256, 256)
    assert varied.task.train["batch_size"] == 8  # of 65,536 pixels: 2^19
    assert varied.task.mirror_axes == (0, 1)
    alike = chosen(fingerprint((250, 300), (1, 1), labels={"polyp": 40.0}, values=(dark,), channel="image"))
    assert alike.task.intensity == "range"
    assert alike.task.patch_size == (256, 320)
    vessels = chosen(fingerprint((256, 256), (1, 1), labels={"vessel": 2.0}, values=(dark,), channel="image"))
    assert vessels.task.spacing_mm == (0.6, 0.6)


def test_empty_surroundings_are_cut_off() -> None:
    found = chosen(fingerprint((240, 240, 155), (1, 1, 1), content=0.4))
    assert found.task.crop
    assert "60%" in found.reasons["crop"]
    assert not chosen(fingerprint((240, 240, 155), (1, 1, 1), content=0.9)).task.crop


@pytest.mark.parametrize(
    ("label", "offset", "axes", "words"),
    [
        ("tumour", (0.02, 0.2, 0.2), (0,), "no label has a side"),
        ("kidney_left", (0, 0, 0), (), "side in its name"),
        ("Right Lung", (0, 0, 0), (), "side in its name"),
        ("L hippocampus", (0, 0, 0), (), "side in its name"),
        ("bright spot", (0, 0, 0), (0,), "no label has a side"),
        ("anterior", (0, 0, 0), (0,), "no label has a side"),
        ("liver", (0.2, 0, 0), (), "one side in every case"),
    ],
)
def test_mirroring_needs_anatomy_without_sides(
    label: str, offset: Sequence[float], axes: tuple[int, ...], words: str
) -> None:
    found = chosen(fingerprint((64, 64, 64), (1, 1, 1), labels={label: 20.0}, offset=offset))
    assert found.task.mirror_axes == axes
    assert words in found.reasons["mirror_axes"]


def test_rare_structures_are_looked_for() -> None:
    rare = chosen(fingerprint((400, 400, 400), (1, 1, 1), labels={"lesion": 8.0}, share=1e-5))
    assert rare.task.train["foreground_share"] == 0.75
    assert "foreground_share" not in chosen(fingerprint((400, 400, 400), (1, 1, 1), share=0.05)).task.train
    assert "foreground_share" not in chosen(fingerprint((64, 64, 64), (1, 1, 1), share=1e-5)).task.train


def test_volumes_that_a_small_patch_shows_whole_get_the_smallest_network() -> None:
    small = chosen(fingerprint((36, 50, 35), (1, 1, 1), labels={"organ": 15.0}))
    assert small.task.network == "mit_tiny"
    assert "few positions" in small.reasons["network"]
    large = fingerprint((200, 200, 200), (1, 1, 1), labels={"organ": 40.0})
    assert chosen(large).task.network == "default"
    part = chosen(large, budget_s=300.0, voxel_s=1e-6)
    assert math.prod(part.task.patch_size) < 2**19
    assert part.task.network == "default", "a small patch of a large image"


def test_less_memory_and_less_time_give_smaller_patches() -> None:
    found = fingerprint((200, 200, 200), (1, 1, 1), labels={"organ": 8.0})
    sizes = [math.prod(chosen(found, memory_gb=gb).task.patch_size) for gb in (8, 3, 2.5)]
    assert sizes[0] > sizes[1] > sizes[2] >= 32**3
    assert "memory" in chosen(found, memory_gb=2.5).reasons["patch_size"]
    assert chosen(found, memory_gb=2.5).task.train["in_memory_gb"] == 1.25
    hour = chosen(found, budget_s=3600.0, voxel_s=1e-6)
    # 0.9 x 3600 s hold 1000 steps of 3.24 million voxels, 1.62 million a patch.
    assert 1.2e6 < math.prod(hour.task.patch_size) <= 1.62e6
    assert "time" in hour.reasons["patch_size"]
    assert math.prod(chosen(found, budget_s=600.0, voxel_s=1e-6).task.patch_size) <= 270_000


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"name": "segformer", "spatial_dims": 3, "out_channels": 3}, (64, 64, 64)),
        (
            {"name": "segformer", "spatial_dims": 3, "out_channels": 3, "strides": [[4, 4, 1], [2, 2, 1], 2, 2]},
            (64, 64, 16),
        ),
        ({"name": "mit_b1", "spatial_dims": 3, "out_channels": 2}, (64, 64, 64)),
        ({"name": "segformer", "spatial_dims": 2, "out_channels": 2}, (256, 256)),
    ],
)
def test_the_memory_model_agrees_with_what_a_forward_pass_keeps(config: dict[str, Any], size: tuple[int, ...]) -> None:
    network = build_network({**config, "in_channels": 1}).train()
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(torch.zeros(1, 1, *size))
    assert logits.requires_grad
    measured = sum(storage.nbytes() for storage in kept.values()) / math.prod(size)
    # The model counts the loss on full-resolution logits and the sample's copies, too.
    model = voxel_bytes(network, 1) - 4 * 12 * config["out_channels"] - 15
    assert model == pytest.approx(measured, rel=0.2)


def test_no_memory_holds_no_batch() -> None:
    network = build_network({"name": "segformer", "spatial_dims": 3, "in_channels": 1, "out_channels": 2})
    assert largest_batch_voxels(network, 1, 0.5e9) == 0


def test_every_number_has_its_reason_and_the_file_reads_back(tmp_path: Path) -> None:
    found = chosen(
        fingerprint((320, 320, 20), (0.8, 0.8, 6.0), labels={"a: tricky # name": 24.0, "yes": 9.0}, share=1e-5),
        memory_gb=2.5,
    )
    keys = {"spacing_mm", "patch_size", "intensity", "crop", "mirror_axes", "network"}
    assert set(found.reasons) == keys | {f"train.{k}" for k in found.task.train}
    assert all(found.reasons.values())
    file = tmp_path / "task.yaml"
    text = render(found.task, found.reasons, ["one", "two"])
    file.write_text(text, encoding="utf-8")
    assert load_task(file) == found.task
    assert all(reason.split()[0] in text for reason in found.reasons.values())
    assert text.count("#") >= len(found.reasons) + 2
    assert max(map(len, text.splitlines())) <= 132
    regions = Task(
        "r",
        {"T1": ("T1w", "T1n"), "T2": ()},
        {"whole": (1, 2), "core": (2,)},
        (32, 32, 32),
        ids={2: ("necrosis",), 0: ("*",)},
        aliases={"core": ("tumor core",)},
        write={"whole": 1, "core": 2},
        kind="segmentation",
        dicom={"T1": {"modality": "MR"}},
    )
    file.write_text(render(regions, {}, []), encoding="utf-8")
    assert load_task(file) == regions


def test_few_of_many_cases_are_looked_at_evenly() -> None:
    cases = [Case(f"c{i:03}", ()) for i in range(250)]
    some = evenly(cases, 100)
    assert len(some) == len({c.name for c in some}) == 100
    assert (some[0].name, some[1].name, some[-1].name) == ("c000", "c002", "c247")
    assert evenly(cases[:7], 100) == cases[:7]


def test_limits_name_what_binds() -> None:
    network = build_network({"name": "segformer", "spatial_dims": 3, "in_channels": 1, "out_channels": 2})
    task = fingerprint((64, 64, 64), (1, 1, 1)).task
    assert Limits().batch_voxels(network, task)[1] == "memory"
    voxels, why = Limits(budget_s=100.0, voxel_s=1e-6).batch_voxels(network, task)
    assert voxels == pytest.approx(90_000)
    assert "time" in why


def test_no_side_of_a_patch_is_below_what_the_deepest_stage_needs() -> None:
    assert chosen(fingerprint((100, 100, 9), (1, 1, 1))).task.patch_size == (112, 112, 32)
    assert chosen(fingerprint((20, 40), (1, 1), channel="image")).task.patch_size == (32, 64)
