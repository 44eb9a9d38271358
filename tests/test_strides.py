"""Strides per axis: the network, its windows, the way back to the scan, and what is stored of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from medseg3d.checks import ConfigError
from medseg3d.export import export
from medseg3d.inference.decode import decode_labels, full_logits
from medseg3d.inference.memory import activation_bytes
from medseg3d.inference.model import load_model
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.windows import WindowPlan, sliding_logits, window_size
from medseg3d.networks import MixTransformer, SegFormer, SegFormerClassifier, build_network
from medseg3d.networks.folding import folded
from medseg3d.networks.inflation import adapted, reversed_axes
from medseg3d.networks.portable import portable
from medseg3d.networks.pretrained import from_state_dict
from medseg3d.networks.strides import DEFAULT, per_axis, plain, size_multiple, stage_strides, total_strides
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.training.run import train
from medseg3d.volume import Volume
from tests.model_helpers import write_model
from tests.test_decode import CASES, make_grid, make_task
from tests.test_networks import filled, noise, relative_error
from tests.training_helpers import SETTINGS, ball, ball_task, write_balls

TINY = {"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "heads": [1, 2, 2, 2], "decoder_width": 16}
SLICES = [[4, 4, 1], 2, 2, 2]
FEW_SLICES = [[4, 4, 1], [2, 2, 1], 2, 2]
MIXED = [[1, 2, 4], [2, 1, 2], 1, [1, 2, 2]]


def network_of(strides: list, **options) -> SegFormer:
    return filled(SegFormer(3, 1, 3, strides=strides, **TINY, **options))


def test_numbers_by_hand() -> None:
    assert stage_strides(None, 2) == ((4, 4), (2, 2), (2, 2), (2, 2))
    assert stage_strides(SLICES, 3) == ((4, 4, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plain(stage_strides(FEW_SLICES, 3)) == FEW_SLICES
    assert total_strides(stage_strides(FEW_SLICES, 3)) == ((4, 4, 1), (8, 8, 1), (16, 16, 2), (32, 32, 4))
    # Maps of 1/4 and 1/8 are reduced by 4 and 2: 16. Across slices 1 x 4, 2 x 2 (or 1 x 2): 4.
    assert size_multiple(stage_strides(SLICES, 3), (4, 2, 1, 1)) == (16, 16, 4)
    assert size_multiple(stage_strides(FEW_SLICES, 3), (4, 2, 1, 1)) == (16, 16, 4)
    assert size_multiple(stage_strides(None, 2), (8, 4, 2, 1)) == (32, 32)
    assert per_axis(3, 2) == per_axis([3, 3], 2) == (3, 3)


@pytest.mark.parametrize(
    ("strides", "words"),
    [
        ([4, 2, 2], "must have 4 entries"),
        ([[4, 4], 2, 2, 2], "one for each of 3 axes"),
        ([3, 2, 2, 2], r"\[3, 3, 3\] of stage 1 must be of 1, 2, 4"),
        ([4, 2, [2, 4, 2], 2], r"\[2, 4, 2\] of stage 3 must be of 1, 2"),
    ],
)
def test_strides_that_cannot_be_say_the_rule(strides: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SegFormer(3, 1, 2, strides=strides, **TINY)


@pytest.mark.parametrize("dims", [2, 3])
def test_one_number_is_that_number_on_every_axis(dims: int) -> None:
    """Without strides, with numbers, with one number per axis: one network, to the last bit."""
    ways = [None, list(DEFAULT), [[n] * dims for n in DEFAULT]]
    image, results, configs = noise(1, 1, *(50, 34, 40)[:dims]), [], []
    for strides in ways:
        torch.manual_seed(0)
        network = SegFormer(dims, 1, 3, **TINY, **({} if strides is None else {"strides": strides}))
        configs.append(network.config)
        logits = network(image)
        logits.square().mean().backward()
        results.append([logits, *(p.grad for p in network.parameters())])
        assert network.stride == (4,) * dims
    for other in results[1:]:
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert configs[1] == configs[2] == {**configs[0], "strides": [4, 2, 2, 2]}


@pytest.mark.parametrize("strides", [SLICES, FEW_SLICES, MIXED, [2, 2, 2, 2], [1, 2, 2, 2]])
@pytest.mark.parametrize("size", [(32, 48, 12), (33, 21, 9)])
def test_sizes_come_back_and_maps_have_their_strides(strides: list, size: tuple[int, ...]) -> None:
    network = network_of(strides, ffn_norm=True, decoder_norm=True).eval()
    image = noise(1, 1, *size)
    steps = stage_strides(strides, 3)
    with torch.no_grad():
        pyramid = network.encoder(image)
        padded = [math.ceil(n / m) * m for n, m in zip(size, network.size_multiple, strict=True)]
        for level, total in zip(pyramid.values(), total_strides(steps), strict=True):
            assert level.shape[2:] == tuple(math.ceil(n / t) for n, t in zip(padded, total, strict=True))
        logits, coarse = network(image), network.forward_coarse(image)
        assert logits.shape == (1, 3, *size)
        assert coarse.shape[2:] == tuple(math.ceil(n / s) for n, s in zip(size, steps[0], strict=True))
        up = F.interpolate(coarse, scale_factor=[float(s) for s in steps[0]], mode="trilinear", align_corners=False)
        assert relative_error(logits, up[(..., *map(slice, size))]) < 1e-5
        # Two other formulations of the same network.
        assert relative_error(portable(network)(image), logits) < 1e-5
        assert relative_error(folded(network).forward_coarse(image), coarse) < 1e-5


def test_the_stem_holds_slices_apart() -> None:
    """A step of 1 looks at its own slice: a change in one changes the first embedding there alone."""
    stem = MixTransformer(3, 1, strides=SLICES).stages[0].embed
    assert tuple(stem.proj.weight.shape) == (32, 1, 7, 7, 1)
    image = noise(1, 1, 32, 32, 8)
    other = image.clone()
    other[..., 5] += 1
    with torch.no_grad():
        changed = (stem(image) != stem(other)).any(-1)[0].any(0).any(0)
    assert changed.tolist() == [False] * 5 + [True] + [False] * 2


def test_an_image_of_few_slices_is_taken() -> None:
    network = network_of(SLICES).eval()
    with torch.no_grad():
        assert network(noise(1, 1, 32, 32, 3)).shape == (1, 3, 32, 32, 3)
    with pytest.raises(ValueError, match=r"needs at least \(8, 8, 2\) voxels"):
        network(noise(1, 1, 32, 32, 1))


def test_gradients_reach_every_weight() -> None:
    network = network_of(FEW_SLICES, ffn_norm=True, decoder_norm=True).train()
    network(noise(2, 1, 32, 32, 16)).square().mean().backward()
    silent = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or (p.ndim > 1 and not p.grad.any())
    ]
    assert silent == []


@pytest.mark.parametrize("stride", [(4, 4, 1), (2, 4, 4), (1, 2, 4), (4, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("name", [name for name in CASES if "2D" not in name])
@pytest.mark.parametrize("classes", [0, 4])
def test_decoding_equals_one_dense_interpolation(name: str, stride: tuple[int, ...], classes: int) -> None:
    shape, matrix, spacing = CASES[name]
    task = make_task(3, classes, spacing)
    grid = make_grid(task, shape, matrix)
    size = [-(-n // s) for n, s in zip(grid.shape, stride, strict=True)]
    random = np.random.default_rng(1).standard_normal((task.out_channels, *size))
    coarse = torch.from_numpy(ndimage.gaussian_filter(random, [0, 0.7, 0.7, 0.7]).astype(np.float32))
    logits = dense(coarse, grid, stride)
    found = decode_labels(coarse, grid, stride, task)
    if task.regions:
        sure = (np.abs(logits) > 1e-4).all(0)
        expected = np.zeros(shape, np.uint8)
        for label, value in task.painting:
            expected[logits[label] > 0] = value
    else:
        best = np.sort(logits, axis=0)
        sure = best[-1] - best[-2] > 1e-4
        expected = logits.argmax(0)
    assert sure.mean() > 0.97
    assert (found == expected)[sure].all()


def dense(coarse: Tensor, grid: NetworkGrid, stride: tuple[int, ...]) -> np.ndarray:
    """The logits at every scan voxel: one interpolation of scipy's in float64, through the affine alone."""
    index = np.stack([*np.indices(grid.source.shape), np.ones(grid.source.shape)], axis=-1)
    to_network = np.linalg.inv(grid.grid.affine) @ grid.source.affine
    network = np.moveaxis((index @ to_network.T)[..., :-1], -1, 0)
    step = np.array(stride).reshape(-1, 1, 1, 1)
    at = np.round((network - (step - 1) / 2) / step, 9)
    return np.stack([ndimage.map_coordinates(c.astype(float), at, order=1, mode="nearest") for c in coarse.numpy()])


