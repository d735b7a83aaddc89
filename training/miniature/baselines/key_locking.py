"""Perfusion's key locking: keys come from the prompt with the class words, values from the one with S*.

Cross-attention sees both encodings side by side, and marks of where S* stands:

    [prompt with "a person" (D) | prompt with S* (D) | marks (2)]
     -> to_k                      -> to_v              -> one trained vector per layer and word, added to v

That trained vector is the rank-one edit of the values (o* of the paper) with the gate at 1 for the words of
S* and 0 elsewhere; keys are locked for the whole prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....f2d.diffusion.pipeline import F2DPipeline
from ....f2d.diffusion.text_encoder import PromptEncoder
from ....f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, isolate, replace_placeholders

_WORDS = 2  # of S*


class LockedKey(nn.Module):
    """The key projection, of the prompt with the class words."""

    def __init__(self, projection: nn.Linear) -> None:
        """Wrap a projection."""
        super().__init__()
        self.projection = projection

    def forward(self, states: Tensor) -> Tensor:
        """Project the first part of the states, shape (B, N, 2 D + 2)."""
        return self.projection(states[..., : self.projection.in_features])


class EditedValue(nn.Module):
    """The value projection of the prompt with S*, and a trained vector for each word of S*."""

    def __init__(self, projection: nn.Linear) -> None:
        """Wrap a projection; the trained vectors start at 0."""
        super().__init__()
        self.projection = projection
        self.edit = nn.Parameter(torch.zeros(_WORDS, projection.out_features))

    def forward(self, states: Tensor) -> Tensor:
        """Project the second part of the states, shape (B, N, 2 D + 2), and edit the words of S*."""
        width = self.projection.in_features
        return self.projection(states[..., width : 2 * width]) + states[..., 2 * width :] @ self.edit


def lock_keys(unet: Any) -> list[nn.Parameter]:
    """Lock the keys of all cross-attention; returns the vectors that edit the values."""
    edits = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.to_k, module.to_v = LockedKey(module.to_k), EditedValue(module.to_v)
            edits.append(module.to_v.edit)
    return edits


def join_states(class_states: Tensor, states: Tensor, marks: Tensor) -> Tensor:
    """Put both encodings and the marks side by side.

    Args:
        class_states: shape (1, N, D), of the prompt with the class words.
        states: shape (1, N, D), of the prompt with S*.
        marks: shape (N, 2), of `mark_words`.

    Returns:
        shape (1, N, 2 D + 2).
    """
    return torch.cat([class_states, states, marks[None].to(states)], dim=-1)


def mark_words(prompts: PromptEncoder, prompt: str) -> Tensor:
    """Mark where the words of S* stand in a prompt: shape (N, 2), 0 or 1."""
    ids = prompts.pad(prompts.content_ids(isolate(prompt, [PLACEHOLDER])))
    word, marks = prompts.content_ids(PLACEHOLDER), torch.zeros(len(ids), _WORDS)
    for place in range(len(ids) - len(word) + 1):
        if ids[place : place + len(word)] == word:
            marks[place : place + _WORDS] = torch.eye(_WORDS)
    return marks


class KeyLockedPipeline(F2DPipeline):
    """A pipeline whose U-Net has locked keys."""

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt with S* and with the class words: shape (1, 77, 2 D + 2)."""
        named = PLACEHOLDER in prompt
        class_prompt = replace_placeholders(prompt, [PLACEHOLDER], CLASS_WORDS) if named else prompt
        marks = mark_words(self.prompts, prompt)
        return join_states(super().encode(class_prompt), super().encode(prompt), marks)
