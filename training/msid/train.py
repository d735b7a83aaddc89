"""Pre-trains the multi-scale identity encoder: ArcFace over several depths at once (Sec. 3.2).

    f2d-train msid --data ms1m-retinaface-t1 --out runs/msid --precision bf16
    f2d-train msid --data ms1m-retinaface-t1 --out runs/arcface --depths 12     (plain ArcFace, the baseline)
    torchrun --nproc_per_node 8 -m face2diffusion.training.cli msid --data ms1m-retinaface-t1 --out runs/msid
    f2d-train msid --data faces --out runs/try --embed-dim 96 --depth 3 --depths 1,3 --heads 3   (on a laptop)

The same command resumes. Order and flips of the faces derive from the seed and a sample's number alone, the
batch normalization sees the batch of all processes, and the rows of the classifier are divided among them, so
the number of processes does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...f2d.image import to_signed
from ...f2d.networks.msid import MSIDConfig, MSIDEncoder
from ..config import MSIDTrainingConfig
from ..data.face_datasets import FaceDataset, FaceSet, open_faces
from ..engine.attention import fastest_attention
from ..engine.loop import Event, Task, TrainingLoop
from ..engine.optimizer import make_optimizer
from ..engine.precision import autocast
from ..engine.processes import Processes, start_processes
from ..engine.run_folder import Run
from ..engine.sampling import Batch
from ..engine.seeds import derive_seed
from .batch_norm import synchronize_norms
from .classifier import ClassifierTraining, ShardedClassifier
from .drop_path import sampled_drop_path
from .verification import compare, report, sample_triplets

_DROP_PATH = 102  # what a seed is for


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then linear decay to 0, step by step."""

    lr: float
    warmup: int  # steps
    steps: int

    @classmethod
    def of(cls, config: MSIDTrainingConfig, faces: int) -> Schedule:
        """Turn epochs over so many faces into steps."""
        steps = max(1, config.epochs * faces // config.batch_size)
        return cls(config.lr, min(round(config.warmup_epochs * faces / config.batch_size), steps - 1), steps)

    def at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (self.steps - step) / (self.steps - self.warmup)


def build_encoder(config: MSIDTrainingConfig) -> MSIDEncoder:
    """Build the network to train, with random weights of the run's seed.

    Args:
        config: of the run.

    Returns:
        In training mode; what has no effect (the final norm, a bias before a batch normalization) is frozen.

    Raises:
        ValueError: the sizes do not fit together.
    """
    sizes = MSIDConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        heads=config.heads,
        depths=config.depths,
        normed=config.depths,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed))
        encoder = MSIDEncoder(sizes)
    encoder.norm.requires_grad_(False)
    encoder.blocks[sizes.depths[-1] :].requires_grad_(False)
    last: Any = encoder.blocks[sizes.depths[-1] - 1]
    last.mlp.fc2.bias.requires_grad_(False)
    return encoder.train()


def drop_key_gradients(encoder: MSIDEncoder) -> None:
    """Zero the gradient of the keys' biases, which is rounding noise: softmax ignores a shared addend.

    Adam would make full steps of the noise, other ones for each number of processes.

    Args:
        encoder: after the backward pass.
    """
    width = encoder.config.embed_dim
    blocks: Any = encoder.blocks
    for block in blocks[: encoder.config.depths[-1]]:
        block.attn.qkv.bias.grad[width : 2 * width] = 0


def make_task(
    config: MSIDTrainingConfig,
    faces: FaceSet,
    processes: Processes,
    verification: Verification | None = None,
) -> Task:
    """Build encoder and classifier, and describe how they are trained.

    Args:
        config: of the run.
        faces: aligned, with identities.
        processes: of the run.
        verification: is done every so many epochs.

    Returns:
        The task; its network is the encoder.
    """
    encoder = build_encoder(config).to(processes.device)
    synchronize_norms(encoder)
    classifier = _build_classifier(config, len(faces.classes), encoder.config.feature_dim, processes)
    if config.compile:
        encoder.compile()
    tokens = encoder.patch_embed.num_patches

    def compute_loss(batch: Batch, step: int) -> Tensor:
        """Compute the loss of the batch of all processes; scalar."""
        with (
            autocast(processes.device, config.precision),
            fastest_attention(processes.device_type, tokens),
            _skip_layers(encoder, config, batch["index"], step),
        ):
            features = encoder(to_signed(batch["face"]))  # (b, L * C)
        return classifier(features.float(), batch["label"], step)

    schedule = Schedule.of(config, len(faces))
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return Task(
        kind="msid",
        network=encoder,
        optimizer=make_optimizer(trained, config, fused=processes.on_gpu),
        compute_loss=compute_loss,
        learning_rate=schedule.at,
        steps=schedule.steps,
        samples=FaceDataset(faces, config.image_size, config.seed, config.flip),
        sample_name="faces",
        reduction="sum",  # each process's gradient is of the loss of the entire batch
        divided=ClassifierTraining(classifier, config),
        adjust_gradients=lambda: drop_key_gradients(encoder),
        network_config=encoder.config,
        events=_verify_regularly(config, len(faces), verification),
    )


