"""The miniature's Stable Diffusion: a narrow U-Net and text encoder in SD 1.x's layout.

It learns people in two ways. Some have names, which are words like any other. For all others a linear layer,
the namer, maps a person's features to the two rows that a name would have. It stands for the thousands of
names that a real model has seen, is used in training only, and never sees the people of
`samples.HELD_OUT_PEOPLE`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ....f2d.diffusion.text_encoder import PromptEncoder, text_embeddings
from ....f2d.files import atomic_file
from ....f2d.miniature.prompts import NEUTRAL
from ...engine.fit import FitConfig, fit
from ...engine.seeds import derive_seed
from ..world.render import SIZE
from ..world.samples import build_scene, render_sample, to_tensor
from ..world.scene import PERSON_FEATURES, Scene
from ..world.tokenizer import LENGTH, build_tokenizer
from .autoencoder import LATENT_CHANNELS, Autoencoder
from .captions import NAMER_TOKENS, NAMES, Caption, find_name, write_caption

CHANNELS = 160  # of the U-Net; half of SD 1.x's, see f2d.miniature.widen
TEXT_WIDTH = 192  # a quarter of CLIP-L's
TEXT_HEADS = 12
TEXT_LAYERS = 2
_TIMESTEPS = 1000
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": _TIMESTEPS,
    "steps_offset": 1,
    "clip_sample": False,
}
_PAIR_SAMPLES = 10_000_000  # first sample number with two people
_PAIR_EVERY = 8  # steps


def build_unet() -> Any:
    """Build the narrow U-Net with random weights: two levels, attention in the lower one."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(CHANNELS, CHANNELS),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )


