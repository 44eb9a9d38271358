"""Data sets that medseg3d plan is tried on, and which part of each is tested.

nuclei: 166 pictures of cells (Data Science Bowl 2018), nucleus or not. brats_sample: the 24 phantom heads that come with medseg3d,
four channels. ct_organs: five organs of one body CT at 3 mm, whose labels are TotalSegmentator's output. brats_009: the box about
the tumour of one MSD case, four channels, three labels.

Of many cases a fifth is tested, which ``split_cases`` draws by name. Of a single scan the lowest third is tested, the 6 mm above
it are left out, and the rest is trained on; the parts are cut out before anything else is done. So no voxel that is scored was
trained on, but it is the same body, the same scanner and, 6 mm on, the same tumour: that shows what can be learned in the time, not
what comes of another patient, and there is but one case to average over.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.overfit import SCANS
from medseg3d.io import Case, DataSet
from medseg3d.task import Task

DATASETS = ("nuclei", "ct_organs", "brats_sample", "brats_009")
TOLERANCE_MM = 1.0
"""Of the normalised surface Dice; pixels, in pictures."""
ONE_SCAN = {"ct_organs": "ct", "brats_009": "brats"}
"""Data sets of a single scan, by their names in benchmarks/overfit.py."""
TESTED = 1 / 3
"""Part of a single scan, from below, that is tested."""
GAP_MM = 6.0


def find_dataset(name: str, work: Path, data: Path | None = None) -> tuple[Path, DataSet, Task, list[Case]]:
    """A data set's folder (made below ``work`` where it is cut out of a scan), its cases, the task they name, and those tested."""
    import medseg3d
    from medseg3d.io import split_cases
    from medseg3d.planning.declared import declared_task
    from medseg3d.training.source import find_data
    from tests.shared import DATA

    data = data or DATA
    if name == "brats_sample":
        folder = medseg3d.sample_data_folder() / "brats"
    else:
        if not data.is_dir():
            raise SystemExit(f"the real data are absent ({data}); point MEDSEG3D_DATA at the folder that holds them")
        folder = cut_scan(name, data, work) if name in ONE_SCAN else data / "dsb2018_nuclei_2d"
    task = declared_task(folder)
    dataset = find_data(folder, task)
    tested = [c for c in dataset.cases if c.name == "below"] if name in ONE_SCAN else split_cases(dataset.cases)[1]
    return folder, dataset, task, tested


def cut_scan(name: str, data: Path, work: Path) -> Path:
    """One scan as an MSD folder of two cases: ``below``, and ``above`` the gap; labels that are not named become background."""
    import nibabel as nib
    import numpy as np

    scan, folder = SCANS[ONE_SCAN[name]], work / name
    image, label = (nib.load(data / scan[part]) for part in ("image", "label"))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    slices, spacing_mm = label.shape[2], float(label.header.get_zooms()[2])
    end = round(TESTED * slices)
    parts = {"below": slice(0, end), "above": slice(end + int(np.ceil(GAP_MM / spacing_mm)), slices)}
    named = {key: value for key, value in scan["labels"].items() if value}
    values = np.asanyarray(label.dataobj)
    label = nib.Nifti1Image(np.where(np.isin(values, list(named.values())), values, 0).astype(np.uint8), label.affine)
    for case, place in parts.items():
        for part, volume in (("images", image), ("labels", label)):
            (folder / f"{part}Tr").mkdir(parents=True, exist_ok=True)
            nib.save(volume.slicer[:, :, place], folder / f"{part}Tr" / f"{case}.nii.gz")
    described = {
        "name": name,
        "modality": {str(i): channel for i, channel in enumerate(scan["channels"])},
        "labels": {"0": "background", **{str(value): key for key, value in named.items()}},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in parts],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder
