"""The identity loss: the one-step image, its crop, and where the gradient goes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from face2diffusion.f2d.face.ffhq import crop_ffhq
from face2diffusion.training.mapper.identity_loss import IdentityLoss, crop_faces
from torch import nn


class Enlarge(nn.Module):
    """A VAE whose images are the first three channels of the latents, enlarged."""

    config = SimpleNamespace(scaling_factor=0.5)

    def decode(self, latent: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=nn.functional.interpolate(latent[:, :3], scale_factor=8))


class MeanColor(nn.Module):
    """An identity encoder that sees the mean color."""

    config = SimpleNamespace(image_size=112)

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return face.mean((2, 3))


def identity_loss(prediction_type: str = "epsilon", below: int = 200) -> IdentityLoss:
    schedule = SimpleNamespace(
        config=SimpleNamespace(prediction_type=prediction_type),
        alphas_cumprod=torch.linspace(0.99, 0.01, 1000),
    )
    return IdentityLoss(Enlarge(), MeanColor(), schedule, below)


def noise_of(loss: IdentityLoss, latent: torch.Tensor, time: torch.Tensor, v: bool = False):
    """Add noise; returns the noisy latents and what the U-Net should predict."""
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    alpha = loss.alphas[time].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
    return noisy, alpha.sqrt() * noise - (1 - alpha).sqrt() * latent if v else noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_the_latent_back(kind: str) -> None:
    loss, latent, time = identity_loss(kind), torch.randn(3, 4, 8, 8), torch.tensor([0, 100, 199])
    noisy, prediction = noise_of(loss, latent, time, v=kind == "v_prediction")
    torch.testing.assert_close(loss.denoise(noisy, prediction, time), latent, rtol=0, atol=1e-5)


def test_only_samples_with_little_noise_count_and_the_mean_is_over_all() -> None:
    loss, time = identity_loss(), torch.tensor([10, 199, 200, 900])
    latent = torch.zeros(4, 4, 8, 8)
    latent[:, 0] = 1  # red
    red, green = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    noisy, prediction = noise_of(loss, latent, time)
    found = loss(noisy, prediction, time, torch.stack([red, green, green, green]))
    assert float(found) == pytest.approx(1 / 4, abs=1e-3)
    prediction.requires_grad_()
    loss(noisy, prediction, time, torch.stack([green, green, green, green])).backward()
    assert prediction.grad.abs().sum((1, 2, 3)).gt(0).tolist() == [True, True, False, False]
    assert not loss(noisy, prediction, torch.full((4,), 500), green.expand(4, -1))


@pytest.mark.parametrize("side", [128, 300])
def test_faces_are_cropped_as_the_encoder_crops_them(side: int) -> None:
    rows, columns = np.mgrid[:side, :side] / side
    photo = np.stack([rows, columns, 0.5 + 0.5 * np.sin(9 * rows * columns)], axis=-1)
    photo = (255 * photo).astype(np.uint8)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    cropped = crop_faces(image, 112)[0].permute(1, 2, 0).numpy()
    assert np.abs(cropped - crop_ffhq(photo).astype(np.float32)).max() < 2
