"""Networks from files of weights: published ones, Hugging Face folders and names, and what ``export`` writes.

Files are data here: torch files are read with ``weights_only``, configs are JSON, and nothing in them is run.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from medseg3d.checks import ModelError, some_names
from medseg3d.networks import build_network
from medseg3d.networks.naming import FAMILIES, family_of
from medseg3d.networks.pretrained import HEADS, from_state_dict, load_strictly

logger = logging.getLogger(__name__)

CONFIG = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin")
"""Where the weights of a Hugging Face folder lie, in order of preference."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Under one of these keys training codes store the state dict beside other things."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WITHOUT_HUB = (
    f"without a network fetch {CONFIG} and {FILES[0]} on another machine, and give the folder that they lie in"
)
FIXED = {"hidden_act": "gelu", "patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "num_encoder_blocks": 4}
"""What a Hugging Face config may say differently, and our networks are not."""
OLD_SCALE = "sqrt_num_heads"
HEADER = "medseg3d"
"""Key of a safetensors file's header under which ``export`` puts the model's section of metadata, as JSON."""


def read_network(
    source: str | Path,
    *,
    heads: Sequence[int] | None = None,
    attention_scale: str | None = None,
    encoder_only: bool = False,
) -> nn.Module:
    """The network of published weights, with those weights, in eval mode on the CPU.

    Args:
        source: a file (.safetensors, .bin, .pt, .pth), a folder with ``config.json`` (Hugging Face, or of ``export --to
            hf``), or a name on the Hugging Face hub such as ``nvidia/mit-b0``.
        heads: attention heads per stage; default what ``config.json`` says, else 1, 2, 5, 8.
        attention_scale: of weights in the naming of the published SegFormer3D; default ``sqrt_num_heads``, which the public
            BraTS weights need.
        encoder_only: read the encoder, and leave out a head.

    Returns:
        ``SegFormer``, ``SegFormerClassifier`` or ``MixTransformer``.

    Raises:
        ModelError: for what cannot be read or does not fit; all entries that do not are named.
    """
    path = locate(source)
    config = _config_beside(path)
    weights = unwrapped(read_weights(path, plain=False), path)
    require_finite(weights, path)
    try:
        if "network" in config:
            network = build_network(config["network"])
            load_strictly(network, weights, "the network that the file names")
            return network.eval()
        family = family_of(weights)
        if family == "segformer3d" and attention_scale is None:
            attention_scale = OLD_SCALE
            logger.warning(
                "%s: its attention scale cannot be seen in the weights; taken as %s, which the published BraTS weights of "
                "2024 need (code after November 2025: --attention-scale sqrt_head_dim)",
                path.name,
                OLD_SCALE,
            )
        network = from_state_dict(
            weights,
            heads=heads or config.get("num_attention_heads", HEADS),
            attention_scale=attention_scale,
            encoder_only=encoder_only,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from None
    logger.info("%s: %s, read as %s", path.name, FAMILIES[family].title, described(network))
    return network


def family_in(path: Path) -> str:
    """Whose naming the weights in a file have: a key of ``naming.FAMILIES``.

    Raises:
        ModelError: for what cannot be read, or has the naming of none.
    """
    try:
        return family_of(unwrapped(read_weights(path, plain=False), path))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None


def locate(source: str | Path) -> Path:
    """The file of weights that a file, a folder or a name on the hub stands for.

    Raises:
        ModelError: where there is none, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        found = found or [file for file in path.iterdir() if file.suffix in SUFFIXES]
        if len(found) != 1 and (not found or found[0].name not in FILES):
            listed = some_names(sorted(file.name for file in found))
            raise ModelError(f"{path} holds none of {', '.join(FILES)}, but {listed}; give the file of weights itself")
        return found[0]
    if path.is_file():
        return path
    if path.suffix or not HUB_NAME.fullmatch(str(source)):
        raise ModelError(f"no file or folder {source}; a name on the Hugging Face hub looks like nvidia/mit-b0")
    return _from_hub(str(source))


def _from_hub(name: str) -> Path:
    """The weights of a repository on the hub, from its cache where they are there already."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise ModelError(
            f"{name} is no file or folder here, and for names on the hub huggingface_hub is needed: pip install "
            "'medseg3d[hub]', or download the folder and give its path"
        ) from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG, *FILES]))
    except RepositoryNotFoundError as error:  # also what may only be read with an account
        raise ModelError(
            f"{name} is no file or folder here, and the Hugging Face hub shows no repository of that name ({_reason(error)}); is "
            "it spelt as there? For a private or gated one log in first: hf auth login"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"{name} is no file or folder here, and the Hugging Face hub cannot be reached ({_reason(error)}); {WITHOUT_HUB}"
        ) from None
    return locate(folder)


