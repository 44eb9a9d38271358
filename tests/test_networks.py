from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from torch import nn

from benchmarks.plain_segformer import PlainSegFormer
from medseg3d.networks import (
    MixTransformer,
    SegFormer,
    SegFormerClassifier,
    build_network,
    mit_b0,
    mit_b1,
    mit_b2,
    mit_b3,
    mit_b4,
    mit_b5,
    segformer,
    segformer3d,
)
from medseg3d.networks.folding import folded
from medseg3d.networks.pretrained import from_segformer3d
from tests.shared import reference

TINY = {"widths": [8, 16, 40, 64], "decoder_width": 32}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform numbers of deviation 1 by integer arithmetic, which no random generator's version can change."""
    i = torch.arange(math.prod(shape), dtype=torch.int64) + 1_000_003 * (seed + 1)
    for _ in range(3):
        i = (i * 1_103_515_245 + 12_345) % 2**31
        i = i ^ (i >> 13)
    return ((i.double() / 2**31 - 0.5) * math.sqrt(12)).float().reshape(shape)


def filled(network: nn.Module) -> nn.Module:
    """The network in eval mode with weights that no random generator's version can change."""
    with torch.no_grad():
        for seed, (name, value) in enumerate(network.state_dict().items()):
            if not value.dtype.is_floating_point:
                continue
            around_one = "norm" in name and (name.endswith("weight") or "running_var" in name)
            scale = 0.2 if value.ndim < 2 else 1.5 / math.sqrt(value[0].numel())
            value.copy_(around_one + scale * noise(*value.shape, seed=seed))
    return network.eval()


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_parameter_counts_of_segformer3d() -> None:
    """segformer3d.md, finding 3: the released network, and the one without normalisations and biases."""
    assert parameters(segformer3d(4, 3)) == 4_525_251
    assert parameters(segformer3d(4, 3, ffn_norm=False, decoder_norm=False, qkv_bias=False)) == 4_511_939


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (mit_b0, 3_319_392),
        (mit_b1, 13_151_424),
        (mit_b2, 24_196_288),
        (mit_b3, 44_072_128),
        (mit_b4, 60_842_688),
        (mit_b5, 81_443_008),
    ],
)
def test_parameter_counts_of_2d_encoders(size, count) -> None:
    assert parameters(size(2, 3)) == count


@pytest.mark.parametrize(
    ("size", "count"), [("mit_b0", 3_752_694), ("mit_b1", 13_715_798), ("mit_b2", 27_461_974), ("mit_b5", 84_708_694)]
)
def test_parameter_counts_of_2d_segformers(size, count) -> None:
    assert parameters(segformer(size, 2, 3, 150)) == count


def test_the_smallest_size_has_a_fifth_of_the_parameters_of_nnunets_smallest() -> None:
    """5,603,177 for the hippocampus (docs/results.json, nnunet)."""
    assert parameters(segformer("mit_tiny", 3, 1, 3)) == 1_045_683
    assert 5 * 1_045_683 < 5_603_177
    assert set(segformer("mit_tiny", 2, 1, 3)(torch.zeros(1, 1, 64, 64)).shape) == {1, 3, 64}


@pytest.mark.parametrize("shape", [(96, 96, 64), (97, 83, 41), (64, 128, 256), (512, 384), (33, 65), (8, 16, 9)])
def test_any_size_comes_back(shape) -> None:
    network = SegFormer(len(shape), 2, 3, **TINY).eval()
    image = torch.randn(1, 2, *shape)
    with torch.no_grad():
        assert network(image).shape == (1, 3, *shape)
        assert network.forward_coarse(image).shape == (1, 3, *[math.ceil(n / 4) for n in shape])


@pytest.mark.parametrize(("shape", "least"), [((7, 32, 32), 8), ((15, 64), 16)])
def test_too_small_says_the_least_size(shape, least) -> None:
    with pytest.raises(ValueError, match=f"needs at least {least} voxels"):
        SegFormer(len(shape), 1, 2, **TINY)(torch.zeros(1, 1, *shape))


def test_wrong_channels_say_the_rule() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 4, \*spatial\)"):
        SegFormer(3, 4, 2, **TINY)(torch.zeros(1, 1, 32, 32, 32))


