"""The loop that trains the miniature's small networks: AdamW, a cosine schedule, an average of the weights, and a run folder that resumes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

from ...f2d.device import best_device
from ..config import option
from .attention import fastest_attention
from .optimizer import make_optimizer
from .run_folder import Run, check_finished
from .seeds import derive_seed

_TOKENS = 256  # at most, in any of these networks


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How one network is trained."""

    out: str = option("", "run folder", may_change=True)
    steps: int = option(1, "optimizer steps", may_change=True)
    batch_size: int
    lr: float
    warmup: int = 100  # steps
    weight_decay: float = 0.01
    clip: float = 1.0  # gradient norm
    ema: float = 0.999  # decay of the average of the weights, reached after a while
    bf16: bool = True  # autocast; on a CPU only worth it where it has bf16 units
    device: str = ""  # "" = the best there is
    seed: int = 0
    save_every: int = option(200, "steps", may_change=True)
    log_every: int = option(50, "steps", may_change=True)


def fit(
    network: nn.Module,
    loss_of: Callable[[int], Tensor],
    config: FitConfig,
    log: Callable[[str], None] = print,
) -> nn.Module:
    """Train a network; with a run folder that holds a checkpoint, go on from there.

    Args:
        network: all its parameters are trained.
        loss_of: computes the loss of a step, which decides alone what is drawn for it, on the network's device.
        config: the run.
        log: called with each progress message.

    Returns:
        The network with the average of its weights, in evaluation mode.

    Raises:
        FloatingPointError: the loss is NaN or infinite.
        InterruptedError: a signal stopped the run; the same call goes on.
        OSError: the run folder cannot be written to.
    """
    run = Run(config.out, config)
    network.to(config.device or best_device())
    device = next(network.parameters()).device.type
    optimizer = make_optimizer(network, config)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    step, state = 0, run.load_state()
    if state is not None:
        step, average = state["step"], {name: tensor.to(device) for name, tensor in state["average"].items()}
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    network.train()
    since, first = time.perf_counter(), step
    while step < config.steps and not run.stopping:
        torch.manual_seed(derive_seed(config.seed, step))
        for group in optimizer.param_groups:
            group["lr"] = (
                config.lr
                * min(1.0, (step + 1) / config.warmup)
                * 0.5
                * (1 + math.cos(math.pi * step / config.steps))
            )
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16), fastest_attention(device, _TOKENS):
            loss = loss_of(step)
        if not loss.isfinite():
            raise FloatingPointError(
                f"Expected a finite loss, got {loss.item()} at step {step} of '{config.out}'. Lower its learning rate."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        step += 1
        decay = min(config.ema, step / (step + 10))
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    average[name].lerp_(tensor, 1 - decay)
                else:
                    average[name].copy_(tensor)
        if step % config.log_every == 0 or step == config.steps:
            pace = (time.perf_counter() - since) / (step - first)
            run.log(step, loss=loss.item(), seconds_per_step=pace)
            log(
                f"{run.folder.name}: step {step}/{config.steps}  loss {loss.item():.4f}  {pace:.2f} s/step  {timedelta(seconds=round((config.steps - step) * pace))} left"
            )
        if step % config.save_every == 0 or step == config.steps or run.stopping:
            run.save_state(
                step,
                {
                    "step": step,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                },
            )
            run.save(step, average, "fit", None)
    run.close()
    check_finished(run.folder, step, config.steps)
    network.load_state_dict(average)
    return network.eval()
