"""SegFormer in 2D and 3D: a Mix Transformer, an all-MLP decoder, logits at a quarter of the resolution.

Source: Xie et al., SegFormer, arXiv:2105.15203, section 3.2; Perera et al., SegFormer3D, arXiv:2404.10156, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.networks.blocks import BATCH_NORM, channels_first, channels_last
from medseg3d.networks.mit import SIZES, MixTransformer, init_weights
from medseg3d.networks.strides import DEFAULT, per_axis, plain, stage_strides


def interpolation_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Weights ``(target, source)`` of linear interpolation along one axis; cell borders, not centres, coincide."""
    eye = torch.eye(source, device=like.device, dtype=torch.float32)
    return F.interpolate(eye[None], size=target, mode="linear", align_corners=False)[0].T.to(like.dtype)


def interpolate_axis(x: Tensor, axis: int, size: int) -> Tensor:
    """``x`` interpolated linearly to ``size`` along one axis, as a matrix product."""
    if x.shape[axis] == size:
        return x
    matrix = interpolation_matrix(x.shape[axis], size, x)
    if axis == x.ndim - 1:
        return x @ matrix.T
    return (matrix @ x.flatten(axis + 1)).unflatten(-1, x.shape[axis + 1 :])


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, C, *s)`` interpolated linearly to ``(B, C, *size)`` in float32, as ``F.interpolate(align_corners=False)`` does.

    Linear interpolation is separable: a matrix product per axis, forwards and backwards faster than torch's own kernels
    on the processor, above all where channels are few.
    """
    with torch.autocast(image.device.type, enabled=False):
        image = image.float().contiguous()
        for axis in range(image.ndim - 1, 1, -1):
            image = interpolate_axis(image, axis, size[axis - 2])
    return image


def upsampled_sum(levels: Sequence[Tensor]) -> Tensor:
    """The sum of token maps, each interpolated linearly to the size of the first.

    Along the first axis the matrix products of all levels are one, so the full size is written once, not twice per level.

    Shape: ``(B, *s_i, C)`` each, to ``(B, *s_0, C)``.
    """
    finest, *coarser = levels
    size = finest.shape[1:-1]
    matrices, maps = [], []
    for level in coarser:
        for axis in range(len(size), 1, -1):
            level = interpolate_axis(level, axis, size[axis - 1])
        matrices.append(interpolation_matrix(level.shape[1], size[0], level))
        maps.append(level.flatten(2))
    return finest + (torch.cat(matrices, dim=1) @ torch.cat(maps, dim=1)).view_as(finest)


class Decoder(nn.Module):
    """Projects every level to one width, fuses them at the finest, predicts (SegFormer, section 3.2).

    The paper upsamples the four maps, concatenates them and applies a 1 x 1 convolution. Such a convolution and linear
    interpolation commute, so here each map meets its own block of that convolution's weights at its own resolution
    and the results are upsampled and added: the same function, a quarter of the arithmetic. Where no norm stands between a level's
    projection and its block, their weights are multiplied first: one linear map, and one smaller gradient.

    Args:
        widths: channels of P1..P4.
        width: common width.
        level_norm: LayerNorm after each level's projection, as in the published SegFormer3D.
        dropout: before the last layer.

    Shape: ``{"P1": (B, widths[0], *s), ...}`` to ``(B, out_channels, *s)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        widths: Sequence[int],
        out_channels: int,
        *,
        width: int,
        level_norm: bool,
        dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.level_norm = nn.ModuleList(
            nn.LayerNorm(width, eps=norm_eps) if level_norm else nn.Identity() for _ in widths
        )
        self.fuse = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in widths)
        self.norm = BATCH_NORM[spatial_dims](width)
        self.dropout = nn.Dropout(dropout)
        self.predict = nn.Linear(width, out_channels)
        self.apply(init_weights)

    def forward(self, pyramid: Mapping[str, Tensor]) -> Tensor:
        levels = [self._fusable(i, channels_last(pyramid[f"P{i + 1}"])) for i in range(len(self.project))]
        fused = F.relu(self.norm(channels_first(upsampled_sum(levels))))
        return channels_first(self.predict(self.dropout(channels_last(fused))))

    def _fusable(self, level: int, tokens: Tensor) -> Tensor:
        """What a level's tokens ``(B, *s_i, widths[i])`` add to the fused map, ``(B, *s_i, width)``."""
        project: Any = self.project[level]
        norm, fuse = self.level_norm[level], self.fuse[level]
        if not isinstance(norm, nn.Identity):
            return fuse(norm(project(tokens)))
        with torch.autocast(tokens.device.type, enabled=False):  # small, and rounded once instead of twice
            weight, bias = fuse.weight @ project.weight, fuse.weight @ project.bias
        return F.linear(tokens, weight, bias)