@pytest.mark.parametrize("shape", [(64, 96), (64, 32, 96)])
def test_pyramid_by_name(shape) -> None:
    pyramid = mit_b0(len(shape), 1)(torch.randn(1, 1, *shape))
    assert list(pyramid) == ["P1", "P2", "P3", "P4"]
    for (level, width), stride in zip(
        zip(pyramid.values(), (32, 64, 160, 256), strict=True), (4, 8, 16, 32), strict=True
    ):
        assert level.shape == (1, width, *[n // stride for n in shape])


def test_another_encoder_can_replace_ours() -> None:
    class Pool(nn.Module):
        widths = (2, 2, 2, 2)
        size_multiple = 32

        def forward(self, x):
            return {f"P{i}": nn.functional.avg_pool2d(x, 2 ** (i + 1)) for i in range(1, 5)}

    network = SegFormer(2, 2, 5, encoder=Pool(), decoder_width=8)
    assert network(torch.randn(1, 2, 64, 32)).shape == (1, 5, 64, 32)
    with pytest.raises(ValueError, match="drop one of them"):
        SegFormer(2, 2, 5, encoder=Pool(), widths=[1, 2, 3, 4])


@pytest.mark.parametrize("shape", [(64, 96), (64, 32, 96)])
@pytest.mark.parametrize("scale", ["sqrt_head_dim", "sqrt_num_heads"])
def test_equals_the_plain_formulation(shape, scale) -> None:
    network = filled(SegFormer(len(shape), 2, 3, attention_scale=scale, ffn_norm=True, decoder_norm=True, **TINY))
    image = noise(2, 2, *shape)
    with torch.no_grad():
        assert relative_error(network(image), PlainSegFormer(network)(image)) < 1e-5


def test_padding_only_adds_zeros_at_the_end() -> None:
    network = filled(SegFormer(3, 1, 2, **TINY))
    image = noise(1, 1, 30, 41, 47)
    padded = torch.zeros(1, 1, 32, 48, 48)
    padded[:, :, :30, :41, :47] = image
    with torch.no_grad():
        assert torch.equal(network(image), network(padded)[:, :, :30, :41, :47])


@pytest.mark.parametrize("scale", ["sqrt_head_dim", "sqrt_num_heads"])
def test_golden_values_of_the_published_network(scale) -> None:
    with safe_open(reference("segformer3d_tiny.safetensors"), "pt") as golden:
        heads = json.loads(golden.metadata()["config"])["num_heads"]
        weights = {k.removeprefix("weights."): golden.get_tensor(k) for k in golden.keys() if k.startswith("weights.")}  # noqa: SIM118
        network = from_segformer3d(weights, heads=heads, attention_scale=scale).eval()
        image = golden.get_tensor("input").float()
        with torch.no_grad():
            pyramid, logits = network.encoder(image), network(image)
        for i in range(1, 5):
            assert relative_error(pyramid[f"P{i}"], golden.get_tensor(f"{scale}.p{i}")) < 1e-5
        assert relative_error(logits, golden.get_tensor(f"{scale}.logits")) < 1e-5


def published_shapes() -> dict[str, tuple[int, ...]]:
    lines = reference("segformer3d_state_dict.txt").read_text().splitlines()[1:]
    return {
        line.split(" ", 1)[0]: tuple(
            json.loads(line.split(" ", 1)[1].replace("(", "[").replace(",)", "]").replace(")", "]"))
        )
        for line in lines
    }


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_published_state_dict_is_read_whole(prefix) -> None:
    shapes = published_shapes()
    assert len(shapes) == 232
    network = from_segformer3d(
        {prefix + k: torch.zeros(s) for k, s in shapes.items()}, heads=(1, 2, 5, 8), attention_scale="sqrt_num_heads"
    )
    assert parameters(network) == 4_525_251
    assert not any(p.any() for p in network.parameters())


def test_published_state_dict_without_an_entry_names_it() -> None:
    weights = {k: torch.zeros(s) for k, s in published_shapes().items()}
    del weights["segformer_encoder.tf_block2.1.mlp.fc2.bias"]
    weights["surplus"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 missing: encoder.stages.1.blocks.1.ffn.fc2.bias; 1 unknown: surplus"):
        from_segformer3d(weights, heads=(1, 2, 5, 8), attention_scale="sqrt_num_heads")


@pytest.mark.parametrize(
    "config",
    [
        {"name": "segformer", "spatial_dims": 2, "in_channels": 3, "out_channels": 2, **TINY},
        {"name": "mit_b0", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "drop_path": 0.1},
        {"name": "segformer3d", "spatial_dims": 3, "in_channels": 4, "out_channels": 3},
        {
            "name": "segformer_classifier",
            "spatial_dims": 2,
            "in_channels": 3,
            "out_channels": 2,
            "widths": TINY["widths"],
        },
    ],
)
def test_config_gives_the_same_network_again(config) -> None:
    network = build_network(config)
    again = build_network(json.loads(json.dumps(network.config)))
    assert again.config == network.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "unet"}, "'unet' is none of"),
        (
            {"name": "segformer", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "width": 3},
            "unexpected keyword",
        ),
        ({"name": "segformer3d", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}, "3 spatial axes"),
        ({"name": "segformer", "spatial_dims": 4, "in_channels": 1, "out_channels": 2}, "must be 2 or 3"),
        (
            {"name": "segformer", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "attention_scale": "no"},
            "none of",
        ),
    ],
)
def test_wrong_config_is_named(config, words) -> None:
    with pytest.raises(ValueError, match=words):
        build_network(config)


