"""Published weights under every naming: the same outputs as the codes they come from, and plain words where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg3d.networks import MixTransformer, SegFormer, SegFormerClassifier, build_network, segformer3d
from medseg3d.networks.naming import renamed
from medseg3d.networks.pretrained import config_of, from_state_dict
from medseg3d.networks.semantic import label_maps, reduced_labels, semantic_loss
from tests.test_networks import filled, noise, published_shapes, relative_error

SIZES = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 2, 1, 1], "decoder_hidden_size": 32}
IMAGE = (64, 96)
KINDS = ("SegformerModel", "SegformerForSemanticSegmentation", "SegformerForImageClassification")


def theirs(kind: str = "SegformerForSemanticSegmentation", **options) -> torch.nn.Module:
    """A model of transformers with weights that are not its small random ones, so that a wrong scale shows."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is the reference; it is in the 'test' extra"
    )
    model = getattr(transformers, kind)(transformers.SegformerConfig(**{**SIZES, "num_labels": 5, **options})).eval()
    return filled(model)


def old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names in files, which transformers before version 5 had in memory, too."""
    import re

    out = {}
    for key, value in weights.items():
        for pattern, name in (
            (r"stages\.(\d)\.patch_embeddings\.", r"encoder.patch_embeddings.\1."),
            (r"stages\.(\d)\.blocks\.", r"encoder.block.\1."),
            (r"stages\.(\d)\.layer_norm\.", r"encoder.layer_norm.\1."),
            (r"attention\.sequence_reduction\.sequence_reduction", "attention.self.sr"),
            (r"attention\.sequence_reduction\.layer_norm", "attention.self.layer_norm"),
            (r"q_proj", "self.query"),
            (r"k_proj", "self.key"),
            (r"v_proj", "self.value"),
            (r"o_proj", "output.dense"),
            (r"mlp\.fc", "mlp.dense"),
            (r"layernorm_before", "layer_norm_1"),
            (r"layernorm_after", "layer_norm_2"),
            (r"linear_projections", "linear_c"),
        ):
            key = re.sub(pattern, name, key)
        out[key] = value
    return out


@pytest.mark.parametrize("naming", [dict, old_names], ids=["new names", "names in files"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_those_of_transformers(kind, naming) -> None:
    model = theirs(kind)
    network = from_state_dict(naming(model.state_dict()))
    image = noise(2, 3, *IMAGE)
    with torch.no_grad():
        expected = model(image, output_hidden_states=True)
        if kind == KINDS[0]:
            assert isinstance(network, MixTransformer)
            for ours, other in zip(network(image).values(), expected.hidden_states, strict=True):
                assert relative_error(ours, other) < 1e-5
        elif kind == KINDS[1]:
            assert isinstance(network, SegFormer)
            assert network.config["out_channels"] == 5
            assert relative_error(network.forward_coarse(image), expected.logits) < 1e-5
        else:
            assert isinstance(network, SegFormerClassifier)
            assert relative_error(network(image), expected.logits) < 1e-5


def test_the_real_b0_equals_transformers() -> None:
    widths, depths, decoder = PUBLISHED["b0"]
    model = theirs(hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder, num_labels=150)
    network = from_state_dict(model.state_dict())
    assert sum(p.numel() for p in network.parameters()) == 3_752_694
    image = noise(1, 3, 128, 96)
    with torch.no_grad():
        assert relative_error(network.forward_coarse(image), model(image).logits) < 1e-5


WIDE = [64, 128, 320, 512]
PUBLISHED = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b1": (WIDE, [2, 2, 2, 2], 256),
    "b2": (WIDE, [3, 4, 6, 3], 768),
    "b3": (WIDE, [3, 4, 18, 3], 768),
    "b4": (WIDE, [3, 8, 27, 3], 768),
    "b5": (WIDE, [3, 6, 40, 3], 768),
}
"""Widths, depths and decoder width of every published SegFormer."""


@pytest.mark.parametrize("size", list(PUBLISHED)[1:])
def test_every_size_has_the_entries_of_transformers(size) -> None:
    """Without numbers: names and shapes, on torch's meta device."""
    transformers = pytest.importorskip("transformers")
    widths, depths, decoder = PUBLISHED[size]
    config = transformers.SegformerConfig(
        hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder, num_labels=150
    )
    with torch.device("meta"):
        weights = transformers.SegformerForSemanticSegmentation(config).state_dict()
        found = renamed(weights, "huggingface")
        network = build_network(config_of(found, title="it", heads=(1, 2, 5, 8)))
    assert network.config["depths"] == depths
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", list(PUBLISHED)[1:])
def test_every_size_gives_the_outputs_of_transformers(size) -> None:
    """Every level of the encoder and the logits: the numbers, through up to 52 blocks."""
    widths, depths, decoder = PUBLISHED[size]
    model = theirs(hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder)
    network = from_state_dict(model.state_dict())
    image = noise(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image, output_hidden_states=True)
        for ours, other in zip(network.encoder(image).values(), expected.hidden_states, strict=True):
            assert relative_error(ours, other) < 1e-5
        assert relative_error(network.forward_coarse(image), expected.logits) < 1e-5


