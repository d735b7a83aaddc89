"""A small random checkpoint and ControlNet in SD 1's file layout, which an unpatched ComfyUI loads.

ComfyUI reads a U-Net's depth and widths from the keys, so one level with one residual block is enough. It
does not do that for the text encoder: CLIP-L keeps its full size. The autoencoder takes TAESD's small shape,
which ComfyUI also recognizes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel

Shapes = dict[str, tuple[int, ...]]

CHECKPOINT = "tiny_sd1.safetensors"
CONTROLNET = "tiny_controlnet.safetensors"

CHANNELS = 320  # ComfyUI takes a U-Net of this first width and text width 768 for Stable Diffusion 1
TIME_WIDTH = 4 * CHANNELS
TEXT_WIDTH = 768
TEXT_LAYERS = 12
VOCABULARY = 49408
GROUP = CHANNELS // 32  # channels in one group of a GroupNorm

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer.text_model."


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Writes U-Net, autoencoder and CLIP-L (fp16, about 300 MB) to a folder and returns the file."""
    generator = torch.Generator().manual_seed(seed)
    unet = _random(_unet_shapes(), generator)
    _predict_input_as_noise(unet)
    vae = _random(_taesd_shapes(), generator)
    _keep_images_mid_gray(vae)
    state = _prefixed(UNET, unet) | _prefixed(VAE, vae) | _prefixed(CLIP, _random_clip(generator))
    return _save(state, folder / CHECKPOINT)


def write_controlnet(folder: Path, seed: int = 1) -> Path:
    """Writes a ControlNet for the U-Net of `write_checkpoint` (fp16, about 30 MB) to a folder and returns the
    file.
    """
    state = _random(_controlnet_shapes(), torch.Generator().manual_seed(seed))
    return _save(_prefixed("control_model.", state), folder / CONTROLNET)


def load_text_encoder(checkpoint: Path) -> CLIPTextModel:
    """Returns the checkpoint's CLIP-L as transformers' model, in float32."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_attention_heads=12, eos_token_id=49407
    )
    model = CLIPTextModel(config).eval()
    prefix = "text_model." if hasattr(model, "text_model") else ""  # transformers 4 has that level, 5 has not
    state = load_file(checkpoint).items()
    model.load_state_dict(
        {prefix + key.removeprefix(CLIP): value.float() for key, value in state if key.startswith(CLIP)}
    )
    return model


def _random(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws weights of variance 1 / fan-in; vectors are norm weights of one or biases of zero."""
    state = {}
    for key, shape in shapes.items():
        if len(shape) > 1:
            state[key] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        else:
            state[key] = torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
    return state


def _random_clip(generator: torch.Generator) -> dict[str, Tensor]:
    """Draws CLIP-L with the spread that CLIP is initialized with: matrices 0.02, positions 0.01."""
    state = _random(_clip_shapes(), generator)
    for key, value in state.items():
        if value.ndim == 2:
            spread = 0.01 if "position_embedding" in key else 0.02
            state[key] = value * math.sqrt(value.shape[1]) * spread
    return state


def _predict_input_as_noise(unet: dict[str, Tensor]) -> None:
    """Lets the U-Net answer "the noise is the input", plus a little that depends on prompt and ControlNet.

    A purely random U-Net leaves the sampler's start noise in the latent, some 100 times too large to see
    anything else. Here the first group of channels carries (x, -x, 0) by the outermost skip connection to the
    last layer, where silu(x) - silu(-x) = x.
    """
    identity = torch.eye(4)
    entry = unet["input_blocks.0.0.weight"]
    entry[:GROUP] = 0
    entry[:4, :, 1, 1], entry[4:8, :, 1, 1] = identity, -identity

    skip = unet["output_blocks.1.0.skip_connection.weight"]
    skip[:GROUP] = 0
    skip[:8, CHANNELS : CHANNELS + 8, 0, 0] = torch.eye(8)
    unet["output_blocks.1.0.out_layers.3.weight"][:GROUP] = 0
    unet["output_blocks.1.1.proj_out.weight"][:GROUP] *= 0.05

    exit_ = unet["out.2.weight"]
    exit_ *= 0.02
    exit_[:, :GROUP] = 0
    exit_[:, :4, 1, 1], exit_[:, 4:8, 1, 1] = identity, -identity
    exit_[:, :8] *= math.sqrt(8 / GROUP)  # the two empty channels make the group's spread smaller than x's


def _keep_images_mid_gray(vae: dict[str, Tensor]) -> None:
    """Scales the decoder's ends so that pictures lie around 0.5 and are rarely clipped."""
    vae["vae_scale"] += 0.18215
    vae["taesd_decoder.19.weight"] *= 0.3
    vae["taesd_decoder.19.bias"] += 0.5


def _unet_shapes() -> Shapes:
    return {
        **_encoder_shapes(),
        **_resblock("output_blocks.0.0.", 2 * CHANNELS),
        **_transformer("output_blocks.0.1."),
        **_resblock("output_blocks.1.0.", 2 * CHANNELS),
        **_transformer("output_blocks.1.1."),
        **_norm("out.0", CHANNELS),
        **_conv("out.2", CHANNELS, 4),
    }


