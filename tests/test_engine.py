"""The engine of prediction: the band, empty windows, workers, ensembles, flips, and what happens when memory runs out."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg3d.checks import ConfigError, InputError, MedSegError
from medseg3d.inference import windows as windows_module
from medseg3d.inference.computing import Computing, computed
from medseg3d.inference.decode import (
    decode_labels,
    decode_probabilities,
    full_logits,
    label_array,
    paint_labels,
    source_slabs,
)
from medseg3d.inference.empty_windows import SURELY_NOT, EmptyWindows, background_of
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.windows import WindowPlan, blended_rows, gaussian_weights, joined
from medseg3d.networks import SegFormer
from medseg3d.preprocessing import NetworkGrid, Preprocessing
from medseg3d.task import Task
from medseg3d.volume import AxisMap, Grid, Volume
from tests.shared import ROOT

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"widths": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2), "decoder_width": 16}
BRIGHT = Task("t", {"image": []}, {"bright": [1]}, (16, 16, 16), intensity="range", mirror_axes=(0, 2))


class Blocks(nn.Module):
    """Logits: background 0, and the mean of each 4 x 4 (x 4) block times ``gain`` minus ``level``."""

    stride = 4
    size_multiple = 8

    def __init__(self, gain: float = 1.0, level: float = 0.5) -> None:
        super().__init__()
        self.gain, self.level = gain, level
        self.windows = 0

    def forward_coarse(self, x: Tensor) -> Tensor:
        self.windows += len(x)
        mean = (F.avg_pool2d if x.ndim == 4 else F.avg_pool3d)(x[:, :1], 4)
        return torch.cat([torch.zeros_like(mean), self.gain * mean - self.level], 1)


class OneSided(Blocks):
    """As ``Blocks``, and the logit grows along the first axis of the window: flips disagree."""

    def forward_coarse(self, x: Tensor) -> Tensor:
        logits = super().forward_coarse(x)
        logits[:, 1] += torch.linspace(-1, 1, logits.shape[2]).view(-1, *[1] * (logits.ndim - 3))
        return logits


class Small(Blocks):
    """A device that holds ``most`` windows at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.batches: list[int] = []

    def forward_coarse(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no memory")
        self.batches.append(len(x))
        return super().forward_coarse(x)


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))


def segformer(dims: int = 3, seed: int = 0) -> SegFormer:
    torch.manual_seed(seed)
    return SegFormer(dims, 1, 3, **TINY).eval()


