"""MONAI's MetaTensors go through network, inferer and transforms, and come back with their meta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirstd, Flipd, LoadImaged, Orientationd, SaveImaged
from monai.utils import SpaceKeys

from medseg3d import Volume, read_volume, write_volume
from medseg3d.checks import InputError
from medseg3d.monai_adapters import (
    PreparedImaged,
    RestoredLabelsd,
    SavedLabelsd,
    StrideInferer,
    find_items,
    meta_tensor,
    volume_of,
)
from medseg3d.networks import SegFormer, SegFormerClassifier
from medseg3d.preprocessing import Preprocessing
from medseg3d.volume import Grid
from tests.test_networks import filled, noise
from tests.training_helpers import NETWORK, ball, ball_task

AFFINE = np.array([[0, -1.5, 0, 40], [0, 0, 1.0, -7], [-1.2, 0, 0, 9], [0, 0, 0, 1]])
"""Axes permuted and flipped: the array runs to I, L and A."""
TASK = ball_task(patch_size=[32, 32, 16])
SETTINGS = {"task": TASK.as_dict(), "preprocessing": Preprocessing.from_task(TASK).as_dict()}


def network(dims: int = 3, channels: int = 1) -> SegFormer:
    return filled(SegFormer(dims, channels, 3, **NETWORK))


def plain(values: Any) -> torch.Tensor:
    return torch.as_tensor(values).as_subclass(torch.Tensor)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for seed in range(2):
        write_volume(Volume(ball(seed)[0].data, AFFINE), tmp_path / "in" / f"ball_{seed}.nii.gz")
    return tmp_path / "in"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", [SegFormer, SegFormerClassifier])
def test_a_network_takes_and_gives_meta_tensors(dims: int, kind: type) -> None:
    options = NETWORK if kind is SegFormer else {k: NETWORK[k] for k in ("widths", "depths")}
    net = filled(kind(dims, 1, 3, **options))
    image = noise(2, 1, *(40, 33, 16)[:dims])
    item = MetaTensor(image, affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": "a.nii"})
    item = Flipd("image", spatial_axis=0)({"image": item})["image"]  # something to invert
    with torch.no_grad():
        found = net(item)
        torch.testing.assert_close(plain(found), net(plain(item)), rtol=0, atol=0)
    assert isinstance(found, MetaTensor)
    assert found.meta["filename_or_obj"] == "a.nii"
    assert torch.equal(found.affine, item.affine)
    assert [op["class"] for op in found.applied_operations] == ["Flip"]
    net.train()(item).sum().backward()
    assert all(type(p.grad) is torch.Tensor for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_inferer_gives_what_monais_gives_with_the_meta_of_each_image(dims: int) -> None:
    net, size = network(dims), (64, 96, 32)[:dims]
    items = [{"image": MetaTensor(noise(1, *size), meta={"filename_or_obj": name})} for name in "ab"]
    items = [Flipd("image", spatial_axis=0)(item) for item in items]
    batch = next(iter(DataLoader(Dataset(items), batch_size=2)))["image"]
    inferer = StrideInferer(size, precision="float32")
    found = inferer(batch, net)
    with torch.no_grad():
        theirs = SlidingWindowInferer(size)(batch, net)
    torch.testing.assert_close(plain(found), plain(theirs), rtol=1e-3, atol=1e-4)
    assert type(inferer(plain(batch), net)) is torch.Tensor
    for one, other, name in zip(decollate_batch(found), decollate_batch(theirs), "ab", strict=True):
        assert isinstance(one, MetaTensor)
        assert one.meta["filename_or_obj"] == other.meta["filename_or_obj"] == name
        assert [op["class"] for op in one.applied_operations] == ["Flip"]
        assert torch.equal(one.affine, other.affine)


def test_a_loaded_image_goes_the_way_of_a_file(scans: Path, tmp_path: Path) -> None:
    items = find_items(scans, TASK.as_dict())
    read = PreparedImaged(**SETTINGS)
    load = Compose([LoadImaged("image", reader="NibabelReader"), EnsureChannelFirstd("image"), read])
    restore, save = RestoredLabelsd(TASK.as_dict()), SavedLabelsd(tmp_path / "out")
    save_monai = SaveImaged(
        "pred", output_dir=tmp_path / "monai", output_postfix="", separate_folder=False, print_log=False
    )
    inferer, net = StrideInferer(TASK.patch_size, precision="float32"), network()
    for one, other in zip(items, Dataset([{"image": i["image"][0], "age": 61} for i in items], load), strict=True):
        mine = read(one)
        assert torch.equal(plain(mine["image"]), plain(other["image"]))
        torch.testing.assert_close(mine["image"].affine, other["image"].affine)
        assert other["age"] == 61
        for item in (mine, other):
            assert item["image"].meta["filename_or_obj"] == one["image"][0]
            # On the network's grid: RAS axes of 1 mm; its corner is the scan's, all of whose axes but one run backwards.
            expected = np.diag([1.0, 1.0, 1.0, 1.0])
            expected[:3, 3] = AFFINE[0, 3] - 1.5 * 19, AFFINE[1, 3], AFFINE[2, 3] - 1.2 * 21
            np.testing.assert_allclose(item["image"].affine, expected, atol=1e-4)
            batch = next(iter(DataLoader([item], batch_size=1)))
            pred = decollate_batch(inferer(batch["image"], net))[0]
            labels = restore({**item, "pred": pred})
            assert labels["pred"].shape == (1, 22, 20, 18)
            np.testing.assert_allclose(labels["pred"].affine, AFFINE, atol=1e-4)
            save(labels)
            written = read_volume(tmp_path / "out" / Path(one["image"][0]).name, labels=True)
            np.testing.assert_array_equal(written.data, plain(labels["pred"]).numpy())
            np.testing.assert_allclose(written.affine, AFFINE, atol=1e-4)
            save_monai(labels)
            theirs = read_volume(tmp_path / "monai" / Path(one["image"][0]).name, labels=True)
            np.testing.assert_array_equal(theirs.data, written.data)
            np.testing.assert_allclose(theirs.affine, AFFINE, atol=1e-4)
            assert len(np.unique(written.data)) > 1


def test_an_image_that_monai_has_turned_comes_back_where_it_was_turned_to(scans: Path) -> None:
    """The affine is right at every step, whatever turned the image before."""
    turn = Orientationd("image", axcodes="PIR", labels=None)
    steps = [LoadImaged("image", reader="NibabelReader"), EnsureChannelFirstd("image"), turn]
    before = Compose(steps)({"image": str(scans / "ball_0.nii.gz")})
    item = PreparedImaged(**SETTINGS)(before)
    straight = PreparedImaged(**SETTINGS)({"image": str(scans / "ball_0.nii.gz")})
    torch.testing.assert_close(plain(item["image"]), plain(straight["image"]))
    restored = RestoredLabelsd(TASK.as_dict())({**item, "pred": noise(3, *item["image"].shape[1:])})["pred"]
    torch.testing.assert_close(restored.affine, before["image"].affine)
    assert restored.shape == before["image"].shape


def test_geometry_of_meta_tensors() -> None:
    data = torch.arange(24.0).view(1, 2, 3, 4)
    volume = volume_of(MetaTensor(data, affine=torch.from_numpy(AFFINE)))
    np.testing.assert_array_equal(volume.affine, AFFINE)
    np.testing.assert_array_equal(volume.data, data)
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    volume = volume_of(MetaTensor(data, affine=torch.from_numpy(lps), meta={"space": SpaceKeys.LPS}))
    np.testing.assert_array_equal(volume.affine, AFFINE)
    flat = np.array([[0.5, 0, 3], [0, 0.7, 4], [0, 0, 1]])
    image = meta_tensor(data[0], Grid((3, 4), flat), {"filename_or_obj": "a.png", "space": SpaceKeys.LPS})
    assert image.affine.shape == (4, 4)
    assert image.meta["filename_or_obj"] == "a.png"
    np.testing.assert_array_equal(volume_of(image).affine, flat)


def test_other_channels_than_the_tasks_are_refused() -> None:
    image = MetaTensor(torch.zeros(2, 8, 8, 8), meta={"filename_or_obj": "two.nii"})
    with pytest.raises(InputError, match=r"two\.nii.*2 channels, and the task has MRI.*EnsureChannelFirstd"):
        PreparedImaged(**SETTINGS)({"image": image})
