"""The samples that the mapper is trained on, by number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.seeds import derive_seed

_PERMUTATION, _SAMPLE, _DROPOUT = range(3)  # what a seed is for
_SPLIT = 4


def split_cache(count: int, config: MapperTrainingConfig) -> tuple[list[int], list[int]]:
    """Choose the faces that are held out of training.

    Args:
        count: faces in the cache.
        config: for seed and number of held-out faces.

    Returns:
        The indices of the faces to train on, and of those held out, both rising.

    Raises:
        ValueError: no face would be left to train on.
    """
    if config.validation >= count:
        raise ValueError(
            f"--validation {config.validation} leaves no face to train on: the cache has {count}. "
            "Hold out fewer."
        )
    generator = torch.Generator().manual_seed(derive_seed(config.seed, _SPLIT))
    held = set(torch.randperm(count, generator=generator)[: config.validation].tolist())
    return [index for index in range(count) if index not in held], sorted(held)


class MapperDataset(Dataset):
    """The endless stream of training samples, by number."""

    def __init__(self, cache: LatentCache, config: MapperTrainingConfig, timesteps: int) -> None:
        """Take the cache.

        Args:
            cache: of `f2d-train prepare`.
            config: for seed, held-out faces, flip and drop rate.
            timesteps: T.
        """
        self.cache, self.config, self.timesteps = cache, config, timesteps
        self.faces = split_cache(len(cache), config)[0]
        self._order: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Make the sample with a number: a photo of the epoch's order, and all its random draws.

        Returns:
            `latent` and `noise` (C, H, W), `time` (), `v_id` (I), `mask` (1, H, W), `index` (),
            `dropout_seed` (), and with expressions `v_exp` (E) and `keep` ().
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
        return sample
