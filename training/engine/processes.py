"""The processes of a run, as `accelerate launch` or torchrun start them: who they are, what they tell each other, and when one has died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from ...f2d.device import best_device

_LOST = (
    "connection",
    "timed out",
    "timeout",
    "peer",
    "gloo",
    "nccl",
    "socket",
)  # gloo has no class of its own for a lost connection


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

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a CUDA device."""
        return self.device.startswith("cuda")

    def own(self, name: str) -> str:
        """Give each node a file name of its own; SQLite cannot lock a file on most network file systems."""
        path, node = Path(name), os.environ.get("GROUP_RANK", "0")
        return name if node == "0" else f"{path.stem}-{node}{path.suffix}"

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process; all get the same answer."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            self.any(False)

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
def start_processes(
    device: str, backend: Literal["gloo", "nccl"], patience: timedelta
) -> Iterator[Processes]:
    """Join the other processes of RANK and WORLD_SIZE; alone where there are none.

    Args:
        device: "" = the best there is; of several GPUs, that of LOCAL_RANK.
        backend: what they talk through where they compute on GPUs; "gloo" does where only small things pass. On CPUs it is always gloo.
        patience: how long they wait for one that hangs; one that died is noticed at once.

    Yields:
        The processes.

    Raises:
        ConnectionError: one of the others has died or hangs.
    """
    rank, world, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    device = device or best_device()
    if device == "cuda":
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    processes = Processes(rank, world, device)
    if world == 1:
        yield processes
        return
    try:
        dist.init_process_group(backend if processes.on_gpu else "gloo", timeout=patience)
        yield processes
        dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in _LOST):
            raise
        raise ConnectionError(
            f"Expected an answer of all {world} processes, got none of one that has died or hangs; process {rank} stops too "
            f"({str(error).splitlines()[0]}). Look for the first error of the others; the same command goes on from what is saved."
        ) from error
