"""The processes of an evaluation, as `accelerate launch` or torchrun start them: who draws what, and who has finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ...f2d.pipeline import best_device

_PATIENCE = timedelta(days=7)  # for slower processes; one that died is noticed at once


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of the run."""

    rank: int
    world: int
    device: str

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is shared."""
        return self.rank == 0

    def own(self, name: str) -> str:
        """Give each node a file name of its own; SQLite cannot lock a file on most network file systems."""
        path, node = Path(name), os.environ.get("GROUP_RANK", "0")
        return name if node == "0" else f"{path.stem}-{node}{path.suffix}"

    def share(self, value: Any) -> Any:
        """Give all processes what process 0 has, once it has it."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Give all processes what each has, in order, once all have it."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextmanager
def start_processes(device: str = "") -> Iterator[Processes]:
    """Join the other processes of RANK and WORLD_SIZE; alone where there are none.

    Only small things pass between them, so they talk through gloo also where they compute on GPUs.

    Args:
        device: "" = the best there is; of several GPUs, that of LOCAL_RANK.

    Yields:
        The processes.

    Raises:
        ConnectionError: one of the others has died.
    """
    rank, world, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = device or best_device()
    if device == "cuda":
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    if world == 1:
        yield Processes(rank, world, device)
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, world, device)
    except RuntimeError as error:  # gloo has no class of its own for a lost connection
        if not isinstance(error, dist.DistError) and not any(
            word in str(error).lower() for word in ("gloo", "connection", "peer", "socket")
        ):
            raise
        raise ConnectionError(
            f"Expected an answer of all {world} processes, got none of one that has died; process {rank} stops too "
            f"({str(error).splitlines()[0]}). Look for the first error of the others; the same command goes on."
        ) from error
    finally:
        dist.destroy_process_group()
