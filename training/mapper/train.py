r"""Trains f_map1, f_map2 and the null expression on a cache of faces; everything else stays frozen.

    f2d-train mapper --cache ffhq --base sd-v1-4 --out runs/cgdr --precision bf16
    torchrun --nproc_per_node 8 -m face2diffusion.training.cli mapper --cache ffhq --base sd-v1-4 \
        --out runs/cgdr
    f2d-train mapper --cache faces --base tiny-sd --out runs/try --steps 20 --batch-size 4      (on a laptop)

The same command resumes. All randomness (the photo, its flip, the timestep, the noise, the dropped expression
and the dropout of a sample) derives from the seed and the sample's number alone, so the number of processes
does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...f2d.checkpoint import read
from ...f2d.denoising_loss import cgdr_loss
from ...f2d.diffusion.denoising import PromptDenoiser
from ...f2d.diffusion.folder import load_vae
from ...f2d.files import fingerprint
from ...f2d.networks.mapping import MapperConfig, MappingNetwork, load_mapper
from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.attention import fastest_attention
from ..engine.loop import Event, Task, TrainingLoop
from ..engine.means import RunningMeans
from ..engine.optimizer import MuonWithAdamW, make_optimizer
from ..engine.precision import autocast, compute_dtype
from ..engine.processes import Processes, start_processes
from ..engine.run_folder import Run
from ..engine.sampling import Batch
from ..engine.seeds import derive_seed
from ..losses import masked_loss, reconstruction_loss
from .couples import join_side_by_side
from .dataset import MapperDataset
from .denoising import FrozenDiffusion
from .dropout import sampled_dropout
from .identity_loss import IdentityLoss
from .region_errors import region_errors, with_bins
from .sample_sheets import SampleScores, SampleSheets
from .validation import Validation


def compute_loss(
    diffusion: PromptDenoiser,
    mapper: torch.nn.Module,
    batch: dict[str, Tensor],
    config: MapperTrainingConfig,
    means: RunningMeans | None = None,
    identity: IdentityLoss | None = None,
) -> Tensor:
    """Compute the configured loss of one batch.

    Args:
        diffusion: frozen, with as many people in the prompt as in an image.
        mapper: in training mode.
        batch: of `MapperDataset`, stacked, or of `join_side_by_side`.
        config: which loss.
        means: is given the errors inside and outside M, by timestep.
        identity: added with the configured weight.

    Returns:
        scalar.
    """
    with (
        autocast(batch["v_id"].device.type, config.precision),
        sampled_dropout(mapper, batch["dropout_seed"]),
    ):
        words = mapper(batch["v_id"], batch.get("v_exp"), batch.get("keep"))
    noisy, target = diffusion.add_noise(batch["latent"], batch["noise"], batch["time"])
    time, context = batch["time"], batch.get("context")
    words = words.float().reshape(len(noisy), -1, words.shape[-1])  # (images, 2 P, D)
    prediction = diffusion.predict(noisy, time, words, context)
    class_prediction = diffusion.predict_class(noisy, time, context) if config.loss == "cgdr" else None
    if means is not None:
        errors = region_errors(prediction, target, batch["mask"], class_prediction)
        means.add(with_bins(errors, batch["time"], diffusion.steps))
    if class_prediction is not None:
        weighting = config.region_weight, config.relative_loss
        loss = cgdr_loss(prediction, target, class_prediction, batch["mask"], *weighting)
    elif config.loss == "masked":
        loss = masked_loss(prediction, target, batch["mask"])
    else:
        loss = reconstruction_loss(prediction, target)
    if identity is None:
        return loss
    return loss + config.identity_weight * identity(noisy, prediction, time, batch["v_id"])


@dataclass(frozen=True)
class OwnSamples:
    """Samples of another kind than `MapperDataset`'s, for a training that differs in nothing else."""

    make: Callable[[LatentCache, MapperTrainingConfig, int], Dataset]  # of cache, config and T
    contexts: Sequence[str]  # that the samples' `context` counts, from 1
    fingerprint: str  # a run resumes with the same one only


