"""Pre-trains the multi-scale identity encoder: ArcFace over the features of several depths at once (Sec. 3.2).

    f2d-train msid --data ms1m-retinaface-t1 --out runs/msid --precision bf16
    f2d-train msid --data ms1m-retinaface-t1 --out runs/arcface --depths 12         (plain ArcFace, the baseline)
    torchrun --nproc_per_node 8 -m face2diffusion.training.cli msid --data ms1m-retinaface-t1 --out runs/msid
    f2d-train msid --data faces --out runs/try --embed-dim 96 --depth 3 --depths 1,3 --heads 3 --batch-size 32      (on a laptop)

The same command resumes. Order and flips of the faces follow from the seed and a sample's number alone, the batch normalization sees
the batch of all processes, and the rows of the classifier are divided among them, so the number of processes does not matter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ...f2d.image import to_signed
from ...f2d.networks.msid import MSIDConfig, MSIDEncoder
from ..config import MSIDTrainingConfig
from ..data.face_datasets import FaceDataset, FaceSet, open_faces
from ..engine.attention import fastest_attention
from ..engine.processes import Processes, start_processes
from ..engine.run_folder import Run
from ..engine.sampling import ResumableBatchSampler
from ..engine.seeds import derive_seed
from .partial_fc import ShardedClassifier, synchronize_norms
from .verification import compare, report, sample_triplets

HANG = timedelta(minutes=5)  # how long processes wait for one that hangs; one that died is noticed at once
_FIRST_SCALE, _SCALE_INTERVAL = 2.0**16, 2000  # of the loss in fp16, as PyTorch's GradScaler
_NAMED = 32  # faces of a bad batch that a message lists
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


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


class _Trainer:
    """Networks, optimizers and what a checkpoint holds of them."""

    def __init__(self, config: MSIDTrainingConfig, faces: FaceSet, processes: Processes, run: Run) -> None:
        self.config, self.faces, self.processes, self.run = config, faces, processes, run
        self.step, self.saved = 0, -1  # steps done, and at the last checkpoint
        self.encoder = build_encoder(config).to(processes.device)
        synchronize_norms(self.encoder)
        self.classifier = ShardedClassifier(
            len(faces.classes),
            self.encoder.config.feature_dim,
            config.scale,
            config.margin,
            config.sample_rate,
            config.seed,
            processes.rank,
            processes.world,
        ).to(processes.device)
        # Two optimizers, since process 0 saves the first for all and each process saves its own second.
        settings: dict[str, Any] = {
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "fused": processes.on_gpu,
        }
        trained = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        self.optimizers = (
            torch.optim.AdamW(trained, **settings),
            torch.optim.AdamW(self.classifier.parameters(), **settings),
        )
        self.loss_scale, self.good_steps = (_FIRST_SCALE if config.precision == "fp16" else 1.0), 0
        self._resume()
        if config.compile:
            self.encoder.compile()
        self.wrapped: nn.Module = self.encoder
        if processes.world > 1:
            self.wrapped = DistributedDataParallel(self.encoder, broadcast_buffers=False)
            self.wrapped.register_comm_hook(None, _sum_gradients)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the loss of the batch of all processes; scalar."""
        half = _HALF.get(self.config.precision)
        kind, tokens = torch.device(self.processes.device).type, self.encoder.patch_embed.num_patches
        with torch.autocast(kind, half) if half else nullcontext(), fastest_attention(kind, tokens):
            features = self.wrapped(to_signed(batch["face"]))  # (b, L * C)
        return self.classifier(features.float(), batch["label"], self.step)

    def train_step(self, batch: dict[str, Tensor], lr: float) -> tuple[float, float]:
        """Take one step; returns loss and gradient norm of the encoder."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = lr
        loss = self.compute_loss(batch)
        value = loss.item()
        if value - value:  # NaN - NaN and Inf - Inf are NaN, which is true
            self._stop_on(f"loss, got {value}", batch)
        (loss * self.loss_scale).backward()
        parameters = [parameter for group in self.optimizers[0].param_groups for parameter in group["params"]]
        if self.loss_scale != 1:
            for parameter in [*parameters, self.classifier.weight]:
                parameter.grad /= self.loss_scale
        self._drop_key_gradients()
        norm_value = nn.utils.clip_grad_norm_(
            parameters, self.config.clip or math.inf
        ).item()  # the same in every process
        finite = norm_value - norm_value == 0
        if not finite and self.config.precision != "fp16":
            self._stop_on(f"gradient, got a norm of {norm_value}", batch)
        if finite:
            for optimizer in self.optimizers:
                optimizer.step()
        if self.config.precision == "fp16":
            self._adapt_scale(finite, batch)
        self.step += 1
        return value, norm_value

    def _drop_key_gradients(self) -> None:
        """Zero the gradient of the keys' biases, which add one number to all logits of a softmax: it is rounding noise.

        Adam would make whole steps of the noise, other ones for each number of processes.
        """
        width = self.encoder.config.embed_dim
        blocks: Any = self.encoder.blocks
        for block in blocks[: self.encoder.config.depths[-1]]:
            block.attn.qkv.bias.grad[width : 2 * width] = 0

    def _adapt_scale(self, finite: bool, batch: dict[str, Tensor]) -> None:
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.loss_scale /= 2
        elif self.good_steps % _SCALE_INTERVAL == 0:
            self.loss_scale *= 2
        if self.loss_scale < 1 / _FIRST_SCALE:
            self._stop_on("gradient in fp16, got none at any scale", batch)

    def _stop_on(self, what: str, batch: dict[str, Tensor]) -> None:
        saved = self.run.last["weights"] if self.run.last else "none yet"
        indices = batch["index"].tolist()
        named = ", ".join(map(str, indices[:_NAMED])) + (", ..." if len(indices) > _NAMED else "")
        raise FloatingPointError(
            f"Expected a finite {what} at step {self.step}; faces {named} of the data (process {self.processes.rank}); last good checkpoint: "
            f"{saved}. Lower the learning rate, or use bf16 instead of fp16, and run again."
        )

    def save(self) -> None:
        """Write a checkpoint; all processes take part."""
        rank = self.processes.rank
        state: dict[str, Any] = {
            "step": self.step,
            "faces": len(self.faces),
            "classes": len(self.faces.classes),
            "classifier": self.classifier.state_dict(),
            "classifier_optimizer": self.optimizers[1].state_dict(),
        }
        if rank == 0:
            state |= {
                "encoder": self.encoder.state_dict(),
                "encoder_optimizer": self.optimizers[0].state_dict(),
            }
            state |= {"loss_scale": self.loss_scale, "good_steps": self.good_steps}
        self.run.save_state(self.step, state)
        self.processes.wait()
        if rank == 0:
            self.run.save(self.step, self.encoder.state_dict(), "msid", self.encoder.config)
        self.processes.wait()
        self.saved = self.step

    def _resume(self) -> None:
        """Go on from the last checkpoint, where there is one."""
        state = self.run.load_state()
        if state is None:
            return
        before, now = (state["faces"], state["classes"]), (len(self.faces), len(self.faces.classes))
        if before != now:
            raise ValueError(
                f"Expected the {before[0]} faces of {before[1]} identities that the run in '{self.run.folder}' was begun with, "
                f"got {now[0]} of {now[1]}. Use another --out, or the same data."
            )
        names = ("encoder", "encoder_optimizer", "loss_scale", "good_steps")
        state |= self.processes.share(
            {name: state[name] for name in names} if self.processes.rank == 0 else None
        )
        self.encoder.load_state_dict(state["encoder"])
        self.classifier.load_state_dict(state["classifier"])
        self.optimizers[0].load_state_dict(state["encoder_optimizer"])
        self.optimizers[1].load_state_dict(state["classifier_optimizer"])
        self.loss_scale, self.good_steps = state["loss_scale"], state["good_steps"]
        self.step = self.saved = state["step"]


def _sum_gradients(state, bucket):  # type: ignore[no-untyped-def]  # DistributedDataParallel accepts no text as annotation
    """Add the encoder's gradients up, where DistributedDataParallel would average: each is of the loss of the whole batch."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def train_msid(config: MSIDTrainingConfig, log: Callable[[str], None] = print) -> Path:
    """Pre-train an identity encoder; with a run folder that holds a checkpoint, go on from there.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The last weight file, of kind "msid".

    Raises:
        FileNotFoundError: there are no faces at the named place.
        ValueError: damaged faces, one identity only, labels with gaps, sizes that do not fit, or a run folder of another run.
        FloatingPointError: the loss is NaN or infinite; names the step, the faces and the last checkpoint.
        ConnectionError: another process has died or hangs.
        OSError: the run folder cannot be written to.
    """
    with start_processes("cuda" if torch.cuda.is_available() else "cpu", "nccl", HANG) as processes:
        if config.batch_size % processes.world or config.batch_size < 2:
            raise ValueError(
                f"Expected a batch size of at least 2 that {processes.world} process(es) can divide, got {config.batch_size}. Change it."
            )
        if config.precision != "no" and processes.on_gpu:
            torch.set_float32_matmul_precision(
                "high"
            )  # for the classifier, whose logits would suffer in bf16
        run = Run(config.out, config, config.keep, processes.rank, processes.world)
        try:
            return _train(config, processes, run, log if processes.rank == 0 else lambda message: None)
        finally:
            run.close()


