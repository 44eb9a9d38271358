"""The numbers that a training follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training; the keys of train.yaml with the same names.

    Args:
        batch_size: samples per step, over all processes.
        learning_rate: of AdamW, after the warm-up.
        weight_decay: of matrices and kernels.
        warmup_epochs: in which the learning rate rises; at most a fifth of the training.
        schedule: one of ``optimizer.SCHEDULES``.
        gradient_clip: largest norm of the gradient.
        ema: decay of the average of the weights that is validated and kept; 0 keeps the weights themselves.
        precision: ``auto`` (bfloat16 where it is faster), ``bf16`` or ``float32``.
        validation_interval: epochs between validations; there is one at the end in any case.
        overlap: of the windows in validation.
        workers: processes that make samples; None: none on a CPU, up to 8 beside a GPU.
        seed: of everything random.
    """

    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int
    schedule: str
    gradient_clip: float
    ema: float
    precision: str
    validation_interval: int
    overlap: float
    workers: int | None
    seed: int
