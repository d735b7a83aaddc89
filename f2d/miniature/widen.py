"""Exact widening: the miniature's narrow networks in Stable Diffusion 1.x's shapes, with the same outputs.

Networks with norms get several copies of each channel, side by side, and incoming weights divided by their
number: means and variances stay the same. Where there is no norm, zeros fill up. The residual stream of the
text encoder passes unchanged through layers of zeros.

| narrow | wide |
|---|---|
| text encoder, 192 x 2 layers | CLIP ViT-L/14's, 768 x 12 layers |
| U-Net, 160 channels, 8 heads of 20 | SD 1.x's first width, 320 channels, 8 heads of 40 |
| words of S*, 192 | 768 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

TEXT_WIDTH, TEXT_LAYERS, TEXT_MLP, TEXT_VOCABULARY = 768, 12, 3072, 49408  # CLIP ViT-L/14
UNET_WIDTH = 320


def _repeat(tensor: Tensor, times: int, dim: int = 0) -> Tensor:
    """Repeat each entry `times` times, side by side."""
    return tensor.repeat_interleave(times, dim)


def _dense(weight: Tensor, outputs: int, inputs: int) -> Tensor:
    """Widen a matrix or a convolution, shape (O, I, ...), each of whose inputs comes `inputs` times."""
    return _repeat(_repeat(weight, outputs, 0), inputs, 1) / inputs


def widen_words(words: Tensor, width: int = TEXT_WIDTH) -> Tensor:
    """Widen word vectors or rows of an embedding: shape (..., D) to (..., width)."""
    return _repeat(words, width // words.shape[-1], -1)


def widen_text_encoder(tensors: Mapping[str, Tensor], heads: int, clip_ids: list[int]) -> Tensors:
    """Widen a narrow CLIP text encoder to CLIP-L's shapes.

    Args:
        tensors: of transformers' CLIPTextModel, D wide, keys with or without "text_model.".
        heads: of its attention; CLIP-L's number.
        clip_ids: CLIP's number of each of the V words; others get a row of zeros.

    Returns:
        Tensors under transformers' names without "text_model.".
    """
    narrow = {name.removeprefix("text_model."): tensor.float() for name, tensor in tensors.items()}
    rows = narrow["embeddings.token_embedding.weight"]
    times = TEXT_WIDTH // rows.shape[1]
    table = torch.zeros(TEXT_VOCABULARY, TEXT_WIDTH)
    table[clip_ids] = widen_words(rows[: len(clip_ids)])
    wide = {
        "embeddings.token_embedding.weight": table,
        "embeddings.position_embedding.weight": widen_words(narrow["embeddings.position_embedding.weight"]),
    }
    for index in range(TEXT_LAYERS):
        layer = f"encoder.layers.{index}."
        wide |= _widen_attention(narrow, layer, rows.shape[1], heads) | _widen_mlp(narrow, layer, times)
    for part in ("weight", "bias"):
        wide[f"final_layer_norm.{part}"] = _repeat(narrow[f"final_layer_norm.{part}"], times)
    return wide


def _widen_attention(narrow: Tensors, layer: str, width: int, heads: int) -> Tensors:
    """Widen a layer's norms and attention; a layer that is not there becomes one of zeros."""
    times = TEXT_WIDTH // width
    # Logits grow with the copies, their scale does not.
    sharpen = math.sqrt(TEXT_WIDTH // heads) / (times * math.sqrt(width // heads))
    wide = {}
    for norm in ("layer_norm1", "layer_norm2"):
        for part, default in (("weight", torch.ones(width)), ("bias", torch.zeros(width))):
            wide[f"{layer}{norm}.{part}"] = _repeat(narrow.get(f"{layer}{norm}.{part}", default), times)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        key, factor = f"{layer}self_attn.{name}.", sharpen if name == "q_proj" else 1.0
        weight = narrow.get(f"{key}weight", torch.zeros(width, width))
        bias = narrow.get(f"{key}bias", torch.zeros(width))
        wide[f"{key}weight"] = factor * _dense(weight, times, times)
        wide[f"{key}bias"] = factor * _repeat(bias, times)
    return wide


def _widen_mlp(narrow: Tensors, layer: str, times: int) -> Tensors:
    """Widen a layer's perceptron, with zeros in the hidden units that the narrow one lacks."""
    first, second = f"{layer}mlp.fc1.", f"{layer}mlp.fc2."
    wide = {
        f"{first}weight": torch.zeros(TEXT_MLP, TEXT_WIDTH),
        f"{first}bias": torch.zeros(TEXT_MLP),
        f"{second}weight": torch.zeros(TEXT_WIDTH, TEXT_MLP),
        f"{second}bias": torch.zeros(TEXT_WIDTH),
    }
    if f"{first}weight" in narrow:
        size = len(narrow[f"{first}weight"])
        wide[f"{first}weight"][:size] = _dense(narrow[f"{first}weight"], 1, times)
        wide[f"{first}bias"][:size] = narrow[f"{first}bias"]
        wide[f"{second}weight"][:, :size] = _repeat(narrow[f"{second}weight"], times)
        wide[f"{second}bias"][:] = _repeat(narrow[f"{second}bias"], times)
    return wide


# Where diffusers' names of the miniature's U-Net are in Stable Diffusion's own numbering.
_BLOCKS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "down_blocks.0.resnets.0.": "input_blocks.1.0.",
    "down_blocks.0.downsamplers.0.conv.": "input_blocks.2.0.op.",
    "down_blocks.1.resnets.0.": "input_blocks.3.0.",
    "down_blocks.1.attentions.0.": "input_blocks.3.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "up_blocks.0.resnets.0.": "output_blocks.0.0.",
    "up_blocks.0.attentions.0.": "output_blocks.0.1.",
    "up_blocks.0.resnets.1.": "output_blocks.1.0.",
    "up_blocks.0.attentions.1.": "output_blocks.1.1.",
    "up_blocks.0.upsamplers.0.conv.": "output_blocks.1.2.conv.",
    "up_blocks.1.resnets.0.": "output_blocks.2.0.",
    "up_blocks.1.resnets.1.": "output_blocks.3.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}


def _original_name(name: str) -> str:
    """Translate a tensor's name from diffusers to Stable Diffusion's own; KeyError for another U-Net."""
    start = next((start for start in _BLOCKS if name.startswith(start)), None)
    if start is None:
        raise KeyError(name)
    rest = name.removeprefix(start)
    if ".resnets." in start:
        part = next(part for part in _RESNET if rest.startswith(part))
        rest = _RESNET[part] + rest.removeprefix(part)
    return _BLOCKS[start] + rest


def widen_unet(tensors: Mapping[str, Tensor], heads: int) -> Tensors:
    """Widen the miniature's U-Net to SD 1.x's widths, with its names.

    Args:
        tensors: of diffusers' UNet2DConditionModel, as `training.miniature.models.text_to_image` builds it.
        heads: of its attention; SD 1.x's number.

    Returns:
        Tensors under SD's own names, without "model.diffusion_model.".

    Raises:
        ValueError: a U-Net of another shape.
    """
    narrow = {name: tensor.float() for name, tensor in tensors.items()}
    try:
        channels, context = (
            len(narrow["conv_in.bias"]),
            narrow["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        )
        times, words = UNET_WIDTH // channels, TEXT_WIDTH // context
        sharpen = math.sqrt(UNET_WIDTH // heads) / (times * math.sqrt(channels // heads))
        wide = {}
        for name, tensor in narrow.items():
            wide[_original_name(name)] = _widen_unet_tensor(name, tensor, times, words, sharpen)
    except KeyError as error:
        raise ValueError(
            f"This is not the miniature's U-Net: it has other tensors ({error}). Use the miniature's weights."
        ) from error
    return wide


def _widen_unet_tensor(name: str, tensor: Tensor, times: int, words: int, sharpen: float) -> Tensor:
    if name == "time_embedding.linear_1.weight":
        return _widen_time(tensor, times)
    if name == "conv_in.weight":
        return _dense(tensor, times, 1)
    if name == "conv_out.weight":
        return _dense(tensor, 1, times)
    if name == "conv_out.bias":
        return tensor
    factor = sharpen if ".to_q." in name else 1.0
    if tensor.ndim == 1:
        return factor * _repeat(tensor, times)
    return factor * _dense(
        tensor, times, words if ".attn2.to_k." in name or ".attn2.to_v." in name else times
    )


def _widen_time(weight: Tensor, times: int) -> Tensor:
    """Widen the matrix after the timestep's cosines and sines: each `times`-th frequency is a narrow one."""
    cosines, sines = weight.chunk(2, dim=1)
    wide = [torch.zeros(len(weight), half.shape[1] * times) for half in (cosines, sines)]
    for target, half in zip(wide, (cosines, sines), strict=True):
        target[:, ::times] = half
    return _repeat(torch.cat(wide, dim=1), times)
