"""Which samples a process sees in which step, and how they are loaded."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .signals import outlive_signals

Batch = dict[str, Tensor]
_LATE = 2.0  # seconds between a broken pipe and the signal that its process died
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) [\w: ]+")


class ResumableBatchSampler:
    """Which samples this process sees, by micro-batch; all processes together see each number once."""

    def __init__(
        self, batch_size: int, first_step: int, steps: int, rank: int, world: int, accumulate: int = 1
    ) -> None:
        """Divide the batches.

        Args:
            batch_size: of all processes and accumulated parts together.
            first_step: at which to resume.
            steps: where to end.
            rank: of this process.
            world: number of processes.
            accumulate: parts that a process computes in turn.

        Raises:
            ValueError: the batch cannot be divided.
        """
        parts = world * accumulate
        if batch_size % parts:
            raise ValueError(
                f"The batch size {batch_size} is not divisible by processes x accumulate = {world} x "
                f"{accumulate}. Change one of them."
            )
        self.batch_size, self.size, self.accumulate = batch_size, batch_size // parts, accumulate
        self.first_step, self.steps, self.rank, self.world = first_step, steps, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of sample numbers."""
        for step in range(self.first_step, self.steps):
            for part in range(self.accumulate):
                start = step * self.batch_size + (part * self.world + self.rank) * self.size
                yield list(range(start, start + self.size))

    def __len__(self) -> int:
        """Number of micro-batches."""
        return (self.steps - self.first_step) * self.accumulate


def load_batches(
    samples: Dataset, batch_sampler: ResumableBatchSampler, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Load this process's micro-batches in turn.

    Args:
        samples: by number; each a dict of tensors.
        batch_sampler: which numbers.
        workers: loader processes; 0 = in this process.
        pin_memory: for copies to a GPU.

    Yields:
        The samples' tensors, stacked.

    Raises:
        ValueError: a sample is damaged.
    """
    options: dict[str, Any] = {"batch_sampler": batch_sampler, "worker_init_fn": start_worker}
    try:
        yield from DataLoader(samples, num_workers=workers, pin_memory=pin_memory, **options)
        return
    except ValueError as error:  # a worker's error comes with its whole traceback in the message
        message = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
    raise ValueError(message)  # not from the error, whose traceback would keep the workers alive


def start_worker(number: int) -> None:
    """Set up a loader process; for `DataLoader(worker_init_fn=...)`."""
    cv2.setNumThreads(0)  # the workers are the threads
    outlive_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this loader process when the main one was killed, even if it waits to write into a pipe."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


@contextmanager
def watch_workers(work: str) -> Iterator[None]:
    """Turn the death of a loader process, which may surface anywhere in the block, into one clear line.

    Args:
        work: what these processes do, for the message.

    Raises:
        ConnectionError: a loader process was killed.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        reason = _find_death(error)
        if not reason:
            raise
        raise ConnectionError(
            f"A process that {work} died ({reason}), often for lack of memory. Rerun the command to resume; "
            "lower --workers if it happens again."
        ) from error


def _find_death(error: Exception) -> str:
    """Tell from an error which loader process died, and how; "" if none did.

    A pipe from the process may break before the signal of its death comes, upon which DataLoader raises its
    own error, wherever the main process is. It is awaited here, so that it does not come later.
    """
    if not isinstance(error, RuntimeError):
        try:
            time.sleep(_LATE)
        except RuntimeError as late:
            return _find_death(late)
        return str(error) if isinstance(error, ConnectionResetError) else ""
    dead = _DEAD_WORKER.search(str(error))
    return dead[0] if dead else ""
