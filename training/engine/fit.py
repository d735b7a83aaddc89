"""Training of the miniature's small networks: AdamW, a cosine schedule, an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..config import Precision, TrainingConfig, option
from .attention import fastest_attention
from .loop import Task, TrainingLoop, never_stop
from .optimizer import make_optimizer
from .precision import autocast
from .processes import require_one_process
from .run_folder import Run, check_finished

_TOKENS = 256  # at most, in any of these networks


@dataclass(frozen=True, kw_only=True)
class FitConfig(TrainingConfig):
    """How one network is trained."""

    steps: int = option(1, "optimizer steps", may_change=True)
    batch_size: int = option(32, "images per step")
    lr: float = option(1e-3, "highest learning rate")
    warmup: int = option(100, "steps over which the learning rate rises")
    ema: float = option(0.999, "decay of the average of the weights, reached after a while")
    precision: Precision = option("bf16", "autocast; on a CPU only worth it if it has bf16 units")
    save_every: int = option(200, "steps between checkpoints", may_change=True)

    def learning_rate(self, step: int) -> float:
        """Compute a step's learning rate: it rises linearly and falls as a cosine.

        Args:
            step: from 0.

        Returns:
            in (0, `lr`].
        """
        rising = min(1.0, (step + 1) / self.warmup)
        return self.lr * rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def average_decay(self, step: int) -> float:
        """Compute the average's decay after `step` steps, lower at first: the random start is forgotten."""
        return min(self.ema, step / (step + 10))


def fit(
    network: nn.Module,
    loss_of: Callable[[int], Tensor],
    config: FitConfig,
    log: Callable[[str], None] = print,
    stop_early: Callable[[int], bool] = never_stop,
) -> nn.Module:
    """Train a network; with a run folder that holds a checkpoint, resume from it.

    Args:
        network: all its parameters are trained.
        loss_of: computes the loss of a step, on the network's device; its randomness derives from the step's
            number.
        config: the run.
        log: called with each progress message.
        stop_early: asked after each step, with the number of steps done; True = this was the last one.

    Returns:
        The network with the average of its weights, in evaluation mode.

    Raises:
        FloatingPointError: the loss is NaN or infinite.
        InterruptedError: a signal stopped the run; the same call resumes.
        ValueError: torchrun or `accelerate launch` started several processes.
        OSError: the run folder cannot be written to.
    """
    processes = require_one_process("The miniature", config.device)
    run = Run(config.out, config, config.keep)
    network.to(processes.device).train()

    def compute_loss(batch: object, step: int) -> Tensor:
        with (
            autocast(processes.device, config.precision),
            fastest_attention(processes.device_type, _TOKENS),
        ):
            return loss_of(step)

    task = Task(
        kind="fit",
        network=network,
        optimizer=make_optimizer(network.parameters(), config),
        compute_loss=compute_loss,
        learning_rate=config.learning_rate,
        average_decay=config.average_decay,
        steps=config.steps,
        stop_early=stop_early,
    )
    try:
        loop = TrainingLoop(config, task, run, processes, log)
        loop.train()
    finally:
        run.close()
    check_finished(run.folder, loop.step, loop.steps)
    network.load_state_dict(loop.weights)
    return network.eval()
