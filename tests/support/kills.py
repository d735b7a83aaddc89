"""Runs that are killed: at any call that writes a checkpoint, or at random moments."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from face2diffusion.f2d.files import TEMPORARY

from .processes import Processes, run


class Killed(BaseException):
    """Ends a run in this process; nothing is cleaned up on the way."""


def kill_at(call: int, work: Callable[[], Any]) -> bool:
    """Do some work until the n-th time that a file or a name is brought to the disk.

    What is on the disk then is what a kill at this moment leaves, as no temporary file is removed.

    Args:
        call: which call of `os.fsync` or `os.replace` is never made, from 1.
        work: what writes files.

    Returns:
        Whether the work was ended; not where it makes fewer calls.
    """
    calls = count(1)

    def ending(real: Callable) -> Callable:
        def end_or_call(*arguments: Any) -> Any:
            if next(calls) == call:
                raise Killed
            return real(*arguments)

        return end_or_call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", ending(os.fsync))
        patch.setattr(os, "replace", ending(os.replace))
        patch.setattr(os, "remove", lambda path: None)
        try:
            work()
        except Killed:
            return True
    return False


def kill_often(
    job: Callable,
    settings: dict[str, Any],
    kills: int,
    read: Callable[[Path], dict[str, bytes]],
    chance: random.Random,
) -> str:
    """Kill a job at random moments and start it again, until it ends with what an uninterrupted one makes.

    Args:
        job: of `support.processes`, for one process.
        settings: its config; the folder `out` is made anew when the job has ended before its kill.
        kills: how many.
        read: what to compare of the folder.
        chance: for the moments, and whether a SIGTERM comes before the SIGKILL.

    Returns:
        How many kills there were, after a SIGTERM, and with a file left that was being written.
    """
    out, whole = Path(settings["out"]), Path(f"{settings['out']}-whole")
    start = time.monotonic()
    run(job, {**settings, "out": str(whole)}, world=1)
    duration, expected = time.monotonic() - start, read(whole)
    done, inside, terminated = 0, 0, 0
    while done < kills:
        running = Processes(job, settings, world=1)
        process = running.processes[0]
        time.sleep(chance.uniform(0, duration))
        if not process.is_alive():
            assert read(out) == expected
            shutil.rmtree(out)
            continue
        if chance.random() < 1 / 3:
            terminated += 1
            process.terminate()
            time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.join()
        done += 1
        inside += any(out.glob(f"{TEMPORARY}*"))
    run(job, settings, world=1)
    assert read(out) == expected
    return f"{done} kills, {terminated} of them after a SIGTERM, {inside} with a half-written file"
