"""A trained run in plain MONAI: the parts of its bundle by ConfigParser, MONAI's own evaluator, one table of scores.

    python pipelines/monai_bundle.py [RUN] [DATA] [key=value ...]

RUN: a run directory; without it one is trained on the brain phantoms, with key=value as keys of train.yaml. DATA: a labelled
folder; without it the phantoms. Scored are the cases that the training did not see.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import yaml
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointLoader, IgniteMetricHandler, from_engine
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

import medseg3d
from medseg3d.monai_adapters import RestoredLabelsd, find_items
from medseg3d.monai_metrics import CaseMetric


def main(run: Path | None, data: Path | None, settings: dict[str, object]) -> None:
    run = run or medseg3d.train("brats", overrides=settings, resume=True)
    data = data or medseg3d.sample_data_folder() / "brats"

    # The config is code, and is run: do this with bundles whose author you trust.
    parser = ConfigParser()
    parser.read_config(run / "configs" / "inference.yaml")
    parser.read_meta(run / "configs" / "metadata.json")
    network, inferer, preprocessing, device = (
        parser.get_parsed_content(name) for name in ("network", "inferer", "preprocessing", "device")
    )
    task = parser["_meta_"]["medseg3d"]["task"]

    unseen = {case["name"] for case in json.loads((run / "configs" / "data.json").read_text())["validation"]}
    items = [item for item in find_items(data, task, labels=True) if item["name"] in unseen]
    load_label = [LoadImaged("label", reader="NibabelReader"), EnsureChannelFirstd("label")]
    loader = DataLoader(Dataset(items, Compose([preprocessing, *load_label])), batch_size=1)

    metrics = {name: CaseMetric(task["labels"], name) for name in ("dice", "hd95_mm")}
    handlers = {
        name: IgniteMetricHandler(metric_fn=metric, output_transform=from_engine(["pred", "label"]))
        for name, metric in metrics.items()
    }
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=loader,
        network=network,
        inferer=inferer,
        postprocessing=RestoredLabelsd(task),  # labels on each scan's own grid
        key_val_metric={"dice": handlers["dice"]},
        additional_metrics={"hd95_mm": handlers["hd95_mm"]},
        val_handlers=[CheckpointLoader(str(run / "models" / "model.pt"), {"model": network}, map_location=device)],
    )
    evaluator.run()

    print(f"{len(items)} cases: {evaluator.state.metrics}")
    columns = [metrics[name].aggregate("mean_batch") for name in metrics]
    for label, *values in zip(task["labels"], *columns, strict=True):
        print(f"{label}: " + ", ".join(f"{name} {float(v):.3f}" for name, v in zip(metrics, values, strict=True)))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)  # what is done meanwhile
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    pairs = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    run, data = [*folders, None, None][:2]
    main(run, data, {key: yaml.safe_load(value) for key, value in pairs.items()})
