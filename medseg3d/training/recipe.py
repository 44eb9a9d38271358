"""The numbers that a training follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medseg3d.checks import ConfigError


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
        workers: threads that make samples; None: one on a CPU, up to 4 beside a GPU.
        seed: of everything random.
        accumulate: pieces that each step's batch is computed in, one after the other, to save memory.
        patience: validations without a better score (by ``PLATEAU``) after which the training ends; 0 never.
        checkpointing: compute activations again in the backward pass, to save memory.
        compile: ``torch.compile`` the network.
        shares: parts of a batch that are computed side by side on a processor; None: one per core, 4 at most; of a network with
            dropout always one. It belongs to the result: norm statistics are those of a share.
        deep_supervision: train heads on the encoder's coarser maps beside the network.

    Raises:
        ConfigError: a batch that cannot be divided into pieces.
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
    accumulate: int = 1
    patience: int = 0
    checkpointing: bool = False
    compile: bool = False
    shares: int | None = None
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        self.samples(1)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Recipe:
        """Those of the merged settings of a run (``settings.merge_settings``) that are its own."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def samples(self, processes: int) -> int:
        """Samples per step in each of ``processes``."""
        if self.batch_size % (processes * self.accumulate):
            raise ConfigError(
                f"batch_size {self.batch_size} must be divisible by {processes} processes times {self.accumulate} pieces "
                "(accumulate)"
            )
        return self.batch_size // processes