def test_windows_step_by_the_networks_strides() -> None:
    assert window_size((240, 100, 9), (130, 128, 7), (16, 16, 4), (4, 4, 1)) == (132, 112, 7)
    network = network_of(SLICES).eval()
    plan = WindowPlan.of(network, (70, 33, 19), (32, 32, 8), 0.5)
    assert plan.stride == (4, 4, 1)
    assert plan.starts == ((0, 16, 32, 40), (0, 4), (0, 4, 8, 11))
    assert plan.coarse_shape == (18, 9, 19)
    assert (plan.across, plan.depth) == ((9, 19), 8)
    image = noise(1, 70, 33, 19)
    found = sliding_logits(network, image, roi_size=(32, 32, 8))
    assert relative_error(found, blended_plainly(plan, network, image)) < 1e-5
    with torch.no_grad():
        whole = sliding_logits(network, image, roi_size=(80, 48, 20))
        assert relative_error(whole, network.forward_coarse(image[None])[0]) < 1e-6
        assert relative_error(full_logits(whole, image.shape[1:], network.stride), network(image[None])[0]) < 1e-5


def blended_plainly(plan: WindowPlan, network: SegFormer, image: Tensor) -> Tensor:
    """Windows of 32 x 32 x 8 weighted by a Gaussian of 1/8 their size, in arrays of the whole size."""
    total = torch.zeros(3, 18, 9, 19)
    weight = torch.zeros(18, 9, 19)
    bell = [torch.exp(-0.5 * ((torch.arange(8) - 3.5) / 1) ** 2).double()] * 3
    gaussian = (bell[0][:, None, None] * bell[1][:, None] * bell[2]).clamp(min=1e-3).float()
    padded = F.pad(image, (0, 0, 0, 3, 0, 2))
    for x in plan.starts[0]:
        for y in plan.starts[1]:
            for z in plan.starts[2]:
                with torch.no_grad():
                    logits = network.forward_coarse(padded[None, :, x : x + 32, y : y + 32, z : z + 8])[0]
                place = (slice(x // 4, x // 4 + 8), slice(y // 4, y // 4 + 8), slice(z, z + 8))
                total[(slice(None), *place)] += logits * gaussian
                weight[place] += gaussian
    return total / weight


def test_a_prediction_is_that_of_dense_logits_and_survives_its_bundle(tmp_path: Path) -> None:
    task = ball_task(patch_size=[16, 16, 8], spacing_mm=[1.0, 1.0, 3.0])
    network = network_of(FEW_SLICES)
    with torch.no_grad():  # so that every class wins somewhere
        network.decoder.predict.bias -= network.forward_coarse(noise(1, 1, 32, 32, 16)).mean((0, 2, 3, 4))
    scan = Volume(ball(0, (41, 34, 37))[0].data, np.diag([1.1, 0.9, 1.3, 1.0]))
    fast = Predictor(network, task, Preprocessing.from_task(task), device="cpu", precision="float32")
    labels = fast(scan).data
    assert len(np.unique(labels)) == 3
    slow = Predictor(network, task, Preprocessing.from_task(task), device="cpu", precision="float32", dense=True)
    # Dense logits are interpolated twice, to the network's grid and from there to the scan's.
    assert (slow(scan).data == labels).mean() > 0.9
    model = load_model(write_model(tmp_path / "model", task, network))
    assert model.network.config == network.config
    assert model.network.config["strides"] == FEW_SLICES
    again = Predictor.from_bundle(tmp_path / "model", device="cpu", precision="float32")
    assert np.array_equal(again(scan).data, labels)
    with pytest.raises(ConfigError, match=r"divisible by 4 x 4 x 1, .* nearest that is: 16 x 16 x 7"):
        Predictor.from_bundle(tmp_path / "model", device="cpu", roi_size=[18, 16, 7])
    other = SegFormer(3, 1, 3, **TINY)
    with pytest.raises(ConfigError, match="one stride"):
        Predictor([network, other], task, Preprocessing.from_task(task), device="cpu")


def test_finer_strides_take_more_memory() -> None:
    window = (32, 32, 32)
    least, most = (activation_bytes(network_of(s), window, 1, 4) for s in ([4, 2, 2, 2], SLICES))
    fixed = activation_bytes(network_of([4, 2, 2, 2]), (0, 0, 0), 1, 4) + 8 * math.prod(window)
    assert most - fixed == pytest.approx(4 * (least - fixed), rel=1e-3)


def test_training_stores_the_strides_it_was_told(tmp_path: Path) -> None:
    task = ball_task(patch_size=[16, 16, 8], train={"network": {"strides": SLICES}})
    data = write_balls(tmp_path / "data", 3)
    folder = train(task, data, tmp_path / "run", overrides=SETTINGS | {"network.drop_path": 0.0}, epochs=1)
    network = load_model(folder).network
    assert network.stride == (4, 4, 1)
    assert network.config["widths"] == SETTINGS["network"]["widths"]
    with pytest.raises(ConfigError, match="of stage 1 must be of 1, 2, 4"):
        train(task, data, tmp_path / "other", overrides={"network.strides": [8, 2, 2, 2]}, epochs=1)


@pytest.mark.parametrize("strides", [SLICES, MIXED, [1, 1, 1, 1], list(DEFAULT)])
def test_strides_are_seen_in_the_weights(strides: list) -> None:
    for network in (network_of(strides), SegFormerClassifier(3, 1, 2, strides=strides, widths=TINY["widths"])):
        again = from_state_dict(network.state_dict(), heads=network.config.get("heads", (1, 2, 5, 8)))
        assert again.encoder.strides == network.encoder.strides
        config = json.loads(json.dumps(network.config))
        assert build_network(config).config == network.config
        assert ("strides" in again.config) == (strides != list(DEFAULT))


def test_a_2d_network_becomes_one_of_slices() -> None:
    """On volumes that do not change from slice to slice it computes the 2D network's logits in every slice."""
    flat = filled(SegFormer(2, 1, 3, **TINY)).eval()
    deep = adapted(flat, spatial_dims=3, strides=SLICES, reductions=[8, 4, 2, 1])
    assert deep.config["strides"] == SLICES
    image = noise(1, 1, 64, 32)
    with torch.no_grad():
        volume = image[..., None].expand(-1, -1, -1, -1, 16)
        assert relative_error(deep(volume), flat(image)[..., None].expand(-1, -1, -1, -1, 16)) < 1e-4


def test_an_isotropic_network_becomes_one_of_slices_and_back() -> None:
    network = filled(SegFormer(3, 1, 3, **TINY)).eval()
    slices = adapted(network, strides=SLICES)
    taps = slices.state_dict()["encoder.stages.0.embed.proj.weight"]
    before = network.state_dict()["encoder.stages.0.embed.proj.weight"]
    assert torch.allclose(taps[..., 0], before.sum(-1), atol=1e-6)
    assert slices.config["strides"] == SLICES
    back = adapted(slices, strides=list(DEFAULT)).state_dict()["encoder.stages.0.embed.proj.weight"]
    assert torch.allclose(back[..., 3:], before.sum(-1, keepdim=True).expand(*before.shape[:-1], 4) / 4, atol=1e-6)
    assert not back[..., :3].any()


def test_reversed_axes_reverse_the_strides() -> None:
    network = network_of(SLICES).eval()
    turned = reversed_axes(network).eval()
    assert turned.stride == (1, 4, 4)
    image = noise(1, 1, 32, 48, 8)
    with torch.no_grad():
        found = turned(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        assert relative_error(found, network(image)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "pt2", "hf", "safetensors"])
def test_exports_have_the_strides(tmp_path: Path, to: str) -> None:
    task = ball_task(patch_size=[16, 16, 8])
    write_model(tmp_path / "model", task, network_of(SLICES))
    export(tmp_path / "model", to, tmp_path / {"hf": "out"}.get(to, f"out.{to}"))  # compares with the model
