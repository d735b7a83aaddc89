"""A base model, a cache, and a mapper training of a few steps on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from face2diffusion.f2d.files import fingerprint
from face2diffusion.training.config import MapperTrainingConfig

from .cache import write_cache
from .random_pipeline import random_pipeline


def write_inputs(folder: Path, faces: int) -> Path:
    """Writes `sd` and `cache`, what `short_run` trains on; returns the folder."""
    diffusion = random_pipeline().diffusion
    diffusion.save_pretrained(folder / "sd")
    write_cache(folder / "cache", count=faces, vae=fingerprint(diffusion.vae.state_dict()))
    return folder


def short_run(inputs: Path, out: Path, **changes: Any) -> MapperTrainingConfig:
    """Returns the settings of a run of four steps."""
    return MapperTrainingConfig(
        cache=str(inputs / "cache"),
        base=str(inputs / "sd"),
        out=str(out),
        steps=4,
        hidden_dim=32,
        lr=1e-3,
        save_every=2,
        workers=0,
        **changes,
    )
