"""What the cache saves in a training step, and how near a step is to its floor.

The results are kept in docs/benchmarks.md; scripts/gpu_figures.py measures on a GPU.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.image import to_signed, to_unit
from face2diffusion.f2d.networks.expression import load_expression
from face2diffusion.f2d.networks.msid import MSIDEncoder, load_msid
from face2diffusion.training.config import IDENTITY_CLASSES, MapperTrainingConfig
from face2diffusion.training.data.cache import LatentCache
from face2diffusion.training.data.face_datasets import open_faces
from face2diffusion.training.data.parsing import load_parser
from face2diffusion.training.engine.sampling import ResumableBatchSampler
from face2diffusion.training.losses import arcface_loss
from face2diffusion.training.mapper import train as training
from face2diffusion.training.mapper.denoising import FrozenDiffusion
from support.cache import write_cache
from support.identities import write_records
from support.official import write_expression, write_msid
from support.parsers import write_bisenet
from support.random_pipeline import random_pipeline
from support.timing import time_in_turn
from torch.utils.data import DataLoader, default_collate

BATCH = 4
SIDE = 24  # of the latents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model with a U-Net of some weight (12 million parameters), a cache, and the networks that fill
    it.
    """
    folder = tmp_path_factory.mktemp("training")
    diffusion = random_pipeline().diffusion
    unet = UNet2DConditionModel(
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=768,
        norm_num_groups=8,
    )
    diffusion.register_modules(unet=unet)
    diffusion.save_pretrained(folder / "sd")
    write_cache(folder / "cache", count=32, shard_size=16, latent_size=SIDE)
    write_msid(folder / "msid.pt")
    write_expression(folder / "epoch_20.pth")
    write_bisenet(folder / "79999_iter.pth")
    return folder


@pytest.fixture
def config(folder):
    return MapperTrainingConfig(
        cache=str(folder / "cache"), base=str(folder / "sd"), out="unused", batch_size=BATCH
    )


def make_step(config, batches):
    """A training step over batches, as the trainer does it."""
    cache = LatentCache(config.cache)
    diffusion = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    mapper = training.build_mapper(config, cache, diffusion.word_dim)
    optimizer = training.make_optimizer(mapper.parameters(), config)

    def step() -> None:
        optimizer.zero_grad()
        training.compute_loss(diffusion, mapper, next(batches), config).backward()
        torch.nn.utils.clip_grad_norm_(mapper.parameters(), 1.0)
        optimizer.step()

    return step, diffusion, mapper


def cached_batches(config):
    """Batches from the cache, one after the other, loaded in this process."""
    samples = training.MapperDataset(LatentCache(config.cache), config, 1000)
    start = 0
    while True:
        yield default_collate([samples[number] for number in range(start, start + BATCH)])
        start += BATCH


def encoded_batches(config, folder):
    """The plain loop: every step encodes picture, face, expression and mask."""
    vae = AutoencoderKL.from_pretrained(config.base, subfolder="vae")
    msid, expression = load_msid(read(folder / "msid.pt")), load_expression(read(folder / "epoch_20.pth"))
    parser = load_parser(folder / "79999_iter.pth")
    pictures, faces, crops = (np.full((BATCH, side, side, 3), 100, np.uint8) for side in (SIDE * 8, 112, 224))
    for batch in cached_batches(config):
        with torch.no_grad():
            batch["latent"] = vae.encode(to_signed(pictures)).latent_dist.sample() * 0.18215
            batch["v_id"], batch["v_exp"] = msid(to_signed(faces)), expression(to_unit(crops))
            mask = parser.identity_mask(to_unit(pictures), IDENTITY_CLASSES)
            batch["mask"] = torch.nn.functional.adaptive_avg_pool2d(mask.float()[:, None], SIDE)
        yield batch


def test_the_cache_saves_half_of_a_step(config, folder):
    cached, *_ = make_step(config, cached_batches(config))
    plain, *_ = make_step(config, encoded_batches(config, folder))
    pair = time_in_turn(plain, cached, rounds=5)
    print(
        f"training step, batch {BATCH}: plain {pair.first * 1e3:.0f} ms, "
        f"from the cache {pair.second * 1e3:.0f} ms, ratio {pair.ratio:.2f}"
    )
    assert pair.ratio > 2


