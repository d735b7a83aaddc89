"""DreamIdentity on the miniature: a mapper that learns editing from images the base model generates itself.

Half of each batch are photos to reconstruct. The other half are people whose names the base model knows: v_id
comes from a portrait of the name, and the target is an image of the same name in a scene, with the scene in
the prompt ("self-augmented editability learning": Chen et al., "DreamIdentity", arXiv 2307.00300). Its
encoder is MSID here, its loss Eq. 1, its words know no expression; photos, steps and schedule are those of
the paper's mapper.

out/named-people.safetensors   features and latents of what is generated
out/dream-identity             the run

Dimension letters: N names, P portraits of each, K scenes, I features, C latent channels, H, W latent sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ....f2d.diffusion.vae import encode_images
from ....f2d.encoder import FaceEncoder
from ....f2d.files import atomic_file, fingerprint
from ....f2d.image import Photo, to_signed
from ....f2d.miniature.prompts import SceneAttributes
from ...config import MapperTrainingConfig
from ...data.cache import LatentCache
from ...engine.seeds import derive_seed
from ...mapper.dataset import MapperDataset
from ...mapper.train import OwnSamples, train_mapper
from ..models.captions import NAMES
from ..recipe import CONTEXTS, Miniature, read_finished
from ..shipping import unpack_weights
from ..study.measure import Models, PlannedImage, generate_images

NAME, TITLE = "dream-identity", "DreamIdentity"
_PORTRAITS = 2  # of each name
_SEEDS = 80_000_000  # of the first generated image
_NAMED_SAMPLE = 5  # what a seed is for, as in `mapper.dataset`


@dataclass(frozen=True, eq=False)
class NamedPeople:
    """What the base model generates of the people whose names it knows."""

    v_id: Tensor  # (N, P, I), of the portraits
    latents: Tensor  # (N, K, C, H, W), of the images in scenes


class SelfAugmentedDataset(MapperDataset):
    """The photos, and after each of them a sample of a named person."""

    def __init__(
        self, cache: LatentCache, config: MapperTrainingConfig, timesteps: int, people: NamedPeople
    ) -> None:
        """Take photos and named people.

        Args:
            cache: of photos.
            config: of the training, without expressions.
            timesteps: T.
            people: with a scene for each of the config's contexts.
        """
        super().__init__(cache, config, timesteps)
        self.people = people

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Make the sample with a number: its content is `MapperDataset`'s with contexts."""
        photo, named = divmod(number, 2)
        sample = super().__getitem__(photo) | {"context": torch.tensor(0)}
        return sample | self._draw_named(number) if named else sample

    def _draw_named(self, number: int) -> dict[str, Tensor]:
        """Draw a portrait's v_id (I), and noise and latent (C, H, W) of a scene with its context's number."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, _NAMED_SAMPLE, number))
        names, scenes = self.people.latents.shape[:2]
        who, portrait, scene = (
            int(torch.randint(count, (), generator=generator))
            for count in (names, self.people.v_id.shape[1], scenes)
        )
        latent = self.people.latents[who, scene].float()
        return {
            "v_id": self.people.v_id[who, portrait].float(),
            "latent": latent,
            "noise": torch.randn(latent.shape, generator=generator),
            "context": torch.tensor(1 + scene),  # 0 is the prompt without one
        }


def load_dream_identity(miniature: Miniature, models: Models) -> Models:
    """Load the models with DreamIdentity's mapper; trains it first, unless it is finished.

    Args:
        miniature: a recipe's folder, which gets the shipped weights.
        models: the shipped ones.

    Returns:
        The models; base model and evaluators are the given ones.

    Raises:
        InterruptedError: a signal stopped the training; the same call resumes it.
        OSError: the folder cannot be written to.
    """
    unpack_weights(miniature)
    config = replace(
        miniature.mapper_config("cgdr"),
        out=str(miniature.folder / NAME),
        loss="reconstruction",
        expression_guidance=False,
    )
    weights = _train(config, miniature, models)
    encoder = FaceEncoder.load(miniature.encoder("msid"), weights)
    return Models(encoder, models.pipeline, models.verifier, models.attributes)


def _train(config: MapperTrainingConfig, miniature: Miniature, models: Models) -> Path:
    people = _load_or_generate(miniature, models)
    make = partial(SelfAugmentedDataset, people=people)
    own = OwnSamples(make, config.contexts, fingerprint(vars(people)))
    weights = train_mapper(config, miniature.log, own=own)
    read_finished(weights, config.steps)
    return weights


def _load_or_generate(miniature: Miniature, models: Models) -> NamedPeople:
    file = miniature.folder / "named-people.safetensors"
    if not file.exists():
        miniature.log(f"Generating {len(NAMES)} named people, {_PORTRAITS + len(CONTEXTS)} images each")
        people = generate_named_people(models, NAMES, CONTEXTS, miniature.config.bf16)
        with atomic_file(file) as temporary:
            save_file(vars(people), temporary)
    return NamedPeople(**load_file(file))


@torch.no_grad()
def generate_named_people(
    models: Models, names: tuple[str, ...], contexts: tuple[str, ...], bf16: bool = True
) -> NamedPeople:
    """Generate portraits and scenes of people whose names the base model knows.

    Args:
        models: that generate and encode.
        names: N of them.
        contexts: K, what follows "a photo of <name>".
        bf16: autocast on a CPU.

    Returns:
        Features of the portraits, and latents of the scenes.
    """
    follow = (*[""] * _PORTRAITS, *contexts)
    planned = [
        _plan(models, f"a photo of {name} {context}".strip(), _SEEDS + number)
        for number, (name, context) in enumerate(product(names, follow))
    ]
    images = [
        image for batch in generate_images(models, planned, bf16=bf16, label="names") for image in batch
    ]
    rows = [images[start : start + len(follow)] for start in range(0, len(images), len(follow))]
    v_id = [[_encode(models.encoder, image) for image in row[:_PORTRAITS]] for row in rows]
    vae = models.pipeline.diffusion.vae
    latents = [encode_images(vae, to_signed(row[_PORTRAITS:]))[0] for row in rows]
    return NamedPeople(torch.stack([torch.stack(row) for row in v_id]), torch.stack(latents))


def _plan(models: Models, text: str, seed: int) -> PlannedImage:
    states = models.pipeline.encode(text)
    return PlannedImage("named", 0, 0, seed, SceneAttributes(), text, states, None)


def _encode(encoder: FaceEncoder, image: Photo) -> Tensor:
    """Encode a generated face, which is framed like FFHQ: shape (I,)."""
    return encoder.identify(image, alignment="FFHQ").v_id.flatten().cpu()
