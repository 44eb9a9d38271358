"""Folding: the same function as the network it was made from."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks import SegFormer, attention
from medseg3d.networks import folding as module
from medseg3d.networks.attention import attend
from medseg3d.networks.folding import FoldedAttention, folded

SMALL = {"widths": (8, 16, 24, 32), "depths": (2, 1, 1, 1), "heads": (1, 2, 3, 4), "decoder_width": 24}


def trained_looking(network: nn.Module) -> nn.Module:
    """Norms and biases with numbers that only a correct fold survives."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, (nn.LayerNorm, nn.BatchNorm2d, nn.BatchNorm3d)):
            part.weight.data.uniform_(0.5, 2, generator=generator)
            part.bias.data.normal_(generator=generator)
        if isinstance(part, (nn.BatchNorm2d, nn.BatchNorm3d)):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.3, 3, generator=generator)
        if isinstance(part, nn.Linear):
            part.weight.data.normal_(std=0.2, generator=generator)
            if part.bias is not None:
                part.bias.data.normal_(generator=generator)
    return network.eval()


def small_network(dims: int, **options: object) -> SegFormer:
    torch.manual_seed(0)
    network = trained_looking(SegFormer(dims, 2, 3, **{**SMALL, **options}))
    assert isinstance(network, SegFormer)
    return network


@pytest.mark.parametrize("shape", [(48, 32, 64), (37, 21, 50), (64, 96), (70, 33)])
@pytest.mark.parametrize("options", [{}, {"ffn_norm": True, "decoder_norm": True}, {"qkv_bias": False}])
@pytest.mark.parametrize("slab_bytes", [1, 2**21])
@torch.no_grad()
def test_folded_equals_unfolded(
    shape: tuple[int, ...], options: dict[str, bool], slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLAB_BYTES", slab_bytes)
    network = small_network(len(shape), **options)
    before = copy.deepcopy(network.state_dict())
    image = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(2))
    quick = folded(network)
    for name in ("forward_coarse", "forward"):
        expected = getattr(network, name)(image)
        got = getattr(quick, name)(image)
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (quick.stride, quick.size_multiple, quick.config) == (network.stride, network.size_multiple, network.config)
    assert all(torch.equal(t, before[k]) for k, t in network.state_dict().items())
    half = folded(network, torch.bfloat16)
    near = half.forward_coarse(image)
    assert near.dtype == torch.float32
    expected = network.forward_coarse(image)
    error = ((near - expected).norm() / expected.norm()).item()
    assert 0 < error < 0.05


@torch.no_grad()
def test_the_published_preset_without_and_with_batches() -> None:
    network = small_network(3, ffn_norm=True, decoder_norm=True)
    images = torch.randn(3, 2, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    together = folded(network).forward_coarse(images)
    for image, logits in zip(images, together, strict=True):
        torch.testing.assert_close(folded(network).forward_coarse(image[None])[0], logits, atol=1e-4, rtol=1e-5)


def test_other_networks_are_copied_as_they_are() -> None:
    class Other(nn.Module):
        stride = 2

        def forward_coarse(self, x: Tensor) -> Tensor:
            return x

    other = Other()
    quick = folded(other)
    assert quick is not other
    assert not quick.training
    assert torch.equal(quick.forward_coarse(torch.ones(1)), torch.ones(1))  # type: ignore[operator]


@pytest.mark.parametrize("size", [1.0, 300.0])
@pytest.mark.parametrize("rows", [2**21, 2**12])
@pytest.mark.parametrize("tiles", [False, True])
def test_attention_in_bf16_is_torchs_whatever_the_size_of_its_scores(
    size: float, rows: int, tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of several hundred overflow exp: there the kernel that seeks the largest takes over."""
    monkeypatch.setattr(attention, "SCORE_BYTES", rows)
    monkeypatch.setattr(attention, "MATRIX_TILES", tiles)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 16, generator=generator) for n in (600, 40, 40))
    query = query * size
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3)
    got = attend(*(t.bfloat16() for t in (query, key, value)), 0.3).float()
    assert got.isfinite().all()
    # Rounding of the inputs alone moves scores of hundreds by whole numbers.
    assert (got - expected).norm() / expected.norm() < (0.01 if size == 1 else 0.2)


def test_a_common_part_of_all_keys_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MATRIX_TILES", False)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 1, n, 8, generator=generator) for n in (800, 30, 30))
    far = attend(query.bfloat16(), (key + 16).bfloat16(), value.bfloat16(), 0.3).float()
    expected = F.scaled_dot_product_attention(
        query.bfloat16().float(), (key + 16).bfloat16().float(), value.bfloat16().float(), scale=0.3
    )
    assert (far - expected).norm() / expected.norm() < 0.01


def test_every_block_is_folded() -> None:
    quick = folded(small_network(3, ffn_norm=True))
    assert sum(isinstance(m, FoldedAttention) for m in quick.modules()) == 5
    assert not any(isinstance(m, (nn.BatchNorm3d, nn.BatchNorm2d)) for m in quick.modules())
