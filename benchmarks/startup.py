"""How long ``medseg3d --help`` takes, beside the start of Python and the imports it avoids.

python -m benchmarks.startup [--json FILE] [--quick]
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import arguments, interleaved, report


def main() -> None:
    options = arguments(__doc__ or "")

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    sides = {"python -c pass": lambda: run("-c", "pass"), "medseg3d --help": lambda: run("-m", "medseg3d", "--help")}
    if not options.quick:
        sides["python -c 'import torch'"] = lambda: run("-c", "import torch")
        sides["python -c 'import monai'"] = lambda: run("-c", "import monai")
    seconds = interleaved(sides, 2 if options.quick else options.repeats)
    report("Start-up", seconds, {"help_seconds": seconds["medseg3d --help"]}, options.json)


if __name__ == "__main__":
    main()
