"""Every benchmark runs; its quick figures mean nothing and are not looked at, but for what must hold at any size."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import ROOT

pytestmark = pytest.mark.slow
KEYS = {
    "bad_inputs": {"cases", "simpleitk_silently_wrong", "monai_silently_wrong", "highdicom_silently_wrong"},
    "network": {"fp32_speedup", "bf16_speedup", "train_speedup", "max_relative_error"},
    "startup": {"help_seconds", "predict_over_import_torch_s"},
    "window": {"window_s", "window_gflop", "arithmetic_alone_s"},
    "dicom": {"read_speedup"},
    "metrics": {"tumour_vs_monai", "liver_vs_monai", "tumour_vs_deepmind", "hd95_error_mm"},
    "expected_dice": {"brats_expected_dice_s", "ct_expected_dice_s"},
    "faults": {"kills", "resumed", "bit_equal", "prediction_kills", "prediction_resumed", "prediction_equal"},
    "triage": {"cases", "worst_5_in_first_10_flips", "mean_error_flips"},
    "predict": {"brats_bf16_speedup", "brats_fp32_speedup", "brats_whole_speedup", "agreement_fp32"},
    "shares": {f"speedup_over_{way}" for way in ("four", "float32", "given_back", "asleep", "awake")},
    "ablations": {"slices.shipped.steps", "slices.usual_strides.steps"},
    "slices": {f"{arm}.minutes" for arm in ("3d", "slices", "slices+1")},
    "training_plans": {f"plans.brats_sample.{side}.steps" for side in ("medseg3d", "dynunet")},
    "training_modes": {
        "cases",
        *(f"{way}.seconds" for way in ("windows", "bf16", "whole", "tta", "ensemble", "missing_FLAIR", "missing_T2")),
    },
}
PART = {"predict": ["--only", "brats"]}
"""Of those that would take long."""


@pytest.mark.parametrize("name", KEYS)
def test_quick(name: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(file), *PART.get(name, [])]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    figures = json.loads(file.read_text())
    assert KEYS[name] <= set(figures)
    assert all(math.isfinite(figures[key]) for key in KEYS[name])
    # A difference of two times measured once may be anything.
    assert all(figures[key] > 0 for key in KEYS[name] if "_over_" not in key)
    if name == "bad_inputs":
        assert figures["silently_wrong"] == 0
    if name == "network":
        assert figures["max_relative_error"] < 1e-5
    if name == "faults":
        assert figures["lost"] == 0
        assert figures["resumed"] == figures["kills"] == 4
        assert figures["bit_equal"] == figures["prediction_equal"] == 1
