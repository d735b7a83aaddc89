"""What the methods train in a person's copy of the U-Net. Each function returns the trained parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Adapt = Callable[[Any], list[nn.Parameter]]  # may change the U-Net, diffusers' UNet2DConditionModel

_BLOCK_SIZE = 32  # of OFT's rotations; peft's default
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def train_nothing(unet: Any) -> list[nn.Parameter]:
    """Leave the U-Net alone: TextualInversion and DVAR train words only."""
    return []


def train_cross_attention(unet: Any) -> list[nn.Parameter]:
    """Train the keys and values of cross-attention, as CustomDiffusion does."""
    return [
        parameter
        for name, parameter in unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    ]


def train_everything(unet: Any) -> list[nn.Parameter]:
    """Train all weights, as DreamBooth does."""
    return list(unet.parameters())


def train_rotations(unet: Any) -> list[nn.Parameter]:
    """Train block-diagonal rotations of all attention weights, as OFT does.

    Args:
        unet: gets peft's OFT layers, which start as the identity.

    Returns:
        The parameters of the rotations.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import OFTConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('OFT needs peft. Run `pip install "face2diffusion[train]"`.') from error
    inject_adapter_in_model(OFTConfig(oft_block_size=_BLOCK_SIZE, target_modules=_ATTENTION), unet)
    return [parameter for name, parameter in unet.named_parameters() if ".oft_R." in name]
