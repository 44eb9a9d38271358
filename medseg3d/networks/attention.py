"""Attention without gradients, as fast as a processor can."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

SCORE_BYTES = 2**22
"""About how many bytes of scores are worked on at a time: what a processor's cache holds."""
LEAST_SCORES = 2**14
"""Fewer scores per head are left to torch's own kernel, in one call for all heads."""
MATRIX_TILES = bool(torch.cpu.get_capabilities().get("amx_bf16")) if hasattr(torch.cpu, "get_capabilities") else False
"""Whether the processor multiplies bfloat16 matrices by the tile: then torch's own attention is the faster one."""
LEAST_TOTAL = 1e-20
"""Sums of attention weights between this and its reciprocal lie well inside what bfloat16 can hold."""


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(scale * query @ key^T) @ value`` for ``(B, heads, N, d)``.

    In bfloat16 on a processor without matrix tiles (AMX) torch's own kernel spends its time on converting scores. Here they are
    bfloat16 from product to product, as the maps before and after them are, and their largest is not sought: where the sum of
    a query's weights leaves a range that is safe without, torch's kernel does it all.
    """
    queries, keys = query.shape[2], key.shape[2]
    plain = query.dtype != torch.bfloat16 or query.device.type != "cpu" or MATRIX_TILES
    if plain or queries * keys < LEAST_SCORES:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    # A shift of all keys shifts all scores of a query alike, which softmax does not see; it keeps them near 0.
    centred = (key - key.mean(2, keepdim=True)) * scale
    out = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)
    rows = max(1, SCORE_BYTES // (keys * query.element_size()))
    buffer = torch.empty(min(rows, queries), keys, dtype=query.dtype)
    for sample, head in itertools.product(range(query.shape[0]), range(query.shape[1])):
        at = (sample, head)
        k, v = centred[at].T.contiguous(), value[at].contiguous()
        for q, result in zip(query[at].split(rows), out[at].split(rows), strict=True):
            weights = torch.mm(q, k, out=buffer[: len(q)]).exp_()
            total = weights.sum(-1, keepdim=True)
            if not LEAST_TOTAL < float(total.min()) <= float(total.max()) < 1 / LEAST_TOTAL:
                return F.scaled_dot_product_attention(query, key, value, scale=scale)
            result.copy_(torch.mm(weights, v).div_(total))
    return out
