"""A narrow TAESD: 8 times smaller, 4 latent channels, and a TAESD once its channels are padded with zeros.

TAESD [madebyollin/taesd] has no norms, and its blocks end in relu(x + conv(x)): a channel of zeros stays
zero. So the narrow network is trained, and the wide one computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data.parsing import CELEBAMASK_LABELS
from ...engine.fit import FitConfig, fit
from ..world.samples import render_sample, to_tensor

WIDTH = 64  # of TAESD
LATENT_CHANNELS = 4
_FULL = (16, 32, 64, 64)  # channels at full, half, quarter and eighth size
_FEATURES = tuple(
    CELEBAMASK_LABELS.index(n)
    for n in ("nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "hair")
)
_FEATURE_WEIGHT = 5.0


class Block(nn.Module):
    """relu(x + three convolutions of x)."""

    def __init__(self, width: int) -> None:
        """Build three convolutions of `width` channels."""
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W)."""
        return functional.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """TAESD's soft limit of latents to [-3, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W)."""
        return torch.tanh(x / 3) * 3


class Autoencoder(nn.Module):
    """Encoder and decoder; their layers are numbered as in TAESD's files."""

    def __init__(self, widths: tuple[int, int, int, int] = _FULL) -> None:
        """Build the layers.

        Args:
            widths: channels at full, half, quarter and eighth size; at most 64.
        """
        super().__init__()
        full, half, quarter, eighth = widths

        def conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1, **options)

        down = {"stride": 2, "bias": False}
        self.encoder = nn.Sequential(
            conv(3, full), Block(full),
            conv(full, half, **down), Block(half), Block(half), Block(half),
            conv(half, quarter, **down), Block(quarter), Block(quarter), Block(quarter),
            conv(quarter, eighth, **down), Block(eighth), Block(eighth), Block(eighth),
            conv(eighth, LATENT_CHANNELS),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            Clamp(), conv(LATENT_CHANNELS, eighth), nn.ReLU(),
            Block(eighth), Block(eighth), Block(eighth), nn.Upsample(scale_factor=2),
            conv(eighth, quarter, bias=False),
            Block(quarter), Block(quarter), Block(quarter), nn.Upsample(scale_factor=2),
            conv(quarter, half, bias=False),
            Block(half), Block(half), Block(half), nn.Upsample(scale_factor=2),
            conv(half, full, bias=False),
            Block(full), conv(full, 3),
        )  # fmt: skip

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] to latents (B, 4, H/8, W/8) of a variance near 1."""
        return self.encoder(images * 0.5 + 0.5)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents of shape (B, 4, h, w) to images (B, 3, 8h, 8w) near [-1, 1]."""
        return self.decoder(latents) * 2 - 1


def train_autoencoder(config: FitConfig, log: Callable[[str], None] = print) -> Autoencoder:
    """Train on rendered samples; facial features weigh more than flat color.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The autoencoder, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    network = Autoencoder()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def loss_of(step: int) -> Tensor:
        samples = [render_sample(step * config.batch_size + i) for i in range(config.batch_size)]
        device = next(network.parameters()).device
        images = to_tensor(samples).to(device).contiguous(memory_format=torch.channels_last)
        labels = torch.stack([torch.from_numpy(sample.rendering.labels) for sample in samples])
        on_feature = torch.isin(labels, torch.tensor(_FEATURES)).float()[:, None].to(device)
        weight = 1 + (_FEATURE_WEIGHT - 1) * on_feature
        latents = network.encode(images)
        decoded = network.decode(latents + 0.05 * torch.randn_like(latents)).float()
        difference = decoded - images
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        latents = latents.float()
        spread = (latents.var(dim=(0, 2, 3)) - 1).pow(2).mean() + latents.mean(dim=(0, 2, 3)).pow(2).mean()
        return ((difference.abs() + difference.pow(2)) * weight).mean() + edges + 0.01 * spread

    fit(network, loss_of, config, log)
    return network
