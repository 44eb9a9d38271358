"""How long ``medseg3d --help`` and the prediction of one small case take, beside the start of Python and the imports they need.

python -m benchmarks.startup [--json FILE] [--quick]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.measure import arguments, interleaved, report
from medseg3d import bundle, load_task, sample_data_folder
from medseg3d.networks import segformer
from medseg3d.preprocessing import Preprocessing

TORCH, PREDICT, HELP = "python -c 'import torch'", "medseg3d predict, one sample head", "medseg3d --help"


def save_model(folder: Path) -> None:
    """What ``medseg3d train --task brats`` makes of the sample heads, untrained: weights do not change the time."""
    task = replace(load_task("brats"), spacing_mm=(3, 3, 3), patch_size=(48, 48, 48))
    network = segformer("mit_b0", spatial_dims=3, in_channels=task.in_channels, out_channels=task.out_channels)
    (folder / "models").mkdir(parents=True)
    preprocessing = Preprocessing.from_task(task)
    about = {"task": task, "network": network.config, "preprocessing": preprocessing, "roi_size": task.patch_size}
    bundle.write_metadata(folder, **about, phantom=False)
    save_file(network.state_dict(), folder / "models" / "model.safetensors")


def main() -> None:
    options = arguments(__doc__ or "")

    def run(*words: str | Path) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_model(folder / "run")
        first = min((sample_data_folder() / "brats" / "imagesTr").iterdir())
        (folder / "in").mkdir()
        shutil.copy(first, folder / "in")
        shutil.copy(first.parent.parent / "dataset.json", folder / "in")

        def predict() -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            run("-m", "medseg3d", "predict", "--model", folder / "run", "-i", folder / "in", "-o", folder / "out")

        sides = {
            "python -c pass": lambda: run("-c", "pass"),
            HELP: lambda: run("-m", "medseg3d", "--help"),
            TORCH: lambda: run("-c", "import torch"),
            PREDICT: predict,
        }
        if not options.quick:
            sides["python -c 'import monai'"] = lambda: run("-c", "import monai")
        seconds = interleaved(sides, 1 if options.quick else options.repeats)
    figures = {"help_seconds": seconds[HELP], "predict_over_import_torch_s": seconds[PREDICT] - seconds[TORCH]}
    report("Start-up", seconds, figures, options.json)


if __name__ == "__main__":
    main()
