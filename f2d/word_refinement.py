"""Refining S*: from the mapper's words, a few gradient steps on the two words alone, for one person.

photos of a person, as crops (S, S, 3), and where the face is in them
  -> Target       latents (2, C, H, W) and masks M (2, 1, H, W) of a photo and its mirror image
  -> refine_words the words (2, D) that minimize CGDR (Eq. 7) on these photos, near where the mapper put them

Outside M, where training has the prediction for the class words, stands that for the words of the start: M
need not cover the hair, since the mapper's words keep it.

No weight changes. What denoises is an argument: diffusers' networks (`diffusion/denoising.py`) or ComfyUI's
(`nodes/model_denoiser.py`). All randomness of a step derives from the seed and the step's number.

Dimension letters: B batch, C latent channels, H and W latent sides, D word width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .denoising_loss import cgdr_loss
from .face.identity_region import IdentityCrop
from .image import Photo

_SMALL = 8  # latent pixels: the side of the smallest image that a U-Net of SD 1.x takes


class Denoiser(Protocol):
    """A frozen diffusion model with the prompt "A photo of S*"."""

    @property
    def steps(self) -> int:
        """T: number of timesteps."""

    def parameters(self) -> Iterable[Tensor]:
        """List the weights, of any shape."""

    def add_noise(self, latent: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Diffuse latents of shape (B, C, H, W) to times (B,); also give what is to be predicted."""

    def predict(self, noisy: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Predict with the words, shape (1, 2, D), into which gradients flow: shape (B, C, H, W)."""


@dataclass(frozen=True, eq=False)
class Target:
    """What the words are to explain: a photo and its mirror image."""

    latents: Tensor  # (2, C, H, W), scaled as the U-Net sees them
    masks: Tensor  # (2, 1, H, W) in [0, 1]: M, the face


@dataclass(frozen=True)
class RefinementConfig:
    """How words are refined."""

    steps: int = 60
    strength: float = 0.4  # step size of Adam: % of the words' root mean square
    batch: int = 8  # noisy latents per step
    at_once: int = 8  # of them, in one pass; fewer need less memory
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.steps, self.batch, self.at_once) < 1:
            raise ValueError(
                f"{self.steps} steps with batches of {self.batch}, {self.at_once} at once, refine nothing. "
                "Use at least 1 of each."
            )
        if not 0 < self.strength <= 10:
            raise ValueError(
                f"A strength of {self.strength:g} % of the words' size per step is out of range. "
                "Use one above 0, up to 10; from 2 on the prompt suffers."
            )


def make_target(crop: IdentityCrop, encode: Callable[[list[Photo]], Tensor]) -> Target:
    """Encode a photo's crop, shape (S, S, 3), and its mirror image.

    Args:
        crop: of one photo.
        encode: gives the scaled latents, shape (2, C, H, W), of two images.

    Returns:
        Latents of shape (2, C, H, W), and masks of shape (2, 1, H, W).
    """
    pair = [crop, crop.mirrored()]
    latents = encode([one.image for one in pair])
    masks = torch.stack([torch.from_numpy(one.mask).float() for one in pair])[:, None]
    return Target(latents, interpolate(masks, latents.shape[2:], mode="area").to(latents.device))


@dataclass(frozen=True)
class Memory:
    """What refining needs, in bytes."""

    weights: int
    per_batch: int  # whatever its size: activations of the prompt, weights that are cast to another type
    per_sample: int  # of a batch: activations and their gradients

    def of_batch(self, size: int) -> int:
        """Compute what so many samples at once need beside the weights."""
        return self.per_batch + size * self.per_sample

    def samples_within(self, available: int) -> int:
        """Count the samples, at least one, that fit into so many bytes beside the weights."""
        return max(1, int((available - self.per_batch) / self.per_sample))

    def describe(self, at_once: int) -> str:
        """Write how much is needed for so many samples at once."""
        weights, batch = self.weights / 2**30, self.of_batch(at_once) / 2**30
        return (
            f"about {weights + batch:.2g} GB of memory: {weights:.2g} for the weights, {batch:.2g} for "
            f"{at_once} noisy latent{'s' * (at_once > 1)} at once"
        )


def measure_memory(denoiser: Denoiser, words: Tensor, target: Target) -> Memory:
    """Measure what a batch keeps for its gradient, by predicting one and two small samples and a whole one.

    Args:
        denoiser: with the prompt; its device is the words'.
        words: shape (2, D), float32.
        target: a photo.

    Returns:
        The memory, with a reserve of a half for what backward computes in between.
    """
    weights = {
        weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
        for weight in denoiser.parameters()
    }

    def measure(latents: Tensor) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        time = torch.full((len(latents),), denoiser.steps // 2, device=words.device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            denoiser.predict(latents.to(words.device), time, words.detach()[None].requires_grad_())
        return round(1.5 * sum(size for place, size in kept.items() if place not in weights))

    small = target.latents[..., :_SMALL, :_SMALL]
    per_batch = 2 * measure(small[:1]) - measure(small)
    per_sample = max(1, measure(target.latents[:1]) - per_batch)
    return Memory(sum(weights.values()), per_batch, per_sample)


def refine_words(
    denoiser: Denoiser,
    words: Tensor,
    targets: Sequence[Target],
    config: RefinementConfig | None = None,
    on_step: Callable[[int, float, Tensor], None] = lambda step, loss, words: None,
) -> Tensor:
    """Minimize CGDR over the two words with Adam; each step sees one photo.

    Args:
        denoiser: with the prompt; its device is the words'.
        words: shape (2, D), float32: the mapper's.
        targets: at least one photo.
        config: how.
        on_step: called after each step with its number from 1, its loss, and the words of shape (2, D);
            raises to cancel.

    Returns:
        shape (2, D), float32.

    Raises:
        ValueError: no photo, or a gradient that is NaN or infinite.
    """
    config = config or RefinementConfig()
    if not targets:
        raise ValueError("There is no photo to refine the words with. Give at least one.")
    found = words.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([found], lr=config.strength / 100 * words.square().mean().sqrt().item())
    for step in range(config.steps):
        optimizer.zero_grad()
        loss = _backward(denoiser, found, words, targets[step % len(targets)], config, step)
        optimizer.step()
        on_step(step + 1, loss, found.detach().clone())
    return found.detach()


def _backward(
    denoiser: Denoiser, words: Tensor, start: Tensor, target: Target, config: RefinementConfig, step: int
) -> float:
    """Add the gradient of one step's loss, times a constant, to the words, shape (2, D); return the loss.

    `start`, shape (2, D), are the words that the prediction outside M comes from.
    """
    latents, masks, noise, time = _sample(target, denoiser.steps, config, step, words.device)
    # In a float16 network the gradient of a mean would vanish, so that of a sum goes through it; Adam does
    # not care.
    total, scale = 0.0, latents[0].numel()
    for part in torch.arange(config.batch, device=words.device).split(config.at_once):
        noisy, wanted = denoiser.add_noise(latents[part], noise[part], time[part])
        prediction = denoiser.predict(noisy, time[part], words[None])
        with torch.no_grad():
            outside = denoiser.predict(noisy, time[part], start[None])
        loss = cgdr_loss(prediction, wanted, outside, masks[part]) * (len(part) / config.batch)
        (loss * scale).backward()
        total += loss.item()
    if words.grad is None or not words.grad.isfinite().all():
        raise ValueError(
            f"The gradient of step {step + 1} is NaN or infinite: the base model or the photo's latent is "
            "damaged, or float16 overflows. Load the base model in bfloat16 or float32."
        )
    return total


def _sample(
    target: Target, timesteps: int, config: RefinementConfig, step: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose a step's latents (B, C, H, W), masks (B, 1, H, W), noise (B, C, H, W) and times (B,).

    Half of a batch are mirror images. The times lie evenly over all timesteps from a random start, so that
    the steps' losses differ less (low-discrepancy sampling: Kingma et al., "Variational Diffusion Models").
    """
    seed = int(np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(seed)
    side = torch.randperm(config.batch, generator=generator) % 2
    shares = (torch.arange(config.batch) + torch.rand((), generator=generator)) / config.batch
    noise = torch.randn(config.batch, *target.latents.shape[1:], generator=generator)
    time = (shares * timesteps).long().clamp(max=timesteps - 1)
    side = side.to(target.latents.device)
    latents, masks = target.latents[side].to(device), target.masks[side].to(device)
    return latents, masks, noise.to(device), time.to(device)
