"""Names that published SegFormer and MiT weights have elsewhere, and ours for them.

Facts of formats alone: what each code calls a layer, which layers it splits or merges, and the epsilon of its LayerNorms,
which no file says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel and torch.compile."""


@dataclass(frozen=True)
class Family:
    """How one code names its weights.

    Args:
        title: for messages.
        marks: a regular expression that a key of every file of this family matches, and no other family's.
        prefixes: of the encoder where the file holds more, taken off.
        renames: regular expressions and what they become, in order; ``{1}`` is the first group, ``{-1}`` one less.
        unused: keys that the code itself stores and never uses.
        refused: keys of layers that we have no place for, and what they are.
        options: of ``MixTransformer``.
    """

    title: str
    marks: str
    prefixes: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, float] = field(default_factory=dict)


SEGFORMER3D = Family(
    "the published SegFormer3D",
    r"^segformer_encoder\.|^segformer_decoder\.",
    (),
    (
        (r"^segformer_encoder\.embed_(\d)\.patch_embeddings\.", "encoder.stages.{-1}.embed.proj."),
        (r"^segformer_encoder\.embed_(\d)\.norm\.", "encoder.stages.{-1}.embed.norm."),
        (r"^segformer_encoder\.tf_block(\d)\.", "encoder.stages.{-1}.blocks."),
        (r"^segformer_encoder\.norm(\d)\.", "encoder.stages.{-1}.norm."),
        (r"\.attention\.sr\.", ".attention.reduce."),
        (r"\.attention\.sr_norm\.", ".attention.reduce_norm."),
        (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
        (r"\.mlp\.dwconv\.bn\.", ".ffn.norm."),
        (r"\.mlp\.", ".ffn."),
        (r"^segformer_decoder\.linear_c(\d)\.proj\.", "decoder.project.{-1}."),
        (r"^segformer_decoder\.linear_c(\d)\.bn\.", "decoder.level_norm.{-1}."),
        (r"^segformer_decoder\.linear_fuse\.0\.", "decoder.fuse."),
        (r"^segformer_decoder\.linear_fuse\.1\.", "decoder.norm."),
        (r"^segformer_decoder\.linear_pred\.", "decoder.predict."),
    ),
)
HUGGING_FACE = Family(
    "Hugging Face SegFormer",
    r"^(segformer\.)?(encoder\.patch_embeddings\.\d|stages\.\d\.patch_embeddings)\.",
    ("segformer.",),
    (
        (r"^encoder\.patch_embeddings\.(\d)\.|^stages\.(\d)\.patch_embeddings\.", "encoder.stages.{1}.embed."),
        (r"^encoder\.block\.(\d)\.|^stages\.(\d)\.blocks\.", "encoder.stages.{1}.blocks."),
        (r"^encoder\.layer_norm\.(\d)\.|^stages\.(\d)\.layer_norm\.", "encoder.stages.{1}.norm."),
        (r"\.embed\.layer_norm\.", ".embed.norm."),
        (r"\.(?:layer_norm_1|layernorm_before)\.", ".norm1."),
        (r"\.(?:layer_norm_2|layernorm_after)\.", ".norm2."),
        (r"\.attention\.(?:self\.query|q_proj)\.", ".attention.query."),
        (r"\.attention\.(?:self\.key|k_proj)\.", ".attention.key."),
        (r"\.attention\.(?:self\.value|v_proj)\.", ".attention.value."),
        (r"\.attention\.(?:self\.sr|sequence_reduction\.sequence_reduction)\.", ".attention.reduce."),
        (r"\.attention\.(?:self|sequence_reduction)\.layer_norm\.", ".attention.reduce_norm."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attention.proj."),
        (r"\.mlp\.(?:dense|fc)(\d)\.", ".ffn.fc{1}."),
        (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
        (r"^decode_head\.(?:linear_c|linear_projections)\.(\d)\.proj\.", "decoder.project.{1}."),
        (r"^decode_head\.linear_fuse\.", "decoder.fuse."),
        (r"^decode_head\.batch_norm\.", "decoder.norm."),
        (r"^decode_head\.classifier\.", "decoder.predict."),
        (r"^classifier\.", "head."),
    ),
)
NVLABS = Family(
    "NVlabs SegFormer or MiT",
    r"^(backbone\.)?patch_embed\d\.",
    ("backbone.",),
    (
        (r"^patch_embed(\d)\.", "encoder.stages.{-1}.embed."),
        (r"^block(\d)\.", "encoder.stages.{-1}.blocks."),
        (r"^norm(\d)\.", "encoder.stages.{-1}.norm."),
        (r"\.attn\.q\.", ".attention.query."),
        (r"\.attn\.kv\.", ".attention.key_value."),
        (r"\.attn\.proj\.", ".attention.proj."),
        (r"\.attn\.sr\.", ".attention.reduce."),
        (r"\.attn\.norm\.", ".attention.reduce_norm."),
        (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
        (r"\.mlp\.", ".ffn."),
        (r"^decode_head\.linear_c(\d)\.proj\.", "decoder.project.{-1}."),
        (r"^decode_head\.linear_fuse\.conv\.", "decoder.fuse."),
        (r"^decode_head\.linear_fuse\.bn\.", "decoder.norm."),
        (r"^decode_head\.linear_pred\.", "decoder.predict."),
    ),
    unused=(r"^decode_head\.conv_seg\.",),
    options={"norm_eps": 1e-6, "conv_norm_eps": 1e-5},
)
MMSEG = Family(
    "MMSegmentation's MiT",
    r"^(backbone\.)?layers\.\d\.0\.projection\.",
    ("backbone.",),
    (
        (r"^layers\.(\d)\.0\.projection\.", "encoder.stages.{1}.embed.proj."),
        (r"^layers\.(\d)\.0\.norm\.", "encoder.stages.{1}.embed.norm."),
        (r"^layers\.(\d)\.1\.", "encoder.stages.{1}.blocks."),
        (r"^layers\.(\d)\.2\.", "encoder.stages.{1}.norm."),
        (r"\.attn\.attn\.in_proj_", ".attention.query_key_value."),
        (r"\.attn\.attn\.out_proj\.", ".attention.proj."),
        (r"\.attn\.sr\.", ".attention.reduce."),
        (r"\.attn\.norm\.", ".attention.reduce_norm."),
        (r"\.ffn\.layers\.0\.", ".ffn.fc1."),
        (r"\.ffn\.layers\.1\.", ".ffn.dwconv."),
        (r"\.ffn\.layers\.4\.", ".ffn.fc2."),
    ),
    refused={
        r"^(decode|auxiliary)_head\.": "a head with a BatchNorm and a ReLU after each projection, which is another network"
    },
    options={"norm_eps": 1e-6},
)
OURS = Family(
    "medseg3d's SegFormer",
    r"^(encoder\.)?stages\.\d\.embed\.proj\.",
    (),
    ((r"^stages\.", "encoder.stages."),),
)
FAMILIES: Mapping[str, Family] = {
    "segformer3d": SEGFORMER3D,
    "huggingface": HUGGING_FACE,
    "nvlabs": NVLABS,
    "mmseg": MMSEG,
    "medseg3d": OURS,
}


def family_of(weights: Mapping[str, Tensor]) -> str:
    """Whose naming a state dict has: a key of ``FAMILIES``.

    Raises:
        ValueError: for none of them.
    """
    keys = [without_wrappers(key) for key in weights]
    for name, family in FAMILIES.items():
        if any(re.search(family.marks, key) for key in keys):
            return name
    known = ", ".join(family.title for family in FAMILIES.values())
    first = ", ".join(list(weights)[:3]) or "nothing"
    raise ValueError(f"a state dict of {len(weights)} entries ({first}, ...) is of none of these: {known}")


def without_wrappers(key: str) -> str:
    """A key without the prefixes that wrappers of the network add."""
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def renamed(weights: Mapping[str, Tensor], family: str, *, encoder_only: bool = False) -> dict[str, Tensor]:
    """A state dict under our names; what has no name with us keeps its own.

    Args:
        weights: in the naming of ``family``.
        family: from ``family_of``.
        encoder_only: leave heads out.

    Raises:
        ValueError: for a head that we have no network for.
    """
    out: dict[str, Tensor] = {}
    for original, key in names(weights, family, encoder_only=encoder_only).items():
        out.update(_split(key, weights[original]))
    return _merged(out)


def origins(weights: Mapping[str, Tensor], family: str, *, encoder_only: bool = False) -> dict[str, str]:
    """What each entry of ``renamed`` is called in the file: for messages that a person can look up there."""
    out: dict[str, str] = {}
    for original, key in names(weights, family, encoder_only=encoder_only).items():
        out |= dict.fromkeys(_split(key, weights[original]), original)
    for key, original in list(out.items()):
        if ".attention.key." in key and (value := out.get(key.replace(".attention.key.", ".attention.value."))):
            out[key.replace(".attention.key.", ".attention.key_value.")] = f"{original}, {value}"
    return out


def names(keys: Iterable[str], family: str, *, encoder_only: bool) -> dict[str, str]:
    """Our name for each of a file's, where entries are neither split nor merged; those that nothing needs are left out.

    Raises:
        ValueError: as for ``renamed``.
    """
    code = FAMILIES[family]
    out: dict[str, str] = {}
    for original in keys:
        key = without_wrappers(original)
        for prefix in code.prefixes:
            key = key.removeprefix(prefix)
        if any(re.search(pattern, key) for pattern in code.unused):
            continue
        for pattern, what in code.refused.items():
            if re.search(pattern, key) and not encoder_only:
                raise ValueError(f"{original} belongs to {what}; read the encoder alone (encoder_only=True)")
        for pattern, name in code.renames:
            key = re.sub(pattern, _filled(name), key)
        if not encoder_only or key.startswith("encoder."):
            out[original] = key
    return out


def _filled(name: str) -> Callable[[re.Match[str]], str]:
    def fill(match: re.Match[str]) -> str:
        found = next((g for g in match.groups() if g is not None), "0")
        return name.replace("{1}", found).replace("{-1}", str(int(found) - 1))

    return fill


def _split(key: str, value: Tensor) -> dict[str, Tensor]:
    """One entry as those that we have instead of it."""
    layer, _, kind = key.rpartition(".")
    if layer == "decoder.fuse":  # one convolution of the levels concatenated as P4, P3, P2, P1
        return {f"decoder.fuse.{3 - i}.{kind}": block for i, block in enumerate(value.flatten(1).chunk(4, dim=1))}
    if layer.endswith(".query_key_value"):
        query, key_part, value_part = value.chunk(3)
        base = layer.removesuffix("query_key_value")
        return {f"{base}query.{kind}": query, f"{base}key.{kind}": key_part, f"{base}value.{kind}": value_part}
    if kind == "weight" and (layer == "decoder.predict" or layer.endswith((".fc1", ".fc2"))):
        return {key: value.flatten(1)}  # convolutions of size 1, elsewhere
    return {key: value}


def _merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys and values of attention, where they are apart, as one layer; where one is missing the other is left as it is."""
    out = dict(weights)
    for name, key in weights.items():
        if ".attention.key." in name:
            other = name.replace(".attention.key.", ".attention.value.")
            if other in weights:
                both = torch.cat([key, weights[other]])
                out[name.replace(".attention.key.", ".attention.key_value.")] = both
                del out[name], out[other]
    return out
