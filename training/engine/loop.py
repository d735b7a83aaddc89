"""The loop that every training runs on.

Per step: micro-batches by number -> loss -> gradients, reduced over the processes -> clipping -> optimizer ->
average of the weights. All randomness derives from the seed and the numbers of step and samples, so a resumed
run equals an uninterrupted one, and the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..config import TrainingConfig
from .averaging import WeightAverage
from .means import RunningMeans
from .precision import make_scaler, scale_is_lost, tf32
from .processes import Processes
from .progress import Progress
from .run_folder import Run
from .sampling import Batch, ResumableBatchSampler, load_batches, watch_workers
from .seeds import derive_seed

_LISTED = 32  # samples of a bad batch that a message names


class Divided(Protocol):
    """What each process trains alone, as its share of something larger."""

    optimizer: torch.optim.Optimizer

    def state(self) -> dict[str, Any]:
        """Return what `load` needs of this process's share."""

    def load(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Extract this process's share from the states of all shares, whose number may differ."""


def never_stop(step: int) -> bool:
    """Train all steps."""
    return False


@dataclass(frozen=True)
class Event:
    """Something that is done now and then, after a checkpoint; all processes take part."""

    name: str
    every: int  # steps; 0 = never
    action: Callable[
        [int, Mapping[str, Tensor]], None
    ]  # is given the steps done and the weights, averaged where they are
    done: Callable[[int], bool] = lambda step: True  # asked when a run begins: 0 steps, or where it stopped


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained, and how its loss is computed."""

    kind: str  # of the weight files
    network: nn.Module  # the same in all processes, on their device, in training mode
    optimizer: torch.optim.Optimizer  # of the network
    compute_loss: Callable[[Batch, int], Tensor]  # of a micro-batch and the steps done; a scalar
    learning_rate: Callable[[int], float]  # by the steps done
    steps: int
    samples: Dataset | None = (
        None  # by number, dicts of tensors; None = `compute_loss` makes its own from the step
    )
    sample_name: str = "samples"  # what `index` of a sample counts, for messages
    reduction: Literal["mean", "sum"] = "mean"  # of the network's gradients over the processes
    divided: Divided | None = None
    adjust_gradients: Callable[[], None] = lambda: None  # once they are reduced, before they are clipped
    average_decay: Callable[[int], float] | None = (
        None  # of `WeightAverage`; None = the config's `ema` at all steps
    )
    stop_early: Callable[[int], bool] = never_stop  # asked after each step; the same in all processes
    network_config: Any = None  # for the weight files, with the metadata
    metadata: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[Event] = ()
    means: RunningMeans = field(default_factory=RunningMeans)  # what `compute_loss` adds is logged beside it


class TrainingLoop:
    """One run, from its last checkpoint to the end."""

    def __init__(
        self,
        config: TrainingConfig,
        task: Task,
        run: Run,
        processes: Processes,
        log: Callable[[str], None] = print,
    ) -> None:
        """Load the last checkpoint, if any.

        Args:
            config: of the run.
            task: what is trained.
            run: the folder.
            processes: of the run.
            log: called with each message, in process 0.

        Raises:
            ValueError: all checkpoints are damaged.
        """
        self.config, self.task, self.run, self.processes, self.log = config, task, run, processes, log
        self.step, self.steps = 0, task.steps
        self.scaler = make_scaler(processes.device, config.precision)
        self.average: WeightAverage | None = None
        if config.ema:
            self.average = WeightAverage(task.network, task.average_decay or (lambda step: config.ema))
        self._parameters = [
            parameter for group in task.optimizer.param_groups for parameter in group["params"]
        ]
        self._resume()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to save and sample with: the average if there is one, else the network's own."""
        return self.average.tensors if self.average else self.task.network.state_dict()

    def train(self) -> Path:
        """Train to the end, or until a signal asks any of the processes to stop.

        Returns:
            The last weight file.

        Raises:
            FloatingPointError: loss or gradient are NaN or infinite.
            ConnectionError: a loader process was killed.
            OSError: the run folder cannot be written to.
        """
        if self.processes.first:
            self.log(f"{self.run.folder.name}: step {self.step} of {self.task.steps}, {self.processes}")
        batches = self._batches()
        self.progress = self._make_progress()
        try:
            with tf32(self.processes.device), watch_workers("loads samples"):
                self._catch_up()
                while self.step < self.steps and not self.processes.any(self.run.stopping):
                    self._train_step(batches)
                    if self.task.stop_early(self.step):
                        self.steps = self.step
                    self._save_and_notify()
        finally:
            batches.close()  # ends the loader processes
            self.progress.close()
        weights = self.run.folder / f"{self.task.kind}-{self.step:08d}.safetensors"
        if self.processes.any(self._saved_step != self.step or not weights.exists()):
            self.save()
        if self.step < self.steps and self.processes.first:
            self.log(f"Stopped at step {self.step}. Rerun the command to resume.")
        return weights

    def _make_progress(self) -> Progress:
        return Progress(
            self.run,
            self.processes,
            self.log,
            steps=self.task.steps,
            first_step=self.step,
            batch_size=self.config.batch_size,
            every=self.config.log_every,
            means=self.task.means,
        )

    def _batches(self) -> Generator[Batch, None, None]:
        """Yield this process's micro-batches from the next step on."""
        if self.task.samples is None:
            yield from repeat({})
            return
        sampler = ResumableBatchSampler(
            self.config.batch_size,
            self.step,
            self.task.steps,
            self.processes.rank,
            self.processes.world,
            self.config.accumulate,
        )
        yield from load_batches(self.task.samples, sampler, self.config.workers, self.processes.on_gpu)

    # --- A step ---

    def _train_step(self, batches: Iterator[Batch]) -> None:
        torch.manual_seed(derive_seed(self.config.seed, self.step))
        lr = self.task.learning_rate(self.step)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = lr
        loss, indices = self._backward(batches)
        if not math.isfinite(loss):
            self._stop_on(f"loss is {loss}", indices)
        norm = self._update(indices)
        self.step += 1
        if self.average:
            self.average.update(self.step)
        self.progress.count(self.step, lr, loss=loss, gradient_norm=norm)

    @property
    def _optimizers(self) -> list[torch.optim.Optimizer]:
        divided = self.task.divided
        return [self.task.optimizer, *([divided.optimizer] if divided else [])]

    def _backward(self, batches: Iterator[Batch]) -> tuple[float, list[int]]:
        """Add up the gradients of all micro-batches; returns the mean loss, and the samples' indices."""
        losses, indices = [], []
        for _ in range(self.config.accumulate):
            batch = next(batches)
            indices += batch["index"].tolist() if "index" in batch else []
            device = self.processes.device
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            loss = self.task.compute_loss(batch, self.step)
            losses.append(loss.detach())
            self.scaler.scale(loss / self.config.accumulate).backward()
        return self.processes.mean(torch.stack(losses).mean()), indices

    def _update(self, indices: list[int]) -> float:
        """Take a step, unless gradients in float16 overflow; returns the norm of the network's gradient."""
        self._reduce()
        self._unscale()
        self.task.adjust_gradients()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip or math.inf).item()
        finite = math.isfinite(norm)
        if not finite and not self.scaler.is_enabled():
            self._stop_on(f"norm of the gradient is {norm}", indices)
        self.scaler.step(self.task.optimizer)
        if finite and self.task.divided:
            self.task.divided.optimizer.step()
        self.scaler.update()
        if scale_is_lost(self.scaler):
            self._stop_on("gradient overflows float16 at any loss scale", indices)
        return norm

    def _reduce(self) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self.processes.add_up(gradients)
        if self.task.reduction == "mean" and self.processes.world > 1:
            torch._foreach_div_(gradients, self.processes.world)

    def _unscale(self) -> None:
        """Divide by the loss scale, which the network's gradients decide on for all."""
        self.scaler.unscale_(self.task.optimizer)
        if self.scaler.is_enabled() and self.task.divided:
            for group in self.task.divided.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad /= self.scaler.get_scale()

    def _stop_on(self, what: str, indices: list[int]) -> None:
        named = ", ".join(map(str, indices[:_LISTED])) + (", ..." if len(indices) > _LISTED else "")
        of = f" ({self.task.sample_name} {named}; rank {self.processes.rank})" if indices else ""
        last = f"Last checkpoint: {self.run.committed.weights}" if self.run.committed else "No checkpoint yet"
        raise FloatingPointError(
            f"The {what} at step {self.step} of '{self.run.folder}'{of}. Lower the learning rate, or use "
            f"bf16 instead of fp16, and rerun the command. {last}."
        )

    # --- Checkpoints ---

    def _save_and_notify(self) -> None:
        """Save if due, and only then act on events: if one ends the process, nothing is lost."""
        due = self._due()
        if due or self.step % self.config.save_every == 0 or self.step == self.steps:
            self.save()
        self._notify(due)

    def _due(self) -> list[Event]:
        return [event for event in self.task.events if event.every and self.step % event.every == 0]

    def _catch_up(self) -> None:
        """Act on events that a kill has prevented, or that are for the untrained network."""
        due = self._due()
        open_ones = self.processes.share([not event.done(self.step) for event in due])
        self._notify([event for event, is_open in zip(due, open_ones, strict=True) if is_open])

    def _notify(self, events: Sequence[Event]) -> None:
        for event in events:
            try:
                event.action(self.step, self.weights)
            except ConnectionError:
                raise
            except Exception as error:  # whatever it is, the training is worth more
                self.progress.note(f"{event.name} failed at step {self.step}; training continues: {error}")

    def save(self) -> None:
        """Write a checkpoint; all processes take part."""
        task = self.task
        if task.divided:
            self.run.save_part(self.step, task.divided.state())
        if self.processes.first:
            self.run.save_state(self.step, self._state())
        self.processes.wait()
        if self.processes.first:
            self.run.save(
                self.step,
                self.weights,
                task.kind,
                task.network_config,
                divided=task.divided is not None,
                **task.metadata,
            )
        self.processes.wait()
        self._saved_step = self.step

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.task.network.state_dict(),
            "optimizer": self.task.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.tensors if self.average else {},
        }

    def _resume(self) -> None:
        self._saved_step = -1
        saved = self.run.load()
        if saved is None:
            return
        state = saved.state
        self.task.network.load_state_dict(state["network"])
        self.task.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load(state["average"])
        if self.task.divided:
            self.task.divided.load(saved.parts)
        self.step = self._saved_step = state["step"]
