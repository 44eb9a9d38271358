"""Whether an exported model is the model: the same logits on images of several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medseg3d.checks import ModelError
from medseg3d.inference.model import TrainedModel

SEED = 20210531


def thin(model: TrainedModel) -> tuple[bool, ...]:
    """Which axes of the window hold one cell of the coarsest level: a special case to tracers, which may fix such an axis."""
    encoder: Any = model.network.encoder
    cells = [math.prod(stage[axis] for stage in encoder.strides) for axis in range(len(model.roi_size))]
    return tuple(n <= cell for n, cell in zip(model.roi_size, cells, strict=True))


def sizes_for(model: TrainedModel) -> tuple[tuple[int, ...], ...]:
    """The model's window, and an image whose axes are all different and fit nothing, but where the window is thin."""
    dims = model.task.network_dims
    odd = [45, 66, 51] if dims == 3 else [93, 70]
    odd = [own if fixed else n for n, own, fixed in zip(odd, model.roi_size, thin(model), strict=True)]
    # A window can be large; what is compared is the function, not the memory.
    window = tuple(min(n, 96 if dims == 3 else 512) for n in model.roi_size)
    return window, tuple(odd)


@torch.no_grad()
def compared(
    model: TrainedModel, run: Callable[[Tensor], Tensor], tolerance: float, *, what: str
) -> tuple[float, tuple[tuple[int, ...], ...]]:
    """The largest difference between a model's logits and those of what was exported, relative to the largest logit.

    Args:
        model: the original.
        run: the exported model, read back.
        tolerance: the largest difference that counts as equal.
        what: it is, for messages.

    Returns:
        The difference, and the sizes of the images it was found on.

    Raises:
        ModelError: where it is larger, or not a number, or the exported model does not run.
    """
    random = torch.Generator().manual_seed(SEED)
    worst, sizes = 0.0, sizes_for(model)
    for batch, size in enumerate(sizes, start=1):
        image = torch.randn(batch, len(model.task.inputs), *size, generator=random)
        try:
            found = run(image)
        except Exception as error:  # whatever another runtime raises
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{what} does not run on an image of {size} ({reason}); nothing was written") from error
        expected = model.network(image)
        if found.shape != expected.shape:
            raise ModelError(
                f"{what} gives {tuple(found.shape)} for {tuple(image.shape)}, and the original {tuple(expected.shape)}"
            )
        difference = float((found - expected).abs().max() / expected.abs().max())
        worst = max(worst, difference) if math.isfinite(difference) else math.inf
    if not worst <= tolerance:
        raise ModelError(
            f"{what} is not the model: its logits differ by {worst:.1e} of the largest, and {tolerance:.0e} is allowed; "
            "nothing was written"
        )
    return worst, sizes
