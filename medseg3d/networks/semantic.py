"""Labels and loss of coarse logits as Hugging Face's SegFormer defines them, in 2D and 3D.

Source: the documentation and measured behaviour of ``transformers`` 5; tests/test_pretrained.py compares the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255
"""Label value that no loss is computed for."""
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def label_maps(logits: Tensor, target_sizes: Sequence[Sequence[int]] | None = None) -> list[Tensor]:
    """The class of every pixel, each image at a size of its own: ``post_process_semantic_segmentation``.

    Args:
        logits: of a batch, at any stride.
        target_sizes: size of each image; None: that of the logits.

    Shape: ``(B, K, *s)`` to B maps ``(*size)`` of class indices.

    Raises:
        ValueError: where there are not as many sizes as images.
    """
    if target_sizes is None:
        return list(logits.argmax(1))
    if len(target_sizes) != len(logits):
        raise ValueError(f"{len(target_sizes)} target sizes for a batch of {len(logits)}; give one for each image")
    return [_upsampled(image[None], size)[0].argmax(0) for image, size in zip(logits, target_sizes, strict=True)]


def semantic_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Cross-entropy of coarse logits, upsampled, against full-size labels; binary where there is a single class.

    Args:
        logits: of a batch, at any stride.
        labels: class indices, or ``ignore_index``, where there is no loss. With one class: 0 or 1; its mean is over all
            pixels, the ignored ones too.

    Shape: ``(B, K, *s)`` and ``(B, *size)`` to a scalar.
    """
    full = _upsampled(logits, labels.shape[1:])
    if full.shape[1] > 1:
        return F.cross_entropy(full, labels, ignore_index=ignore_index)
    valid = (labels >= 0) & (labels != ignore_index)
    losses = F.binary_cross_entropy_with_logits(full[:, 0], labels.to(full.dtype), reduction="none")
    return (losses * valid).mean()


def reduced_labels(labels: Tensor) -> Tensor:
    """Labels without their background class: 1 becomes 0 and so on, and 0 becomes 255, to be ignored; 255 stays."""
    ignored = (labels == 0) | (labels == IGNORE_INDEX)
    return torch.where(ignored, torch.full_like(labels, IGNORE_INDEX), labels - (~ignored).to(labels.dtype))


def _upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode=MODES[logits.ndim - 2], align_corners=False)
