"""Gradients of shares side by side: those of the whole batch, in any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from medseg3d.networks import segformer
from medseg3d.task import load_task
from medseg3d.training.processes import Processes
from medseg3d.training.recipe import Recipe
from medseg3d.training.settings import merge_settings
from medseg3d.training.shares import Shares, draws_at_random, one_thread, usual_shares
from medseg3d.training.step import Stepper


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def single_thread() -> Iterator[None]:
    """Where sums have one order."""
    with one_thread():
        yield


def network() -> nn.Module:
    torch.manual_seed(0)
    return segformer(
        "mit_b0",
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        widths=(8, 8, 8, 8),
        heads=(1, 1, 1, 1),
        decoder_width=8,
    )


def loss_of(image: Tensor, one: nn.Module) -> Tensor:
    return one(image).square().mean()


def shares_of(one: nn.Module) -> Shares | None:
    """What a training of a network divides its batches into."""
    settings = merge_settings(load_task("nuclei"), {})
    recipe = Recipe.from_settings(settings)
    return Stepper(one, nn.MSELoss(), lambda images, network: network(images), recipe, Processes()).shares


def norms_fixed(one: nn.Module) -> nn.Module:
    """With affine maps in place of BatchNorm, so that samples do not see each other."""
    for module in one.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Conv2d(8, 8, 1))
    return one


def test_the_gradient_is_that_of_the_batch(two_threads: None) -> None:
    mine, whole = norms_fixed(network()), norms_fixed(network())
    whole.load_state_dict(mine.state_dict())
    images = torch.randn(4, 1, 32, 32)
    total = Shares(mine, 4).add_gradients([partial(loss_of, part / 1) for part in images.split(1)])
    expected = loss_of(images, whole) * 4
    expected.backward()
    torch.testing.assert_close(total, expected)
    for (name, one), other in zip(mine.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_lie_in_memory_as_the_weights_do(single_thread: None) -> None:
    """A fused optimizer goes by memory: of a transposed gradient every weight would take another's step."""
    mine, whole = network(), network()
    images = torch.randn(2, 1, 64, 64)
    Shares(mine, 4).add_gradients([partial(loss_of, part / 1) for part in images.split(1)])
    assert all(p.grad is None or p.grad.stride() == p.stride() for p in mine.parameters())
    for part in images.split(1):
        loss_of(part, whole).backward()
    for one in (mine, whole):
        torch.optim.AdamW(one.parameters(), lr=0.1, fused=True).step()
    for (name, one), other in zip(mine.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_threads_change_no_bit() -> None:
    """One thread after another or two at once: the sum has the same order."""
    found = []
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    for workers in (1, 2, 4):
        one = network()
        torch.set_num_threads(1)
        shares = Shares(one, 4)
        shares.workers = workers
        shares.add_gradients([partial(loss_of, part) for part in images.split(1)])
        found.append([p.grad.clone() for p in one.parameters()] + [b.clone() for b in one.buffers()])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_there_are_as_many_shares_as_threads_up_to_four() -> None:
    before, found = torch.get_num_threads(), {}
    for threads in (1, 2, 4, 6):
        torch.set_num_threads(threads)
        found[threads] = usual_shares()
    torch.set_num_threads(before)
    assert found == {1: 1, 2: 2, 4: 4, 6: 4}


def test_running_statistics_move_to_the_mean_of_the_shares(two_threads: None) -> None:
    one = network()
    images = torch.randn(2, 1, 32, 32)
    apart = []
    for image in images.split(1):
        alone = network()
        alone.load_state_dict(one.state_dict())
        alone.train()
        alone(image)
        apart.append(dict(alone.named_buffers()))
    Shares(one, 4).add_gradients([partial(loss_of, image) for image in images.split(1)])
    norm = [name for name, _ in one.named_buffers() if name.endswith("running_var")]
    assert norm
    for name in norm:
        torch.testing.assert_close(dict(one.named_buffers())[name], (apart[0][name] + apart[1][name]) / 2)
        assert not torch.equal(apart[0][name], apart[1][name])
    counts = [int(b) for name, b in one.named_buffers() if name.endswith("num_batches_tracked")]
    assert set(counts) == {1}


def test_gradients_add_to_those_that_are_there() -> None:
    one = network()
    shares = Shares(one, 4)
    image = torch.randn(1, 1, 32, 32)
    shares.add_gradients([partial(loss_of, image)])
    once = [p.grad.clone() for p in one.parameters()]
    shares.add_gradients([partial(loss_of, image)])
    for first, twice in zip(once, one.parameters(), strict=True):
        torch.testing.assert_close(first * 2, twice.grad)


def test_copies_share_weights_and_not_statistics() -> None:
    one = network()
    shares = Shares(one, 2)
    assert all(a is b for a, b in zip(one.parameters(), shares.copies[1].parameters(), strict=True))
    assert not any(a is b for a, b in zip(one.buffers(), shares.copies[1].buffers(), strict=True))


@pytest.mark.parametrize("option", ["dropout", "drop_path", "decoder_dropout"])
def test_what_draws_at_random_is_computed_as_one(option: str, two_threads: None) -> None:
    """Threads would come to the generator of random numbers in an order of chance."""
    random = segformer(
        "mit_b0",
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        widths=(8, 8, 8, 8),
        heads=(1, 1, 1, 1),
        **{option: 0.5},
    )
    assert draws_at_random(random) and not draws_at_random(network())
    assert shares_of(random) is None
    beside = shares_of(network())
    assert beside is not None and beside.count == 2


def test_an_error_in_a_share_reaches_the_caller_and_threads_are_as_before(two_threads: None) -> None:
    shares = Shares(network(), 4)

    def fails(one: nn.Module) -> Tensor:
        raise ValueError("this share fails")

    with pytest.raises(ValueError, match="this share fails"):
        shares.add_gradients([partial(loss_of, torch.randn(1, 1, 32, 32)), fails])
    assert torch.get_num_threads() == 2
