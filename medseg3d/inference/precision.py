"""The type to compute in, as the processor or GPU has it."""

from __future__ import annotations

import torch

from medseg3d.checks import ConfigError

PRECISIONS = ("auto", "bf16", "float32")


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to compute in on a device, or None for the network's own float32.

    Raises:
        ConfigError: for a precision that is none of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if precision == "float32" or (precision == "auto" and not computes_bf16(device)):
        return None
    return torch.bfloat16


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has arithmetic of its own for bfloat16; elsewhere bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
