"""DICOM studies to DICOM SEG objects, which viewers show over the scans, with the size of every organ in them.

    python pipelines/dicom_seg.py [STUDIES] [MODEL] [OUTPUT] [key=value ...]

STUDIES: a folder of DICOM in any order, a case per study; without it the CT study that comes with medseg3d. MODEL: a run
directory; without it one is trained on the CT phantoms, with key=value as keys of train.yaml.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import yaml

import medseg3d
from medseg3d.io import read_seg
from medseg3d.statistics import label_statistics


def main(studies: Path | None, model: Path | None, output: Path, settings: dict[str, object]) -> None:
    studies = studies or medseg3d.sample_data_folder() / "ct" / "dicom"
    if model is None:
        model = medseg3d.train("organ_ct", overrides=settings, resume=True)

    # The series of each study is found by the task's rules. Labels lie on the images' own grid, as NIfTI and as SEG.
    result = medseg3d.predict_folder(model, studies, output, formats=["seg"])
    for line in result.failures():
        print(f"refused: {line}")

    # What a viewer reads: segments with their codes, and where they lie in the patient.
    for file in sorted(output.glob("*.seg.dcm")):
        found = read_seg(file)
        print(f"{file.name}: {len(found.segments)} segments, {found.labels}")
        codes = {s.name: f"{s.type.meaning} ({s.type.scheme} {s.type.value})" for s in found.segments}
        for row in label_statistics(found.labels, {s.name: [s.value] for s in found.segments}):
            size = f"{row['volume_ml']:.1f} ml, longest in an axial slice {row['longest_axial_mm']:.1f} mm"
            print(f"  {row['label']}, {codes[row['label']]}: {size if row['voxels'] else 'not found'}")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medseg3d").setLevel(logging.INFO)  # what is done meanwhile
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    pairs = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    studies, model, output = [*folders, None, None, None][:3]
    main(studies, model, output or Path("segmentations"), {key: yaml.safe_load(value) for key, value in pairs.items()})
