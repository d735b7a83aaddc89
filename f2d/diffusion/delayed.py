"""Delayed subject conditioning (DSC, Sec. 3.4 and E.2) in diffusers' denoising loop."""

from __future__ import annotations

from typing import Any

import torch

from ..prompt.injection import delayed_ranges


class SubjectSwitch:
    """A callback for diffusers that replaces the class prompt by the prompt with S*."""

    def __init__(
        self, positive: torch.Tensor, negative: torch.Tensor, subject_from: float, count: int
    ) -> None:
        """Set the prompt and its time.

        Args:
            positive: shape (B or 1, 77, D), the encoded prompt with S*.
            negative: shape (1, 77, D), the encoded negative prompt.
            subject_from: share of the denoising with the class prompt, in (0, 1).
            count: B, images in the batch.
        """
        self.positive, self.negative, self.count = positive, negative, count
        (_, self.switch), _ = delayed_ranges(subject_from)

    def __call__(
        self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Look one step ahead: diffusers calls this after each step."""
        times = pipeline.scheduler.timesteps
        last = pipeline.scheduler.config.num_train_timesteps - 1
        if step + 1 < len(times) and 1 - float(times[step + 1]) / last > self.switch:
            # With guidance the negative prompt stands before the positive one.
            guided = len(tensors["prompt_embeds"]) > self.count
            parts = [self.negative, self.positive] if guided else [self.positive]
            tensors["prompt_embeds"] = torch.cat([part.expand(self.count, -1, -1) for part in parts])
        return tensors
