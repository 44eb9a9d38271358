"""The whole command line, put together from its verbs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple

from medseg3d import __version__

DESCRIPTION = """Segmentation of medical volumes with SegFormer.

  medseg3d train --task brats                      train, segment and score on built-in sample data
  medseg3d train --task brats --data FOLDER        the same on your scans
  medseg3d train --data FOLDER                     the same with a task planned from them
  medseg3d predict --model runs/brats -i IN -o OUT segment a folder
  medseg3d evaluate --reference A --prediction B   score a folder
  medseg3d report runs/brats                       one HTML file to look at
"""
EXIT_CODES = """exit codes: 0 all well, 1 unexpected error, 2 wrong usage or config, 3 some cases failed, 4 all cases failed,
5 input refused, 6 model refused, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM)"""
Options = Callable[[argparse.ArgumentParser], None]


class Verb(NamedTuple):
    """A verb of the command line: its name and its help are those of the function that runs it."""

    run: Callable[[argparse.Namespace], int]
    options: Options


def build_parser(verbs: Iterable[Verb]) -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="medseg3d",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"medseg3d {__version__}")
    added = parser.add_subparsers(metavar="VERB", required=True)
    for run, options in verbs:
        words = (run.__doc__ or "").strip().replace("%", "%%")
        sub = added.add_parser(run.__name__, help=words, description=words, epilog=EXIT_CODES)
        options(sub)
        sub.add_argument("--debug", action="store_true", help="show the stack trace of an error")
        sub.add_argument("--quiet", action="store_true", help="warnings and errors alone")
        sub.set_defaults(run=run)
    return parser


def add_json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON for a program to read")


def given_flags(options: Options, parsed: argparse.Namespace) -> dict[str, str]:
    """The options of a verb that are not at their defaults: their names, and the flags that give them."""
    sub = argparse.ArgumentParser(add_help=False)
    options(sub)
    # argparse tells of its flags nowhere else
    return {a.dest: a.option_strings[0] for a in sub._actions if getattr(parsed, a.dest) != a.default}
