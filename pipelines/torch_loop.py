"""The network in a PyTorch loop of one's own: no trainer, no config, no MONAI.

    python pipelines/torch_loop.py [STEPS] [SIZE]

STEPS: of training, one whole brain phantom each; default 150. SIZE: mit_b0 (default), mit_tiny, or mit_b1 to mit_b5.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

import medseg3d
from medseg3d.io import Case, find_cases, read_image, read_label, split_cases
from medseg3d.metrics import dice
from medseg3d.networks import segformer


def main(steps: int = 150, size: str = "mit_b0") -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    task = replace(medseg3d.load_task("brats"), spacing_mm=(3, 3, 3))
    prepare = medseg3d.Preprocessing.from_task(task)
    found = find_cases(medseg3d.sample_data_folder() / "brats", task, labels=True)
    training, unseen = split_cases(found.cases)

    def load(case: Case) -> tuple[Tensor, Tensor]:
        """Image (4, x, y, z), normalised, and one mask per region (3, x, y, z)."""
        image = read_image(case, task)
        grid = prepare.plan(image)
        label = prepare.labels(read_label(case, found, task, image.grid), grid)
        masks = [torch.isin(torch.from_numpy(label[0]), torch.tensor(ids)) for ids in task.labels.values()]
        return prepare.tensor(image, grid).to(device), torch.stack(masks).float().to(device)

    network = segformer(size, spatial_dims=3, in_channels=task.in_channels, out_channels=task.out_channels).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    samples = [load(case) for case in training]
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {len(samples)} cases")
    for step in range(steps):
        image, masks = samples[int(torch.randint(len(samples), ()))]
        if torch.rand(()) < 0.5:
            image, masks = image.flip(1), masks.flip(1)  # left and right
        logits = network(image[None])  # any size of image
        share = logits.sigmoid()
        overlap = 2 * (share * masks).sum((2, 3, 4)) / (share + masks).sum((2, 3, 4)).clamp_min(1)
        loss = F.binary_cross_entropy_with_logits(logits, masks[None]) + (1 - overlap).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    network.eval()
    for case in unseen:
        image, masks = load(case)
        with torch.no_grad():
            inside = network(image[None])[0] > 0
        scores = [dice(m.cpu().numpy() > 0, p.cpu().numpy()) for m, p in zip(masks, inside, strict=True)]
        print(f"{case.name}: " + ", ".join(f"{n} Dice {s:.3f}" for n, s in zip(task.labels, scores, strict=True)))


if __name__ == "__main__":
    main(*[int(word) if word.isdigit() else word for word in sys.argv[1:]])  # type: ignore[arg-type]
