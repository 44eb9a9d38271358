"""From 2D to 3D, to other channels and other reductions: what stays the same, by numbers."""

from __future__ import annotations

import pytest
import torch

from medseg3d.networks import MixTransformer, SegFormer, SegFormerClassifier
from medseg3d.networks.blocks import EfficientAttention
from medseg3d.networks.inflation import _change_reduction, adapted, reversed_axes, spread
from tests.test_networks import TINY, filled, noise, relative_error

OPTIONS = {"widths": TINY["widths"], "depths": [1, 2, 1, 1]}


def network_2d(**options) -> SegFormer:
    return filled(SegFormer(2, 3, 5, decoder_width=32, ffn_norm=True, decoder_norm=True, **{**OPTIONS, **options}))


def constant_along(image: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    axis = axis % 3
    return image.unsqueeze(2 + axis).expand(*image.shape[: 2 + axis], size, *image.shape[2 + axis :]).contiguous()


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_a_volume_constant_along_an_axis_gives_the_2d_features_everywhere(axis) -> None:
    """With the reductions kept: every level and the logits, in every slice, the first and the last too."""
    flat = network_2d()
    solid = adapted(flat, spatial_dims=3, reductions=(8, 4, 2, 1), axis=axis).eval()
    image = noise(1, 3, 64, 96)
    volume = constant_along(image, axis, 32)
    with torch.no_grad():
        for (name, expected), found in zip(flat.encoder(image).items(), solid.encoder(volume).values(), strict=True):
            assert found.ndim == 5
            assert relative_error(found, constant_along(expected, axis, found.shape[2 + axis % 3])) < 1e-5, name
        assert relative_error(solid(volume), constant_along(flat(image), axis, 32)) < 1e-5


def test_with_the_reductions_of_3d_it_gives_the_features_of_the_2d_network_with_these() -> None:
    flat = network_2d()
    solid = adapted(flat, spatial_dims=3).eval()
    assert solid.config["reductions"] == [4, 2, 1, 1]
    image = noise(1, 3, 48, 64)
    with torch.no_grad():
        expected = adapted(flat, reductions=(4, 2, 1, 1)).eval()(image)
        assert relative_error(solid(constant_along(image, -1, 32)), constant_along(expected, -1, 32)) < 1e-5
        # What the change of reductions itself does to random weights: another function, not another world.
        before = flat(noise(1, 3, 64, 64))
        after = adapted(flat, reductions=(4, 2, 1, 1)).eval()(noise(1, 3, 64, 64))
        assert 1e-3 < relative_error(after, before) < 0.5


def test_a_size_that_needs_padding_is_near_but_not_equal() -> None:
    """Zeros at the end of the axis are seen through the attention; only multiples of 32 are exact."""
    flat = network_2d()
    solid = adapted(flat, spatial_dims=3, reductions=(8, 4, 2, 1)).eval()
    image = noise(1, 3, 64, 64)
    with torch.no_grad():
        error = relative_error(solid(constant_along(image, -1, 28)), constant_along(flat(image), -1, 28))
    assert 1e-5 < error < 1


@pytest.mark.parametrize(("old", "new"), [(8, 4), (8, 2), (4, 2)])
def test_summed_reductions_are_exact_on_maps_constant_inside_a_kernel(old, new) -> None:
    def attention(reduction: int) -> EfficientAttention:
        return EfficientAttention(
            2, 16, 2, reduction, qkv_bias=True, scale="sqrt_head_dim", dropout=0.0, eps=1e-5
        ).eval()

    wide, narrow = filled(attention(old)), attention(new)
    weights = {f"attention.{key}": value for key, value in wide.state_dict().items()}
    _change_reduction(weights, "", old, new)
    narrow.load_state_dict({key.removeprefix("attention."): value for key, value in weights.items()})
    tokens = noise(1, 3, 4, 16).repeat_interleave(old, 1).repeat_interleave(old, 2)
    with torch.no_grad():
        assert relative_error(narrow(tokens), wide(tokens)) < 1e-5


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_reduction_of_one_keeps_the_mean_key(qkv_bias) -> None:
    """Uncorrelated tokens of the mean and deviation that norm1 gives: keys and values agree, up to the LayerNorm's own noise."""
    torch.manual_seed(0)
    width = 256
    wide = EfficientAttention(2, width, 8, 2, qkv_bias=qkv_bias, scale="sqrt_head_dim", dropout=0.0, eps=1e-5).eval()
    filled(wide)
    deviation, mean = 0.5 + torch.rand(width), torch.randn(width)
    weights = {f"attention.{key}": value for key, value in wide.state_dict().items()}
    weights |= {"norm1.weight": deviation, "norm1.bias": mean}
    _change_reduction(weights, "", 2, 1)
    narrow = EfficientAttention(2, width, 8, 1, qkv_bias=qkv_bias, scale="sqrt_head_dim", dropout=0.0, eps=1e-5).eval()
    narrow.load_state_dict({k.removeprefix("attention."): v for k, v in weights.items() if not k.startswith("norm1")})
    coarse = mean + deviation * torch.randn(1, 6, 6, width)
    tokens = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    with torch.no_grad():
        expected, found = wide(tokens), narrow(tokens)
    cosine = torch.nn.functional.cosine_similarity(expected.flatten(), found.flatten(), dim=0)
    assert cosine > 0.98
    assert 0.9 < found.std() / expected.std() < 1.1


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_grey_image_gives_the_same_over_any_number_of_channels(channels) -> None:
    flat = network_2d()
    other = adapted(flat, in_channels=channels).eval()
    assert other.config["in_channels"] == channels
    grey = noise(1, 1, 64, 32)
    with torch.no_grad():
        assert relative_error(other(grey.repeat(1, channels, 1, 1)), flat(grey.repeat(1, 3, 1, 1))) < 1e-5


def test_the_same_network_comes_back_where_nothing_changes() -> None:
    flat = network_2d()
    again = adapted(flat, in_channels=3, spatial_dims=2)
    assert again.config == {**flat.config, "reductions": [8, 4, 2, 1]}
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), flat.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "network",
    [MixTransformer(2, 3, **OPTIONS), SegFormerClassifier(2, 3, 4, **OPTIONS)],
    ids=lambda n: type(n).__name__,
)
def test_encoders_and_classifiers_are_inflated_too(network) -> None:
    flat = filled(network)
    solid = adapted(flat, spatial_dims=3, in_channels=1, reductions=(8, 4, 2, 1)).eval()
    assert type(solid) is type(flat)
    image = noise(1, 1, 64, 32)
    with torch.no_grad():
        expected, found = flat(image.repeat(1, 3, 1, 1)), solid(constant_along(image, -1, 32))
    if isinstance(flat, MixTransformer):
        expected, found = constant_along(expected["P4"], -1, 1), found["P4"]
    assert relative_error(found, expected) < 1e-5


