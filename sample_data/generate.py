"""Makes the sample data that come with medseg3d; the same on every machine. Run it with

python -m medseg3d.sample_data.generate OUTPUT_DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .brats import write_brats
from .ct import write_ct
from .images import write_nuclei, write_shapes

PARTS = {"brats": write_brats, "ct": write_ct, "images": write_nuclei, "classification": write_shapes}
"""What is made, by the name of its folder."""


def generate(output: str | Path) -> None:
    """Write every part of the sample data below ``output``, which is made if it does not exist."""
    for name, write in PARTS.items():
        write(Path(output) / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder to write to; existing files are replaced")
    generate(parser.parse_args().output)


if __name__ == "__main__":
    main()
