"""The miniature's Stable Diffusion: a narrow U-Net and text encoder in SD 1.x's layout, trained on captioned drawings.

It knows people in two ways. Some have names, which are words like any other. For all others a linear layer, the namer, turns what is
true of a person into the two rows that a name would have; it stands for the thousands of names that a real model has seen, is there
in training only, and has never met the people of `album.HELD_OUT`.
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
from ....f2d.miniature.prompts import NEUTRAL, SceneAttributes, describe
from ....f2d.prompt.injection import CLASS_WORDS
from ...engine.fit import FitConfig, fit
from ...engine.seeds import derive_seed
from ..world.render import SIZE
from ..world.samples import drawing, scene, to_tensor
from ..world.scene import FIRST_NAMES, LAST_NAMES, OPENINGS, PERSON_FEATURES, Person, Scene, describe_looks
from ..world.tokenizer import LENGTH, build_tokenizer
from .autoencoder import LATENT_CHANNELS, Autoencoder

CHANNELS = 160  # of the U-Net; half of SD 1.x's, see f2d.miniature.widen
TEXT_WIDTH = 192  # a quarter of CLIP-L's
TEXT_HEADS = 12
TEXT_LAYERS = 2
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
}
NAMES = tuple(f"{first} {LAST_NAMES[i % len(LAST_NAMES)]}" for i, first in enumerate(FIRST_NAMES))
_TIMES: int = SCHEDULE["num_train_timesteps"]  # type: ignore[assignment]
_FAMOUS = 0.08  # share of the drawings that show someone with a name
_NAME = "s *"  # stands in a caption where the namer's rows go
_PAIRS_FROM = 10_000_000  # numbers of drawings with two people
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
        words: how many there are.

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
        """Build with random weights."""
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
        people = [one for caption in captions for one in caption.named]
        if not people:
            return prompts.encode(ids)
        features = torch.from_numpy(np.stack([one.features for one in people])).float()
        rows = self.namer(features.to(self.namer.weight.device)).view(-1, 2, TEXT_WIDTH)
        caption, place = (ids == prompts.content_ids(_NAME)[0]).nonzero(as_tuple=True)
        return prompts.encode(ids, (caption[:, None], torch.stack([place, place + 1], dim=1)), rows)


@dataclass(frozen=True, eq=False)
class Caption:
    """A sentence, and who its names stand for."""

    text: str
    named: tuple[Person, ...] = ()


def write_caption(
    generator: np.random.Generator, facts: SceneAttributes, people: list[Person], name: str = ""
) -> Caption:
    """Say something true about a drawing, though not everything.

    Args:
        generator: of randomness.
        facts: what is true.
        people: who is in it, from left to right.
        name: of the first person, where famous.

    Returns:
        The caption; one in ten is empty, for classifier-free guidance.
    """
    if generator.random() < 0.1:
        return Caption("")
    subjects, named = [], []
    for index, one in enumerate(people):
        kind = generator.random()
        if name and index == 0 and kind < 0.7:
            subjects.append(name)
        elif kind < 0.55 or (name and index == 0):
            subjects.append(_NAME)
            named.append(one)
        elif kind < 0.8:
            subjects.append(CLASS_WORDS)
        else:
            subjects.append(describe_looks(one, generator))
    told = SceneAttributes(
        facts.expression if generator.random() < 0.85 else NEUTRAL,
        facts.job if generator.random() < 0.85 else "",
        facts.place if generator.random() < 0.85 else "",
    )
    return Caption(describe(told, " and ".join(subjects), str(generator.choice(OPENINGS))), tuple(named))


def _famous(number: int) -> int | None:
    """Number of the famous person of a drawing; None = someone without a name."""
    draw = derive_seed(3, number) % 10_000
    return draw % len(NAMES) if draw < _FAMOUS * 10_000 else None


@torch.no_grad()
def cache_latents(autoencoder: Autoencoder, out: str | os.PathLike, count: int, pair: bool) -> np.ndarray:
    """Draw and encode once what the U-Net is trained on.

    Args:
        autoencoder: trained.
        out: a .npy file; made where it is missing.
        count: of drawings.
        pair: with two people.

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
                drawings = [
                    drawing(n, _famous(n)) if not pair else drawing(_PAIRS_FROM + n, pair=True)
                    for n in numbers
                ]
                images = to_tensor(drawings).to(device).contiguous(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16):
                    found[first : first + len(numbers)] = autoencoder.encode(images).float().cpu().numpy()
            found.flush()
            del found
    return np.load(out, mmap_mode="r")