def train_mapper(
    config: MapperTrainingConfig,
    log: Callable[[str], None] = print,
    load_scores: Callable[[MapperTrainingConfig, str], SampleScores | None] | None = None,
    own: OwnSamples | None = None,
) -> Path:
    """Train a mapper; with a run folder that holds a checkpoint, resume from it.

    Args:
        config: the run.
        log: called with each progress message.
        load_scores: with config and device, loads what scores the sample sheets, in process 0 only.
        own: replaces `MapperDataset` and the config's contexts.

    Returns:
        The last weight file.

    Raises:
        ValueError: a cache of other weights, a base model that is not SD 1.x or 2.x, a run folder of another
            run, or a mapper that does not fit.
        FloatingPointError: the loss is NaN or infinite; names the step, the photos and the last checkpoint.
        ConnectionError: another process has died or hangs.
        ImportError: this torch lacks the configured optimizer.
        OSError: the run folder cannot be written to.
    """
    with start_processes(config.device) as processes:
        cache = open_cache(config)
        diffusion = _load_diffusion(config, own)
        length = config.word_length and config.word_length * diffusion.token_length(config.class_prompt)
        mapper = build_mapper(config, cache, diffusion.word_dim, length)
        contents = {
            "cache": cache.fingerprint(),
            "base": diffusion.fingerprint(),
            "init": fingerprint(mapper.state_dict()) if config.init else "",
        } | ({"samples": own.fingerprint} if own else {})
        run = Run(config.out, config, config.keep, processes, contents)
        try:
            diffusion.place(processes.device, compute_dtype(config.precision))
            score = load_scores(config, str(processes.device)) if load_scores and processes.first else None
            sheets = SampleSheets(config, mapper.config, cache, diffusion, processes, run, score, log)
            validation = Validation(config, mapper.config, cache, diffusion, processes, run, log)
            validate_every = config.validate_every if config.validation else 0
            events = [
                Event("Validation", validate_every, validation.write, validation.done),
                Event("Sampling", config.sample_every, sheets.write, sheets.done),
            ]
            task = make_task(config, mapper.to(processes.device).train(), diffusion, cache, processes, events)
            if own:
                task = replace(task, samples=own.make(cache, config, diffusion.steps))
            if processes.first:
                _introduce(mapper, len(cache), config, log)
            return TrainingLoop(config, task, run, processes, log).train()
        finally:
            run.close()


def _load_diffusion(config: MapperTrainingConfig, own: OwnSamples | None) -> FrozenDiffusion:
    contexts = own.contexts if own else config.contexts if config.context_share else ()
    prompts = config.prompt, config.class_prompt
    return FrozenDiffusion(config.base, *prompts, config.positional, config.compile, contexts)


def _introduce(
    mapper: MappingNetwork, faces: int, config: MapperTrainingConfig, log: Callable[[str], None]
) -> None:
    count = sum(parameter.numel() for parameter in mapper.parameters())
    log(f"{count:,} parameters to train on {faces - config.validation} photos")
    if not config.validation:
        log("No validation: nothing is held out. --validation 64 holds out 64 faces and logs their errors.")


def open_cache(config: MapperTrainingConfig) -> LatentCache:
    """Open the cache, and check that it has what a config needs.

    Args:
        config: of the run.

    Returns:
        The cache.

    Raises:
        FileNotFoundError: there is no cache.
        ValueError: it lacks expressions, or was made with another VAE than the base model's.
    """
    cache = LatentCache(config.cache)
    if config.expression_guidance and not cache.exp_dim:
        raise ValueError(
            f"The cache '{config.cache}' has no expressions. "
            "Prepare it with --expression, or train with --no-expression-guidance."
        )
    cache.check(vae=fingerprint(load_vae(config.base).state_dict()))
    return cache


