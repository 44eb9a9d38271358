"""Weights published elsewhere, read strictly into our networks: every entry is used, and every weight is given.

Which code an entry comes from is seen in its name (``naming``); the network's sizes are seen in the shapes. What neither
says, the heads and the attention scale, is asked for or has the value that every published network has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.networks import build_network
from medseg3d.networks.naming import FAMILIES, family_of, origins, renamed
from medseg3d.networks.segformer import SegFormer
from medseg3d.networks.strides import DEFAULT, plain, stride_of

HEADS = (1, 2, 5, 8)
"""Attention heads per stage of every published SegFormer, b0 to b5 and SegFormer3D."""
STAGES = 4


def from_state_dict(
    weights: Mapping[str, Tensor],
    *,
    heads: Sequence[int] = HEADS,
    attention_scale: str | None = None,
    encoder_only: bool = False,
) -> nn.Module:
    """The network of a state dict from any code that ``naming`` knows, with those weights, in eval mode.

    Args:
        weights: its state dict, with or without ``module.`` and ``_orig_mod.`` prefixes.
        heads: attention heads per stage, which cannot be seen in the weights.
        attention_scale: as for ``MixTransformer``. The published SegFormer3D has had both with the same entries, so for its
            naming it must be given: ``sqrt_num_heads`` for weights of the 2024 release (the public BraTS weights are),
            ``sqrt_head_dim`` for code after November 2025. All other codes have ``sqrt_head_dim``.
        encoder_only: read the encoder, and leave out a head.

    Returns:
        ``SegFormer`` where there is a decoder, ``SegFormerClassifier`` where there is a linear head, else
        ``MixTransformer``.

    Raises:
        ValueError: naming all entries that are missing, unknown or of another shape.
    """
    family = family_of(weights)
    if attention_scale is None:
        if family == "segformer3d":
            raise ValueError(
                "the published SegFormer3D has had two attention scales, which its weights do not show; give "
                "attention_scale='sqrt_num_heads' (release of 2024, the public BraTS weights) or 'sqrt_head_dim'"
            )
        attention_scale = "sqrt_head_dim"
    found = renamed(weights, family, encoder_only=encoder_only)
    title = FAMILIES[family].title
    config = config_of(found, title=title, heads=heads)
    config |= {"attention_scale": attention_scale, **FAMILIES[family].options}
    network = build_network(config)
    called = origins(weights, family, encoder_only=encoder_only)
    if config["name"] == "mix_transformer":
        found = {key.removeprefix("encoder."): value for key, value in found.items()}
        called = {key.removeprefix("encoder."): name for key, name in called.items()}
    load_strictly(network, found, title, called=called)
    return network.eval()


def from_segformer3d(weights: Mapping[str, Tensor], *, heads: Sequence[int], attention_scale: str) -> SegFormer:
    """The network of a state dict in the naming of the published SegFormer3D code, with those weights.

    Args:
        weights, heads, attention_scale: as for ``from_state_dict``.

    Raises:
        ValueError: as for ``from_state_dict``, and for weights of another code.
    """
    network = from_state_dict(weights, heads=heads, attention_scale=attention_scale)
    if not isinstance(network, SegFormer) or family_of(weights) != "segformer3d":
        raise ValueError(
            f"the state dict is one of {FAMILIES[family_of(weights)].title}, not of the published SegFormer3D"
        )
    return network


def config_of(weights: Mapping[str, Tensor], *, title: str, heads: Sequence[int]) -> dict[str, Any]:
    """The config of the network that weights under our names belong to, read from their shapes.

    Args:
        weights: from ``renamed``.
        title: whose weights they are, for messages.
        heads: attention heads per stage.

    Raises:
        ValueError: naming the entries without which nothing can be told.
    """
    stage = "encoder.stages.{}."
    first = stage + "blocks.0."
    needed = [stage.format(i) + "embed.proj.weight" for i in range(STAGES)]
    needed += [first.format(i) + "ffn.fc1.weight" for i in range(STAGES)]
    decoder = any(key.startswith("decoder.") for key in weights)
    classifier = "head.weight" in weights or "head.bias" in weights
    needed += ["decoder.norm.weight", "decoder.predict.weight"] if decoder else []
    needed += ["head.weight"] if classifier else []
    if absent := [key for key in needed if key not in weights]:
        raise ValueError(f"state dict is not all of {title}: missing {', '.join(absent)}")
    embeds = [weights[stage.format(i) + "embed.proj.weight"] for i in range(STAGES)]
    widths = [len(embed) for embed in embeds]
    ratios = [len(weights[first.format(i) + "ffn.fc1.weight"]) / width for i, width in enumerate(widths)]
    if len(set(ratios)) > 1 or ratios[0] != int(ratios[0]):
        raise ValueError(
            f"the Mix-FFN is {ratios} times as wide as the tokens of each stage; it must be one whole number"
        )
    reduce = [weights.get(first.format(i) + "attention.reduce.weight") for i in range(STAGES)]
    config: dict[str, Any] = {
        "name": "segformer" if decoder else "segformer_classifier" if classifier else "mix_transformer",
        "spatial_dims": embeds[0].ndim - 2,
        "in_channels": embeds[0].shape[1],
        "widths": widths,
        "depths": [_depth(weights, i) for i in range(STAGES)],
        "heads": [int(h) for h in heads],
        "reductions": [1 if w is None else w.shape[-1] for w in reduce],
        "mlp_ratio": int(ratios[0]),
        "qkv_bias": first.format(0) + "attention.query.bias" in weights,
        "ffn_norm": first.format(0) + "ffn.norm.weight" in weights,
    }
    strides = plain(tuple(tuple(map(stride_of, embed.shape[2:])) for embed in embeds))
    if strides != list(DEFAULT):
        config["strides"] = strides
    if decoder:
        config["out_channels"] = len(weights["decoder.predict.weight"])
        config["decoder_width"] = len(weights["decoder.norm.weight"])
        config["decoder_norm"] = any(key.startswith("decoder.level_norm.") for key in weights)
    elif classifier:
        config["out_channels"] = len(weights["head.weight"])
    return config


def _depth(weights: Mapping[str, Tensor], stage: int) -> int:
    pattern = re.compile(rf"encoder\.stages\.{stage}\.blocks\.(\d+)\.")
    return 1 + max(int(match[1]) for match in map(pattern.match, weights) if match)


def load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], title: str, *, called: Mapping[str, str] | None = None
) -> None:
    """Load weights that fit a network entry by entry, or none of them.

    Args:
        network: to load them into.
        weights: under our names.
        title: whose weights they are, for messages.
        called: what the entries are called in the file, where it has other names.

    Raises:
        ValueError: naming all entries that are missing, unknown, or of another shape.
    """
    called = called or {}
    expected = network.state_dict()
    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    for half, other in ((".key.", ".value."), (".value.", ".key.")):  # of what is one layer here
        for key in [k for k in unknown if half in k and k.replace(half, ".key_value.") in missing]:
            unknown = unknown - {key}
            missing = missing - {key.replace(half, ".key_value.")} | {key.replace(half, other)}
    wrong = [
        f"{_both(key, called)} {tuple(weights[key].shape)} in place of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & weights.keys())
        if expected[key].shape != weights[key].shape
    ]
    parts = {
        "missing": sorted(missing),
        "unknown": sorted(called.get(key, key) for key in unknown),
        "of another shape": wrong,
    }
    if any(parts.values()):
        listed = "; ".join(f"{len(found)} {what}: {', '.join(found)}" for what, found in parts.items() if found)
        raise ValueError(f"state dict does not fit {title}: {listed}")
    with torch.no_grad():
        network.load_state_dict(dict(weights))


def _both(key: str, called: Mapping[str, str]) -> str:
    return key if called.get(key, key) == key else f"{key} ({called[key]})"
