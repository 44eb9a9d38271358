from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg3d.networks.depthwise import depthwise_conv

SIZES = [(1, 1, 1), (2, 2, 2), (2, 8, 8), (3, 3, 3), (5, 7, 3), (8, 2, 1), (9, 6)]


def gradients(apply, conv: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    out = apply(x)
    return [out, *torch.autograd.grad(out, [x, conv.weight, conv.bias], grad)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_values_and_gradients_equal_double_precision(size, dtype, tolerance) -> None:
    """In bfloat16 torch's own weight gradient fails this for (2, 8, 8) where oneDNN computes it."""
    torch.manual_seed(0)
    conv = (nn.Conv3d if len(size) == 3 else nn.Conv2d)(24, 24, 3, padding=1, groups=24).to(dtype)
    exact = (nn.Conv3d if len(size) == 3 else nn.Conv2d)(24, 24, 3, padding=1, groups=24).double()
    exact.load_state_dict({k: v.double() for k, v in conv.state_dict().items()})
    x, grad = (torch.randn(2, *size, 24).to(dtype).movedim(-1, 1) for _ in range(2))
    ours = gradients(lambda t: depthwise_conv(t, conv), conv, x, grad)
    truth = gradients(exact, exact, x.double(), grad.double())
    for mine, true in zip(ours, truth, strict=True):
        assert ((mine.double() - true).abs().max() / true.abs().max()) < tolerance


def test_frozen_weights_get_no_gradient() -> None:
    conv = nn.Conv3d(4, 4, 3, padding=1, groups=4).requires_grad_(False)
    x = torch.randn(1, 4, 3, 3, 3, requires_grad=True)
    depthwise_conv(x, conv).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None


def test_autocast_computes_in_bfloat16_and_returns_float32_gradients() -> None:
    conv = nn.Conv3d(4, 4, 3, padding=1, groups=4)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv(torch.randn(1, 4, 3, 3, 3), conv)
    out.float().sum().backward()
    assert out.dtype is torch.bfloat16
    assert conv.weight.grad.dtype is torch.float32
