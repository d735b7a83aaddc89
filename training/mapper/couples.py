"""Two people in one training image: photos side by side, with "S* and S*" in the prompt. Not in the paper.

A mapper that is trained with one person at a time need not keep two apart: in "a photo of S1* and S2*" each
half of the image is generated from both people's words. Here the halves have different faces, so the words
learn to be told apart by their order.

Dimension letters: B photos, C latent channels, S latent side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...f2d.prompt.injection import PLACEHOLDER
from ..engine.sampling import Batch

_JOINED = ("latent", "noise", "mask")


def couple_prompts(prompt: str, class_prompt: str) -> tuple[str, str]:
    """Write the prompts of two people: "A photo of S* and S*", "A photo of a person and a person".

    Args:
        prompt: with S* once.
        class_prompt: the same with the class words.

    Returns:
        Both, with two people.

    Raises:
        ValueError: the prompts differ in more than S*.
    """
    before, _, after = prompt.partition(PLACEHOLDER)
    words = class_prompt[len(before) : len(class_prompt) - len(after)]
    if f"{before}{words}{after}" != class_prompt or not words.strip():
        raise ValueError(
            f"--couples-every needs prompts that differ in {PLACEHOLDER} only, but --prompt is '{prompt}' "
            f"and --class-prompt '{class_prompt}'. Write the same text around the class words."
        )
    return (f"{before}{PLACEHOLDER} and {PLACEHOLDER}{after}", f"{before}{words} and {words}{after}")


def join_side_by_side(batch: Batch) -> Batch:
    """Join each two successive photos: the middle three quarters of each, at the first one's timestep.

    Args:
        batch: of `MapperDataset`, stacked; B is even.

    Returns:
        The batch with `latent` and `noise` of shape (B / 2, C, S, 1.5 S), `mask` (B / 2, 1, S, 1.5 S) and
        `time` (B / 2,), without `context`; what enters the mapper keeps B.
    """
    joined = {name: tensor for name, tensor in batch.items() if name != "context"}
    for name in _JOINED:
        joined[name] = torch.cat([_middle(batch[name][0::2]), _middle(batch[name][1::2])], dim=-1)
    return joined | {"time": batch["time"][0::2]}


def _middle(maps: Tensor) -> Tensor:
    cut = maps.shape[-1] // 8
    return maps[..., cut : maps.shape[-1] - cut]
