"""Trains the evaluators of `f2d.miniature.evaluators`.

Half of the samples pass through the autoencoder, so that its blur affects no score.
"""

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
from ..world.samples import EVALUATOR_PEOPLE, Sample, render_sample, sample_balanced_attributes, to_tensor
from .autoencoder import Autoencoder

_SAMPLES = 40_000_000  # sample numbers per evaluator
_SCALE, _MARGIN = 24.0, 0.2  # of the verifier's cosine softmax


@torch.no_grad()
def _blur_half(images: Tensor, autoencoder: Autoencoder, generator: torch.Generator) -> Tensor:
    """Pass half the images through the autoencoder with noise on their latents, as in generated images."""
    half, device = len(images) // 2, next(autoencoder.parameters()).device
    images = images.to(device)
    latents = autoencoder.encode(images[:half].contiguous(memory_format=torch.channels_last))
    noise = (
        0.25
        * torch.rand(half, 1, 1, 1, generator=generator)
        * torch.randn(latents.shape, generator=generator)
    )
    blurred = autoencoder.decode(latents + noise.to(device)).float().clamp(-1, 1)
    return torch.cat([blurred, images[half:]])


def _batch(
    config: FitConfig, autoencoder: Autoencoder, kind: int, step: int
) -> tuple[Tensor, Tensor, list[Sample]]:
    """Render EVALUATOR_PEOPLE: images (B, 3, 128, 128), the people's places (B,), and the samples."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, kind, step))
    who = torch.randint(len(EVALUATOR_PEOPLE), (config.batch_size,), generator=generator)
    first = kind * _SAMPLES + step * config.batch_size
    samples = [
        render_sample(first + i, EVALUATOR_PEOPLE[int(place)], sample_balanced_attributes(first + i))
        for i, place in enumerate(who)
    ]
    images = _blur_half(to_tensor(samples), autoencoder, generator)
    return images, who.to(images.device), samples


def train_verifier(
    config: FitConfig, autoencoder: Autoencoder, log: Callable[[str], None] = print
) -> Verifier:
    """Train with a cosine margin softmax (CosFace).

    Args:
        config: the run.
        autoencoder: trained.
        log: called with each progress message.

    Returns:
        The verifier, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    network = Verifier()
    both = nn.ModuleDict(
        {"verifier": network, "classes": nn.Linear(FEATURES, len(EVALUATOR_PEOPLE), bias=False)}
    )
    classes: Any = both["classes"]

    def loss_of(step: int) -> Tensor:
        images, who, _ = _batch(config, autoencoder, 1, step)
        features = functional.normalize(network(images), dim=1)
        cosine = features.float() @ functional.normalize(classes.weight, dim=1).T
        return functional.cross_entropy(
            _SCALE * (cosine - _MARGIN * functional.one_hot(who, len(EVALUATOR_PEOPLE))), who
        )

    fit(both, loss_of, config, log)
    return network.eval()


def train_attributes(
    config: FitConfig, autoencoder: Autoencoder, log: Callable[[str], None] = print
) -> Attributes:
    """Train a classifier of jobs, places and expressions; arguments as for `train_verifier`.

    Returns:
        The classifier, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    network = Attributes()

    def loss_of(step: int) -> Tensor:
        images, _, samples = _batch(config, autoencoder, 2, step)
        logits = network.split(network(images).float())
        wanted = {
            kind: torch.tensor([names.index(getattr(sample.attributes, kind)) for sample in samples])
            for kind, names in KINDS.items()
        }
        losses = [
            functional.cross_entropy(logits[kind], wanted[kind].to(logits[kind].device)) for kind in KINDS
        ]
        return torch.stack(losses).sum()

    fit(network, loss_of, config, log)
    return network
