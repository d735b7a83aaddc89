"""Regional prompts: parts of the image with prompts of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the image with its own prompt, beside the prompt of the whole image.

    ComfyUI's Conditioning (Set Mask) and Conditioning (Combine) do the same.
    """

    prompt: str
    states: torch.Tensor  # (B or 1, 77, D), of `F2DPipeline.encode`
    mask: torch.Tensor  # (H, W) in [0, 1]; of any size, stretched over the image


@contextmanager
def regional_prompts(unet: torch.nn.Module, regions: Sequence[Region], count: int) -> Iterator[None]:
    """Average a U-Net's prediction for the prompt with those for the regions, where their masks are.

    Args:
        unet: of diffusers, with its negative prompts, if any, before its prompts in the batch.
        regions: parts of the image.
        count: images in the batch.

    Yields:
        Nothing; the U-Net does so while the block runs.
    """

    def average(
        module: torch.nn.Module, inputs: Any, options: dict[str, Any], output: Any
    ) -> tuple[torch.Tensor]:
        sample, time = inputs
        *negative, total = output[0].split(count)  # with guidance the negative stands before the positive
        weight = torch.ones_like(total[:1, :1])
        for region in regions:
            mask = functional.interpolate(region.mask[None, None].to(total), total.shape[2:], mode="bilinear")
            states = {**options, "encoder_hidden_states": region.states.to(total).expand(count, -1, -1)}
            total, weight = total + mask * module.forward(sample[-count:], time, **states)[0], weight + mask
        return (torch.cat([*negative, total / weight]),)

    handle = unet.register_forward_hook(average, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
