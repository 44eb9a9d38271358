"""A trained network for other images: other channels, other reductions of the keys, other strides, one spatial axis more.

From 2D to 3D the kernels get a third axis. A token of the 3D network stands for a cell of ``stride`` slices along it, and its
kernel is spread evenly over the slices of that cell: taps ``padding`` to ``padding + stride - 1``, zero elsewhere. For the
depth-wise convolution that is the middle tap (the central-frame initialisation of ViViT, arXiv:2103.15691); for embeddings and
reductions it is the mean over the cell (inflation as in I3D, arXiv:1705.07750, on the part that never meets padding).
So on a volume that does not change along the new axis the 3D network computes the 2D network's features in every
slice, at the ends of the axis too, where the size along it is a multiple of 32, the product of all strides: copies of keys do
not change what attention gives, and linear interpolation keeps constants. Elsewhere the last cell holds zeros, too.
An axis that gets another stride has its taps summed first, and the sum spread in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.networks import build_network
from medseg3d.networks.mit import REDUCTIONS, MixTransformer
from medseg3d.networks.pretrained import load_strictly
from medseg3d.networks.strides import DEFAULT, Strides, kernel_of, plain, stage_strides

Weights = dict[str, Tensor]


def adapted(
    network: nn.Module,
    *,
    spatial_dims: int | None = None,
    in_channels: int | None = None,
    reductions: Sequence[int] | None = None,
    strides: Sequence[int | Sequence[int]] | None = None,
    axis: int = -1,
) -> nn.Module:
    """A network of the same kind and widths for other images, with weights made from those of a trained one.

    Channels: where their number changes, the kernels of the first layer become their mean over the old channels, times the old
    number over the new one. A grey image repeated over all channels gives what it gave before.

    Reductions: a kernel of the reducing convolution becomes smaller by summing blocks of it, which changes nothing where the
    map is constant inside the old kernel's reach. Where a reduction becomes 1, convolution and LayerNorm go into
    the projection of keys and values, with the deviation that the LayerNorm would find on uncorrelated tokens: an
    approximation. Anything else must be learned again by fine-tuning, which is what these weights are for.

    Strides: where an axis gets another one, embeddings give what they gave for images that do not change along it.

    Args:
        network: ``SegFormer``, ``SegFormerClassifier`` or ``MixTransformer`` with its own encoder.
        spatial_dims: 3 makes a 2D network one for volumes.
        in_channels: image channels.
        reductions: per-axis reduction of the keys in each stage; default: the network's own, or, where it gets an axis
            more and has those of the paper, those of 3D (4, 2, 1, 1).
        strides: of each stage; default the network's own, and along a new axis those of the first.
        axis: of the volume that is new, 0 to 2 or -1; the last is inferior-superior on medseg3d's grids, so that the 2D
            network's images are axial slices.

    Raises:
        ValueError: for what cannot be made from the network's weights.
    """
    config: dict[str, Any] | None = getattr(network, "config", None)
    encoder: Any = network if isinstance(network, MixTransformer) else getattr(network, "encoder", None)
    if config is None or not isinstance(encoder, MixTransformer):
        raise ValueError(f"{type(network).__name__} has an encoder of its own; only a MixTransformer can be adapted")
    dims, spatial_dims = encoder.spatial_dims, spatial_dims or encoder.spatial_dims
    if spatial_dims < dims:
        raise ValueError(
            f"a network for {dims}D images cannot become one for {spatial_dims}D images; only 2D to 3D is possible"
        )
    own = tuple(config.get("reductions") or REDUCTIONS[dims])
    if reductions is None:
        reductions = REDUCTIONS[spatial_dims] if own == REDUCTIONS[dims] else own
    prefix = "" if network is encoder else "encoder."
    weights = {key: value.detach() for key, value in network.state_dict().items()}
    if in_channels is not None and in_channels != encoder.in_channels:
        _change_channels(weights, f"{prefix}stages.0.embed.proj.weight", in_channels)
    for i, (old, new) in enumerate(zip(own, reductions, strict=True)):
        if old != new:
            for block in range(len(encoder.stages[i].blocks)):  # type: ignore[arg-type]
                _change_reduction(weights, f"{prefix}stages.{i}.blocks.{block}.", old, new)
    stepped = encoder.strides
    if spatial_dims > dims:
        if not -3 <= axis < 3:
            raise ValueError(f"axis {axis} must be 0, 1, 2 or -1")
        stepped = tuple((*stage[: axis % 3], stage[0], *stage[axis % 3 :]) for stage in stepped)
        _add_axis(weights, prefix, stepped, axis % 3)
    wanted = stepped if strides is None else stage_strides(strides, spatial_dims)
    _change_strides(weights, prefix, stepped, wanted)
    config = {**config, "spatial_dims": spatial_dims, "reductions": list(reductions)}
    if config.get("strides") is not None or plain(wanted) != list(DEFAULT):
        config["strides"] = plain(wanted)
    config["in_channels"] = in_channels or encoder.in_channels
    out = build_network(config)
    load_strictly(out, weights, "the adapted network")
    return out.train(network.training)


def reversed_axes(network: nn.Module) -> nn.Module:
    """A network for images whose spatial axes come in the opposite order, ``(x, y, z)`` in place of ``(z, y, x)``.

    Its output has the axes in the new order, too: ``reversed_axes(f)(x) == f(x.mT).mT`` in 2D.
    """
    config: dict[str, Any] = getattr(network, "config", None) or {}
    if config.get("strides") is not None:
        stages = stage_strides(config["strides"], config["spatial_dims"])
        config = {**config, "strides": plain(tuple(stage[::-1] for stage in stages))}
    out = build_network(config)
    # More than two axes: a convolution, with the spatial axes after output and input channels.
    weights = {
        k: v.permute(0, 1, *range(v.ndim - 1, 1, -1)) if v.ndim > 2 else v for k, v in network.state_dict().items()
    }
    load_strictly(out, weights, "the network with reversed axes")
    return out.train(network.training)


def _change_channels(weights: Weights, key: str, channels: int) -> None:
    kernel = weights[key]
    mean = kernel.mean(1, keepdim=True) * (kernel.shape[1] / channels)
    weights[key] = mean.expand(-1, channels, *[-1] * (kernel.ndim - 2)).contiguous()


def _change_reduction(weights: Weights, block: str, old: int, new: int) -> None:
    if old % new:
        raise ValueError(f"a reduction of {old} cannot become {new}: it must be a divisor of {old}")
    key = f"{block}attention.reduce.weight"
    kernel = weights[key]
    if new > 1:
        for axis in range(2, kernel.ndim):
            kernel = kernel.unflatten(axis, (new, old // new)).sum(axis + 1)
        weights[key] = kernel
    else:
        weights[key] = kernel.flatten(2).sum(2)
        _fold_reduction(weights, block)


def _fold_reduction(weights: Weights, block: str) -> None:
    """Put the linear map and the LayerNorm before keys and values into their projection.

    The tokens have passed ``norm1``: its shift is their mean, its weight their deviation. With no correlation between them that
    gives the variance over channels that the LayerNorm divides by, as a number.
    """
    reduce, bias = (weights.pop(f"{block}attention.reduce.{kind}").double() for kind in ("weight", "bias"))
    gain, shift = (weights.pop(f"{block}attention.reduce_norm.{kind}").double() for kind in ("weight", "bias"))
    deviation, mean = (weights[f"{block}norm1.{kind}"].double() for kind in ("weight", "bias"))
    centred, centre = reduce - reduce.mean(0), bias - bias.mean()
    variance = ((centred @ mean + centre).square() + (centred * deviation).square().sum(1)).mean()
    scale = gain / torch.sqrt(variance + 1e-6)
    key = f"{block}attention.key_value."
    projection = weights[f"{key}weight"].double()
    constant = projection @ (scale * centre + shift)
    dtype = weights[f"{key}weight"].dtype
    weights[f"{key}weight"] = (projection @ (scale[:, None] * centred)).to(dtype)
    if f"{key}bias" in weights:
        weights[f"{key}bias"] = (weights[f"{key}bias"].double() + constant).to(dtype)
        return
    # Softmax does not see a constant of the keys, and hands one of the values on.
    values = constant[len(constant) // 2 :]
    proj = f"{block}attention.proj."
    weights[f"{proj}bias"] = (weights[f"{proj}bias"].double() + weights[f"{proj}weight"].double() @ values).to(dtype)


def _add_axis(weights: Weights, prefix: str, strides: Strides, axis: int) -> None:
    """Give every kernel an axis more, on which stages have the strides that they are to have there."""
    for key, kernel in weights.items():
        if kernel.ndim != 4:
            continue
        size = kernel.shape[-1]
        if key.endswith("embed.proj.weight"):
            weights[key] = embedding(kernel, axis, strides[_stage_of(key, prefix)][axis])
        elif key.endswith("dwconv.weight"):
            weights[key] = spread(kernel, axis, size, size // 2, 1)
        else:
            weights[key] = spread(kernel, axis, size, 0, size)


def _change_strides(weights: Weights, prefix: str, old: Strides, new: Strides) -> None:
    """Sum the taps of embeddings along axes that get another stride, and spread them over its cell."""
    for key, kernel in weights.items():
        if not key.endswith("embed.proj.weight"):
            continue
        stage = _stage_of(key, prefix)
        for axis, (before, after) in enumerate(zip(old[stage], new[stage], strict=True)):
            if before != after:
                kernel = embedding(kernel.sum(2 + axis), axis, after)
        weights[key] = kernel


def _stage_of(key: str, prefix: str) -> int:
    return int(key.removeprefix(prefix).split(".")[1])


def embedding(kernel: Tensor, axis: int, stride: int) -> Tensor:
    """An embedding's kernel with one more axis, along which it is the mean over the ``stride`` voxels of a cell."""
    size = kernel_of(stride)
    return spread(kernel, axis, size, size // 2, stride)


def spread(kernel: Tensor, axis: int, size: int, first: int, number: int) -> Tensor:
    """A kernel with one more spatial axis of ``size`` taps, divided evenly among ``number`` of them from ``first`` on."""
    taps = torch.zeros(size, dtype=kernel.dtype)
    taps[first : first + number] = 1 / number
    shape = [1] * (kernel.ndim + 1)
    shape[2 + axis] = size
    return kernel.unsqueeze(2 + axis) * taps.view(shape)