def test_a_step_is_near_its_floor(config):
    """Two U-Net forwards and one backward, with the text encoder in between."""
    batches = cached_batches(config)
    step, diffusion, _ = make_step(config, batches)
    batch = next(batches)
    words = torch.randn(BATCH, 2, 768).requires_grad_()

    def floor() -> None:
        diffusion.predict_class(batch["latent"], batch["time"])
        diffusion.predict(batch["latent"], batch["time"], words).square().mean().backward()

    pair = time_in_turn(step, floor, rounds=15)
    print(
        f"training step {pair.first * 1e3:.0f} ms, its floor {pair.second * 1e3:.0f} ms, "
        f"ratio {pair.ratio:.2f}"
    )
    assert pair.ratio < 1.15


def test_the_loader_is_faster_than_the_steps(config):
    config = replace(config, steps=200)
    samples = training.MapperDataset(LatentCache(config.cache), config, 1000)
    numbers = ResumableBatchSampler(config.batch_size, 0, config.steps, 0, 1)
    start = time.perf_counter()
    count = sum(len(batch["latent"]) for batch in DataLoader(samples, batch_sampler=numbers, num_workers=0))
    rate = count / (time.perf_counter() - start)
    step, *_ = make_step(config, cached_batches(config))
    step()
    start = time.perf_counter()
    for _ in range(5):
        step()
    need = 5 * BATCH / (time.perf_counter() - start)
    print(f"loader, one process: {rate:.0f} samples/s; the steps need {need:.0f}; ratio {rate / need:.0f}")
    assert rate > 2 * need


def test_recordio_is_read_faster_than_it_is_decoded(tmp_path):
    """Records of insightface's size: JPEGs of 112 px."""
    generator = np.random.default_rng(0)
    picture = cv2.GaussianBlur(generator.integers(0, 255, (112, 112, 3), dtype=np.uint8), (0, 0), 2)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    write_records(tmp_path / "faces", [(jpeg, number % 100) for number in range(2000)])
    faces = open_faces(tmp_path / "faces")
    order = generator.permutation(len(faces)).tolist()
    pair = time_in_turn(
        lambda: [faces.encoded(index) for index in order],
        lambda: [faces.load(index, 112) for index in order],
        rounds=5,
    )
    print(
        f"RecordIO, {len(jpeg)} bytes each: {len(faces) / pair.first:.0f} records/s read, "
        f"{len(faces) / pair.second:.0f} decoded"
    )
    assert pair.ratio < 0.5


def test_a_step_of_msid_at_full_size(tmp_path):
    """The paper's ViT and 1,000 classes; on a GPU with the paper's batch."""
    batch = 1024 if torch.cuda.is_available() else 8
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = MSIDEncoder().to(device).train()
    classifier = torch.nn.Parameter(torch.randn(1000, encoder.config.feature_dim, device=device) * 0.01)
    faces = torch.randn(batch, 3, 112, 112, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            features = encoder(faces)
        cosines = (
            torch.nn.functional.normalize(features.float()) @ torch.nn.functional.normalize(classifier).T
        )
        arcface_loss(cosines, labels).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    pair = time_in_turn(step, step, rounds=3)
    print(f"MSID, batch {batch} on {device}, bf16: {batch / pair.first:.1f} images/s")
    assert encoder.cls_token.grad.isfinite().all()


def print_peak(folder: str, plain: bool) -> None:
    """Take three steps in this process, and print the most memory it has held, MiB."""
    config = MapperTrainingConfig(
        cache=f"{folder}/cache", base=f"{folder}/sd", out="unused", batch_size=BATCH
    )
    step, *_ = make_step(config, encoded_batches(config, Path(folder)) if plain else cached_batches(config))
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def test_the_cache_saves_memory(folder):
    """A fresh process for each way."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    peaks = []
    for plain in (True, False):
        code = (
            f"import sys; sys.path[:0] = {paths}; import test_training; "
            f"test_training.print_peak({str(folder)!r}, {plain})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
        )
        peaks.append(int(done.stdout.split()[-1]))
    print(
        f"peak memory of training: plain {peaks[0]} MiB, from the cache {peaks[1]} MiB, "
        f"ratio {peaks[0] / peaks[1]:.2f}"
    )
    assert peaks[1] < peaks[0]