def uniform_times(count: int) -> Tensor:
    """Draw timesteps, each as likely as any other: shape (count,)."""
    return torch.randint(_TIMES, (count,))


def middle_times(count: int) -> Tensor:
    """Draw timesteps of which three in four lie about 400, logit-normal, where faces take shape on a grid of 16 x 16: shape (count,)."""
    middle = (_TIMES * torch.sigmoid(torch.randn(count) - 0.4)).long()
    return torch.where(torch.rand(count) < 0.25, uniform_times(count), middle)


def weigh_features(seen: Scene, shape: tuple[int, int], weight: float) -> np.ndarray:
    """Weigh the parts of a picture: `weight` where eyes and mouths are, 1 elsewhere.

    Args:
        seen: the scene.
        shape: height and width of the grid.
        weight: of the features.

    Returns:
        shape (1, H, W), float32.
    """
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    found = np.ones((1, *shape), np.float32)
    for view in (figure.view for figure in seen.figures):
        far = np.hypot(x / shape[0] - view.x, y / shape[0] - view.y - 0.2 * view.scale)
        found[0, far < 0.6 * view.scale] = weight
    return found


@dataclass(frozen=True)
class Emphasis:
    """What a stage of the diffusion training dwells on."""

    times: Callable[[int], Tensor] = uniform_times  # gives so many timesteps
    features: float = 1.0  # weight of eyes and mouths in the loss, whose optimum stays what it is
    expressions: float = 0.0  # share of the faces at rest that give way to another drawing


def train_diffusion(
    network: Diffusion,
    config: FitConfig,
    autoencoder: Autoencoder,
    cache: str | os.PathLike,
    drawings: tuple[int, int],
    emphasis: Emphasis,
    log: Callable[[str], None] = print,
) -> None:
    """Train U-Net and text encoder (the objective of Sec. 3.1 without S*).

    Args:
        network: what is trained, from the weights that it has; afterwards in evaluation mode.
        config: the run.
        autoencoder: trained.
        cache: folder for the drawings' latents.
        drawings: how many with one person, and with two.
        emphasis: of the stage.
        log: called with each progress message.
    """
    from diffusers import DDPMScheduler

    singles = cache_latents(autoencoder, Path(cache) / "singles.npy", drawings[0], pair=False)
    doubles = cache_latents(autoencoder, Path(cache) / "pairs.npy", drawings[1], pair=True)
    schedule = DDPMScheduler(**SCHEDULE)

    def loss_of(step: int) -> Tensor:
        generator = np.random.default_rng(derive_seed(config.seed, 4, step))
        pair = step % _PAIR_EVERY == _PAIR_EVERY - 1
        source = doubles if pair else singles
        size = config.batch_size * 5 // 8 if pair else config.batch_size
        numbers, captions, weights = [], [], []
        while len(numbers) < size:
            number = int(generator.integers(len(source)))
            famous = None if pair else _famous(number)
            seen, facts = scene(_PAIRS_FROM + number, pair=True) if pair else scene(number, famous)
            if facts.expression == NEUTRAL and generator.random() < emphasis.expressions:
                continue
            people = [figure.person for figure in seen.figures]
            numbers.append(number)
            captions.append(write_caption(generator, facts, people, "" if famous is None else NAMES[famous]))
            weights.append(weigh_features(seen, source.shape[2:], emphasis.features))
        latent = torch.from_numpy(np.stack([source[n] for n in numbers])).float()
        noise, time = torch.randn_like(latent), emphasis.times(size)
        noisy = schedule.add_noise(latent, noise, time).contiguous(memory_format=torch.channels_last)
        device = network.namer.weight.device
        predicted = network.unet(noisy.to(device), time.to(device), network.encode(captions)).sample
        weight = torch.from_numpy(np.stack(weights)).to(device)
        return (weight * (predicted.float() - noise.to(device)).square()).mean() / weight.mean()

    fit(network, loss_of, config, log)
