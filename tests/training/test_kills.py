"""kill -9 at any moment: the same command resumes, to the bits of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from face2diffusion.f2d.image import save_png
from face2diffusion.training.config import PrepareConfig
from face2diffusion.training.data import prepare as module
from face2diffusion.training.data.frozen_encoders import FrozenEncoders
from safetensors.torch import load_file
from support import processes
from support.identities import write_folders
from support.kills import kill_at, kill_often
from support.official import write_msid
from support.parsers import write_segformer
from support.random_pipeline import random_pipeline
from support.short_run import short_run, write_inputs

KILLS = int(os.environ.get("F2D_KILLS", "1"))  # of each of the three commands
SEED = int(os.environ.get("F2D_KILLS_SEED", "0"))


@pytest.fixture(scope="module")
def prepare_config(tmp_path_factory) -> PrepareConfig:
    """Of four images, a shard each."""
    folder = tmp_path_factory.mktemp("prepare")
    random_pipeline().diffusion.save_pretrained(folder / "sd")
    write_msid(folder / "msid.pt", patch_size=16, width=64, depth=2, layers=(0, 1))
    write_segformer(folder / "parser")
    noise = np.random.default_rng(0)
    for number in range(4):
        save_png(folder / "photos" / f"{number}.png", noise.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return PrepareConfig(
        photos=str(folder / "photos"),
        base=str(folder / "sd"),
        msid=str(folder / "msid.pt"),
        parser=str(folder / "parser"),
        aligned=True,
        image_size=64,
        shard_size=1,
        workers=1,
        device="cpu",
    )


def contents(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def quiet(message: str) -> None:
    """Log nothing."""


@pytest.mark.slow
def test_a_cache_resumes_after_a_kill_at_any_call(prepare_config, tmp_path, monkeypatch):
    """Each of the calls that bring a file or a name to the disk is once the last one."""
    encoders = FrozenEncoders.load(replace(prepare_config, parser=""), "cpu")
    monkeypatch.setattr(module.FrozenEncoders, "load", lambda *arguments: encoders)
    config = replace(prepare_config, workers=0, shard_size=2, batch_size=2)
    unbroken = contents(module.prepare(replace(config, out=str(tmp_path / "unbroken")), quiet))
    call, killed = 1, True
    while killed:
        out = replace(config, out=str(tmp_path / str(call)))
        killed = kill_at(call, lambda out=out: module.prepare(out, quiet))
        assert contents(module.prepare(out, quiet)) == unbroken, f"killed at call {call}"
        call += 1
    assert call - 2 == 3 * (1 + 2 * 2 + 1), (
        "three calls a file: cache.json, two shards with index, report.json"
    )


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(prepare_config, tmp_path):
    """F2D_KILLS=10 kills each of prepare, mapper and MSID ten times."""
    inputs = write_inputs(tmp_path / "inputs", 6)
    mapper = replace(short_run(inputs, tmp_path / "mapper", batch_size=2), steps=12, save_every=1, keep=1)
    msid = {
        "data": str(write_folders(tmp_path / "faces", identities=4, photos=4)), "out": str(tmp_path / "msid"),
        "image_size": 16, "embed_dim": 32, "depth": 2, "heads": 2, "depths": (1, 2), "batch_size": 4,
        "epochs": 4, "save_every": 1, "keep": 1, "workers": 0,
    }  # fmt: skip
    cache = asdict(replace(prepare_config, out=str(tmp_path / "cache")))
    chance = random.Random(SEED)
    for name, job, settings, read in (
        ("prepare", processes.prepare, cache, contents),
        ("mapper", processes.train_mapper, asdict(mapper), read_weights),
        ("msid", processes.train, msid, read_weights),
    ):
        print(f"{name}: {kill_often(job, settings, KILLS, read, chance)}", flush=True)


def read_weights(run: Path) -> dict[str, bytes]:
    weights = json.loads((run / "checkpoint.json").read_text())["weights"]
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(run / weights).items()}
