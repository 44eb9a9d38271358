"""SegFormer in 2D and 3D, in plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from medseg3d.networks.mit import SIZES, MixTransformer, mit_b0, mit_b1, mit_b2, mit_b3, mit_b4, mit_b5, mit_tiny
from medseg3d.networks.segformer import SegFormer, SegFormerClassifier, segformer, segformer3d

__all__ = [
    "MixTransformer",
    "SegFormer",
    "SegFormerClassifier",
    "build_network",
    "mit_b0",
    "mit_b1",
    "mit_b2",
    "mit_b3",
    "mit_b4",
    "mit_b5",
    "mit_tiny",
    "segformer",
    "segformer3d",
]
NETWORKS = ("segformer", "segformer_classifier", "mix_transformer", "segformer3d", *SIZES)


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """The network that a config of JSON types describes; ``build_network(network.config)`` is the same network again.

    Args:
        config: ``name`` (one of ``NETWORKS``) and that network's arguments.

    Raises:
        ValueError: for an unknown name or argument.
    """
    options = dict(config)
    name = options.pop("name", "segformer")
    try:
        if name == "segformer":
            return SegFormer(**options)
        if name == "segformer_classifier":
            return SegFormerClassifier(**options)
        if name == "mix_transformer":
            return MixTransformer(**options)
        if name in SIZES:
            return segformer(name, **options)
        if name == "segformer3d":
            if options.pop("spatial_dims", 3) != 3:
                raise ValueError("segformer3d works on 3 spatial axes; name 'segformer' or 'mit_b0' for 2D images")
            return segformer3d(**options)
    except TypeError as error:
        raise ValueError(f"network {name!r}: {error}; see medseg3d.networks for its arguments") from None
    raise ValueError(f"network {name!r} is none of {', '.join(NETWORKS)}")
