"""The MONAI metric gives the numbers of medseg3d's own evaluation, through MONAI's own evaluator."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg3d.metrics.case import measure_case
from medseg3d.metrics.summary import summarise

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

LABELS = {"whole": [1, 2], "core": [2]}
SPACING = (3.0, 0.8, 1.25)


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """A hit, a miss, an invention, and an empty case."""
    rng = np.random.default_rng(0)
    a = np.zeros((12, 11, 10), np.uint8)
    a[3:8, 2:8, 2:8] = 1
    a[4:6, 4:7, 4:7] = 2
    noisy = np.where(rng.random(a.shape) < 0.05, 0, np.roll(a, 1, 1)).astype(np.uint8)
    zero = np.zeros_like(a)
    return [(a, noisy), (a, zero), (zero, noisy), (zero, zero), (noisy, a)]


def ours(metric: str, **options) -> tuple[dict, list[float]]:
    rows = [
        {"case": i, **row} for i, (a, b) in enumerate(pairs()) for row in measure_case(a, b, LABELS, SPACING, **options)
    ]
    found = summarise(rows, list(LABELS), [metric], empty=options.get("empty", "nan"))
    return found, [found["labels"][label][metric]["mean"] for label in LABELS]


@pytest.mark.parametrize("empty", ["nan", "one"])
@pytest.mark.parametrize("metric", ["dice", "hd95_mm", "assd_mm", "nsd", "relative_volume_difference"])
@pytest.mark.parametrize("form", ["maps", "channels", "list", "meta"])
def test_same_numbers(metric: str, form: str, empty: str) -> None:
    from monai.data import MetaTensor

    from medseg3d.monai_metrics import CaseMetric

    options = {"tolerance_mm": 1.0, "empty": empty}
    spacing = None if form == "meta" else SPACING
    measure = CaseMetric(LABELS, metric, spacing_mm=spacing, **options)
    for a, b in pairs():
        y, y_pred = (torch.from_numpy(x)[None] for x in (a, b))
        if form == "channels":
            y, y_pred = (torch.cat([(x > 0), (x == 2)]).float() for x in (y, y_pred))
        if form == "meta":
            affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
            y = MetaTensor(y, affine=affine)
        if form in ("list", "meta"):
            measure([y_pred], [y])
        else:
            measure(y_pred[None], y[None])
    found, means = ours(metric, **options)
    np.testing.assert_allclose(measure.aggregate("mean_batch"), means, rtol=1e-12)
    assert measure.aggregate().item() == pytest.approx(found["mean"][metric], rel=1e-12)
    assert measure.aggregate("none").shape == (5, 2)
    measure.reset()
    with pytest.raises(ValueError, match="no case has been measured"):
        measure.aggregate()


def test_in_monais_evaluator() -> None:
    from monai.engines import SupervisedEvaluator
    from monai.handlers import IgniteMetricHandler, from_engine

    from medseg3d.monai_metrics import CaseMetric

    class Answers(torch.nn.Module):
        def forward(self, image):
            return image

    loader = [{"image": torch.from_numpy(b)[None, None], "label": torch.from_numpy(a)[None, None]} for a, b in pairs()]
    handlers = {
        name: IgniteMetricHandler(
            metric_fn=CaseMetric(LABELS, name, spacing_mm=SPACING), output_transform=from_engine(["pred", "label"])
        )
        for name in ("dice", "hd95_mm")
    }
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=Answers(),
        key_val_metric={"dice": handlers["dice"]},
        additional_metrics={"hd95_mm": handlers["hd95_mm"]},
    )
    evaluator.run()
    for name in handlers:
        assert evaluator.state.metrics[name] == pytest.approx(ours(name)[0]["mean"][name])


def test_what_does_not_fit_is_refused() -> None:
    from medseg3d.monai_metrics import CaseMetric

    zero = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="metric 'accuracy' is none of dice, iou"):
        CaseMetric(LABELS, "accuracy")
    with pytest.raises(ValueError, match="give spacing_mm"):
        CaseMetric(LABELS)(zero, zero)
    with pytest.raises(ValueError, match="they must be the same"):
        CaseMetric(LABELS, spacing_mm=(1, 1))(zero, zero[:, :, :2])
    with pytest.raises(ValueError, match="3 channels"):
        CaseMetric(LABELS, spacing_mm=(1, 1))(zero.repeat(1, 3, 1, 1), zero.repeat(1, 3, 1, 1))
    with pytest.raises(ValueError, match="reduction 'sum' is none of"):
        measure = CaseMetric(LABELS, spacing_mm=(1, 1))
        measure(zero, zero)
        measure.aggregate("sum")
    assert math.isnan(measure.aggregate().item())
