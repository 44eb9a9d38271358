"""The networks that predict together, made ready for a device."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.inference.precision import autocast_type
from medseg3d.inference.windows import size_multiple
from medseg3d.networks.folding import folded
from medseg3d.networks.segformer import SegFormer
from medseg3d.networks.slices import SliceNetwork
from medseg3d.networks.strides import per_axis
from medseg3d.task import Task


class Ensemble:
    """Networks, and the flips that each predicts on.

    Args:
        network: one or several; they are copied, with all folded that folds, and cast to the type computed in.
        task: what the networks' outputs mean.
        device: to compute on; None takes the GPU where there is one.
        precision: one of ``medseg3d.inference.precision.PRECISIONS``.
        tta: predict on all flips along the task's ``mirror_axes``.

    Raises:
        ConfigError: for no network, and for networks of several strides.
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        task: Task,
        *,
        device: str | torch.device | None,
        precision: str,
        tta: bool,
    ) -> None:
        networks = [network] if isinstance(network, nn.Module) else list(network)
        if not networks:
            raise ConfigError("no network given; give at least one")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.autocast = autocast_type(precision, self.device)
        strides = {per_axis(getattr(n, "stride", 1), task.network_dims) for n in networks}
        if len(strides) > 1:
            raise ConfigError("the networks of an ensemble must predict at one stride")
        self.stride = (1, *strides.pop()) if task.slices else strides.pop()
        dtype = self.autocast or torch.float32
        segments = task.kind == "segmentation"
        self.networks = [(folded(n, dtype) if segments else n.eval()).to(self.device) for n in networks]
        # Folded networks hold the type they compute in; others are cast as they go.
        self.holds_type = self.autocast is not None and all(isinstance(n, SegFormer) for n in self.networks)
        if task.slices:
            self.networks = [SliceNetwork(n, task.neighbours) for n in self.networks]
        axes = [a + task.spatial_dims - task.network_dims for a in task.mirror_axes] if tta else []
        self.flips = tuple(f for k in range(len(axes) + 1) for f in itertools.combinations(axes, k))

    @property
    def members(self) -> int:
        """Predictions that are averaged: networks times flips."""
        return len(self.networks) * len(self.flips)

    @property
    def image_type(self) -> torch.dtype:
        """The type that the networks take an image in."""
        return self.autocast if self.holds_type and self.autocast else torch.float32

    @torch.no_grad()
    def classify(self, image: Tensor) -> Tensor:
        """The mean of the members' probabilities of the classes.

        Shape: ``(C, *s)`` to ``(K,)``.
        """
        image = image.to(self.device)
        least = size_multiple(self.networks[0], image.ndim - 1)
        missing = [max(m - n, 0) for n, m in zip(image.shape[1:], least, strict=True)]
        image = F.pad(image, [p for m in reversed(missing) for p in (0, m)])[None]
        shares = []
        for network, axes in itertools.product(self.networks, self.flips):
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                logits = network(image.flip([a + 2 for a in axes]) if axes else image)
            shares.append(torch.softmax(logits[0].float(), dim=0))
        return torch.stack(shares).mean(0)
