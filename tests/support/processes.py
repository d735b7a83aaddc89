"""Several training processes on this machine, as torchrun starts them, without the seconds that importing
torch takes each.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "face2diffusion.training.mapper.train",
        "face2diffusion.training.msid.train",
        "face2diffusion.training.data.prepare",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    ]
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _main(job: Callable, arguments: tuple, rank: int, world: int, port: int, answers: Any) -> None:
    import torch

    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_RANK=str(rank),
    )
    torch.set_num_threads(1)
    try:
        answers.send(job(*arguments))
    except BaseException as error:
        traceback.print_exc()
        answers.send(error)
        raise SystemExit(1) from error


class Processes:
    """A job in several processes."""

    def __init__(self, job: Callable, *arguments: Any, world: int = 2) -> None:
        """Start `job(*arguments)` in each; the job has to stand in a module of `support`."""
        port, self.ends, self.processes = free_port(), [], []
        for rank in range(world):
            end, other = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_main, args=(job, arguments, rank, world, port, other), daemon=False
            )
            process.start()
            other.close()
            self.ends.append(end)
            self.processes.append(process)

    def wait(self, seconds: float = 90) -> list[Any]:
        """What the jobs gave back, or the exception that one has raised.

        None of a process that was killed.
        """
        end = time.monotonic() + seconds
        answers = []
        try:
            for answer in self.ends:
                if not answer.poll(max(0, end - time.monotonic())):
                    raise TimeoutError(f"no answer within {seconds} s")
                try:
                    answers.append(answer.recv())
                except EOFError:
                    answers.append(None)
        finally:
            for process in self.processes:
                process.join(5)
                process.kill()
        return answers


def run(job: Callable, *arguments: Any, world: int = 2) -> list[Any]:
    """Run a job in several processes, and raise what any of them raised."""
    answers = Processes(job, *arguments, world=world).wait()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


# --- Jobs ---

Trained = tuple[Path, list[str]]  # the weight file, and what the process logged


def train(settings: dict[str, Any], hang: float | None = None, pause: float = 0) -> Trained:
    """Run `f2d-train msid`, waiting `hang` seconds at most for other processes, and pausing at each step that
    is logged."""
    from face2diffusion.training.config import MSIDTrainingConfig
    from face2diffusion.training.engine import processes
    from face2diffusion.training.msid.train import train_msid

    if hang:
        processes.HANG = timedelta(seconds=hang)
    lines: list[str] = []

    def log(message: str) -> None:
        lines.append(message)
        time.sleep(pause)

    return train_msid(MSIDTrainingConfig(**settings), log), lines


def train_mapper(settings: dict[str, Any]) -> Trained:
    """Run `f2d-train mapper`."""
    from face2diffusion.training.config import MapperTrainingConfig
    from face2diffusion.training.mapper.train import train_mapper

    lines: list[str] = []
    return train_mapper(MapperTrainingConfig(**settings), lines.append), lines


def prepare(settings: dict[str, Any]) -> Path:
    """Run `f2d-train prepare`."""
    from face2diffusion.training.config import PrepareConfig
    from face2diffusion.training.data.prepare import prepare

    return prepare(PrepareConfig(**settings), [].append)


def world_of(answers: list[Trained]) -> int:
    """The number of processes that worked together: the first one logs it, and all others are silent."""
    (_, first), *others = answers
    assert not any(lines for _, lines in others), "only the first process of a run logs"
    (line,) = [line for line in first if " on cpu" in line]
    return int(line.split(", ")[1].split()[0])


def classify(batches: list[tuple[Any, Any]], classes: int, sample_rate: float, margin: float) -> list[tuple]:
    """Losses, gradients of the features and of the own rows of W, for some batches in float64."""
    from face2diffusion.training.engine.processes import start_processes
    from face2diffusion.training.msid.classifier import ShardedClassifier

    with start_processes("cpu") as processes:
        rank, world = processes.rank, processes.world
        width = batches[0][0].shape[1]
        classifier = ShardedClassifier(classes, width, 64.0, margin, sample_rate, 3, rank, world).double()
        found = []
        for step, (features, labels) in enumerate(batches):
            size = len(features) // world
            own = features[rank * size : (rank + 1) * size].clone().requires_grad_()
            classifier.weight.grad = None
            loss = classifier(own, labels[rank * size : (rank + 1) * size], step)
            loss.backward()
            found.append((loss.item(), own.grad.numpy(), classifier.weight.grad.numpy()))
        return found


def normalize(batch: Any, weights: Any) -> tuple:
    """Output, gradient, running mean and variance of batch normalization in training mode, in float32."""
    import torch
    from face2diffusion.training.engine.processes import start_processes
    from face2diffusion.training.msid.batch_norm import synchronize_norms
    from torch import nn

    with start_processes("cpu") as processes:
        norm = nn.Sequential(nn.BatchNorm1d(batch.shape[1]))
        synchronize_norms(norm)
        norm[0].weight.data.copy_(torch.linspace(0.5, 2, batch.shape[1]))
        size = len(batch) // processes.world
        mine = slice(processes.rank * size, (processes.rank + 1) * size)
        own = batch[mine].clone().requires_grad_()
        output = norm(own)
        (output * weights[mine]).sum().backward()
        statistics = norm[0].running_mean.numpy(), norm[0].running_var.numpy()
        return output.detach().numpy(), own.grad.numpy(), *statistics
