"""The samples that the mapper is trained on, by number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.seeds import derive_seed

_PERMUTATION, _SAMPLE, _DROPOUT = range(3)  # what a seed is for
_SPLIT = 4


def split_cache(cache: LatentCache, config: MapperTrainingConfig) -> tuple[list[int], list[int]]:
    """Choose the faces that are held out of training.

    Args:
        cache: of `f2d-train prepare`.
        config: for seed and number of held-out faces.

    Returns:
        The indices of the faces to train on, and of the photos held out, both rising. The altered copies of a
        photo that is held out are in neither.

    Raises:
        ValueError: no face would be left to train on.
    """
    if not config.validation:
        return list(range(len(cache))), []
    photos = [index for index in range(len(cache)) if not cache.variant(index)]
    if config.validation >= len(photos):
        raise ValueError(
            f"--validation {config.validation} leaves no face to train on: the cache has {len(photos)}. "
            "Hold out fewer."
        )
    generator = torch.Generator().manual_seed(derive_seed(config.seed, _SPLIT))
    chosen = torch.randperm(len(photos), generator=generator)[: config.validation]
    held = sorted(photos[place] for place in chosen.tolist())
    names = {cache.name(index) for index in held}
    return [index for index in range(len(cache)) if cache.name(index) not in names], held


def list_partners(cache: LatentCache, faces: Sequence[int]) -> dict[int, list[int]]:
    """List for each face the others of the same person, which are those in the same folder of photos.

    Args:
        cache: of `f2d-train prepare`, over class folders.
        faces: indices in the cache.

    Returns:
        By index, the indices of the others; altered copies, each of which shows somebody else, have none.

    Raises:
        ValueError: no folder holds two of these faces.
    """
    people: dict[PurePosixPath, list[int]] = defaultdict(list)
    photos = [index for index in faces if not cache.variant(index)]
    for index in photos:
        people[PurePosixPath(cache.name(index)).parent].append(index)
    if len(people) == len(photos):
        raise ValueError(
            f"--cross-photo needs two photos of a person, but each of the {len(people)} folders in the cache "
            f"'{cache.folder}' has one. Prepare a folder that has a folder per person."
        )
    partners: dict[int, list[int]] = dict.fromkeys(faces, [])
    for group in people.values():
        partners |= {index: [other for other in group if other != index] for index in group}
    return partners


class MapperDataset(Dataset):
    """The endless stream of training samples, by number."""

    def __init__(self, cache: LatentCache, config: MapperTrainingConfig, timesteps: int) -> None:
        """Take the cache.

        Args:
            cache: of `f2d-train prepare`.
            config: for seed, held-out faces, flip, drop rate, and what goes beyond the paper.
            timesteps: T.

        Raises:
            ValueError: pairs are wanted, and no person has two photos.
        """
        self.cache, self.config, self.timesteps = cache, config, timesteps
        self.faces = split_cache(cache, config)[0]
        self._partners = list_partners(cache, self.faces) if config.cross_photo else {}
        self._order: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Make the sample with a number: a photo of the epoch's order, and all its random draws.

        Returns:
            `latent` and `noise` (C, H, W), `time` (), `v_id` (I), `mask` (1, H, W), `index` (),
            `dropout_seed` (), with expressions `v_exp` (E) and `keep` (), and with contexts `context` ().
        """
        epoch, place = divmod(number, len(self.faces))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.config.seed, _PERMUTATION, epoch))
            self._order = epoch, torch.randperm(len(self.faces), generator=generator).tolist()
        index = self.faces[self._order[1][place]]
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, _SAMPLE, number))
        flip, keep = (
            torch.rand(2, generator=generator) < torch.tensor([0.5, 1 - self.config.expression_drop])
        ).tolist()
        item = self.cache.load(index, flip and self.config.flip)
        mean, std = item["latent_mean"].float(), item["latent_std"].float()
        spread = std * torch.randn(mean.shape, generator=generator)
        sample = {
            "latent": mean + spread if self.config.sample_posterior else mean,
            "noise": torch.randn(mean.shape, generator=generator),
            "time": torch.randint(self.timesteps, (), generator=generator),
            "v_id": item["v_id"].float(),
            "mask": item["mask"].float()[None],
            "index": torch.tensor(index),
            "dropout_seed": torch.tensor(derive_seed(self.config.seed, _DROPOUT, number)),
        }
        if self.config.expression_guidance:
            sample |= {"v_exp": item["v_exp"].float(), "keep": torch.tensor(keep)}
        # the draws of what is not in the paper come last, so that the others stay as they are without it
        if self.config.cross_photo:
            sample["v_id"] = self._cross_identity(index, flip and self.config.flip, generator, sample["v_id"])
        if self.config.context_share:
            sample["context"] = self._draw_context(generator)
        if self.config.timestep_sampling == "logit-normal":
            sample["time"] = self._draw_logit_normal(generator)
        return sample

    def _cross_identity(self, index: int, flip: bool, generator: torch.Generator, own: Tensor) -> Tensor:
        """Take v_id (I) from another photo of the person, in the configured share of the samples."""
        others = self._partners[index]
        if torch.rand((), generator=generator) >= self.config.cross_photo or not others:
            return own
        other = others[int(torch.randint(len(others), (), generator=generator))]
        return self.cache.load(other, flip)["v_id"].float()

    def _draw_context(self, generator: torch.Generator) -> Tensor:
        """Draw the number of a context from 1, or 0 for none: shape ()."""
        context = torch.randint(1, 1 + len(self.config.contexts), (), generator=generator)
        return context * (torch.rand((), generator=generator) < self.config.context_share)

    def _draw_logit_normal(self, generator: torch.Generator) -> Tensor:
        """Draw a timestep, shape (), half of which lie between 0.34 T and 0.66 T.

        Esser et al., "Scaling Rectified Flow Transformers", Sec. 3.1, with mean 0 and deviation 1.
        """
        share = torch.randn((), generator=generator).sigmoid()
        return (share * self.timesteps).long().clamp(max=self.timesteps - 1)
