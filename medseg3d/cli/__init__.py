"""The command line: a module per theme, with each verb's function beside its options.

Everything heavy is imported inside the functions (DESIGN.md, decision 4).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from medseg3d.checks import MedSegError, out_of_memory
from medseg3d.cli import catalogue, data, export, pictures, prediction, scores, training
from medseg3d.cli.exits import INTERRUPTED, OK, UNEXPECTED
from medseg3d.cli.log_lines import LineHandler
from medseg3d.cli.parser import Verb, add_json, build_parser
from medseg3d.termination import terminable

__all__ = ["VERBS", "build_parser", "main"]
VERBS = (
    Verb(catalogue.tasks, add_json),
    Verb(catalogue.models, catalogue.models_options),
    Verb(catalogue.download, catalogue.download_options),
    Verb(data.check, data.check_options),
    Verb(training.plan, training.plan_options),
    Verb(training.train, training.train_options),
    Verb(prediction.predict, prediction.predict_options),
    Verb(prediction.verify, prediction.verify_options),
    Verb(scores.evaluate, scores.evaluate_options),
    Verb(scores.statistics, scores.statistics_options),
    Verb(scores.compare, scores.compare_options),
    Verb(pictures.report, pictures.report_options),
    Verb(pictures.preview, pictures.preview_options),
    Verb(data.convert, data.convert_options),
    Verb(data.info, data.info_options),
    Verb(export.export, export.export_options),
    Verb(catalogue.doctor, add_json),
)
"""In the order in which ``medseg3d --help`` shows them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    # OpenMP's threads spin while they wait; beside other work on the same cores that makes a training step
    # several times as long. It must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = build_parser(VERBS).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings repeat values, which may name the patient
    log = logging.getLogger("medseg3d")
    log.propagate = False
    log.handlers = [LineHandler()]
    log.setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        with terminable():
            return int(options.run(options))
    except MedSegError as error:
        if options.debug:
            raise
        print(f"medseg3d: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("medseg3d: interrupted", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return OK
    except Exception as error:
        if options.debug:
            raise
        if out_of_memory(error):
            print(
                f"medseg3d: error: not enough memory ({str(error).splitlines()[0] if str(error) else 'no more to be had'}); "
                "close other programs; train with a smaller batch_size or patch_size, accumulate=2 or checkpointing=true, "
                "predict with --max-ram",
                file=sys.stderr,
            )
            return UNEXPECTED
        print(
            f"medseg3d: unexpected error: {type(error).__name__}: {error}\nthis is a fault of medseg3d or its set-up; "
            "the same command with --debug shows where",
            file=sys.stderr,
        )
        return UNEXPECTED
