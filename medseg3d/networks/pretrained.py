"""Weights published elsewhere, read strictly into our networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medseg3d.networks.segformer import SegFormer, segformer3d

_WRAPPERS = ("module.", "_orig_mod.")
_RENAMES = (
    (r"^segformer_encoder\.embed_(\d)\.patch_embeddings\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.embed.proj."),
    (r"^segformer_encoder\.embed_(\d)\.norm\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.embed.norm."),
    (r"^segformer_encoder\.tf_block(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.blocks."),
    (r"^segformer_encoder\.norm(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.norm."),
    (r"\.attention\.sr\.", ".attention.reduce."),
    (r"\.attention\.sr_norm\.", ".attention.reduce_norm."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
    (r"\.mlp\.dwconv\.bn\.", ".ffn.norm."),
    (r"\.mlp\.", ".ffn."),
    (r"^segformer_decoder\.linear_c(\d)\.proj\.", lambda m: f"decoder.project.{int(m[1]) - 1}."),
    (r"^segformer_decoder\.linear_c(\d)\.bn\.", lambda m: f"decoder.level_norm.{int(m[1]) - 1}."),
    (r"^segformer_decoder\.linear_fuse\.1\.", "decoder.norm."),
    (r"^segformer_decoder\.linear_pred\.", "decoder.predict."),
)


def from_segformer3d(weights: Mapping[str, Tensor], *, heads: Sequence[int], attention_scale: str) -> SegFormer:
    """The network of a state dict in the naming of the published SegFormer3D code, with those weights.

    Widths, depths, reductions, normalisations and biases follow from the entries; heads and attention scale cannot be
    seen in them.

    Args:
        weights: its state dict, with or without ``module.`` and ``_orig_mod.`` prefixes.
        heads: attention heads per stage; (1, 2, 5, 8) in the published configuration.
        attention_scale: ``sqrt_num_heads`` for weights trained with the 2024 release (the public BraTS weights are),
            ``sqrt_head_dim`` for code after November 2025.

    Raises:
        ValueError: naming the entries that are missing or unknown.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        plain = key
        while plain.startswith(_WRAPPERS):
            plain = plain.split(".", 1)[1]
        if plain == "segformer_decoder.linear_fuse.0.weight":
            blocks = value.flatten(1).chunk(4, dim=1)  # concatenated as c4, c3, c2, c1
            renamed.update({f"decoder.fuse.{3 - i}.weight": block for i, block in enumerate(blocks)})
            continue
        for pattern, name in _RENAMES:
            plain = re.sub(pattern, name, plain)
        if plain == "decoder.predict.weight":
            value = value.flatten(1)
        renamed[plain] = value
    stages = range(4)

    def entry(key: str) -> Tensor:
        if key not in renamed:
            raise ValueError(f"no entry for {key} in the state dict; it is not one of the published SegFormer3D")
        return renamed[key]

    embeds = [entry(f"encoder.stages.{i}.embed.proj.weight") for i in stages]
    first = "encoder.stages.{}.blocks.0."
    reduce = [renamed.get(first.format(i) + "attention.reduce.weight") for i in stages]
    network = segformer3d(
        embeds[0].shape[1],
        entry("decoder.predict.bias").shape[0],
        attention_scale=attention_scale,
        widths=[e.shape[0] for e in embeds],
        depths=[len({k.split(".")[4] for k in renamed if k.startswith(f"encoder.stages.{i}.blocks.")}) for i in stages],
        heads=list(heads),
        reductions=[1 if w is None else w.shape[-1] for w in reduce],
        mlp_ratio=entry(first.format(0) + "ffn.fc1.weight").shape[0] // embeds[0].shape[0],
        qkv_bias=first.format(0) + "attention.query.bias" in renamed,
        ffn_norm=first.format(0) + "ffn.norm.weight" in renamed,
        decoder_norm="decoder.level_norm.0.weight" in renamed,
        decoder_width=entry("decoder.norm.weight").shape[0],
    )
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - renamed.keys()), sorted(renamed.keys() - expected.keys())
    wrong = sorted(k for k in expected.keys() & renamed.keys() if expected[k].shape != renamed[k].shape)
    if missing or unknown or wrong:
        raise ValueError(
            f"state dict does not fit SegFormer3D: missing {missing}, unknown {unknown}, of another shape {wrong}"
        )
    with torch.no_grad():
        network.load_state_dict(renamed)
    return network
