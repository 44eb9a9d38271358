"""One volume in, its segmentation out, on the volume's own grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg3d.checks import ConfigError
from medseg3d.inference.channels import GivenChannels, numbering_of
from medseg3d.inference.confidence import Calibration, Disagreement
from medseg3d.inference.decode import full_logits, slab_axis, source_slabs
from medseg3d.inference.empty_windows import EmptyWindows, empty_windows
from medseg3d.inference.ensemble import Ensemble
from medseg3d.inference.memory import MemoryEstimate
from medseg3d.inference.model import TrainedModel, load_models, options_of_models
from medseg3d.inference.prediction import Prediction, Results
from medseg3d.inference.setting import Setting, Wishes, check_window, choose
from medseg3d.inference.windows import blended_rows, joined
from medseg3d.postprocessing import Cleaning, clean
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import Volume

__all__ = ["Prediction", "Predictor"]
logger = logging.getLogger(__name__)
Room = Callable[[tuple[int, ...], int], NDArray[np.float32]]


class Predictor:
    """A network, or several, with all that belongs to them; call it with a volume.

    Args:
        network: with ``stride`` and ``forward_coarse``; for classification one whose ``forward`` gives ``(B, K)``. Several
            are an ensemble, whose logits are averaged where the networks make them. They are copied, with all folded
            that folds, and cast to the type computed in.
        task: what the networks' outputs mean.
        preprocessing: what the networks were trained with.
        roi_size: window in voxels of the network grid (of slices, in each); default the task's patch size.
        overlap: part of a window that its neighbour covers too.
        batch_size: windows per forward pass on a GPU; default 4, of slices and pictures up to 64, fewer where memory is short.
        device: default the GPU where there is one.
        precision: ``bf16``, ``float32``, or ``auto``: bf16 where the processor or GPU computes in it.
        dense: upsample the logits to the network grid first, then to the volume's own. Slower; what evaluators
            that expect full logits see, who also know neither whole passes nor empty windows.
        mode: ``windows``, ``whole`` (one pass over the whole volume) or ``auto`` (whole where that is less work and fits).
        tta: average over all flips along the task's ``mirror_axes``.
        skip_empty: do not compute windows in which every voxel is background (air, or the zeros of a stripped head).
        workers: windows computed at a time on a processor; default one per thread, up to 8.
        max_ram, max_vram: budgets in GB (10^9 bytes) for the process and the GPU.
        calibrations: of the expected Dice; the one for this kind of prediction counts.
        postprocessing: by label, what is done to a finished map.
        missing: channels that the volumes lack; only for networks trained with ``channel_dropout``.
        channel_dropout: that of the training.

    Raises:
        ConfigError: for an option that cannot be.
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        task: Task,
        preprocessing: Preprocessing,
        *,
        roi_size: Sequence[int] | None = None,
        overlap: float = 0.5,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
        dense: bool = False,
        mode: str = "windows",
        tta: bool = False,
        skip_empty: bool = True,
        workers: int | None = None,
        max_ram: float | None = None,
        max_vram: float | None = None,
        calibrations: Sequence[Calibration] = (),
        postprocessing: Mapping[str, Cleaning] | None = None,
        missing: Sequence[str] = (),
        channel_dropout: float = 0.0,
    ) -> None:
        self.ensemble = Ensemble(network, task, device=device, precision=precision, tta=tta)
        self.networks, self.flips = self.ensemble.networks, self.ensemble.flips
        self.device, self.autocast = self.ensemble.device, self.ensemble.autocast
        self.task = task
        self.preprocessing = preprocessing
        self.roi_size = tuple(roi_size or task.patch_size)
        self.overlap = overlap
        self.dense, self.tta = dense, tta
        self.mode = "windows" if dense else mode
        self.skip_empty = skip_empty and not dense
        self.calibrations = tuple(calibrations)
        self.postprocessing = dict(postprocessing or {})
        self.given = GivenChannels(task, preprocessing, missing, channel_dropout)
        self.missing = self.given.missing
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap {overlap} must be at least 0 and below 1")
        if len(self.roi_size) != task.network_dims or min(self.roi_size) < 1:
            of = " of a slice" if task.slices else ""
            raise ConfigError(f"roi_size {self.roi_size} must be {task.network_dims} positive sizes{of}")
        window = (1, *self.roi_size) if task.slices else self.roi_size
        self.wishes = Wishes(self.mode, window, overlap, batch_size, workers, max_ram, max_vram)
        check_window(window, self.ensemble.stride)

    @classmethod
    def from_bundle(cls, directory: str | Path | Sequence[str | Path], **options: Any) -> Predictor:
        """Load a run directory or bundle, or several as an ensemble.

        Args:
            directory: one or more.
            options: those of the constructor; they come before the bundle's own.

        Raises:
            ModelError: saying which part of a directory is missing or wrong, or that the models do not belong together.
        """
        directories = [directory] if isinstance(directory, (str, Path)) else list(directory)
        models = load_models(directories)
        for name, model in zip(directories, models, strict=True):
            if model.phantom:
                logger.warning("%s was trained on sample phantoms: it works on phantoms, and on no real scan", name)
        return cls.from_models(models, **options)

    @classmethod
    def from_models(cls, models: Sequence[TrainedModel], **options: Any) -> Predictor:
        """The same for models that ``load_models`` has read."""
        given = {k: v for k, v in options.items() if v is not None}
        networks = [m.network for m in models]
        task = replace(models[0].task, numbered=numbering_of([m.task for m in models]))
        return cls(networks, task, models[0].preprocessing, **options_of_models(models, given))

    @property
    def network(self) -> nn.Module:
        """The network, folded; of an ensemble all of them."""
        return self.networks[0] if len(self.networks) == 1 else nn.ModuleList(self.networks)

    @property
    def batch_size(self) -> int | None:
        return self.wishes.batch_size

    @property
    def members(self) -> int:
        """Predictions that are averaged: networks times flips."""
        return self.ensemble.members

    def __call__(self, volume: Volume) -> Volume:
        """Label map ``(1, *spatial)`` on the volume's grid, with its header fields; uint8, or uint16 for values above 255.

        Raises:
            InputError: for another number of channels or axes, voxels that are no numbers, or a budget that cannot be kept.
        """
        return self.predict(volume).labels

    @torch.no_grad()
    def predict(
        self,
        volume: Volume,
        *,
        probabilities: bool | NDArray[np.float32] | Room = False,
        uncertainty: bool = False,
        announce: Callable[[Setting], object] | None = None,
    ) -> Prediction:
        """Labels and what else is asked for, slab by slab: nothing of the size of the volume is held but results.

        Args:
            volume: to segment.
            probabilities: True, or an array ``(K, *spatial)`` to write them into, or what gives one, such as a file mapped into
                memory: it is told the shape, and the axis of it along which slab follows slab.
            uncertainty: where the members of an ensemble, or the flips of ``tta``, disagree.
            announce: called with how it will be computed, and what that takes, before the work.

        Raises:
            ConfigError: uncertainty of a single member.
            InputError: as for a call.
        """
        self._refuse_kind("segmentation")
        if uncertainty and self.members == 1:
            raise ConfigError("uncertainty needs several models or flips (tta) that can disagree; give them")
        grid = self.given.plan(volume)
        setting = self._setting(grid, apart=uncertainty, extra_outputs=int(uncertainty))
        if announce is not None:
            announce(setting)
        if callable(probabilities):
            shape = (self.task.out_channels, *grid.source.shape)
            probabilities = probabilities(shape, 1 + slab_axis(grid, setting.plan.axis))
        began, decoding = time.perf_counter(), 0.0
        compared = Disagreement(self.task, self.members if uncertainty else 1)
        results = Results.empty(grid, self.task, probabilities, uncertainty)
        image, empty = self._image(volume, grid, setting)
        rows = compared.merged(blended_rows(setting.plan, image, setting.computing, empty))
        stride, axis = setting.plan.stride, setting.plan.axis
        if self.dense:
            rows = iter([full_logits(joined(setting.plan, rows), grid.shape, stride).movedim(axis + 1, 1)])
            stride = (1,) * len(grid.shape)
        for slab in source_slabs(rows, grid, stride, axis):
            painting = time.perf_counter()
            results.paint(slab, self.task)
            decoding += time.perf_counter() - painting
        cleaned = clean(results.labels, self.postprocessing, self.task, volume.spacing_mm)
        label_dice = compared.expected_dice()
        raw = sum(label_dice.values()) / len(label_dice) if label_dice else None
        return Prediction(
            labels=volume.with_data(cleaned[None]),
            probabilities=None if results.probabilities is None else volume.with_data(results.probabilities),
            uncertainty=None if results.uncertainty is None else volume.with_data(results.uncertainty[None]),
            label_dice=label_dice,
            raw_dice=raw,
            expected_dice=self.expected_dice(raw, compared=uncertainty),
            compared=compared.members,
            seconds={"network": time.perf_counter() - began - decoding, "decode": decoding},
            mode=setting.mode,
            windows=setting.plan.count,
            skipped=len(empty.corners),
            memory=setting.memory,
            volume_ratios=compared.volume_ratios(),
        )

    def expected_dice(self, raw_dice: float | None, *, compared: bool) -> float | None:
        """The calibrated ``Prediction.raw_dice``; None without a calibration for this kind of prediction.

        Args:
            raw_dice: of a prediction; None where nothing was found.
            compared: whether it was made with ``uncertainty``.
        """
        line = self.calibration(compared=compared)
        return None if line is None or raw_dice is None else line(raw_dice)

    def calibration(self, *, compared: bool) -> Calibration | None:
        """The calibration for predictions with (``compared``) or without uncertainty, where there is one."""
        models, flips = len(self.networks), len(self.flips)
        return next((c for c in self.calibrations if c.is_for(models=models, flips=flips, compared=compared)), None)

    def estimate(self, volume: Volume, *, uncertainty: bool = False) -> MemoryEstimate:
        """What predicting a volume takes, before any work but finding its grid.

        Raises:
            InputError: where the budget cannot be kept; it says what would fit.
        """
        return self._setting(self.given.plan(volume), apart=uncertainty, extra_outputs=int(uncertainty)).memory

    def probabilities(self, volume: Volume) -> Volume:
        """Probabilities ``(K, *spatial)`` on the volume's grid, float32.

        K is the labels of the task in their order, for regions; otherwise background first, then the labels.
        """
        shares = self.predict(volume, probabilities=True).probabilities
        assert shares is not None
        return shares

    @torch.no_grad()
    def logits(self, volume: Volume) -> tuple[Tensor, NetworkGrid]:
        """Blended logits at the network's stride, float32 ``(K, *ceil(grid.shape / stride))``, and the network grid."""
        self._refuse_kind("segmentation")
        grid = self.given.plan(volume)
        setting = self._setting(grid)
        image, empty = self._image(volume, grid, setting)
        return joined(setting.plan, blended_rows(setting.plan, image, setting.computing, empty)), grid

    def classify(self, volume: Volume) -> dict[str, float]:
        """Probability of each of the task's labels for the whole image; the mean of an ensemble's."""
        self._refuse_kind("classification")
        shares = self.ensemble.classify(self.given.tensor(volume, self.given.plan(volume)))
        return dict(zip(self.task.labels, shares.tolist(), strict=True))

    def _setting(self, grid: NetworkGrid, *, apart: bool = False, extra_outputs: int = 0) -> Setting:
        setting = choose(self.wishes, grid, self.ensemble, self.task, apart=apart, extra_outputs=extra_outputs)
        logger.debug("%s, %d windows of %s: %s", setting.mode, setting.plan.count, setting.plan.roi, setting.memory)
        return setting

    def _image(self, volume: Volume, grid: NetworkGrid, setting: Setting) -> tuple[Tensor, EmptyWindows]:
        """The image as the networks take it, where they take it from, and which of its windows are empty."""
        image = self.given.tensor(volume, grid, self.ensemble.image_type)
        empty = EmptyWindows()
        if self.skip_empty:
            times = setting.computing.members if setting.computing.apart else 1
            empty = empty_windows(setting.plan, image, self.task, self.preprocessing, times)
        if not setting.computing.host:
            try:
                image = image.to(self.device)
            except torch.OutOfMemoryError:
                logger.warning("the image stays on the host: the device has no room for it")
        return image, empty

    def _refuse_kind(self, wanted: str) -> None:
        if self.task.kind != wanted:
            raise ConfigError(f"task {self.task.name!r} is one of {self.task.kind}, and this is for {wanted}")