def build_text_encoder(words: int) -> Any:
    """Build the narrow text encoder with random weights.

    Args:
        words: size of the vocabulary.

    Returns:
        transformers' CLIPTextModel.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_HEADS,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    nn.init.normal_(text_embeddings(encoder).token_embedding.weight, std=0.1)
    nn.init.normal_(text_embeddings(encoder).position_embedding.weight, std=0.05)
    return encoder


class Diffusion(nn.Module):
    """U-Net, text encoder and namer, trained together."""

    def __init__(self) -> None:
        """Build the three networks and the tokenizer."""
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.unet = build_unet().to(memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder(len(self.tokenizer))
        self.namer = nn.Linear(PERSON_FEATURES, 2 * TEXT_WIDTH)
        nn.init.normal_(self.namer.weight, std=0.03)

    def encode(self, captions: list[Caption]) -> Tensor:
        """Encode captions: shape (B, 77, D)."""
        prompts = PromptEncoder(self.tokenizer, self.text_encoder)
        ids = torch.tensor([prompts.pad(prompts.content_ids(caption.text)) for caption in captions])
        people = [person for caption in captions for person in caption.named]
        if not people:
            return prompts.encode(ids)
        features = torch.from_numpy(np.stack([person.features for person in people])).float()
        rows = self.namer(features.to(self.namer.weight.device)).view(-1, 2, TEXT_WIDTH)
        caption, place = (ids == prompts.content_ids(NAMER_TOKENS)[0]).nonzero(as_tuple=True)
        return prompts.encode(ids, (caption[:, None], torch.stack([place, place + 1], dim=1)), rows)


@torch.no_grad()
def cache_latents(autoencoder: Autoencoder, out: str | os.PathLike, count: int, pair: bool) -> np.ndarray:
    """Render and encode the U-Net's training images once.

    Args:
        autoencoder: trained.
        out: a .npy file; written if it is missing.
        count: of samples.
        pair: render two people.

    Returns:
        shape (count, 4, h, w), float16, mapped from the file.
    """
    out, device = Path(out), next(autoencoder.parameters()).device
    if not out.exists():
        width = SIZE // 8 * 3 // 2 if pair else SIZE // 8
        with atomic_file(out) as temporary:
            found = np.lib.format.open_memmap(
                temporary, "w+", np.float16, (count, LATENT_CHANNELS, SIZE // 8, width)
            )
            for first in tqdm(range(0, count, 32), desc="latents", unit_scale=32):
                numbers = range(first, min(first + 32, count))
                samples = [
                    render_sample(_PAIR_SAMPLES + n, pair=True) if pair else render_sample(n, find_name(n))
                    for n in numbers
                ]
                images = to_tensor(samples).to(device).contiguous(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16):
                    found[first : first + len(numbers)] = autoencoder.encode(images).float().cpu().numpy()
            found.flush()
            del found
    return np.load(out, mmap_mode="r")


def uniform_times(count: int) -> Tensor:
    """Sample timesteps uniformly: shape (count,)."""
    return torch.randint(_TIMESTEPS, (count,))


def middle_times(count: int) -> Tensor:
    """Sample timesteps, shape (count,); three in four are logit-normal about 400, where faces take shape."""
    middle = (_TIMESTEPS * torch.sigmoid(torch.randn(count) - 0.4)).long()
    return torch.where(torch.rand(count) < 0.25, uniform_times(count), middle)


def weight_features(scene: Scene, shape: tuple[int, int], weight: float) -> np.ndarray:
    """Weight the parts of an image: `weight` where eyes and mouths are, 1 elsewhere.

    Args:
        scene: with the figures.
        shape: height and width of the grid.
        weight: of the features.

    Returns:
        shape (1, H, W), float32.
    """
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    weights = np.ones((1, *shape), np.float32)
    for view in (figure.view for figure in scene.figures):
        distance = np.hypot(x / shape[0] - view.x, y / shape[0] - view.y - 0.2 * view.scale)
        weights[0, distance < 0.6 * view.scale] = weight
    return weights


@dataclass(frozen=True)
class Emphasis:
    """What a stage of the diffusion training emphasizes."""

    times: Callable[[int], Tensor] = uniform_times  # samples a number of timesteps
    features: float = 1.0  # weight of eyes and mouths in the loss; its optimum stays the same
    expressions: float = 0.0  # share of the faces at rest that are replaced by another sample


def train_diffusion(
    network: Diffusion,
    config: FitConfig,
    autoencoder: Autoencoder,
    cache: str | os.PathLike,
    counts: tuple[int, int],
    emphasis: Emphasis,
    log: Callable[[str], None] = print,
) -> None:
    """Train U-Net and text encoder (the objective of Sec. 3.1 without S*).

    Args:
        network: what is trained, from the weights that it has; afterwards in evaluation mode.
        config: the run.
        autoencoder: trained.
        cache: folder for the samples' latents.
        counts: of samples with one person, and with two.
        emphasis: of the stage.
        log: called with each progress message.
    """
    from diffusers import DDPMScheduler

    singles = cache_latents(autoencoder, Path(cache) / "singles.npy", counts[0], pair=False)
    doubles = cache_latents(autoencoder, Path(cache) / "pairs.npy", counts[1], pair=True)
    schedule: Any = DDPMScheduler(**SCHEDULE)

    def loss_of(step: int) -> Tensor:
        generator = np.random.default_rng(derive_seed(config.seed, 4, step))
        pair = step % _PAIR_EVERY == _PAIR_EVERY - 1
        source = doubles if pair else singles
        size = config.batch_size * 5 // 8 if pair else config.batch_size
        numbers, captions, weights = _choose_batch(generator, source, size, pair, emphasis)
        latent = torch.from_numpy(np.stack([source[n] for n in numbers])).float()
        noise, time = torch.randn_like(latent), emphasis.times(size)
        noisy = schedule.add_noise(latent, noise, time).contiguous(memory_format=torch.channels_last)
        device = network.namer.weight.device
        predicted = network.unet(noisy.to(device), time.to(device), network.encode(captions)).sample
        weight = torch.from_numpy(np.stack(weights)).to(device)
        return (weight * (predicted.float() - noise.to(device)).square()).mean() / weight.mean()

    fit(network, loss_of, config, log)


def _choose_batch(
    generator: np.random.Generator, latents: np.ndarray, size: int, pair: bool, emphasis: Emphasis
) -> tuple[list[int], list[Caption], list[np.ndarray]]:
    """Choose samples: their places among the latents, captions, and weights of shape (1, h, w)."""
    numbers: list[int] = []
    captions: list[Caption] = []
    weights: list[np.ndarray] = []
    while len(numbers) < size:
        number = int(generator.integers(len(latents)))
        name = None if pair else find_name(number)
        scene, attributes = (
            build_scene(_PAIR_SAMPLES + number, pair=True) if pair else build_scene(number, name)
        )
        if attributes.expression == NEUTRAL and generator.random() < emphasis.expressions:
            continue
        people = [figure.person for figure in scene.figures]
        numbers.append(number)
        captions.append(write_caption(generator, attributes, people, "" if name is None else NAMES[name]))
        weights.append(weight_features(scene, latents.shape[2:], emphasis.features))
    return numbers, captions, weights
