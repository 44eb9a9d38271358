"""How good a network is on the validation cases, on the network's grid: Dice of each label, or accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg3d.inference.decode import decode_labels
from medseg3d.inference.windows import sliding_logits
from medseg3d.networks.slices import SliceNetwork
from medseg3d.preprocessing import NetworkGrid
from medseg3d.task import Task
from medseg3d.training.cache import IGNORED, PreparedCase
from medseg3d.training.dataset import encode_labels
from medseg3d.training.sampling import crop_padded
from medseg3d.volume import AxisMap


def score_names(task: Task) -> list[str]:
    """What ``case_scores`` returns for each case, in order."""
    return ["accuracy"] if task.kind == "classification" else [f"dice_{name}" for name in task.labels]


def mean_score(scores: Mapping[str, float]) -> float:
    """The mean over labels, by which the best checkpoint is chosen; labels that no case has do not count."""
    values = [v for v in scores.values() if not np.isnan(v)]
    return float(np.mean(values)) if values else float("nan")


@torch.no_grad()
def case_scores(
    network: nn.Module,
    cases: Sequence[PreparedCase],
    *,
    task: Task,
    roi_size: Sequence[int],
    overlap: float,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> list[list[float]]:
    """For each case each label's Dice (NaN where neither reference nor prediction has it), or whether its class is right.

    Args:
        network: is put into eval mode.
        cases: prepared cases with reference.
        task: of the run.
        roi_size: window, in voxels (of slices, in each).
        overlap: of neighbouring windows.
        device: where the network is.
        autocast: type to compute in, or None.
    """
    network.eval()
    seen, window = network, tuple(roi_size)
    if task.slices:
        seen, window = SliceNetwork(network, task.neighbours), (1, *window)
    scores = []
    for case in cases:
        image = case.image.to(device)
        if task.kind == "classification":
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                logits = network(centred(image, roi_size)[None])
            scores.append([float(int(logits.argmax()) == case.class_index)])
        else:
            coarse = sliding_logits(seen, image, roi_size=window, overlap=overlap, autocast=autocast)
            scores.append(dice_per_label(coarse, case, seen.stride, task))  # type: ignore[arg-type]
    return scores


def mean_scores(scores: Sequence[Sequence[float]], task: Task) -> dict[str, float]:
    """The mean of ``case_scores`` over cases, by name; cases where a label has none do not count."""
    table = np.array(scores).reshape(len(scores), len(score_names(task)))
    counted = ~np.isnan(table)
    means = np.where(counted, table, 0).sum(0) / np.where(counted.any(0), counted.sum(0), np.nan)
    return dict(zip(score_names(task), map(float, means), strict=True))


def centred(image: Tensor, size: Sequence[int]) -> Tensor:
    """The box of ``size`` in the middle of ``(C, *s)``, with zeros where the image is smaller."""
    return crop_padded(image, [(n - w) // 2 for n, w in zip(image.shape[1:], size, strict=True)], size)


def dice_per_label(coarse: Tensor, case: PreparedCase, stride: int | Sequence[int], task: Task) -> list[float]:
    """Dice of each label between what logits at a stride mean and a case's reference; NaN where neither has the label.

    Args:
        coarse: logits ``(K, *s)``.
        case: with its reference.
        stride: of the logits, one or one per axis.
        task: of the network.
    """
    assert case.target is not None
    dims = coarse.ndim - 1
    here = AxisMap(tuple(range(dims)), (0.0,) * dims, (1.0,) * dims)
    grid = NetworkGrid(case.grid.grid, here, case.grid.shape)
    prediction = encode_labels(decode_labels(coarse, grid, stride, task), task)
    return dice_from_codes(case.target[0].numpy(), prediction, task)


def dice_from_codes(reference: NDArray[np.uint8], prediction: NDArray[np.uint8], task: Task) -> list[float]:
    """Dice of each label from two maps as ``encode_labels`` gives them, by one joint count of their values."""
    if task.regions:
        inside = np.array([[False] + [v in ids for v in task.values] for ids in task.labels.values()], dtype=np.int64)
    else:
        inside = np.eye(len(task.labels) + 1, dtype=np.int64)[1:]
    codes = inside.shape[1]
    judged = reference != IGNORED
    reference, prediction = reference[judged], prediction[judged]
    joint = np.bincount((reference.astype(np.int64) * codes + prediction).ravel(), minlength=codes**2).reshape(
        codes, codes
    )
    both = np.einsum("ki,ij,kj->k", inside, joint, inside)
    sizes = inside @ joint.sum(1) + inside @ joint.sum(0)
    return [float(2 * b / s) if s else float("nan") for b, s in zip(both, sizes, strict=True)]
