"""The cases of one call of ``predict_folder`` on their way: claimed, read, computed, written, each with its record."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg3d.checks import Finding, MedSegError, collected, pass_on
from medseg3d.inference.announcement import Announced
from medseg3d.inference.claims import Claims
from medseg3d.inference.description import confidence_again, describe_labels, describe_values, dice_in_words
from medseg3d.inference.dicom_outputs import DICOM_KINDS, write_dicom
from medseg3d.inference.extras import Extras
from medseg3d.inference.pipeline import run_pipeline
from medseg3d.inference.prediction import Prediction
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.provenance import finding_without_paths, inputs_of
from medseg3d.inference.results import FolderResult, finding_of, output_files, write_values
from medseg3d.inference.sidecar import (
    DONE,
    FAILED,
    Origin,
    damage,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from medseg3d.io.case_reading import read_image
from medseg3d.io.cases import Case
from medseg3d.io.images import read_volume, write_labels
from medseg3d.io.scratch import scratch_array
from medseg3d.task import Task
from medseg3d.volume import Volume

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """A case between its stages."""

    case: Case
    began: float
    inputs: list[dict[str, Any]]
    image: Volume | None
    before: dict[str, Any] | None
    findings: list[Finding]
    prediction: Prediction | None = None
    classes: dict[str, float] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, stage: str, since: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - since


class Batch:
    """The work of one process on one output folder.

    Args:
        predictor: computes.
        task: whose channel names the scans go by.
        output: folder to write to.
        origin: what the results come from.
        claims: of this process in ``output``.
        result: filled case by case.
        kinds: of those that ``output_files`` names, what is written; nothing for classification.
        extras: what is made of each label map besides.
        overwrite: compute what is done, too.
        finished: called after each case.
    """

    def __init__(
        self,
        predictor: Predictor,
        task: Task,
        output: Path,
        origin: Origin,
        claims: Claims,
        result: FolderResult,
        *,
        kinds: tuple[str, ...],
        extras: Extras,
        overwrite: bool,
        finished: Callable[[], object],
    ) -> None:
        self.predictor = predictor
        self.task = task
        self.output = output
        self.origin = origin
        self.claims = claims
        self.result = result
        self.kinds = kinds
        self.extras = extras
        self.overwrite = overwrite
        self.finished = finished
        self._announced = Announced()
        self._numbers: dict[str, str] = {}
        self._pending: deque[Case] = deque()
        self._elsewhere: list[Case] = []
        self._stopped = False

    def run(self, cases: Iterable[Case], *, ahead: bool) -> None:
        """Work through the cases; then once more through those that other processes held, whose holders may have died."""
        cases = list(cases)
        self._numbers = {case.name: f"{i} of {len(cases)}" for i, case in enumerate(cases, start=1)}
        for _ in range(2):
            self._pending, self._elsewhere = deque(cases), []
            run_pipeline(self._next, self._compute, self._write, stop=self._stop, ahead=ahead)
            cases = self._elsewhere
        for case in self._elsewhere:
            self.result.elsewhere.append(case.name)
            self.finished()

    def sidecar_of(self, case: Case) -> Path:
        """The sidecar of a case; classification has no other file."""
        if self.predictor.task.kind == "classification":
            return self.output / f"{case.name}.classes.json"
        return sidecar_path(output_files(case, self.output)["labels"])

    # Reading

    def _stop(self) -> None:
        self._stopped = True

    def _next(self) -> _Job | None:
        while self._pending and not self._stopped:
            case = self._pending.popleft()
            try:
                if not self.claims.take(case.name):
                    self._elsewhere.append(case)
                    continue
                job = self._opened(case)
            except Exception as error:  # what no one foresaw must not cost the other cases
                self._fail(case, error)
                continue
            if job is not None:
                return job
            self._finish(case)
        return None

    def _opened(self, case: Case) -> _Job | None:
        began = time.perf_counter()
        path = self.sidecar_of(case)
        before = read_sidecar(path)
        if before is not None and self._settled_meanwhile(case, path, before):
            return None
        inputs = inputs_of(case, self.task, self.origin.root)
        if before is not None and before["status"] == DONE:
            changed = self.origin.difference(before, inputs) or damage(before, self.output, self.kinds)
            if changed is None and not self.overwrite:
                news: dict[str, Any] = {}
                if (known := confidence_again(self.predictor, before)) is not None:
                    news["confidence"] = known
                if self.extras.missing(before):
                    news |= self._extras_of_file(case)
                if news:
                    write_sidecar(path, case.name, {**before, **news})
                self.result.skipped.append(case.name)
                logger.debug("case %s (%s): done before", case.name, self._numbers[case.name])
                return None
            self.result.redone[case.name] = changed or "asked for"
            if changed:
                logger.info("case %s (%s) is done again: %s", case.name, self._numbers[case.name], changed)
        with collected() as findings:
            image = read_image(case, self.task, nonfinite=self.origin.options.get("nonfinite", "error"))
        for finding in findings:
            pass_on(finding)
        job = _Job(case, began, inputs, image, before, findings)
        job.timed("read", began)
        return job

    def _extras_of_file(self, case: Case) -> dict[str, Any]:
        """What is asked for besides of a label map that was written before."""
        image = read_image(case, self.task, nonfinite=self.origin.options.get("nonfinite", "error"))
        return self.extras.make(case, read_volume(output_files(case, self.output)["labels"], labels=True), image)

    def _settled_meanwhile(self, case: Case, path: Path, sidecar: dict[str, Any]) -> bool:
        """Whether another process has dealt with the case since this one began: its word is taken."""
        if path.stat().st_mtime_ns <= self.claims.started_ns or not self.origin.same_run(sidecar):
            return False
        if sidecar["status"] == FAILED:
            self.result.failed[case.name] = Finding(**sidecar["finding"])
            return True
        if not set(self.kinds) <= set(sidecar["outputs"]) or self.extras.missing(sidecar):
            return False
        self.result.skipped.append(case.name)
        return True

    # Computing

    def _compute(self, job: _Job) -> _Job | None:
        began = time.perf_counter()
        try:
            assert job.image is not None
            if self.predictor.task.kind == "classification":
                job.classes = self.predictor.classify(job.image)
                job.timed("network", began)
            else:
                job.prediction = self._predicted(job.case, job.image)
                job.seconds |= job.prediction.seconds
                self._announced.took(job.prediction)
            if not self.extras.wanted:
                job.image = None
        except Exception as error:
            self._fail(job.case, error)
            return None
        return job

    def _predicted(self, case: Case, image: Volume) -> Prediction:
        def room(shape: tuple[int, ...], axis: int) -> NDArray[np.float32]:
            return scratch_array(shape, output_files(case, self.output)["probabilities"], along=axis)

        prediction = self.predictor.predict(
            image,
            probabilities=room if "probabilities" in self.kinds else False,
            uncertainty="uncertainty" in self.kinds,
            announce=lambda setting: self._announced.announce(f"case {case.name}", setting),
        )
        return replace(prediction, labels=self.extras.only(prediction.labels))

    # Writing

    def _write(self, job: _Job | None) -> None:
        if job is None:
            return
        case = job.case
        try:
            with torch.inference_mode():
                written, content = self._put(job)
            self._remove_leftovers(job, written)
            self.extras.remove_leftovers(job.before, content)
            content["findings"] = [finding_without_paths(f, self.origin.root) for f in job.findings]
            sidecar = self.origin.done(job.inputs, written, content, job.seconds)
            write_sidecar(self.sidecar_of(case), case.name, sidecar)
        except Exception as error:
            self._fail(case, error)
            return
        self.result.done.append(case.name)
        seconds = time.perf_counter() - job.began
        logger.info("case %s (%s): %.1f s%s", case.name, self._numbers[case.name], seconds, dice_in_words(sidecar))
        self._finish(case)

    def _put(self, job: _Job) -> tuple[dict[str, Path], dict[str, Any]]:
        """Write the results of a case; returns the files, and what is in them."""
        if job.classes is not None:
            return {}, {"classes": job.classes}
        prediction = job.prediction
        assert prediction is not None
        files = output_files(job.case, self.output)
        began = time.perf_counter()
        write_labels(prediction.labels, files["labels"])
        for kind in ("probabilities", "uncertainty"):
            if kind in self.kinds:
                write_values(getattr(prediction, kind), files[kind])
        for kind in DICOM_KINDS:
            if kind in self.kinds:
                model = ", ".join(str(m["name"]) for m in self.origin.models)
                write_dicom(files[kind], kind, prediction.labels, job.case, self.predictor.task, model=model)
        content = describe_labels(prediction.labels, self.predictor.task)
        content |= describe_values(self.predictor, prediction)
        if job.image is not None:
            content |= self.extras.make(job.case, prediction.labels, job.image)
            job.image = None
        job.timed("write", began)
        return {kind: files[kind] for kind in self.kinds}, content

    def _remove_leftovers(self, job: _Job, written: dict[str, Path]) -> None:
        """Probabilities, uncertainty and DICOM files of an earlier run do not belong to the new labels."""
        earlier = (job.before or {}).get("outputs", {})
        for kind, path in output_files(job.case, self.output).items():
            if kind in earlier and kind not in written:
                path.unlink(missing_ok=True)
                logger.info("%s is removed: it belonged to the earlier result", path.name)

    # Ends

    def _fail(self, case: Case, error: Exception) -> None:
        finding = finding_of(case, error)
        self.result.failed[case.name] = finding
        self.result.redone.pop(case.name, None)
        logger.error("case %s (%s) failed: %s", case.name, self._numbers[case.name], finding)
        logger.debug("case %s", case.name, exc_info=error)
        try:
            write_sidecar(self.sidecar_of(case), case.name, self.origin.failed(finding))
        except (MedSegError, OSError) as problem:
            logger.warning("case %s: that it failed could not be recorded (%s)", case.name, problem)
        self._finish(case)

    def _finish(self, case: Case) -> None:
        self.claims.release(case.name)
        self.finished()