def _controlnet_shapes() -> Shapes:
    widths = (3, 16, 16, 32, 32, 96, 96, 256, CHANNELS)
    hint = [
        _conv(f"input_hint_block.{2 * i}", *pair)
        for i, pair in enumerate(zip(widths, widths[1:], strict=False))
    ]
    zero = [
        _conv(key, CHANNELS, CHANNELS, 1)
        for key in ("zero_convs.0.0", "zero_convs.1.0", "middle_block_out.0")
    ]
    return _encoder_shapes() | {key: shape for part in hint + zero for key, shape in part.items()}


def _encoder_shapes() -> Shapes:
    """Shapes of what U-Net and ControlNet share: time embedding, input blocks and middle block."""
    return {
        **_linear("time_embed.0", CHANNELS, TIME_WIDTH),
        **_linear("time_embed.2", TIME_WIDTH, TIME_WIDTH),
        **_conv("input_blocks.0.0", 4, CHANNELS),
        **_resblock("input_blocks.1.0.", CHANNELS),
        **_transformer("input_blocks.1.1."),
        **_resblock("middle_block.0.", CHANNELS),
        **_transformer("middle_block.1."),
        **_resblock("middle_block.2.", CHANNELS),
    }


def _resblock(prefix: str, inputs: int) -> Shapes:
    skip = {} if inputs == CHANNELS else _conv(prefix + "skip_connection", inputs, CHANNELS, 1)
    return {
        **_norm(prefix + "in_layers.0", inputs),
        **_conv(prefix + "in_layers.2", inputs, CHANNELS),
        **_linear(prefix + "emb_layers.1", TIME_WIDTH, CHANNELS),
        **_norm(prefix + "out_layers.0", CHANNELS),
        **_conv(prefix + "out_layers.3", CHANNELS, CHANNELS),
        **skip,
    }


def _transformer(prefix: str) -> Shapes:
    block = prefix + "transformer_blocks.0."
    shapes = _norm(prefix + "norm", CHANNELS) | _conv(prefix + "proj_in", CHANNELS, CHANNELS, 1)
    for name, context in (("attn1.", CHANNELS), ("attn2.", TEXT_WIDTH)):
        shapes[block + name + "to_q.weight"] = (CHANNELS, CHANNELS)
        shapes[block + name + "to_k.weight"] = (CHANNELS, context)
        shapes[block + name + "to_v.weight"] = (CHANNELS, context)
        shapes |= _linear(block + name + "to_out.0", CHANNELS, CHANNELS)
    for name in ("norm1", "norm2", "norm3"):
        shapes |= _norm(block + name, CHANNELS)
    shapes |= _linear(block + "ff.net.0.proj", CHANNELS, 8 * CHANNELS)
    shapes |= _linear(block + "ff.net.2", 4 * CHANNELS, CHANNELS)
    return shapes | _conv(prefix + "proj_out", CHANNELS, CHANNELS, 1)


def _taesd_shapes() -> Shapes:
    shapes: Shapes = {"vae_scale": (), "vae_shift": ()}
    shapes |= _taesd_stack(
        "taesd_encoder.", {0: 3, 14: 64}, blocks=(1, 3, 4, 5, 7, 8, 9, 11, 12, 13), resizes=(2, 6, 10), last=4
    )
    shapes |= _taesd_stack(
        "taesd_decoder.",
        {1: 4, 19: 64},
        blocks=(3, 4, 5, 8, 9, 10, 13, 14, 15, 18),
        resizes=(7, 12, 17),
        last=3,
    )
    return shapes


def _taesd_stack(
    prefix: str, ends: dict[int, int], blocks: tuple[int, ...], resizes: tuple[int, ...], last: int
) -> Shapes:
    """Shapes of one half of TAESD.

    Three-convolution blocks, bias-free resizing layers and the two `ends` (index: input width).
    """
    (first, inputs), (final, _) = ends.items()
    shapes = _conv(f"{prefix}{first}", inputs, 64) | _conv(f"{prefix}{final}", 64, last)
    for index in blocks:
        for layer in (0, 2, 4):
            shapes |= _conv(f"{prefix}{index}.conv.{layer}", 64, 64)
    return shapes | {f"{prefix}{index}.weight": (64, 64, 3, 3) for index in resizes}


def _clip_shapes() -> Shapes:
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (VOCABULARY, TEXT_WIDTH),
        "embeddings.position_embedding.weight": (77, TEXT_WIDTH),
    }
    for index in range(TEXT_LAYERS):
        layer = f"encoder.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}self_attn.{name}", TEXT_WIDTH, TEXT_WIDTH)
        shapes |= _linear(layer + "mlp.fc1", TEXT_WIDTH, 4 * TEXT_WIDTH)
        shapes |= _linear(layer + "mlp.fc2", 4 * TEXT_WIDTH, TEXT_WIDTH)
        shapes |= _norm(layer + "layer_norm1", TEXT_WIDTH) | _norm(layer + "layer_norm2", TEXT_WIDTH)
    return shapes | _norm("final_layer_norm", TEXT_WIDTH)


def _conv(key: str, inputs: int, outputs: int, size: int = 3) -> Shapes:
    return {key + ".weight": (outputs, inputs, size, size), key + ".bias": (outputs,)}


def _linear(key: str, inputs: int, outputs: int) -> Shapes:
    return {key + ".weight": (outputs, inputs), key + ".bias": (outputs,)}


def _norm(key: str, width: int) -> Shapes:
    return {key + ".weight": (width,), key + ".bias": (width,)}


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def _save(state: dict[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half() for key, value in state.items()}, path)
    return path