def _train(config: MSIDTrainingConfig, processes: Processes, run: Run, log: Callable[[str], None]) -> Path:
    faces = open_faces(config.data, config.remap_labels)
    checked = open_faces(config.verification, remap=True) if config.verification else None
    triplets = sample_triplets(checked.labels) if checked else np.empty((0, 3), np.int64)
    trainer = _Trainer(config, faces, processes, run)
    schedule = Schedule.of(config, len(faces))
    log(
        f"{len(faces)} faces of {len(faces.classes)} identities; step {trainer.step} of {schedule.steps}; {processes.world} process(es)"
    )
    meter = _Meter(config, schedule.steps, processes, run, log)
    batches = iter(_load(config, faces, trainer.step, schedule.steps, processes))
    while trainer.step < schedule.steps and not processes.any(run.stopping):
        batch = {
            name: tensor.to(processes.device, non_blocking=True) for name, tensor in next(batches).items()
        }
        lr = schedule.at(trainer.step)
        loss, norm = trainer.train_step(batch, lr)
        meter.count(trainer.step, loss, norm, lr)
        if trainer.step % config.save_every == 0 or trainer.step == schedule.steps:
            trainer.save()
    if trainer.saved != trainer.step:
        trainer.save()
    weights = run.folder / f"msid-{trainer.step:08d}.safetensors"
    if trainer.step < schedule.steps:
        log(f"Stopped at step {trainer.step}; the same command goes on.")
    elif processes.rank == 0 and checked is not None:
        log(f"Verification on {len(triplets)} triplets")
        found = compare(trainer.encoder, checked, triplets, log=log)
        result = report(
            found,
            run.folder,
            "verification",
            encoder=weights.name,
            data=Path(config.verification).name,
            seed=0,
        )
        run.log(trainer.step, **{f"auc/{depth['depth']}": depth["auc"] for depth in result["depths"]})
        log(
            "AUC "
            + ", ".join(f"depth {depth['depth']}: {100 * depth['auc']:.2f} %" for depth in result["depths"])
        )
    return weights