def test_other_sizes_differ_only_in_padding() -> None:
    """At 80 x 72 they drop the border tokens that do not fill a key's block; ours pads with zeros: same shape, other numbers."""
    model = theirs()
    network = from_state_dict(model.state_dict())
    image = noise(1, 3, 80, 72)
    with torch.no_grad():
        ours, other = network.forward_coarse(image), model(image).logits
        assert ours.shape == other.shape
        assert 1e-5 < relative_error(ours, other) < 1


def image_processor(**options):
    """The one of transformers; since version 5 the one without torchvision has a name of its own."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, "SegformerImageProcessorPil", None) or transformers.SegformerImageProcessor
    return kind(**options)


def test_label_maps_and_loss_are_those_of_transformers() -> None:
    model = theirs()
    image = noise(2, 3, *IMAGE)
    labels = (noise(2, *IMAGE, seed=5) * 10).long().remainder(5)
    labels[:, :20] = 255
    with torch.no_grad():
        model.decode_head.classifier.bias -= model(image).logits.mean((0, 2, 3))  # else one class is everywhere
        network = from_state_dict(model.state_dict())
        expected = model(image, labels=labels)
        logits = network.forward_coarse(image)
        assert abs(semantic_loss(logits, labels) - expected.loss) < 1e-5
    processor = image_processor()
    sizes = [(64, 96), (50, 101)]
    for target in (sizes, None):
        other = processor.post_process_semantic_segmentation(expected, target)
        assert len(other) == 2
        for mine, near, his in zip(label_maps(expected.logits, target), label_maps(logits, target), other, strict=True):
            assert torch.equal(mine, his)  # of the same logits
            assert near.shape == his.shape
            assert (near == his).float().mean() > 0.999  # of our own, which differ by rounding
            assert len(his.unique()) > 2
    with pytest.raises(ValueError, match="3 target sizes for a batch of 2"):
        label_maps(logits, [(1, 1)] * 3)
    binary = theirs(num_labels=1)
    masks = (labels % 2).where(labels != 255, labels)
    with torch.no_grad():
        ours = semantic_loss(from_state_dict(binary.state_dict()).forward_coarse(image), masks)
        assert abs(ours - binary(image, labels=masks).loss) < 1e-5


def test_reduced_labels_by_hand() -> None:
    labels = torch.tensor([0, 1, 2, 150, 254, 255])
    assert reduced_labels(labels).tolist() == [255, 0, 1, 149, 253, 255]
    assert reduced_labels(labels.to(torch.uint8)).dtype == torch.uint8


def test_reduced_labels_and_their_loss_are_those_of_transformers() -> None:
    """As its image processor prepares label maps (``do_reduce_labels``), and what its model makes of them."""
    processor = image_processor(do_reduce_labels=True, do_resize=False)
    maps = (noise(2, *IMAGE, seed=7) * 10).long().remainder(6)  # 0: unlabelled, then five classes
    maps[:, :4] = 255
    image = noise(2, 3, *IMAGE)
    given = {"images": [np.zeros((*IMAGE, 3), np.uint8)] * 2, "segmentation_maps": list(maps.numpy().astype(np.uint8))}
    theirs_reduced = torch.stack([torch.as_tensor(m) for m in processor(**given, return_tensors="pt")["labels"]]).long()
    ours = reduced_labels(maps)
    assert torch.equal(ours, theirs_reduced)
    assert set(ours.unique().tolist()) == {0, 1, 2, 3, 4, 255}
    model = theirs()
    with torch.no_grad():
        expected = model(image, labels=theirs_reduced).loss
        found = semantic_loss(from_state_dict(model.state_dict()).forward_coarse(image), ours)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        # Where nothing is labelled nothing is learned: the loss does not change with what the network says there.
        logits = from_state_dict(model.state_dict())(image)
        other = torch.where((ours == 255)[:, None], torch.zeros(()), logits)
        assert semantic_loss(other, ours).item() == pytest.approx(semantic_loss(logits, ours).item(), rel=1e-6)


def nvlabs_names(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of one of our networks under the names of the NVlabs code, written out once more, by other rules."""
    out = {}
    for key, value in network.state_dict().items():
        parts = key.removeprefix("encoder.").split(".")
        if parts[0] == "stages":
            stage = int(parts[1]) + 1
            if parts[2] == "embed":
                out[f"patch_embed{stage}.{parts[3]}.{parts[4]}"] = value
            elif parts[2] == "norm":
                out[f"norm{stage}.{parts[3]}"] = value
            else:
                inner = ".".join(parts[4:])
                inner = inner.replace("attention.", "attn.").replace("query.", "q.").replace("key_value.", "kv.")
                inner = inner.replace("reduce_norm.", "norm.").replace("reduce.", "sr.")
                inner = inner.replace("ffn.dwconv.", "mlp.dwconv.dwconv.").replace("ffn.", "mlp.")
                out[f"block{stage}.{parts[3]}.{inner}"] = value
        elif key.startswith("decoder.project."):
            out[f"decode_head.linear_c{int(parts[2]) + 1}.proj.{parts[3]}"] = value
        elif key.startswith("decoder.norm."):
            out[f"decode_head.linear_fuse.bn.{parts[2]}"] = value
        elif key.startswith("decoder.predict."):
            out[f"decode_head.linear_pred.{parts[2]}"] = value[..., None, None] if parts[2] == "weight" else value
        elif not key.startswith("decoder.fuse."):
            out[key] = value
    if "decoder.fuse.0.weight" in network.state_dict():
        blocks = [network.state_dict()[f"decoder.fuse.{i}.weight"] for i in (3, 2, 1, 0)]
        out["decode_head.linear_fuse.conv.weight"] = torch.cat(blocks, 1)[..., None, None]
    return out


