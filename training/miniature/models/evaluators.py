"""Trains the judges of `f2d.miniature.judges`, on drawings of which half went through the autoencoder, so that its blur is nothing new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....f2d.miniature.evaluators import FEATURES, Attributes, Verifier
from ....f2d.miniature.prompts import KINDS
from ...engine.fit import FitConfig, fit
from ...engine.seeds import derive_seed
from ..world.samples import EVALUATED, Drawing, balanced_facts, drawing, to_tensor
from .autoencoder import Autoencoder

_DRAWINGS = 40_000_000  # numbers of drawings for each judge
_SCALE, _MARGIN = 24.0, 0.2  # of the verifier's cosine softmax


@torch.no_grad()
def _wear(pictures: Tensor, autoencoder: Autoencoder, generator: torch.Generator) -> Tensor:
    """Send half the pictures through the autoencoder with noise on their latents, as a generated picture has it."""
    half, device = len(pictures) // 2, next(autoencoder.parameters()).device
    pictures = pictures.to(device)
    latents = autoencoder.encode(pictures[:half].contiguous(memory_format=torch.channels_last))
    noise = (
        0.25
        * torch.rand(half, 1, 1, 1, generator=generator)
        * torch.randn(latents.shape, generator=generator)
    )
    worn = autoencoder.decode(latents + noise.to(device)).float().clamp(-1, 1)
    return torch.cat([worn, pictures[half:]])


def _batch(
    config: FitConfig, autoencoder: Autoencoder, kind: int, step: int
) -> tuple[Tensor, Tensor, list[Drawing]]:
    """Draw people of `album.EVALUATED`: pictures (B, 3, 128, 128), who they are (B,), counted from 0, and the drawings."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, kind, step))
    who = torch.randint(len(EVALUATED), (config.batch_size,), generator=generator)
    first = kind * _DRAWINGS + step * config.batch_size
    drawings = [
        drawing(first + i, EVALUATED.start + int(number), balanced_facts(first + i))
        for i, number in enumerate(who)
    ]
    pictures = _wear(to_tensor(drawings), autoencoder, generator)
    return pictures, who.to(pictures.device), drawings


def train_verifier(
    config: FitConfig, autoencoder: Autoencoder, log: Callable[[str], None] = print
) -> Verifier:
    """Train with a cosine margin softmax (CosFace).

    Args:
        config: the run.
        autoencoder: trained.
        log: called with each progress message.

    Returns:
        The verifier.
    """
    torch.manual_seed(config.seed)
    network = Verifier()
    both = nn.ModuleDict({"verifier": network, "classes": nn.Linear(FEATURES, len(EVALUATED), bias=False)})
    classes: Any = both["classes"]

    def loss_of(step: int) -> Tensor:
        pictures, who, _ = _batch(config, autoencoder, 1, step)
        features = functional.normalize(network(pictures), dim=1)
        cosine = features.float() @ functional.normalize(classes.weight, dim=1).T
        return functional.cross_entropy(
            _SCALE * (cosine - _MARGIN * functional.one_hot(who, len(EVALUATED))), who
        )

    fit(both, loss_of, config, log)
    return network.eval()


def train_attributes(
    config: FitConfig, autoencoder: Autoencoder, log: Callable[[str], None] = print
) -> Attributes:
    """Train a classifier of each kind; arguments as for `train_verifier`.

    Returns:
        The classifiers.
    """
    torch.manual_seed(config.seed)
    network = Attributes()

    def loss_of(step: int) -> Tensor:
        pictures, _, drawings = _batch(config, autoencoder, 2, step)
        logits = network.split(network(pictures).float())
        wanted = {
            kind: torch.tensor([names.index(getattr(one.facts, kind)) for one in drawings])
            for kind, names in KINDS.items()
        }
        losses = [
            functional.cross_entropy(logits[kind], wanted[kind].to(logits[kind].device)) for kind in KINDS
        ]
        return torch.stack(losses).sum()

    return fit(network, loss_of, config, log)  # type: ignore[return-value]
