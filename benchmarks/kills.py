"""Work in children that are killed with SIGKILL and started again, for benchmarks/faults.py and tests."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGING = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Audit events of calls that may change files."""


@dataclass
class Tally:
    """What became of one kind of work."""

    kills: int = 0
    resumed: int = 0
    lost: int = 0
    finished: int = 0
    equal: int = 0
    messages: list[str] = field(default_factory=list)


def forked(work: Callable[[], Any], log: Path, *, die_at: int | None = None, count: Path | None = None) -> int:
    """Start work in a child; returns its process id.

    Args:
        work: ends with an exit code of 0, or of 1 where it raises; then the log has the traceback.
        log: for what it says.
        die_at: kill it before so many calls that change files are made.
        count: where to write how many it made.
    """
    child = os.fork()
    if child:
        return child
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        calls = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal calls
            if event not in CHANGING or (event == "open" and not set("wax+") & set(str(arguments[1] or ""))):
                return
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        work()
        if count is not None:
            count.write_text(str(calls))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int, seconds: float = float("inf")) -> int | None:
    """How a child ended: its exit code, or minus a signal; None where it still runs after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def killed_again_and_again(
    work: Callable[[Path], Any],
    saved: Callable[[Path], int],
    equal: Callable[[Path, Path], bool],
    folder: Path,
    *,
    kills: int,
    chance: random.Random,
) -> Tally:
    """Kill work, start it again, compare it at its end.

    Args:
        work: does all that is not done yet in a folder.
        saved: how much of it is done; raises where what was saved cannot be read.
        equal: whether two folders hold the same results.
        folder: for everything.
        kills: how many.
        chance: chooses the moments.
    """
    tally, log = Tally(), folder / "log.txt"
    reference = folder / "uninterrupted"
    began = time.monotonic()
    if ended(forked(lambda: work(reference), log, count=folder / "calls")) != 0:
        raise RuntimeError(f"the run that is not killed fails:\n{log.read_text()}")
    seconds, calls = time.monotonic() - began, int((folder / "calls").read_text())
    target, before = folder / "killed_0", 0
    while True:
        left = kills - tally.kills
        by_time = tally.kills % 2 == 0
        child = forked(
            lambda run=target: work(run), log, die_at=chance.randint(1, calls) if left and not by_time else None
        )
        end = ended(child, chance.uniform(0, seconds) if left and by_time else float("inf"))
        if end is None:
            os.kill(child, signal.SIGKILL)
            end = ended(child)
        if end == -signal.SIGKILL:
            tally.kills += 1
        # A start that ends with an error was one after a kill; all others went on.
        if end not in (0, -signal.SIGKILL):
            tally.messages.append(log.read_text()[-2000:])
            tally.lost += 1
            target, before = folder / f"killed_{tally.kills}_{tally.lost}", 0
            if len(tally.messages) > 3:
                break
            continue
        try:
            now = saved(target)
            tally.lost += now < before
            tally.resumed += end == -signal.SIGKILL and now >= before
            before = now
        except Exception as error:
            tally.lost += 1
            tally.messages.append(f"{type(error).__name__}: {error}")
            target, before = folder / f"killed_{tally.kills}_{tally.lost}", 0
        if end == 0:
            tally.finished += 1
            tally.equal += equal(reference, target)
            target, before = folder / f"killed_{tally.kills}", 0
            if not left:
                break
    return tally