def test_taps_are_those_of_the_cell() -> None:
    """By hand: an embedding of 7 taps and stride 4 takes 3 to 6, a quarter each; a depth-wise one its middle."""
    kernel = torch.ones(1, 1, 7, 7)
    assert spread(kernel, 2, 7, 3, 4)[0, 0, 0, 0].tolist() == [0, 0, 0, 0.25, 0.25, 0.25, 0.25]
    assert spread(torch.ones(1, 1, 3, 3), 0, 3, 1, 1)[0, 0, :, 0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("dims", [2, 3])
def test_reversed_axes_are_a_transposition(dims) -> None:
    network = filled(SegFormer(dims, 2, 3, decoder_width=16, **OPTIONS))
    image = noise(1, 2, *(32, 64, 48)[:dims])
    back = (0, 1, *range(dims + 1, 1, -1))
    with torch.no_grad():
        expected = network(image)
        assert relative_error(reversed_axes(network)(image.permute(back)).permute(back), expected) < 1e-5
        assert relative_error(network(image.permute(back)).permute(back), expected) > 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reductions": (8, 3, 2, 1)}, "4 cannot become 3"),
        ({"reductions": (8, 4, 2, 2)}, "1 cannot become 2"),
        ({"spatial_dims": 3, "axis": 3}, "axis 3 must be"),
    ],
)
def test_what_cannot_be_made_is_said(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        adapted(network_2d(), **options)


def test_3d_does_not_become_2d() -> None:
    with pytest.raises(ValueError, match="only 2D to 3D"):
        adapted(SegFormer(3, 1, 2, **TINY), spatial_dims=2)