def mmseg_names(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of one of our encoders under the names of MMSegmentation."""
    out = {}
    for key, value in encoder.state_dict().items():
        _, stage, what, *rest = key.split(".")
        name = ".".join(rest)
        if what == "embed":
            out[f"layers.{stage}.0.{name.replace('proj.', 'projection.')}"] = value
        elif what == "norm":
            out[f"layers.{stage}.2.{name}"] = value
        else:
            block, inner = name.split(".", 1)
            kind = inner.rsplit(".", 1)[1]
            if ".query." in inner:
                both = encoder.state_dict()[key.replace(".query.", ".key_value.")]
                out[f"layers.{stage}.1.{block}.attn.attn.in_proj_{kind}"] = torch.cat([value, both])
            elif ".key_value." not in inner:
                for old, new in (
                    ("attention.proj", "attn.attn.out_proj"),
                    ("attention.reduce_norm", "attn.norm"),
                    ("attention.reduce", "attn.sr"),
                    ("ffn.fc1", "ffn.layers.0"),
                    ("ffn.dwconv", "ffn.layers.1"),
                    ("ffn.fc2", "ffn.layers.4"),
                ):
                    inner = inner.replace(old, new)
                one_by_one = kind == "weight" and (".layers.0." in inner or ".layers.4." in inner)
                out[f"layers.{stage}.1.{block}.{inner}"] = value[..., None, None] if one_by_one else value
    return out


ENCODER = {"widths": [8, 16, 40, 64], "depths": [1, 2, 1, 1]}
NVLABS = {**ENCODER, "norm_eps": 1e-6, "conv_norm_eps": 1e-5}


@pytest.mark.parametrize(
    ("network", "names", "prefix"),
    [
        (MixTransformer(2, 3, **NVLABS), nvlabs_names, ""),
        (SegFormerClassifier(2, 3, 7, **NVLABS), nvlabs_names, "module."),
        (MixTransformer(2, 3, **NVLABS), nvlabs_names, "backbone."),
        (MixTransformer(2, 3, **ENCODER, norm_eps=1e-6), mmseg_names, ""),
        (MixTransformer(2, 3, **ENCODER, norm_eps=1e-6), mmseg_names, "backbone."),
    ],
)
def test_nvlabs_and_mmseg_names_are_read(network, names, prefix) -> None:
    network = filled(network)
    again = from_state_dict({prefix + key: value for key, value in names(network).items()})
    built = {**network.config, "reductions": [8, 4, 2, 1]}
    assert {k: again.config[k] for k in built if k in again.config} == {
        k: v for k, v in built.items() if k in again.config
    }
    assert again.config["norm_eps"] == 1e-6
    assert again.config.get("conv_norm_eps") == network.config.get("conv_norm_eps")
    mine, theirs = again.state_dict(), network.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_whole_nvlabs_segformer_is_read_without_its_unused_layer() -> None:
    network = filled(SegFormer(2, 3, 4, decoder_width=32, **NVLABS))
    weights = {("" if "decode_head" in k else "backbone.") + k: v for k, v in nvlabs_names(network).items()}
    weights |= {"decode_head.conv_seg.weight": torch.zeros(4, 128, 1, 1), "decode_head.conv_seg.bias": torch.zeros(4)}
    again = from_state_dict(weights)
    image = noise(1, 3, *IMAGE)
    with torch.no_grad():
        assert torch.equal(again(image), network(image))


def test_mmsegs_own_head_is_refused_and_its_encoder_read() -> None:
    network = filled(MixTransformer(2, 3, **ENCODER, norm_eps=1e-6))
    weights = {f"backbone.{k}": v for k, v in mmseg_names(network).items()}
    weights["decode_head.convs.0.conv.weight"] = torch.zeros(32, 8, 1, 1)
    with pytest.raises(
        ValueError, match=r"decode_head\.convs\.0\.conv\.weight belongs to a head with a BatchNorm and a ReLU"
    ):
        from_state_dict(weights)
    again = from_state_dict(weights, encoder_only=True)
    assert torch.equal(again.stages[3].blocks[0].ffn.fc2.weight, network.stages[3].blocks[0].ffn.fc2.weight)


@pytest.mark.parametrize("scale", ["sqrt_head_dim", "sqrt_num_heads"])
@pytest.mark.parametrize("extras", [True, False])
def test_segformer3d_with_and_without_its_normalisations_and_biases(extras, scale) -> None:
    shapes = published_shapes()
    if not extras:
        out = (".dwconv.bn.", "query.bias", "key_value.bias")
        shapes = {k: s for k, s in shapes.items() if not any(o in k for o in out) and ".bn." not in k}
    weights = {
        key: noise(*shape, seed=i) if shape else torch.tensor(0) for i, (key, shape) in enumerate(shapes.items())
    }
    network = from_state_dict(weights, attention_scale=scale)
    options = {} if extras else {"ffn_norm": False, "decoder_norm": False, "qkv_bias": False}
    same = segformer3d(4, 3, attention_scale=scale, **options)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in same.state_dict().items()}
    assert network.config["attention_scale"] == scale
    assert torch.equal(
        network.decoder.fuse[3].weight, weights["segformer_decoder.linear_fuse.0.weight"][:, :256, 0, 0, 0]
    )


def test_the_attention_scale_of_segformer3d_must_be_given() -> None:
    with pytest.raises(ValueError, match="two attention scales"):
        from_state_dict({k: torch.zeros(s) for k, s in published_shapes().items()})


def test_all_missing_unknown_and_misshapen_entries_are_named() -> None:
    """Under our names, and where the file has them under its own: nothing else is complained about."""
    weights = old_names(theirs().state_dict())
    gone = ["segformer.encoder.block.1.0.attention.self.value.weight", "decode_head.batch_norm.bias"]
    for key in gone:
        del weights[key]
    weights |= {"surplus": torch.zeros(1), "segformer.extra.weight": torch.zeros(2)}
    weights["decode_head.linear_c.2.proj.weight"] = torch.zeros(32, 41)
    with pytest.raises(ValueError, match="does not fit Hugging Face SegFormer") as caught:
        from_state_dict(weights)
    assert str(caught.value).partition(": ")[2].split("; ") == [
        "2 missing: decoder.norm.bias, encoder.stages.1.blocks.0.attention.value.weight",
        "2 unknown: segformer.extra.weight, surplus",
        "1 of another shape: decoder.project.2.weight (decode_head.linear_c.2.proj.weight) (32, 41) in place of (32, 40)",
    ]


@pytest.mark.parametrize("half", ["key", "value"])
def test_half_of_what_is_one_layer_here_is_misshapen(half) -> None:
    weights = old_names(theirs().state_dict())
    name = f"segformer.encoder.block.0.0.attention.self.{half}.weight"
    weights[name] = weights[name][:3]
    with pytest.raises(
        ValueError, match=r"1 of another shape: .*self\.key\.weight, .*self\.value\.weight\) \(11, 8\) in"
    ):
        from_state_dict(weights)


@pytest.mark.parametrize("names", ["nvlabs", "mmseg", "segformer3d"])
def test_they_are_named_for_every_code(names) -> None:
    if names == "segformer3d":
        weights = {k: torch.zeros(s) for k, s in published_shapes().items()}
        gone, ours = "segformer_encoder.tf_block2.1.mlp.fc1.bias", "encoder.stages.1.blocks.1.ffn.fc1.bias"
    else:
        encoder = MixTransformer(2, 3, **ENCODER, norm_eps=1e-6)
        weights = {"nvlabs": nvlabs_names, "mmseg": mmseg_names}[names](encoder)
        gone = {"nvlabs": "block2.1.mlp.fc1.bias", "mmseg": "layers.1.1.1.ffn.layers.0.bias"}[names]
        ours = "stages.1.blocks.1.ffn.fc1.bias"
    del weights[gone]
    extra = gone.replace("fc1", "fc7").replace("layers.0.bias", "layers.9.bias")
    weights[f"module.{extra}"] = torch.zeros(1)
    with pytest.raises(ValueError, match="does not fit") as caught:
        from_state_dict(weights, attention_scale="sqrt_head_dim")
    assert str(caught.value).endswith(f": 1 missing: {ours}; 1 unknown: module.{extra}")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "0 entries"),
        ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, r"2 entries \(conv1.weight, fc.bias"),
        ({"patch_embed1.proj.weight": torch.zeros(8, 3, 7, 7)}, "missing encoder.stages.1.embed.proj.weight"),
    ],
)
def test_weights_of_another_architecture(weights, words) -> None:
    with pytest.raises(ValueError, match=words):
        from_state_dict(weights)


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 must be divisible"):
        from_state_dict(theirs().state_dict(), heads=(3, 2, 5, 8))


def test_mmsegs_packed_attention_is_torchs_multihead_attention() -> None:
    """Its in_proj holds queries, keys and values, in this order: the same numbers as the module it stores."""
    torch.manual_seed(0)
    encoder = MixTransformer(2, 3, **ENCODER, norm_eps=1e-6)
    weights = mmseg_names(filled(encoder))
    name = "layers.3.1.0.attn.attn."
    packed = torch.nn.MultiheadAttention(64, 8, batch_first=True).eval()
    packed.load_state_dict({key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)})
    attention = from_state_dict(weights).stages[3].blocks[0].attention
    tokens = noise(1, 2, 3, 64)
    with torch.no_grad():
        expected = packed(*[tokens.flatten(1, 2)] * 3)[0]
        assert relative_error(attention(tokens).flatten(1, 2), expected) < 1e-5