def _build_classifier(
    config: MSIDTrainingConfig, classes: int, width: int, processes: Processes
) -> ShardedClassifier:
    rank, world = processes.rank, processes.world
    classifier = ShardedClassifier(
        classes, width, config.scale, config.margin, config.sample_rate, config.seed, rank, world
    )
    return classifier.to(processes.device)


def _verify_regularly(
    config: MSIDTrainingConfig, faces: int, verification: Verification | None
) -> list[Event]:
    if not verification or not config.verify_every:
        return []
    every = max(1, round(config.verify_every * faces / config.batch_size))
    return [Event("Verification", every, verification.write, verification.done)]


def _skip_layers(
    encoder: MSIDEncoder, config: MSIDTrainingConfig, indices: Tensor, step: int
) -> AbstractContextManager:
    """Apply drop path while the block runs; a sample's seed comes from step and face, (B,)."""
    if not config.drop_path:
        return nullcontext()
    seeds = [derive_seed(config.seed, _DROP_PATH, step, index) for index in indices.tolist()]
    return sampled_drop_path(encoder, config.drop_path, torch.tensor(seeds, device=indices.device))


def train_msid(config: MSIDTrainingConfig, log: Callable[[str], None] = print) -> Path:
    """Pre-train an identity encoder; with a run folder that holds a checkpoint, resume from it.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The last weight file, of kind "msid".

    Raises:
        FileNotFoundError: there are no faces at the named place.
        ValueError: damaged faces, one identity only, labels with gaps, sizes that do not fit, or a run folder
            of another run.
        FloatingPointError: the loss is NaN or infinite; names the step, the faces and the last checkpoint.
        ConnectionError: another process has died or hangs.
        OSError: the run folder cannot be written to.
    """
    with start_processes(config.device) as processes:
        _check_batch(config, processes.world)
        faces = _open_once(processes, config.data, config.remap_labels)
        checked = _open_once(processes, config.verification, True) if config.verification else None
        run = Run(config.out, config, config.keep, processes, {"data": faces.fingerprint()})
        try:
            verification = Verification(config, checked, processes, run, log) if checked else None
            task = make_task(config, faces, processes, verification)
            if processes.first:
                log(f"{len(faces)} faces of {len(faces.classes)} identities")
            loop = TrainingLoop(config, task, run, processes, log)
            weights = loop.train()
            if verification and loop.step == task.steps and not processes.share(verification.done(loop.step)):
                verification.write(loop.step, loop.weights)
        finally:
            run.close()
    return weights


def _open_once(processes: Processes, path: str, remap: bool) -> FaceSet:
    """Open faces in process 0, whose labels go to the others: they need not read all of the data for them."""
    return processes.share(open_faces(path, remap) if processes.first else None)


def _check_batch(config: MSIDTrainingConfig, world: int) -> None:
    if config.batch_size % (world * config.accumulate) or config.batch_size // config.accumulate < 2:
        raise ValueError(
            f"The batch size {config.batch_size} cannot be divided among {world} process(es) x "
            f"{config.accumulate} part(s) of at least 2 images. Change it."
        )


class Verification:
    """Measures the encoder on triplets of other people while it trains, and at the end."""

    def __init__(
        self,
        config: MSIDTrainingConfig,
        faces: FaceSet,
        processes: Processes,
        run: Run,
        log: Callable[[str], None],
    ) -> None:
        """Sample the triplets.

        Args:
            config: of the run.
            faces: aligned.
            processes: share the work.
            run: the folder.
            log: called with the result, in process 0.

        Raises:
            ValueError: no identity has two photos.
        """
        self.config, self.processes, self.run, self.log = config, processes, run, log
        self.faces, self.triplets = faces, sample_triplets(faces.labels)
        self.encoder = build_encoder(config).to(processes.device)

    def done(self, step: int) -> bool:
        """Return whether a step needs no measurement, because a run that was killed has done it."""
        file = self.run.folder / "verification.json"
        return not step or (
            file.exists() and json.loads(file.read_text(encoding="utf-8")).get("step") == step
        )

    def write(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Measure, into verification.json, verification.png, log and trackers; all processes take part.

        Args:
            step: how many are done.
            weights: of the encoder.

        Raises:
            RuntimeError: a process failed.
            OSError: the folder cannot be written to.
        """
        self.encoder.load_state_dict(weights)
        found = compare(self.encoder, self.faces, self.triplets, processes=self.processes)
        if not self.processes.first:
            return
        details = {
            "encoder": f"msid-{step:08d}.safetensors",
            "data": Path(self.config.verification).name,
            "seed": 0,
            "step": step,
        }
        result = report(found, self.run.folder, "verification", **details)
        scores = {f"auc/{depth['depth']}": depth["auc"] for depth in result["depths"]}
        self.run.log(step, **scores)
        shown = ", ".join(f"depth {name[4:]}: {100 * auc:.2f} %" for name, auc in scores.items())
        self.log(f"Verification at step {step} on {len(self.triplets)} triplets: AUC {shown}")
