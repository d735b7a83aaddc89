"""The processes of a run, as torchrun and `accelerate launch` start them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from ...f2d.device import best_device, choose_device

HANG = timedelta(minutes=5)  # how long processes wait for one that hangs; one that died is noticed at once
_SLOW = timedelta(days=1)  # how long they wait for objects, which may take others hours to make
# gloo has no exception class of its own for a lost connection.
_LOST = ("connection", "timed out", "timeout", "peer", "gloo", "nccl", "socket")


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of the run."""

    rank: int
    world: int
    device: str
    objects: Any = None  # the gloo group that exchanges Python objects; None if there is one process

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is shared."""
        return self.rank == 0

    @property
    def device_type(self) -> str:
        """The device without its number: "cuda", "mps" or "cpu"."""
        return torch.device(self.device).type

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a CUDA device."""
        return self.device_type == "cuda"

    def __str__(self) -> str:
        """Name number and device, for the log."""
        return f"{self.world} process{'es' if self.world > 1 else ''} on {self.device_type}"

    def own(self, name: str) -> str:
        """Return a file name per node: SQLite cannot lock a file on most network file systems."""
        path, node = Path(name), os.environ.get("GROUP_RANK", "0")
        return name if node == "0" else f"{path.stem}-{node}{path.suffix}"

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, the same answer in all."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def mean(self, value: torch.Tensor) -> float:
        """Average a scalar over all processes; all get the same number."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value.item() / self.world

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes, in one exchange."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            self.any(False)

    def share(self, value: Any) -> Any:
        """Broadcast an object of process 0."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.objects)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Gather an object of each process, in order, in all processes."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.objects)
        return values

    def gather_work(self, work: Callable[[], Any]) -> list[Any]:
        """Gather what each process computes, in order; if one fails, all raise.

        Raises:
            RuntimeError: the work of a process failed.
        """
        found = self.gather(_attempt(work))
        for _, error in found:
            if error:
                raise RuntimeError(error)
        return [result for result, _ in found]


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return work(), ""
    except Exception as error:  # whatever it is, the caller raises it in all processes
        return None, f"{type(error).__name__}: {error}"


ALONE = Processes(0, 1, "cpu")


def read_environment(device: str = "") -> Processes:
    """Read from RANK, WORLD_SIZE and LOCAL_RANK which process this is, without joining the others.

    Args:
        device: "" = the best there is; of several GPUs, that of LOCAL_RANK.

    Returns:
        The processes, which cannot exchange anything yet.

    Raises:
        ValueError: the device is not available.
    """
    rank, world, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    device = device or best_device()
    return Processes(rank, world, choose_device(f"cuda:{local}" if device == "cuda" else device))


def require_one_process(what: str, device: str = "") -> Processes:
    """Describe a run that cannot be divided; as `read_environment`.

    Raises:
        ValueError: torchrun or `accelerate launch` started several processes.
    """
    processes = read_environment(device)
    if processes.world > 1:
        raise ValueError(
            f"{what} runs in one process, but WORLD_SIZE is {processes.world}. "
            "Start it without torchrun and accelerate."
        )
    return processes


@contextmanager
def start_processes(
    device: str = "", backend: Literal["gloo", "nccl"] = "nccl", patience: timedelta | None = None
) -> Iterator[Processes]:
    """Join the other processes of RANK and WORLD_SIZE; alone if there are none.

    Args:
        device: "" = the best there is; of several GPUs, that of LOCAL_RANK.
        backend: what they talk through where they compute on GPUs; "gloo" does where only small things pass.
            On CPUs it is always gloo.
        patience: how long they wait for one that hangs; `HANG` where left out.

    Yields:
        The processes.

    Raises:
        ConnectionError: one of the others has died or hangs.
        ValueError: torch.distributed has another number of processes than WORLD_SIZE.
    """
    processes = read_environment(device)
    if processes.on_gpu:
        torch.cuda.set_device(processes.device)
    if processes.world == 1:
        _check_world(1)
        yield processes
        return
    try:
        with _group(backend if processes.on_gpu else "gloo", patience or HANG) as objects:
            _check_world(processes.world)
            yield Processes(processes.rank, processes.world, processes.device, objects)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in _LOST):
            raise
        raise ConnectionError(
            f"Another of the {processes.world} processes crashed or timed out, so rank {processes.rank} "
            f"stops ({str(error).splitlines()[0]}). Look for the first error of the others; rerun the "
            "command to resume."
        ) from error


@contextmanager
def _group(backend: str, patience: timedelta) -> Iterator[Any]:
    """Yield the group for objects. After an error no group is left, as that would wait for the dead."""
    dist.init_process_group(backend, timeout=patience)
    yield dist.new_group(backend="gloo", timeout=max(patience, _SLOW))
    dist.destroy_process_group()


def _check_world(expected: int) -> None:
    found = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if found != expected:
        raise ValueError(
            f"WORLD_SIZE is {expected}, but torch.distributed has {found} process(es). "
            "Start all of them with one torchrun or `accelerate launch`."
        )
