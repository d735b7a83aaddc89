"""A small random Stable Diffusion 1 as a single file in the original layout, and as a folder in diffusers
layout.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from support.random_pipeline import random_pipeline
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def small_sd1(seed: int = 0) -> StableDiffusionPipeline:
    """Build the four levels of Stable Diffusion 1 with 32 channels each."""
    diffusion = random_pipeline(seed).diffusion
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            block_out_channels=(32,) * 4, cross_attention_dim=768, norm_num_groups=8, sample_size=64
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
        )
    diffusion.register_modules(unet=unet.eval(), vae=vae.eval())
    return diffusion


def write_single_file(diffusion: StableDiffusionPipeline, path: Path) -> Path:
    """Write a pipeline's networks under the original names."""
    text = {
        f"text_model.{key.removeprefix('text_model.')}": value
        for key, value in diffusion.text_encoder.state_dict().items()
    }
    parts = {
        "model.diffusion_model.": {
            _unet_name(key): value for key, value in diffusion.unet.state_dict().items()
        },
        "first_stage_model.": {
            _vae_name(key): _vae_value(key, value) for key, value in diffusion.vae.state_dict().items()
        },
        "cond_stage_model.transformer.": text,
    }
    save_file(
        {prefix + key: value.contiguous() for prefix, state in parts.items() for key, value in state.items()},
        path,
    )
    return path


def _unet_name(key: str) -> str:
    block, _, rest = key.rpartition("resnets.")
    if block:
        number, _, name = rest.partition(".")
        layer, _, kind = name.rpartition(".")
        key = f"{block}resnets.{number}.{_RESNET[layer]}.{kind}"
    for pattern, replacement in (
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
    ):
        key = re.sub(pattern, replacement, key)
    key = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", key)
    key = re.sub(
        r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)",
        lambda m: f"input_blocks.{3 * int(m[1]) + int(m[3]) + 1}.{_slot(m[2])}",
        key,
    )
    key = re.sub(
        r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)",
        lambda m: f"output_blocks.{3 * int(m[1]) + int(m[3])}.{_slot(m[2])}",
        key,
    )
    key = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op", key
    )
    return re.sub(
        r"^up_blocks\.(\d)\.upsamplers\.0",
        lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 if m[1] == '0' else 2}",
        key,
    )


def _slot(kind: str) -> int:
    return 0 if kind == "resnets" else 1


def _vae_name(key: str) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "attentions" in key:
        part, name = key.split("mid_block.attentions.0.")
        layer, _, kind = name.rpartition(".")
        return f"{part}mid.attn_1.{_VAE_ATTENTION[layer]}.{kind}"
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)


def _vae_value(key: str, value: Tensor) -> Tensor:
    """The original's attention is made of 1x1 convolutions."""
    return value[:, :, None, None] if "attentions" in key and value.ndim == 2 else value
