"""The miniature's base model with random weights, and the bundled workflow two_people in its words."""

from __future__ import annotations

from pathlib import Path

import torch
from face2diffusion.training.miniature.models.autoencoder import Autoencoder
from face2diffusion.training.miniature.models.export import write_base
from face2diffusion.training.miniature.models.text_to_image import Diffusion


def write_random_base(folder: Path, seed: int = 0) -> tuple[Autoencoder, Diffusion]:
    """Write `folder`/base, and return the networks as they were rounded to float16."""
    torch.manual_seed(seed)
    autoencoder, diffusion = Autoencoder().eval(), Diffusion().eval()
    for parameter in diffusion.unet.parameters():  # biases and norms of 0 and 1 would hide mistakes
        parameter.data += 0.02 * torch.randn_like(parameter)
    write_base(folder / "base", autoencoder, diffusion)
    return torch.nn.Module.float(autoencoder.half()), torch.nn.Module.float(diffusion.half())


def in_region(text: str) -> str:
    """Say a prompt of the workflow two_people in the miniature's words."""
    return (
        "a photo of a person and a person"
        if "two people" in text
        else text.replace("A photo", "a photo").replace(" in a park", "")
    )
