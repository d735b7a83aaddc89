"""A small cache of `f2d-train prepare` with random tensors, without the networks that make real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.files import fingerprint
from face2diffusion.f2d.networks.msid import load_msid
from face2diffusion.training.data.cache import (
    CachedPhoto,
    CacheInfo,
    Skipped,
    begin_cache,
    write_report,
    write_shard,
)
from support.official import write_msid

VAE = "5" * 64


def write_cache(
    folder: Path,
    count: int = 6,
    *,
    latent_size: int = 8,
    exp_dim: int = 64,
    shard_size: int = 4,
    seed: int = 0,
    latent: float | None = None,
    skipped: int = 0,
    vae: str = VAE,
) -> Path:
    """Write a cache, and beside it the `msid.pt` that it names.

    Args:
        folder: the cache.
        count: photos in it.
        latent_size: side of the latents, px.
        exp_dim: 0 = without expressions.
        shard_size: photos a shard.
        seed: of all values.
        latent: all latents have this value instead of random ones.
        skipped: photos that the last shard says were skipped.
        vae: fingerprint of the VAE that the latents claim to come from.
    """
    folder = Path(folder)
    msid = load_msid(
        read(write_msid(folder / "msid.pt", seed=seed, patch_size=16, depth=4, layers=(0, 1, 2, 3)))
    )
    generator = torch.Generator().manual_seed(seed)
    shards = -(-count // shard_size)
    info = CacheInfo(
        image_size=8 * latent_size,
        latent_size=latent_size,
        id_dim=msid.config.feature_dim,
        exp_dim=exp_dim,
        depths=msid.config.depths,
        normed=msid.config.normed,
        vae=vae,
        msid=fingerprint(msid.state_dict()),
        classes=("skin",),
        photos=count + skipped,
        shard_size=shard_size,
        shards=shards,
    )

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, generator=generator)

    def photo(number: int) -> CachedPhoto:
        mean = draw(4, latent_size, latent_size).half()
        tensors = {
            "latent_mean": mean if latent is None else torch.full_like(mean, latent),
            "latent_std": (0.01 * draw(4, latent_size, latent_size).abs()).half(),
            "v_id": draw(info.id_dim),
            "mask": (draw(latent_size, latent_size) > 0).half(),
        }
        if exp_dim:
            tensors["v_exp"] = draw(exp_dim)
        return CachedPhoto(number, f"faces/{number}.jpg", tensors)

    begin_cache(folder, info)
    for shard in range(shards):
        numbers = range(shard * shard_size, min((shard + 1) * shard_size, count))
        missed = (
            [Skipped(f"bad/{number}.jpg", "no face") for number in range(skipped)]
            if shard == shards - 1
            else []
        )
        write_shard(folder, shard, [photo(number) for number in numbers], missed)
    write_report(folder)
    return folder
