"""Trains f_map1, f_map2 and the null expression on a cache of faces; everything else stays frozen.

    f2d-train mapper --cache ffhq --base sd-v1-4 --out runs/cgdr --precision bf16
    accelerate launch --num_processes 8 -m face2diffusion.training.cli mapper --cache ffhq --base sd-v1-4 --out runs/cgdr
    f2d-train mapper --cache faces --base tiny-sd --out runs/try --steps 20 --batch-size 4      (on a laptop)

The same command resumes. Nothing random depends on what ran before: the photo, its flip, the timestep, the noise and the
dropped expression of a sample follow from the seed and the sample's number alone, so the number of processes does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor
from torch.utils.data import DataLoader

from ...f2d.checkpoint import read
from ...f2d.diffusion.folder import load_vae
from ...f2d.files import fingerprint
from ...f2d.networks.mapping import MapperConfig, MappingNetwork, load_mapper
from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.attention import fastest_attention
from ..engine.optimizer import make_optimizer
from ..engine.run_folder import Run
from ..engine.sampling import ResumableBatchSampler
from ..engine.seeds import derive_seed
from ..losses import cgdr_loss, masked_loss, reconstruction_loss
from .dataset import MapperDataset
from .denoising import FrozenDiffusion

_HANG = timedelta(minutes=5)  # how long processes wait for one that has died
_PERMUTATION, _SAMPLE, _DROPOUT = range(3)  # what a seed is for


def compute_loss(
    diffusion: FrozenDiffusion,
    mapper: torch.nn.Module,
    batch: dict[str, Tensor],
    config: MapperTrainingConfig,
) -> Tensor:
    """Compute the configured loss of one batch.

    Args:
        diffusion: frozen.
        mapper: in training mode.
        batch: of `MapperDataset`, stacked.
        config: which loss.

    Returns:
        scalar.
    """
    words = mapper(batch["v_id"], batch.get("v_exp"), batch.get("keep"))
    dtype = diffusion.unet.dtype
    noisy, target = diffusion.add_noise(batch["latent"], batch["noise"], batch["time"])
    noisy = noisy.to(dtype)
    prediction = diffusion.predict(noisy, batch["time"], words)
    if config.loss == "reconstruction":
        return reconstruction_loss(prediction, target)
    if config.loss == "masked":
        return masked_loss(prediction, target, batch["mask"])
    return cgdr_loss(prediction, target, diffusion.predict_class(noisy, batch["time"]), batch["mask"])


def train_mapper(config: MapperTrainingConfig, log: Callable[[str], None] = print) -> Path:
    """Train a mapper; with a run folder that holds a checkpoint, go on from there.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The last weight file.

    Raises:
        ValueError: a cache of other weights, a base model that is not SD 1.x or 2.x, a run folder of another run, or a mapper that
            does not fit.
        FloatingPointError: the loss is NaN or infinite; names the step, the photos and the last checkpoint.
        OSError: the run folder cannot be written to.
    """
    accelerator = Accelerator(
        mixed_precision=config.precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_HANG), DistributedDataParallelKwargs()],
    )
    rank, world = accelerator.process_index, accelerator.num_processes
    run = Run(config.out, config, config.keep, rank, world)
    cache = LatentCache(config.cache)
    if config.expression_guidance and not cache.exp_dim:
        raise ValueError(
            f"Expected expressions in the cache '{config.cache}', got none. Prepare it with --expression, or train without guidance."
        )
    cache.check(vae=fingerprint(load_vae(config.base).state_dict()))
    diffusion = FrozenDiffusion(
        config.base, config.prompt, config.class_prompt, config.positional, config.compile
    )
    mapper = build_mapper(config, cache, diffusion.word_dim)
    optimizer = make_optimizer(mapper, config)
    ema = {name: tensor.clone() for name, tensor in mapper.state_dict().items()} if config.ema else None
    step = _resume(run, mapper, optimizer, ema)
    half = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.precision]
    diffusion.to(accelerator.device, half)
    mapper, optimizer = accelerator.prepare(mapper.train(), optimizer)
    plain: MappingNetwork = accelerator.unwrap_model(mapper)
    samples = MapperDataset(cache, config, diffusion.steps)
    loader = iter(
        DataLoader(
            samples,
            batch_sampler=ResumableBatchSampler(
                config.batch_size, step, config.steps, rank, world, config.accumulate
            ),
            num_workers=config.workers,
            pin_memory=accelerator.device.type == "cuda",
        )
    )
    if rank == 0 and step < config.steps:
        log(
            f"Training {sum(p.numel() for p in plain.parameters()):,} parameters on {len(cache)} photos, from step {step} to {config.steps}."
        )

    def save() -> None:
        state = {
            "step": step,
            "mapper": plain.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ema": ema or {},
        }
        run.save_state(step, state)
        accelerator.wait_for_everyone()
        if rank == 0:
            weights = ema if ema is not None else plain.state_dict()
            run.save(step, weights, "mapper", plain.config, msid=cache.msid, loss=config.loss)
        accelerator.wait_for_everyone()

    meter = _Meter(config, accelerator, run, log)
    while step < config.steps and not _anyone_stops(run, accelerator):
        torch.manual_seed(derive_seed(config.seed, _DROPOUT, step, rank))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in range(config.accumulate):
            batch = {
                name: tensor.to(accelerator.device, non_blocking=True)
                for name, tensor in next(loader).items()
            }
            last = part == config.accumulate - 1
            attention = fastest_attention(accelerator.device.type, cache.latent_size**2)
            with accelerator.autocast(), attention, nullcontext() if last else accelerator.no_sync(mapper):
                loss = compute_loss(diffusion, mapper, batch, config)
            losses.append(loss.detach())
            accelerator.backward(loss / config.accumulate)
        mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
        if not np.isfinite(mean):
            saved = run.last["weights"] if run.last else "none yet"
            raise FloatingPointError(
                f"Expected a finite loss, got {mean} at step {step}; photos {batch['index'].tolist()} of the cache; last good checkpoint: {saved}. "
                "Lower the learning rate, or use bf16 instead of fp16, and run the same command to go on from the checkpoint."
            )
        norm = (
            accelerator.clip_grad_norm_(mapper.parameters(), config.clip) if config.clip else torch.zeros(())
        )
        optimizer.step()
        step += 1
        if ema is not None:
            for name, tensor in plain.state_dict().items():
                ema[name].lerp_(tensor.to(ema[name]), 1 - config.ema)
        meter.count(step, mean, float(norm) if norm is not None else 0.0)
        if config.sample_every and step % config.sample_every == 0 and rank == 0:
            _generate_samples(run, step, plain, cache, config, diffusion)
        if step % config.save_every == 0 or step == config.steps:
            save()
    if run.last is None or run.last["step"] != step:
        save()
    run.close()
    if rank == 0 and step < config.steps:
        log(f"Stopped at step {step}; the same command goes on.")
    return run.folder / run.last["weights"]  # type: ignore[index]


def build_mapper(config: MapperTrainingConfig, cache: LatentCache, word_dim: int) -> MappingNetwork:
    """Build the mapper for a cache: random, or from the weights that the config names.

    Args:
        config: of the run.
        cache: gives the widths of v_id and v_exp.
        word_dim: D of the base model.

    Returns:
        The mapper, in float32.

    Raises:
        ValueError: the named weights have other widths.
    """
    sizes = MapperConfig(
        id_dim=cache.id_dim,
        exp_dim=cache.exp_dim if config.expression_guidance else 0,
        hidden_dim=config.hidden_dim,
        word_dim=word_dim,
        dropout=config.dropout,
        positional=config.positional,
    )
    if not config.init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed))
            return MappingNetwork(sizes)
    mapper = load_mapper(read(config.init))
    wanted, got = (
        (sizes.id_dim, sizes.exp_dim, sizes.word_dim),
        (mapper.config.id_dim, mapper.config.exp_dim, mapper.config.word_dim),
    )
    if wanted != got:
        raise ValueError(
            f"Expected --init with (identity, expression, word) widths {wanted}, got {got} in '{config.init}'. Use another mapper."
        )
    return mapper.requires_grad_(True)


def learning_rate(config: MapperTrainingConfig, step: int) -> float:
    """Compute a step's learning rate: it rises over the first `warmup` steps and falls to 0 over the last `decay`.

    Args:
        config: of the run.
        step: from 0.

    Returns:
        in (0, `config.lr`].
    """
    rising = (step + 1) / config.warmup if config.warmup else 1.0
    falling = (config.steps - step) / config.decay if config.decay else 1.0
    return config.lr * min(1.0, rising, falling)


def _resume(
    run: Run, mapper: MappingNetwork, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor] | None
) -> int:
    """Load the last checkpoint, where there is one; returns the number of steps done."""
    state = run.load_state()
    if state is None:
        return 0
    mapper.load_state_dict(state["mapper"])
    optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        ema.update(state["ema"])
    return state["step"]


def _anyone_stops(run: Run, accelerator: Accelerator) -> bool:
    """Tell whether a signal has reached any process; all processes get the same answer."""
    flag = torch.tensor(float(run.stopping), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item())


class _Meter:
    """Logs loss, gradient norm, images a second and memory, and says them now and then."""

    def __init__(
        self, config: MapperTrainingConfig, accelerator: Accelerator, run: Run, log: Callable[[str], None]
    ) -> None:
        self.config, self.accelerator, self.run, self.log = config, accelerator, run, log
        self.since, self.steps = time.perf_counter(), 0

    def count(self, step: int, loss: float, norm: float) -> None:
        """Count a step."""
        self.steps += 1
        if self.accelerator.process_index or (step % self.config.log_every and step != self.config.steps):
            return
        seconds = time.perf_counter() - self.since
        rate = self.steps * self.config.batch_size / seconds
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.accelerator.device.type == "cuda" else 0.0
        self.run.log(step, loss=loss, gradient_norm=norm, images_per_second=rate, memory_gib=memory)
        left = (self.config.steps - step) * seconds / self.steps
        self.log(
            f"step {step}/{self.config.steps}  loss {loss:.4f}  |g| {norm:.3g}  {rate:.1f} images/s  {timedelta(seconds=round(left))} left"
        )
        self.since, self.steps = time.perf_counter(), 0


@torch.no_grad()
def _generate_samples(
    run: Run,
    step: int,
    mapper: MappingNetwork,
    cache: LatentCache,
    config: MapperTrainingConfig,
    diffusion: FrozenDiffusion,
) -> None:
    """Draw fixed faces x fixed prompts into samples/ and TensorBoard."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline

    from ...f2d.diffusion.pipeline import F2DPipeline, GenerationConfig
    from ...f2d.image import make_grid, save_png

    training = mapper.training
    mapper.eval()
    vae = load_vae(config.base).to(diffusion.unet.device)
    if vae.dtype != diffusion.unet.dtype:
        vae.to(diffusion.unet.dtype)
    sampler = EulerAncestralDiscreteScheduler.from_config(diffusion.schedule.config)
    parts = (vae, diffusion.text_encoder, diffusion.tokenizer, diffusion.unet, sampler, None, None)
    pipeline = F2DPipeline(StableDiffusionPipeline(*parts, requires_safety_checker=False))
    size = cache.latent_size * 8
    settings = GenerationConfig(steps=config.sample_steps, width=size, height=size)
    images = []
    for face in range(min(config.sample_faces, len(cache))):
        v_id = cache.load(face, False)["v_id"].float()[None].to(next(mapper.parameters()).device)
        pipeline.subjects.clear()
        pipeline.add_subject(mapper(v_id)[0].cpu(), positional=config.positional)
        images += [
            pipeline.generate(prompt, settings, progress=False)[0].image for prompt in config.sample_prompts
        ]
    grid = make_grid(images)
    save_png(run.folder / "samples" / f"{step:08d}.png", grid)
    run.writer.add_image("samples", grid, step, dataformats="HWC")
    mapper.train(training)
