"""One brain stored in eight axis orders: the same prediction in the world, on each file's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medseg3d.inference.folder import predict_folder
from medseg3d.inference.predictor import Predictor
from medseg3d.io import read_volume
from medseg3d.networks import SegFormer
from medseg3d.preprocessing import Preprocessing
from medseg3d.task import Task
from tests.shared import real_data


def test_predictions_return_on_each_files_own_grid(tmp_path: Path) -> None:
    folder = real_data("nifti_48_orientations")
    torch.manual_seed(0)
    task = Task("t", {"image": []}, {"a": [1], "b": [2]}, (64, 64, 64), spacing_mm=[2.4] * 3)
    network = SegFormer(3, 1, 3, widths=[8, 16, 40, 64], decoder_width=32)
    predictor = Predictor(network, task, Preprocessing.from_task(task), device="cpu", precision="float32")
    result = predict_folder(predictor, folder, tmp_path, task=task, progress=False)
    assert len(result.done) == 8
    seen = []
    for name in result.done:
        scan, labels = read_volume(folder / f"{name}.nii.gz"), read_volume(tmp_path / f"{name}.nii.gz", labels=True)
        assert labels.grid.differs_from(scan.grid, tolerance_voxels=1e-4) is None
        assert "".join(labels.axcodes) == name
        seen.append(labels.canonical().data)
    assert len(np.unique(seen[0])) > 1
    for other in seen[1:]:
        assert (other == seen[0]).mean() > 0.9999
