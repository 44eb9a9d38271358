"""What the expected Dice costs beside the logits it is counted on, at stride 4, slab by slab, on one thread.

python -m benchmarks.expected_dice [--json FILE] [--quick]
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from benchmarks.measure import arguments, interleaved, report
from medseg3d import Task
from medseg3d.inference.confidence import Disagreement
from medseg3d.inference.windows import ROWS_BYTES

REGIONS = {"labels": {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}, "write": {"WT": 1, "TC": 2, "ET": 3}}
SIDES = {
    "brats": ("4 x 240 x 240 x 155, 3 regions", (60, 60, 39), REGIONS),
    "ct": ("512 x 512 x 128, 14 classes", (32, 128, 128), {"labels": {f"c{i}": [i] for i in range(1, 14)}}),
    "whole_body": ("512 x 512 x 1000, 104 classes", (250, 128, 128), {"labels": {f"c{i}": [i] for i in range(1, 104)}}),
}


def counting(task: Task, shape: tuple[int, ...]) -> Callable[[], object]:
    """Count one scan's expected Dice; all its slabs are the same random logits, so that memory stays small."""
    row = task.out_channels * math.prod(shape[1:])
    at_once = max(1, ROWS_BYTES // (4 * row))
    logits = torch.randn(task.out_channels, at_once, *shape[1:], generator=torch.Generator().manual_seed(0))

    def count() -> object:
        compared = Disagreement(task, 1)
        slabs = (logits[:, : min(at_once, shape[0] - first)] for first in range(0, shape[0], at_once))
        for _ in compared.merged(slabs):
            pass
        return compared.expected_dice()

    return count


def main() -> None:
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    chosen = {key: side for key, side in SIDES.items() if not (options.quick and key == "whole_body")}
    sides = {
        words: counting(Task(key, {"image": []}, patch_size=(128, 128, 128), **kind), shape)
        for key, (words, shape, kind) in chosen.items()
    }
    seconds = interleaved(sides, 1 if options.quick else options.repeats)
    figures = {f"{key}_expected_dice_s": seconds[words] for key, (words, _, _) in chosen.items()}
    report("The expected Dice of one prediction", seconds, figures, options.json)


if __name__ == "__main__":
    main()