def all_at_once(plan: WindowPlan, image: Tensor, network: Any) -> Tensor:
    """The sum over all windows in one array of the whole size, written plainly."""
    covered = [(at[-1] + r) // s for at, r, s in zip(plan.starts, plan.roi, plan.stride, strict=True)]
    weights = gaussian_weights([r // s for r, s in zip(plan.roi, plan.stride, strict=True)])
    padded = F.pad(image, [p for n, c in reversed([*zip(plan.shape, covered, strict=True)]) for p in (0, 4 * c - n)])
    total, sums = torch.zeros(covered), None
    for corner in itertools.product(*plan.starts):
        box = tuple(slice(c, c + r) for c, r in zip(corner, plan.roi, strict=True))
        with torch.no_grad():
            logits = network.forward_coarse(padded[(slice(None), *box)][None])[0]
        sums = torch.zeros(len(logits), *covered) if sums is None else sums
        place = tuple(slice(b.start // 4, b.stop // 4) for b in box)
        sums[(slice(None), *place)] += logits * weights
        total[place] += weights
    assert sums is not None
    return (sums / total)[(slice(None), *map(slice, plan.coarse_shape))]


@pytest.mark.parametrize("shape", [(70, 33, 41), (20, 90, 16), (5, 7, 100), (90, 61)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
@pytest.mark.parametrize("rows_bytes", [1, 2**25])
def test_the_band_gives_what_a_whole_array_gives(
    shape: tuple[int, ...], overlap: float, rows_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_module, "ROWS_BYTES", rows_bytes)
    network = segformer(len(shape))
    image = random_image(*shape)
    for axis in range(len(shape)):
        plan = WindowPlan.of(network, shape, [32] * len(shape), overlap, axis)
        rows = list(blended_rows(plan, image, Computing([network], CPU)))
        if rows_bytes == 1:
            assert all(part.shape[1] == 1 for part in rows)
        got = joined(plan, iter(rows))
        torch.testing.assert_close(got, all_at_once(plan, image, network), atol=1e-5, rtol=1e-5)


def grids() -> Iterator[NetworkGrid]:
    """The scan's own order, flipped and permuted, finer and coarser, and a part of the scan."""
    shape = (60, 44, 52)
    for axes in itertools.permutations(range(3)):
        size = tuple(shape[a] for a in axes)
        source = Grid(shape, np.eye(4))
        yield NetworkGrid(source, AxisMap(axes, (0.0,) * 3, (1.0,) * 3), size)
        yield NetworkGrid(source, AxisMap(axes, tuple(n - 1.0 for n in size), (-1.0,) * 3), size)
        fine = tuple(int((n - 1) / 0.7) + 1 for n in size)
        yield NetworkGrid(source, AxisMap(axes, (0.0, size[1] - 1.0, 0.0), (0.7, -0.7, 0.7)), fine)
        part = tuple(n - 11 for n in size)
        yield NetworkGrid(source, AxisMap(axes, (3.0, 4.0, 5.0), (1.0,) * 3), part)


@pytest.mark.parametrize("regions", [False, True])
def test_labels_are_the_same_with_and_without_the_band(regions: bool) -> None:
    labels = {"a": [1, 2], "b": [2]} if regions else {"a": [1], "b": [2]}
    task = Task("t", {"i": []}, labels, (32, 32, 32), write={"a": 1, "b": 2})
    generator = torch.Generator().manual_seed(0)
    for grid in grids():
        coarse = torch.randn(task.out_channels, *(-(-n // 4) for n in grid.shape), generator=generator)
        expected = decode_labels(coarse, grid, 4, task)
        assert len(np.unique(expected)) == 3
        for axis in range(3):
            rows = coarse.movedim(axis + 1, 1)
            for step in (1, 3, 100):
                got = label_array(grid, task)
                for slab in source_slabs(iter(rows.split(step, dim=1)), grid, 4, axis):
                    paint_labels(got, slab, task)
                np.testing.assert_array_equal(got, expected)


def test_a_scan_is_segmented_alike_however_it_is_cut() -> None:
    network = segformer()
    task = Task("t", {"i": []}, {"a": [1], "b": [2]}, (32, 32, 32), spacing_mm=(0.9, 1.1, 1.0), intensity="range")
    data = np.random.default_rng(0).random((1, 70, 40, 55), dtype=np.float32)
    scan = Volume(data, np.array([[0, -1.2, 0, 0], [1, 0, 0, 0], [0, 0, -0.8, 0], [0, 0, 0, 1.0]]))
    preparing = Preprocessing.from_task(task)
    options: dict[str, Any] = {"precision": "float32", "mode": "windows", "device": "cpu"}
    one = Predictor(network, task, preparing, workers=1, **options)
    coarse, grid = one.logits(scan)
    expected = decode_labels(coarse, grid, 4, task)[None]
    for predictor in (one, Predictor(network, task, preparing, workers=3, **options)):
        np.testing.assert_array_equal(predictor(scan).data, expected)
    budget = one.estimate(scan).host / 1e9 + 0.05
    frugal = Predictor(network, task, preparing, workers=8, max_ram=budget, **options)
    np.testing.assert_array_equal(frugal(scan).data, expected)
    shares = one.probabilities(scan).data
    np.testing.assert_allclose(shares, decode_probabilities(coarse, grid, 4, task), atol=1e-6)
    into = np.full_like(shares, 7)
    assert one.predict(scan, probabilities=into).probabilities is not None
    np.testing.assert_array_equal(into, shares)
    dense = Predictor(network, task, preparing, dense=True, **options)
    on_the_grid = full_logits(coarse, grid.shape, 4)
    np.testing.assert_array_equal(dense(scan).data, decode_labels(on_the_grid, grid, 1, task)[None])


def test_workers_keep_the_order_and_hand_on_errors() -> None:
    class Fails(Blocks):
        def forward_coarse(self, x: Tensor) -> Tensor:
            if float(x.flatten()[0]) == 5:
                raise ValueError("window 5")
            return super().forward_coarse(x)

    windows = [((i,), partial(torch.full, (1, 8, 8), float(i))) for i in range(9)]
    threads = torch.get_num_threads()
    found = list(computed(Computing([Blocks()], CPU, workers=3), iter(windows)))
    assert [c for c, _ in found] == [(i,) for i in range(9)]
    assert [float(logits[1, 0, 0]) for _, logits in found] == [i - 0.5 for i in range(9)]
    with pytest.raises(ValueError, match="window 5"):
        list(computed(Computing([Fails()], CPU, workers=3), iter(windows)))
    assert torch.get_num_threads() == threads


def test_out_of_memory_halves_the_batch_until_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    network = Small(most=3)
    computing = Computing([network], CPU, batch_size=16)
    windows = [((i,), partial(torch.full, (1, 8, 8), float(i))) for i in range(20)]
    with caplog.at_level(logging.WARNING):
        found = list(computed(computing, iter(windows)))
    assert [float(logits[1, 0, 0]) for _, logits in found] == [i - 0.5 for i in range(20)]
    assert set(network.batches) == {2}
    assert "out of memory: 2 windows at a time" in caplog.text
    with pytest.raises(
        MedSegError, match=r"a window of \(8, 8\) voxels does not fit the memory of cpu; give a smaller"
    ):
        list(computed(Computing([Small(most=0)], CPU, batch_size=4), iter(windows)))


def test_logits_are_accumulated_on_the_host_where_the_device_has_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    zeros, asked = torch.zeros, []

    def scarce(*size: Any, **options: Any) -> Tensor:
        asked.append(options)
        if "device" in options and len(size[0]) == 4:
            raise torch.OutOfMemoryError("no memory")
        return zeros(*size, **options)

    monkeypatch.setattr(torch, "zeros", scarce)
    network = Blocks()
    plan = WindowPlan.of(network, (40, 24, 24), (16, 16, 16), 0.5)
    image = random_image(40, 24, 24)
    with caplog.at_level(logging.WARNING):
        got = joined(plan, blended_rows(plan, image, Computing([network], CPU)))
    assert "accumulated on the host" in caplog.text
    torch.testing.assert_close(got, network.forward_coarse(image[None])[0], atol=1e-5, rtol=0)


def test_windows_without_content_are_not_computed() -> None:
    network = Blocks(gain=2)
    data = np.zeros((1, 64, 16, 16), np.float32)
    data[0, 20:24] = 0.9
    predictor = Predictor(network, BRIGHT, Preprocessing.from_task(BRIGHT), device="cpu", mode="windows", workers=1)
    copied: Any = predictor.networks[0]
    found = predictor.predict(Volume(data, np.eye(4)))
    # Windows begin at 0, 8, .. 48; those at 8 and 16 reach voxels 20 to 23.
    assert (found.windows, found.skipped, copied.windows) == (7, 5, 2)
    assert set(np.flatnonzero(found.labels.data[0].any((1, 2)))) <= set(range(18, 26))
    assert found.labels.data[0, 20:24].all()
    everything = Predictor(
        network, BRIGHT, Preprocessing.from_task(BRIGHT), device="cpu", mode="windows", skip_empty=False
    )
    whole = everything.predict(Volume(data, np.eye(4)))
    assert whole.skipped == 0
    np.testing.assert_array_equal(whole.labels.data, found.labels.data)
    nothing = predictor.predict(Volume(np.zeros_like(data), np.eye(4)))
    assert nothing.skipped == nothing.windows == 7
    assert not nothing.labels.data.any()
    assert nothing.raw_dice is None
    np.testing.assert_allclose(
        predictor.probabilities(Volume(np.zeros_like(data), np.eye(4))).data[1], 1 / (1 + np.exp(-2 * SURELY_NOT))
    )


def test_a_window_counts_as_empty_only_where_every_voxel_is_background() -> None:
    plan = WindowPlan.of(Blocks(), (16, 16, 16), (8, 8, 8), 0.0)
    image = torch.full((2, 16, 16, 16), -1.5)
    image[1] = 0.25
    image[0, 15, 3, 2] = -1.4999
    empty = EmptyWindows.find(plan, image, [-1.5, 0.25], [1, 2])
    assert len(empty.corners) == 7
    assert (8, 0, 0) not in empty.corners
    assert not EmptyWindows.find(plan, image, [-1.5, 0.0], [1, 2]).corners


def test_air_is_the_same_number_before_and_after() -> None:
    statistics = ({"low": -873.31, "high": 1411.7, "mean": 93.123, "std": 271.77},)
    preparing = Preprocessing(3, (1.7, 1.3, 2.1), "ct", False, statistics)
    scan = Volume(np.full((1, 21, 17, 9), -1024, np.int16), np.eye(4))
    image = preparing.image(scan, preparing.plan(scan))
    assert np.unique(image).tolist() == background_of(preparing, 1)
    assert background_of(Preprocessing(3, None, "zscore", False), 2) == [0, 0]


def test_flips_are_averaged_by_hand() -> None:
    task = replace(BRIGHT, mirror_axes=(0,))
    image = np.full((1, 16, 16, 16), 0.5, np.float32)
    scan = Volume(image, np.eye(4))
    options: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    single = Predictor(OneSided(), task, Preprocessing.from_task(task), **options)
    both = Predictor(OneSided(), task, Preprocessing.from_task(task), tta=True, **options)
    assert (single.members, both.members) == (1, 2)
    line = torch.linspace(-1, 1, 4)
    torch.testing.assert_close(single.logits(scan)[0][1, :, 0, 0], line, atol=1e-6, rtol=0)
    # The flip sees the ramp the other way round, so that the two cancel.
    torch.testing.assert_close(both.logits(scan)[0][1, :, 0, 0], torch.zeros(4), atol=1e-6, rtol=0)
    found = both.predict(scan, uncertainty=True)
    assert found.uncertainty is not None
    # Twice the distance of a probability from the mean of the two: sigmoid(x) and sigmoid(-x) lie tanh(x / 2) apart.
    expected = torch.tanh(line.abs() / 2)
    np.testing.assert_allclose(found.uncertainty.data[0, [0, -1], 0, 0], expected[[0, -1]], atol=1e-6)
    flips = Predictor(Blocks(), BRIGHT, Preprocessing.from_task(BRIGHT), tta=True, **options).flips
    assert flips == ((), (0,), (2,), (0, 2))


def test_an_ensemble_is_the_mean_of_its_logits() -> None:
    scan = Volume(random_image(20, 24, 28).numpy(), np.eye(4))
    options: dict[str, Any] = {"device": "cpu", "precision": "float32"}
    task = Task("t", {"i": []}, {"a": [1], "b": [2]}, (32, 32, 32), intensity="range")
    networks = [segformer(seed=1), segformer(seed=2)]
    preparing = Preprocessing.from_task(task)
    apart = [Predictor(n, task, preparing, **options).logits(scan)[0] for n in networks]
    together = Predictor(networks, task, preparing, **options)
    torch.testing.assert_close(together.logits(scan)[0], (apart[0] + apart[1]) / 2)
    found = together.predict(scan, uncertainty=True)
    np.testing.assert_array_equal(found.labels.data, together(scan).data)
    assert found.uncertainty is not None
    assert 0 < found.uncertainty.data.max() <= 1
    same = Predictor([networks[0]] * 2, task, preparing, **options).predict(scan, uncertainty=True)
    assert same.uncertainty is not None
    assert same.uncertainty.data.max() == 0
    assert same.raw_dice == 1
    with pytest.raises(ConfigError, match="needs several models or flips"):
        Predictor(networks[0], task, preparing, **options).predict(scan, uncertainty=True)

    class Finer(Blocks):
        stride = 2

    with pytest.raises(ConfigError, match="at one stride"):
        Predictor([networks[0], Finer()], task, preparing)
    with pytest.raises(ConfigError, match="no network given"):
        Predictor([], task, preparing)


def test_the_whole_volume_in_one_pass() -> None:
    network = segformer()
    task = Task("t", {"i": []}, {"a": [1], "b": [2]}, (32, 32, 32), intensity="range")
    scan = Volume(random_image(50, 41, 37).numpy(), np.eye(4))
    options: dict[str, Any] = {"device": "cpu", "precision": "float32", "skip_empty": False}
    whole = Predictor(network, task, Preprocessing.from_task(task), mode="whole", **options)
    found = whole.predict(scan)
    assert (found.mode, found.windows) == ("whole", 1)
    with torch.no_grad():
        expected = network.forward_coarse(F.pad(torch.from_numpy(scan.data), (0, 11, 0, 7, 0, 14))[None])[0]
    coarse = expected[:, :13, :11, :10]
    torch.testing.assert_close(whole.logits(scan)[0], coarse, atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="mode 'all' is none of auto, windows, whole"):
        Predictor(network, task, Preprocessing.from_task(task), mode="all")
    small = Volume(scan.data[:, :20, :20, :20], np.eye(4))
    auto = Predictor(network, task, Preprocessing.from_task(task), mode="auto", **options)
    assert auto.predict(small).mode == "whole"
    assert auto.predict(scan).mode == "windows"


def test_a_budget_is_kept_or_refused_with_what_would_fit() -> None:
    network = segformer()
    task = Task("t", {"i": []}, {"a": [1], "b": [2]}, (32, 32, 32), intensity="range")
    scan = Volume(random_image(100, 80, 90).numpy(), np.eye(4))
    preparing = Preprocessing.from_task(task)
    many = Predictor(network, task, preparing, workers=8, mode="windows", device="cpu").estimate(scan)
    one = Predictor(network, task, preparing, workers=1, mode="windows", device="cpu").estimate(scan)
    assert one.network * 8 == pytest.approx(many.network, rel=1e-3)
    between = (one.host + many.host) / 2 / 1e9
    kept = Predictor(network, task, preparing, workers=8, mode="windows", device="cpu", max_ram=between)
    assert one.network <= kept.estimate(scan).network < many.network
    assert kept.estimate(scan).host <= between * 1e9
    with pytest.raises(
        InputError, match=r"--max-ram allows 0.01 GB; give --max-ram [\d.]+ or more.*E-MEMORY"
    ) as caught:
        Predictor(network, task, preparing, device="cpu", max_ram=0.01)(scan)
    would_fit = float(str(caught.value).split("give --max-ram ")[1].split()[0])
    assert Predictor(network, task, preparing, device="cpu", max_ram=would_fit)(scan).data.shape == scan.data.shape
    for name, value in (("max_ram", 0.0), ("max_vram", -1.0), ("workers", 0)):
        with pytest.raises(ConfigError, match="must be"):
            Predictor(network, task, preparing, **{name: value})  # type: ignore[arg-type]


KEEPING = """
import sys, numpy as np, torch
from pathlib import Path
from medseg3d.inference.predictor import Predictor
from medseg3d.networks import SegFormer
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from medseg3d.volume import Volume
torch.manual_seed(0)
task = Task("t", {"i": []}, {f"l{i}": [i] for i in range(1, 60)}, (64, 64, 64), intensity="range")
network = SegFormer(3, 1, 60, widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), decoder_width=64)
scan = Volume(np.random.default_rng(0).random((1, 96, 96, 400), dtype=np.float32), np.eye(4))
predictor = Predictor(network, task, Preprocessing.from_task(task), device="cpu", mode=sys.argv[1], workers=1)
predictor(Volume(scan.data[:, :64, :64, :64], scan.affine))  # libraries make themselves at home
Path("/proc/self/clear_refs").write_text("5")
estimate = predictor.estimate(scan)
predictor(scan)
peak = next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print(estimate.host, peak, estimate.process)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("mode", ["windows", "whole"])
def test_the_estimate_holds(mode: str) -> None:
    words = [sys.executable, "-c", KEEPING, mode]
    out = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    estimated, peak, process = map(int, out.split())
    assert peak <= estimated
    # It is no excuse either: a generous estimate would refuse what fits.
    assert estimated - process < 8 * (peak - process) + 100e6
