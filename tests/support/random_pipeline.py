"""A small Stable Diffusion with random weights, for the stand-alone pipeline."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import torch
from face2diffusion.f2d.diffusion.pipeline import F2DPipeline


def random_pipeline(seed: int = 0) -> F2DPipeline:
    """Build a small Stable Diffusion in SD 1.x layout with random weights; its images are noise.

    The text encoder is 768 wide; the tokenizer knows single letters only, under CLIP's own ids.

    Args:
        seed: for the weights.

    Returns:
        The pipeline, float32 on the CPU, for pictures of 64 px and more.
    """
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, start, end = _letter_tokenizer()
        text = CLIPTextConfig(
            vocab_size=end + 1,
            hidden_size=768,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=12,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
        unet: Any = UNet2DConditionModel(
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
            norm_num_groups=8,
            sample_size=64,
        )
        vae: Any = AutoencoderKL(
            block_out_channels=(16, 16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
        )
        diffusion = StableDiffusionPipeline(
            vae.eval(),
            CLIPTextModel(text).eval(),
            tokenizer,
            unet.eval(),
            EulerAncestralDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
            None,
            None,
            requires_safety_checker=False,
        )
    return F2DPipeline(diffusion, f"random weights, seed {seed}")


def _letter_tokenizer() -> tuple[Any, int, int]:
    """Make a CLIP tokenizer without merges.

    One token a byte, numbered as in CLIP, where 's' at a word's end is 338.
    """
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    letters = [
        chr(byte) if byte in printable else chr(256 + index - len(printable))
        for index, byte in enumerate(order)
    ]
    names = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as file:
            json.dump({name: index for index, name in enumerate(names)}, file)
        with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as file:
            file.write("#version: 0.2\n")
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    return tokenizer, len(names) - 2, len(names) - 1