def test_classifier_learns_two_textures() -> None:
    torch.manual_seed(0)
    network = SegFormerClassifier(2, 1, 2, widths=TINY["widths"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(30):
        classes = torch.arange(8) % 2
        image = (
            torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(step)) + 3 * classes[:, None, None, None]
        )
        loss = nn.functional.cross_entropy(network(image), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    unseen = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(99)) + 3 * classes[:, None, None, None]
    assert (network(unseen).argmax(1) == classes).all()


def test_drop_path_drops_whole_branches_in_training_alone() -> None:
    encoder = MixTransformer(2, 1, widths=TINY["widths"], drop_path=0.999999)
    last = encoder.stages[-1].blocks[-1]
    x = torch.randn(4, 2, 2, 64)
    assert torch.equal(last.train()(x), x)
    assert not torch.equal(last.eval()(x), x)


PINNED = {
    (2, "sqrt_head_dim"): [
        -0.528564,
        -1.203828,
        -1.224684,
        -1.606938,
        -1.955289,
        -1.693179,
        -1.373837,
        1.364839,
        1.606697,
        1.371301,
        1.979362,
        2.563753,
        3.225743,
        0.936625,
        -0.200319,
        -0.227053,
        -0.445694,
        -0.368019,
        0.673177,
    ],
    (2, "sqrt_num_heads"): [
        -0.250669,
        -1.044488,
        -1.098568,
        -1.35694,
        -1.803668,
        -1.494984,
        -1.385447,
        1.349897,
        1.1731,
        0.85413,
        1.288059,
        2.372576,
        2.953194,
        1.372358,
        -0.020293,
        0.0822,
        -0.330331,
        -0.436579,
        0.832659,
    ],
    (3, "sqrt_head_dim"): [
        -1.933447,
        -4.156696,
        -3.968852,
        -4.050621,
        -2.514852,
        -5.00369,
        -5.979509,
        -6.191731,
        -6.548008,
        -7.883465,
        -0.005646,
        0.964232,
        0.985894,
        1.077411,
        1.343625,
    ],
    (3, "sqrt_num_heads"): [
        -0.347265,
        -2.980087,
        -3.419585,
        -3.213431,
        -1.704623,
        -4.362297,
        -5.473791,
        -5.842887,
        -6.380197,
        -7.636229,
        -0.002355,
        0.089815,
        0.609512,
        0.945696,
        0.949191,
    ],
}
"""Some logits of a small network on noise, from the implementation that met the published network's golden values."""


def pinned_logits(spatial_dims: int, scale: str) -> torch.Tensor:
    network = filled(SegFormer(spatial_dims, 2, 3, attention_scale=scale, ffn_norm=True, decoder_norm=True, **TINY))
    with torch.no_grad():
        return network(noise(1, 2, *[(64, 48), (32, 48, 16)][spatial_dims - 2])).flatten()[
            :: [499, 4999][spatial_dims - 2]
        ]


@pytest.mark.parametrize(("spatial_dims", "scale"), PINNED)
def test_pinned_values(spatial_dims, scale) -> None:
    expected = torch.tensor(PINNED[spatial_dims, scale])
    ours = pinned_logits(spatial_dims, scale)
    assert ours.shape == expected.shape
    assert relative_error(ours, expected) < 1e-4


@pytest.mark.parametrize("shape", [(48, 48, 16), (48, 48, 32), (32, 64, 64), (64, 32), (32, 32)])
def test_bfloat16_where_the_last_map_is_one_wide(shape: tuple[int, ...]) -> None:
    # oneDNN's own convolution gives noise, infinities or NaN there, whatever the memory held before.
    torch.manual_seed(0)
    network = segformer("mit_b0", spatial_dims=len(shape), in_channels=1, out_channels=2)
    image = torch.randn(2, 1, *shape)
    expected = network(image)
    expected.square().mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        got = network(image).float()
    got.square().mean().backward()
    found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    assert (got - expected).norm() < 0.05 * expected.norm()
    assert (found - gradients).norm() < 0.1 * gradients.norm()
    half = folded(network, torch.bfloat16)
    with torch.inference_mode():
        coarse, reference = half.forward_coarse(image), network.eval().forward_coarse(image)  # type: ignore[operator]
    assert (coarse - reference).norm() < 0.05 * reference.norm()