def _reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _config_beside(path: Path) -> dict[str, Any]:
    """What ``config.json`` beside the weights of a Hugging Face folder says, or the header of an exported file."""
    if path.suffix == ".safetensors" and (section := header(path)):
        return section
    file = path.with_name(CONFIG)
    if path.name not in FILES or not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON ({error})") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ("segformer", "medseg3d"):
        raise ModelError(f"{file}: model_type {kind!r} is neither segformer nor medseg3d")
    for key, value in FIXED.items():
        if kind == "segformer" and config.get(key, value) != value:
            raise ModelError(f"{file}: {key} is {config[key]}, and a SegFormer of medseg3d has {value}")
    return dict(config)


def header(path: Path) -> dict[str, Any]:
    """The model's section of metadata in the header of an exported safetensors file; empty in any other.

    Raises:
        ModelError: for a file that cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {}).get(HEADER, "{}")))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as weights ({error}); it is truncated, damaged or another kind of file"
        ) from None


def read_weights(path: Path, *, plain: bool = True) -> dict[str, Any]:
    """Tensors by name from a safetensors file, or a torch file.

    Args:
        path: the file.
        plain: refuse a torch file that holds anything but tensors.

    Raises:
        ModelError: for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = load_torch(path)
    except (OSError, SafetensorError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} cannot be read as weights ({reason}); it is truncated, damaged or another kind of file"
        ) from None
    if not isinstance(weights, Mapping) or (plain and not _is_state_dict(weights)):
        raise ModelError(f"{path} is no plain state dict; it must hold tensors by name and nothing else")
    return dict(weights)


def load_torch(path: Path) -> Any:
    """What a torch file holds: tensors and plain values. Nothing in it is run, and its own checksums are compared.

    Raises:
        ValueError: saying in a few words why it cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} does not match its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to switch the protection off.
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"code or objects ({found[1]})" if found else "something else than tensors and plain values"
        raise ValueError(f"it holds {what}, which is not run") from None
    except Exception as error:  # a file made to do harm may fail in any way
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def unwrapped(weights: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in a file, which training codes store beside other things.

    Raises:
        ModelError: where there is none.
    """
    for inner in (weights, *(weights.get(key) for key in CONTAINERS)):
        if isinstance(inner, Mapping) and _is_state_dict(inner):
            return dict(inner)
    raise ModelError(
        f"{path} holds no state dict: neither tensors by name, nor those under one of {', '.join(CONTAINERS)}"
    )


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are no numbers.

    Raises:
        ModelError: naming the first of them.
    """
    if broken := [k for k, t in weights.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]:
        raise ModelError(f"{path}: {some_names(broken)} hold NaN or infinite numbers; these weights cannot be used")


def _is_state_dict(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in values.values())


def described(network: Any) -> str:
    """A network in a few words, for logs and cards."""
    config, encoder = network.config, getattr(network, "encoder", network)
    channels = f"{config['in_channels']} channel{'s' if config['in_channels'] > 1 else ''}"
    classes = f", {config['out_channels']} classes" if "out_channels" in config else ", no head"
    widths = "/".join(map(str, encoder.widths))
    depths = "/".join(str(len(stage.blocks)) for stage in encoder.stages)
    return (
        f"{type(network).__name__} {config['spatial_dims']}D, {channels}{classes}, widths {widths}, depths "
        f"{depths}, {sum(p.numel() for p in network.parameters()):,} parameters"
    )
