"""ComfyUI's MODEL and CLIP as what refining S* needs: a denoiser through which gradients flow into the words.

ComfyUI loads weights in inference mode, and autograd refuses such tensors. So the denoiser works on a copy of
the loaded networks, with all patches in it; MODEL and CLIP stay as they are.
"""

import copy
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor

from ..f2d.networks.mapping import Positional
from ..f2d.prompt.injection import PLACEHOLDER, PROMPT, insertion_rows
from .subject_clip import plain_clip, position_embedding, text_encoder_key

_CHANNELS = 4  # of the latents that SD 1.x denoises; inpainting models take more


def check_model(model: Any, words: Tensor) -> None:
    """Raise a ValueError unless words of shape (2, D) fit a MODEL: SD 1.x, or SD 2.x with a mapper for it."""
    config = getattr(model.model, "model_config", None)
    unet = getattr(config, "unet_config", {})
    if unet.get("context_dim") != words.shape[1] or getattr(model.model, "adm_channels", 0):
        raise ValueError(
            f"This MODEL is of the family {type(config).__name__}, for text {unet.get('context_dim')} wide; "
            f"the words are {words.shape[1]} wide. Connect the MODEL of an SD 1.x checkpoint."
        )
    if unet.get("in_channels") != _CHANNELS:
        raise ValueError(
            f"This MODEL takes {unet.get('in_channels')} channels, as inpainting models do, instead of "
            f"{_CHANNELS}. Connect the MODEL of a text-to-image checkpoint."
        )


class ModelDenoiser:
    """A copy of MODEL and CLIP with the paper's prompt; what `f2d.word_refinement.Denoiser` asks for."""

    def __init__(self, model: Any, clip: Any, words: Tensor, positional: Positional) -> None:
        """Load MODEL and CLIP, and copy them.

        Call it in inference mode; the methods must be called outside.

        Args:
            model: ComfyUI's MODEL.
            clip: ComfyUI's CLIP.
            words: shape (2, D).
            positional: how the mapper was trained.

        Raises:
            ValueError: MODEL or CLIP do not fit the words.
        """
        check_model(model, words)
        self.key, tokenizer = text_encoder_key(clip, words), plain_clip(clip).tokenizer
        positions = position_embedding(clip, words)
        self.chunk = tokenizer.tokenize_with_weights(PROMPT)[self.key][0]
        first = _find(self.chunk, tokenizer.tokenize_with_weights(PLACEHOLDER)[self.key][0])
        patchers = [_without_streaming(patcher) for patcher in (model, clip.patcher)]
        management.load_models_gpu(patchers)
        with torch.inference_mode(False), torch.no_grad():
            self.unet: Any = _copy(patchers[0].model)
            self.text: Any = _copy(patchers[1].model)
            _keep_inputs_of_norms(self.text)
            self.device = patchers[0].load_device
            self._set_clip_options(clip.layer_idx, patchers[1].load_device)
            self.positional, self.places = positional, slice(first, first + 2)
            self.position_rows = positions[self.places].clone().to(self.device)
        self.options = model.model_options.get("transformer_options", {})

    def _set_clip_options(self, layer: int | None, device: torch.device) -> None:
        self.text.reset_clip_options()
        self.text.set_clip_options({"execution_device": device})
        if layer is not None:
            self.text.set_clip_options({"layer": layer})

    @property
    def steps(self) -> int:
        """T: number of timesteps."""
        return len(self.unet.model_sampling.sigmas)

    def parameters(self) -> Iterator[Tensor]:
        """List the weights of the copies, of any shape."""
        return chain(self.unet.parameters(), self.text.parameters())

    def add_noise(self, latent: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Diffuse latents as the sampler sees them; what is to be predicted is the noise, for any model.

        Args:
            latent: shape (B, C, H, W).
            noise: shape (B, C, H, W).
            time: shape (B,), from 0 to T - 1.

        Returns:
            Noisy latents and noise, each of shape (B, C, H, W).
        """
        sampling = self.unet.model_sampling
        return sampling.noise_scaling(self._sigma(time), noise, latent, False), noise

    def predict(self, noisy: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Predict the noise from the prompt with S*.

        Args:
            noisy: shape (B, C, H, W).
            time: shape (B,).
            words: shape (1, 2, D); gradients flow into them.

        Returns:
            shape (B, C, H, W), float32.

        Raises:
            ValueError: the attention that ComfyUI was started with computes no gradients.
        """
        chunk = list(self.chunk)
        rows = insertion_rows(words[0], self.position_rows, self.positional)
        chunk[self.places] = [(row, 1.0) for row in rows]
        prediction = self._predict(noisy, time, self._encode(chunk))
        if words.requires_grad and torch.is_grad_enabled() and not prediction.requires_grad:
            raise ValueError(
                "This ComfyUI computes attention without gradients. "
                "Start it with --use-pytorch-cross-attention."
            )
        return prediction

    def _encode(self, chunk: Iterable[tuple]) -> Tensor:
        return self.text.encode_token_weights({self.key: [list(chunk)]})[0].to(self.device)

    def _predict(self, noisy: Tensor, time: Tensor, states: Tensor) -> Tensor:
        sigma = self._sigma(time)
        options = {**self.options, "cond_or_uncond": [0], "sigmas": sigma}
        context = states.expand(len(noisy), -1, -1)
        clean = self.unet.apply_model(noisy, sigma, c_crossattn=context, transformer_options=options)
        return (noisy - clean) / sigma.view(-1, 1, 1, 1)

    def _sigma(self, time: Tensor) -> Tensor:
        return self.unet.model_sampling.sigmas.to(self.device)[time]


def _without_streaming(patcher: Any) -> Any:
    """Return a patcher whose weights are ordinary tensors; newer versions may stream them from the file."""
    if not getattr(patcher, "is_dynamic", bool)():
        return patcher
    try:
        return patcher.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise ValueError(
            f"ComfyUI streams this model's weights and cannot load them whole ({error}). "
            "Connect the outputs of Load Checkpoint, or start ComfyUI with --disable-dynamic-vram."
        ) from error


def _copy(model: torch.nn.Module) -> Any:
    """Copy a model; its config, which cannot be copied, is shared."""
    config = getattr(model, "model_config", None)
    return copy.deepcopy(model, {id(config): config})


def _keep_inputs_of_norms(text: torch.nn.Module) -> None:
    """Give norms a copy of their input, to which the text encoder adds in place before the backward pass."""
    for module in text.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: tuple(each.clone() for each in inputs))


def _find(chunk: list, placeholder: list) -> int:
    """Find the first token of S* in the prompt; both have a start token, an end token and padding."""
    ids = [token for token, *_ in chunk]
    word = [token for token, *_ in placeholder[1:3]]
    return next(place for place in range(len(ids)) if ids[place : place + 2] == word)
