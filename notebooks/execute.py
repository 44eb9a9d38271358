"""Execute the notebooks in fresh kernels and store their outputs: python -m notebooks.execute [NAME ...]

Execute and store after every change to a notebook. tests/test_notebooks.py executes them again and compares.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb")))
TIMEOUT_S = 1800
"""Of a cell; a training on a busy machine may take long."""


def read(name: str) -> nbformat.NotebookNode:
    """A notebook as it is stored."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str, folder: str | Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of a fresh kernel.

    Args:
        name: without suffix.
        folder: where the kernel works and writes its files.

    Raises:
        CellExecutionError: a cell raised something.
    """
    notebook = read(name)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    notebook.metadata = {  # nothing of the machine
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NAMES)}")
    wanted = parser.parse_args().names or NAMES
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"no notebook {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(name, folder)
        text = nbformat.writes(notebook) + "\n"
        (FOLDER / f"{name}.ipynb").write_text(text, encoding="utf-8")
        print(f"{name}: {len(text) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