class SegFormer(nn.Module):
    """SegFormer for 2D images and 3D volumes of any size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: logits per voxel.
        encoder: any module that maps ``(B, in_channels, *s)`` to ``{"P1": .., "P4": ..}`` at 1/4..1/32 and has the
            attributes ``widths``, ``size_multiple`` and ``padded``, and ``strides`` where they are others; default a
            ``MixTransformer`` made from ``options``.
        decoder_width: common width of the decoder.
        decoder_norm: LayerNorm after each level's projection, as in the published SegFormer3D.
        decoder_dropout: before the last layer; the paper has 0.1.
        options: passed to ``MixTransformer``.

    Attributes:
        stride: of the coarse logits, per axis: that of the encoder's first stage.
        size_multiple: per axis, what sizes are padded to a multiple of.

    Shape: ``(B, in_channels, *s)`` to ``(B, out_channels, *s)``; ``forward_coarse`` to ``(B, out_channels, *ceil(s / stride))``.
    Coarse index c lies at voxel ``stride * c + (stride - 1) / 2``, with the default stride of 4 at ``4 c + 1.5``.

    Raises:
        ValueError: for inputs smaller than ``encoder.least_size`` or with other channels.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: nn.Module | None = None,
        decoder_width: int = 256,
        decoder_norm: bool = False,
        decoder_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] | None = None
        if encoder is None:
            self.config = {
                "name": "segformer",
                "spatial_dims": spatial_dims,
                "in_channels": in_channels,
                "out_channels": out_channels,
                "decoder_width": decoder_width,
                "decoder_norm": decoder_norm,
                "decoder_dropout": decoder_dropout,
                **plain_options(options, spatial_dims),
            }
            encoder = MixTransformer(spatial_dims, in_channels, **options)
        elif options:
            raise ValueError(
                f"options {sorted(options)} belong to the built-in encoder and an encoder was given; drop one of them"
            )
        self.encoder = encoder
        self.stride = per_axis(getattr(encoder, "strides", DEFAULT)[0], spatial_dims)
        self.size_multiple = per_axis(encoder.size_multiple, spatial_dims)  # type: ignore[arg-type]
        self.decoder = Decoder(
            spatial_dims,
            encoder.widths,  # type: ignore[arg-type]
            out_channels,
            width=decoder_width,
            level_norm=decoder_norm,
            dropout=decoder_dropout,
            norm_eps=options.get("norm_eps", 1e-5),
        )

    @classmethod
    def from_pretrained(cls, source: str, **options: Any) -> SegFormer:
        """The network of published weights or of an exported folder, in eval mode: ``medseg3d.weights.read_network``.

        Args:
            source: a file, a folder with ``config.json``, or a name on the Hugging Face hub.
            options: those of ``read_network``.

        Raises:
            ValueError: for weights without a decoder.
        """
        # Files and their formats are no business of networks, which know torch alone; so on use, and by name.
        network = import_module("medseg3d.weights").read_network(source, **options)
        if not isinstance(network, cls):
            raise ValueError(
                f"{source} holds a {type(network).__name__}, not a {cls.__name__}; read it with medseg3d.weights.read_network"
            )
        return network

    def forward_coarse(self, x: Tensor) -> Tensor:
        """Logits at ``stride``, ``(B, out_channels, *ceil(s / stride))``: what the network itself computes."""
        return self.cut(self.decoder(self.encoder(x)), x.shape[2:])

    def cut(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Of the decoder's logits those of an image of ``size``, which was padded for the encoder."""
        kept = (slice(-(-n // s)) for n, s in zip(size, self.stride, strict=True))
        return logits[(slice(None), slice(None), *kept)]

    def upsampled(self, coarse: Tensor, size: Sequence[int]) -> Tensor:
        """Coarse logits at every voxel of an image of ``size``."""
        full = resize(coarse, [n * s for n, s in zip(coarse.shape[2:], self.stride, strict=True)])
        return full[(slice(None), slice(None), *(slice(n) for n in size))]

    def forward(self, x: Tensor) -> Tensor:
        return self.upsampled(self.forward_coarse(x), x.shape[2:])


def plain_options(options: Mapping[str, Any], spatial_dims: int) -> dict[str, Any]:
    """Options of an encoder as JSON types."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    if values.get("strides") is not None:
        values["strides"] = plain(stage_strides(values["strides"], spatial_dims))
    return values


class SegFormerClassifier(nn.Module):
    """A Mix Transformer with a classification head: the mean of P4, a linear layer.

    Args:
        spatial_dims, in_channels, options: as for ``MixTransformer``.
        out_channels: number of classes.
        head_dropout: before the linear layer.

    Shape: ``(B, in_channels, *s)`` to ``(B, out_channels)``.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, head_dropout: float = 0.0, **options: Any
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "name": "segformer_classifier",
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "head_dropout": head_dropout,
            **plain_options(options, spatial_dims),
        }
        self.encoder = MixTransformer(spatial_dims, in_channels, **options)
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(self.encoder.widths[-1], out_channels)
        self.head.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.encoder(x)["P4"].flatten(2).mean(-1)))


def segformer3d(
    in_channels: int, out_channels: int, *, attention_scale: str = "sqrt_head_dim", **options: Any
) -> SegFormer:
    """The network published as SegFormer3D: b0 widths in 3D, BatchNorm in the Mix-FFN, LayerNorm in the decoder.

    Its public BraTS weights need ``attention_scale="sqrt_num_heads"``. 4,525,251 parameters for 4 inputs and 3 outputs.
    """
    published = {"ffn_norm": True, "decoder_norm": True}
    return SegFormer(3, in_channels, out_channels, attention_scale=attention_scale, **{**published, **options})


def segformer(size: str, spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> SegFormer:
    """SegFormer with the encoder ``mit_tiny`` or ``mit_b0`` .. ``mit_b5`` and the decoder width that goes with it.

    Raises:
        ValueError: for a size that does not exist.
    """
    if size not in SIZES:
        raise ValueError(f"size {size!r} is none of {', '.join(SIZES)}")
    width = {"mit_tiny": 128, "mit_b0": 256, "mit_b1": 256}.get(size, 768)
    return SegFormer(spatial_dims, in_channels, out_channels, **{"decoder_width": width, **SIZES[size], **options})