def make_task(
    config: MapperTrainingConfig,
    mapper: MappingNetwork,
    diffusion: FrozenDiffusion,
    cache: LatentCache,
    processes: Processes,
    events: Sequence[Event] = (),
) -> Task:
    """Say how the mapper is trained.

    Args:
        config: of the run.
        mapper: in training mode, on its device.
        diffusion: frozen, on the same device.
        cache: of faces.
        processes: of the run.
        events: what is done now and then.

    Returns:
        The task.

    Raises:
        ValueError: the identity loss has another encoder than the cache, or a batch cannot be divided into
            couples.
        ImportError: this torch lacks the configured optimizer.
    """
    means = RunningMeans()
    identity = _load_identity_loss(config, cache, diffusion)
    couples = _load_couples(config, diffusion, processes)
    make = MuonWithAdamW if config.optimizer == "muon" else make_optimizer

    def loss(batch: Batch, step: int) -> Tensor:
        with fastest_attention(processes.device_type, cache.latent_size**2):
            if couples and (step + 1) % config.couples_every == 0:
                return compute_loss(couples, mapper, join_side_by_side(batch), config, means)
            return compute_loss(diffusion, mapper, batch, config, means, identity)

    return Task(
        kind="mapper",
        network=mapper,
        optimizer=make(mapper.parameters(), config),
        compute_loss=loss,
        learning_rate=lambda step: learning_rate(config, step),
        steps=config.steps,
        samples=MapperDataset(cache, config, diffusion.steps),
        sample_name="photos of the cache",
        network_config=mapper.config,
        metadata={"msid": cache.msid, "loss": config.loss},
        events=events,
        means=means,
    )


def _load_identity_loss(
    config: MapperTrainingConfig, cache: LatentCache, diffusion: FrozenDiffusion
) -> IdentityLoss | None:
    if not config.identity_weight:
        return None
    loss = IdentityLoss.load(config.base, config.identity_msid, diffusion.schedule, config.identity_below)
    cache.check(msid=fingerprint(loss.msid.state_dict()))
    return loss.to(diffusion.class_states.device)


def _load_couples(
    config: MapperTrainingConfig, diffusion: FrozenDiffusion, processes: Processes
) -> PromptDenoiser | None:
    if not config.couples_every:
        return None
    parts = processes.world * config.accumulate
    if config.batch_size % (2 * parts):
        raise ValueError(
            f"--couples-every joins photos in pairs, but batch size {config.batch_size} is not divisible by "
            f"2 x processes x accumulate = 2 x {processes.world} x {config.accumulate}. Change one of them."
        )
    return diffusion.with_couples(config.prompt, config.class_prompt)


def build_mapper(
    config: MapperTrainingConfig, cache: LatentCache, word_dim: int, word_length: float = 0.0
) -> MappingNetwork:
    """Build the mapper for a cache: random, or from the weights that the config names.

    Args:
        config: of the run.
        cache: gives the widths of v_id and v_exp.
        word_dim: D of the base model.
        word_length: norm of each word; 0 = any.

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
        slope=config.slope,
        positional=config.positional,
        word_length=word_length,
        exp_scale=config.expression_scale,
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
            f"The mapper '{config.init}' has (identity, expression, word) widths {got}, but cache and base "
            f"model need {wanted}. Use another --init."
        )
    mapper.config = replace(
        mapper.config,
        word_length=word_length or mapper.config.word_length,
        exp_scale=sizes.exp_scale if sizes.exp_scale != 1 else mapper.config.exp_scale,
    )
    return mapper.requires_grad_(True)


def learning_rate(config: MapperTrainingConfig, step: int) -> float:
    """Compute a step's learning rate: it rises over `warmup` steps, and falls to 0 over the last `decay`.

    Args:
        config: of the run.
        step: from 0.

    Returns:
        in (0, `config.lr`].
    """
    rising = (step + 1) / config.warmup if config.warmup else 1.0
    falling = (config.steps - step) / min(config.decay, config.steps) if config.decay else 1.0
    return config.lr * min(1.0, rising, falling)
