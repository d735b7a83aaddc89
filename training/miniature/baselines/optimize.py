"""The optimization that all per-person methods share, on the engine's training loop."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.fit import FitConfig, fit
from ...engine.loop import never_stop
from .personal_model import PersonalModel
from .stopping_rule import VarianceRule

_EVALUATED = 8  # samples of the deterministic loss


@dataclass(frozen=True, kw_only=True)
class PersonConfig(FitConfig):
    """How one person is trained: as in the methods' own code, the learning rate is constant."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate, which does not depend on the step."""
        return self.lr


def optimize(
    model: PersonalModel,
    photo: Tensor,
    others: Tensor | None,
    out: str | os.PathLike,
    seed: int = 0,
    bf16: bool = True,
) -> int:
    """Train what the method of a model trains, on one photo.

    Args:
        model: is trained.
        photo: shape (1, C, H, W), latent of the person's photo.
        others: shape (P, C, H, W), latents of other people's photos; only methods with a prior need it.
        out: run folder; training resumes what is in it.
        seed: of noise, timesteps and the choice among the other people.
        bf16: train with autocast.

    Returns:
        The number of steps, which DVAR's rule may have reduced.

    Raises:
        InterruptedError: a signal stopped the training.
    """
    method, rule = model.method, VarianceRule(lambda: _deterministic_loss(model, photo))
    config = PersonConfig(
        out=os.fspath(out),
        steps=method.steps,
        batch_size=method.batch_size,
        lr=method.lr,
        ema=0.0,
        seed=seed,
        precision="bf16" if bf16 else "no",
        device=photo.device.type,
        save_every=method.steps,
        keep=1,
        report_to=(),
    )
    fit(
        model.trained,
        lambda step: _training_loss(model, photo, others),
        config,
        _ignore,
        rule if method.stops_early else never_stop,
    )
    return rule.stopped_at or method.steps


def _ignore(message: str) -> None:
    """Log nothing: these trainings take seconds, and there are hundreds."""


def _training_loss(model: PersonalModel, photo: Tensor, others: Tensor | None) -> Tensor:
    """Compute the loss of a batch; with a prior, half of it shows other people as "a person"."""
    method, states = model.method, model.encode()
    own = method.batch_size // 2 if method.prior else method.batch_size
    latents, states = photo.expand(own, -1, -1, -1), states.expand(own, -1, -1)
    if method.prior and others is not None:
        chosen = others[torch.randint(len(others), (method.batch_size - own,))]
        latents = torch.cat([latents, chosen])
        states = torch.cat([states, model.base.class_states.expand(len(chosen), -1, -1)])
    time = torch.randint(model.base.steps, (len(latents),))
    return model.denoising_loss(latents, torch.randn_like(latents), time, states)


@torch.no_grad()
def _deterministic_loss(model: PersonalModel, photo: Tensor) -> float:
    """Compute the loss of the photo with noise and timesteps that are always the same."""
    generator = torch.Generator().manual_seed(0)
    latents = photo.expand(_EVALUATED, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=generator)
    time = torch.linspace(0, model.base.steps - 1, _EVALUATED + 2)[1:-1].long()
    return float(model.denoising_loss(latents, noise, time, model.encode().expand(_EVALUATED, -1, -1)))