def _load(
    config: MSIDTrainingConfig, faces: FaceSet, first_step: int, steps: int, processes: Processes
) -> Iterator[dict[str, Tensor]]:
    """Load the batches of this process from a step on: `face` (b, H, W, 3) uint8, `label` (b,), `index` (b,)."""
    loader = DataLoader(
        FaceDataset(faces, config.image_size, config.seed, config.flip),
        batch_sampler=ResumableBatchSampler(
            config.batch_size, first_step, steps, processes.rank, processes.world
        ),  # type: ignore[arg-type]
        num_workers=config.workers,
        pin_memory=processes.on_gpu,
        worker_init_fn=_prepare_worker,
    )
    try:
        yield from loader
    except ValueError as error:  # a worker's error comes with its whole traceback in the message
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


def _prepare_worker(number: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads


class _Meter:
    """Logs loss, gradient norm, images a second and memory, and says them now and then."""

    def __init__(
        self,
        config: MSIDTrainingConfig,
        steps: int,
        processes: Processes,
        run: Run,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.total, self.processes, self.run, self.log = config, steps, processes, run, log
        self.since, self.steps = time.perf_counter(), 0

    def count(self, step: int, loss: float, norm: float, lr: float) -> None:
        """Count a step."""
        self.steps += 1
        if self.processes.rank or (step % self.config.log_every and step != self.total):
            return
        seconds = time.perf_counter() - self.since
        rate = self.steps * self.config.batch_size / seconds
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.processes.on_gpu else 0.0
        self.run.log(step, loss=loss, gradient_norm=norm, images_per_second=rate, memory_gib=memory, lr=lr)
        left = timedelta(seconds=round((self.total - step) * seconds / self.steps))
        self.log(
            f"step {step}/{self.total}  loss {loss:.4f}  |g| {norm:.3g}  {rate:.1f} images/s  {left} left"
        )
        self.since, self.steps = time.perf_counter(), 0
