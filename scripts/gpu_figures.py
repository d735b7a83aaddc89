"""Measures encoding, training and evaluation with random weights in the real shapes, for docs/benchmarks.md.

python scripts/gpu_figures.py            on a GPU, in less than 8 minutes; prints a Markdown table
python scripts/gpu_figures.py --small    small shapes, anywhere; shows that the script works, no more
                                         (once each, and without the compiler)

A figure that fails is printed as such, and the others follow.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.face.face import Face
from face2diffusion.f2d.files import fingerprint
from face2diffusion.f2d.image import Photo, save_png
from face2diffusion.f2d.networks.recognition import AdaFace, FaceNet, SphereFace
from face2diffusion.training.config import MapperTrainingConfig, MSIDTrainingConfig, PrepareConfig
from face2diffusion.training.data.cache import LatentCache
from face2diffusion.training.data.face_datasets import FaceSet
from face2diffusion.training.data.frozen_encoders import FrozenEncoders
from face2diffusion.training.data.photo_crops import Crops
from face2diffusion.training.engine.precision import compute_dtype, tf32
from face2diffusion.training.engine.processes import Processes
from face2diffusion.training.evaluation.scoring import Evaluator, Request, Scorer
from face2diffusion.training.evaluation.text import load_text_evaluator
from face2diffusion.training.mapper import train as mapper_training
from face2diffusion.training.mapper.dataset import MapperDataset
from face2diffusion.training.mapper.denoising import FrozenDiffusion
from face2diffusion.training.msid import train as msid_training
from safetensors.torch import load_file
from support.cache import write_cache
from support.official import write_expression, write_mapper, write_msid
from support.parsers import write_bisenet
from support.random_pipeline import random_pipeline
from support.recognition import write_clip, write_siglip
from support.short_run import short_run, write_inputs
from torch.utils.data import default_collate
from transformers import CLIPTextConfig, CLIPTextModel

Row = tuple[str, str]  # what was measured, and the figure
_ROUNDS = 5  # that are timed, after two that are not
FFHQ = 70_000  # photos


@dataclass(frozen=True)
class Shapes:
    """Sizes of everything; the defaults are Stable Diffusion 1.4's and the paper's."""

    image: int = 512
    encode: tuple[int, int] = (1, 32)
    mapper: int = 32
    msid: int = 1024
    classes: int = 93_431
    prepare: int = 8
    score: int = 64
    large: bool = True


SMALL = Shapes(64, (1, 2), 2, 4, 50, 1, 2, False)


@dataclass(frozen=True)
class Bench:
    """Where to measure, and what."""

    device: str
    shapes: Shapes
    folder: Path

    def seconds(self, work: Callable[[], object], rounds: int = _ROUNDS) -> float:
        """Time some work: the mean of some rounds, after two that are not counted; small: of one."""
        if not self.shapes.large:
            rounds = 1
        for _ in range(2 if self.shapes.large else 0):
            work()
        self.wait()
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        self.wait()
        return (time.perf_counter() - start) / rounds

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> str:
        """Name the most memory that was allocated since `forget`."""
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if self.device == "cuda" else "- GiB"

    def forget(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


# --- Encoding ---


def measure_encoding(bench: Bench) -> Iterator[Row]:
    """From an aligned face to v_id and the words."""
    encoder = FaceEncoder.load(
        write_msid(bench.folder / "msid.pt"), write_mapper(bench.folder / "mapping.pt"), device=bench.device
    )
    for batch in bench.shapes.encode:
        crops = [np.full((112, 112, 3), 90 + index, np.uint8) for index in range(batch)]
        seconds = bench.seconds(partial(encoder.embed, crops), rounds=20)
        yield f"encode aligned faces, batch {batch}", f"{seconds * 1e3:.2f} ms"


# --- The mapper ---


def write_base(bench: Bench) -> Path:
    """Write a Stable Diffusion with random weights, and a cache for it."""
    folder = bench.folder / "base"
    if folder.exists():
        return folder
    diffusion = random_pipeline().diffusion
    if bench.shapes.large:
        text = {"num_hidden_layers": 12, "intermediate_size": 3072}
        config = CLIPTextConfig(**diffusion.text_encoder.config.to_dict() | text)
        with torch.device(bench.device):
            unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)  # the rest is SD 1.4's
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
            )
        diffusion.register_modules(unet=unet, vae=vae, text_encoder=CLIPTextModel(config))
    diffusion.save_pretrained(folder)
    vae_hash = fingerprint(diffusion.vae.state_dict())
    write_cache(
        bench.folder / "cache", 2 * bench.shapes.mapper, latent_size=bench.shapes.image // 8, vae=vae_hash
    )
    return folder


def measure_mapper(bench: Bench, compiled: bool) -> Iterator[Row]:
    """A training step in bf16, and its floor: two U-Net forwards and one backward."""
    config = MapperTrainingConfig(
        cache=str(bench.folder / "cache"),
        base=str(write_base(bench)),
        batch_size=bench.shapes.mapper,
        precision="bf16",
        compile=compiled,
    )
    cache = LatentCache(config.cache)
    diffusion = FrozenDiffusion(
        config.base, config.prompt, config.class_prompt, config.positional, config.compile
    )
    diffusion.place(bench.device, compute_dtype(config.precision))
    mapper = mapper_training.build_mapper(config, cache, diffusion.word_dim).to(bench.device).train()
    task = mapper_training.make_task(config, mapper, diffusion, cache, Processes(0, 1, bench.device))
    samples = MapperDataset(cache, config, diffusion.steps)
    batch = {
        name: tensor.to(bench.device)
        for name, tensor in default_collate([samples[number] for number in range(config.batch_size)]).items()
    }

    def step() -> None:
        task.optimizer.zero_grad(set_to_none=True)
        task.compute_loss(batch, 0).backward()
        torch.nn.utils.clip_grad_norm_(mapper.parameters(), config.clip)
        task.optimizer.step()

    noisy, time_steps = batch["noise"].to(diffusion.unet.dtype), batch["time"]
    states = diffusion.class_states.expand(len(noisy), -1, -1).to(diffusion.unet.dtype)

    def floor() -> None:
        with torch.no_grad():
            diffusion.unet(noisy, time_steps, states)
        found = diffusion.unet(noisy, time_steps, states.detach().requires_grad_()).sample
        found.float().square().mean().backward()

    with tf32(bench.device):
        bench.forget()
        seconds = bench.seconds(step)
        memory = bench.peak()
        share = bench.seconds(floor) / seconds
    name = f"mapper, bf16{', compiled' if compiled else ''}, batch {config.batch_size}"
    yield (
        name,
        (
            f"{config.batch_size / seconds:.1f} images/s, {memory}, "
            f"{seconds * config.steps / 3600:.1f} hours for {config.steps:,} steps"
        ),
    )
    yield f"{name}: share of two U-Net forwards and one backward", f"{100 * share:.3g} %"


# --- MSID ---


class RandomFaces(FaceSet):
    """Labels without faces."""

    def __init__(self, classes: int) -> None:
        super().__init__("random")
        self.labels = np.arange(2 * classes) % classes
        self.classes = [str(number) for number in range(classes)]

    def encoded(self, index: int) -> tuple[bytes, str]:
        raise ValueError("There are no files.")


def measure_msid(bench: Bench) -> Iterator[Row]:
    """A training step in bf16, with the classifier of all classes."""
    count, classes = bench.shapes.msid, bench.shapes.classes
    sizes = {} if bench.shapes.large else {"embed_dim": 48, "depth": 2, "heads": 3, "depths": (1, 2)}
    config = MSIDTrainingConfig(batch_size=count, precision="bf16", **sizes)
    task = msid_training.make_task(config, RandomFaces(classes), Processes(0, 1, bench.device))
    batch = {
        "face": torch.randint(256, (count, 112, 112, 3), dtype=torch.uint8, device=bench.device),
        "label": torch.arange(count, device=bench.device) % classes,
        "index": torch.arange(count),
    }

    def step() -> None:
        for optimizer in (task.optimizer, task.divided.optimizer):
            optimizer.zero_grad(set_to_none=True)
        task.compute_loss(batch, 0).backward()
        task.optimizer.step()
        task.divided.optimizer.step()

    with tf32(bench.device):
        bench.forget()
        seconds = bench.seconds(step)
    yield f"MSID, bf16, batch {count}, {classes:,} classes", f"{count / seconds:.0f} images/s, {bench.peak()}"


# --- prepare ---


def measure_prepare(bench: Bench, precision: str) -> Iterator[Row]:
    """All frozen networks, on crops that are there; both mirror images."""
    config = PrepareConfig(
        base=str(write_base(bench)),
        msid=str(write_msid(bench.folder / "msid.pt")),
        expression=str(write_expression(bench.folder / "epoch_20.pth")),
        parser=str(write_bisenet(bench.folder / "79999_iter.pth")),
        precision=precision,
    )
    encoders = FrozenEncoders.load(config, bench.device)
    side = bench.shapes.image
    image, face, expression = (np.full((size, size, 3), 90, np.uint8) for size in (side, 112, 224))
    crops = [Crops(image, (face, face), (expression, expression), None, {})] * bench.shapes.prepare

    def rounds() -> None:
        before = encoders.start(crops)
        for _ in range(more):
            started = encoders.start(crops)
            before.wait()
            before = started
        before.wait()

    more = 3 if bench.shapes.large else 0
    bench.forget()
    rate = (more + 1) * len(crops) / bench.seconds(rounds, rounds=2)
    name = f"prepare, {'float32' if precision == 'no' else precision}, batch {len(crops)}, {side} px"
    yield name, f"{rate:.1f} photos/s, {bench.peak()}, {FFHQ / rate / 3600:.1f} hours for FFHQ"
    images = torch.rand(2 * len(crops), 3, side, side, device=bench.device)
    dtype = compute_dtype(precision)
    with torch.inference_mode(), torch.autocast(bench.device, dtype, enabled=precision != "no"):
        seconds = bench.seconds(partial(encoders.vae.encode, images), rounds=2)
    yield f"{name}: of this the VAE", f"{100 * seconds * rate / len(crops):.3g} %"


# --- Scoring ---


class FixedFace:
    """A detector that finds the same face in each image."""

    def detect(self, photo: Photo, min_score: float = 0.6) -> list[Face]:
        landmarks = np.array([(0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7)])
        return [Face(np.array([0.2, 0.15, 0.6, 0.7]) * photo.shape[0], landmarks * photo.shape[0], 0.9)]


def _tower(width: int, layers: int, **more: int) -> dict[str, int]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": 16, **more}


def measure_scoring(bench: Bench) -> Iterator[Row]:
    """All six metrics, from files."""
    clip, siglip = {}, {}
    if bench.shapes.large:  # CLIP ViT-H/14 and SigLIP L/16 at 384 px
        clip = {"vision": _tower(1280, 32, image_size=224, patch_size=14), "text": _tower(1024, 24)}
        siglip = {"vision": _tower(1024, 24, image_size=384, patch_size=16), "text": _tower(1024, 24)}
    texts = [
        load_text_evaluator(write_clip(bench.folder / "clip", **clip), "CLIP"),
        load_text_evaluator(write_siglip(bench.folder / "siglip", **siglip), "SigLIP"),
    ]
    faces = [AdaFace("IR-101" if bench.shapes.large else "IR-50"), SphereFace(), FaceNet()]
    for network in (*faces, *(text.model for text in texts)):
        network.eval().requires_grad_(False).to(bench.device)
    evaluators = [Evaluator(network, key=network.name) for network in (*faces, *texts)]
    count, side = bench.shapes.score, bench.shapes.image
    names = [str(bench.folder / f"{index}.png") for index in range(count + 1)]
    noise = np.random.default_rng(0)
    for name in names:
        save_png(name, noise.integers(0, 256, (side, side, 3), dtype=np.uint8))
    requests = [
        Request(name, names[0], f"A photo of a person, {index // 4}", names[0])
        for index, name in enumerate(names[1:])
    ]
    bench.forget()
    times = []
    for _ in range(2 if bench.shapes.large else 1):  # the first one warms up
        start = time.perf_counter()
        Scorer(evaluators, FixedFace(), batch_size=count).score(requests, progress=False)
        times.append(time.perf_counter() - start)
    yield f"six metrics, batch {count}, {side} px", f"{count / times[-1]:.1f} images/s, {bench.peak()}"


# --- Resuming ---


def compare_resumed(bench: Bench, precision: str) -> Iterator[Row]:
    """Whether a run that is stopped and resumed ends with the same bits, and whether two entire runs do."""
    inputs = bench.folder / "short"
    if not inputs.exists():
        write_inputs(inputs, 6)

    def train(name: str, *stops: int) -> dict[str, torch.Tensor]:
        out = bench.folder / f"{precision}-{name}"
        config = short_run(inputs, out, batch_size=4, device=bench.device, precision=precision, report_to=())
        files = [mapper_training.train_mapper(replace(config, steps=stop), [].append) for stop in stops]
        return load_file(files[-1])

    entire, again, resumed = train("entire", 4), train("again", 4), train("resumed", 2, 4)
    yield f"mapper, {precision}: two uninterrupted runs", _compare(entire, again)
    yield f"mapper, {precision}: a resumed run and an uninterrupted one", _compare(entire, resumed)


def _compare(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str:
    difference = max((first[name] - second[name]).abs().max().item() for name in first)
    return f"weights differ by up to {difference:.1e}" if difference else "equal to the bit"


# --- The table ---


def machine(device: str) -> str:
    """Describe this machine in a line."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    return (
        f"{date.today()}, {gpu}, {os.cpu_count()} CPU cores, {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def measure(bench: Bench) -> Iterator[Row]:
    """Yield all figures, the ones that take longest last."""
    works: list[Callable[[Bench], Iterator[Row]]] = [
        measure_encoding,
        partial(measure_mapper, compiled=False),
        measure_msid,
        *(partial(measure_prepare, precision=precision) for precision in ("no", "bf16")),
        measure_scoring,
        *(partial(compare_resumed, precision=precision) for precision in ("fp16", "bf16")),
        partial(measure_mapper, compiled=True),
    ]
    for work in works:
        bench.forget()
        try:
            yield from work(bench)
        except Exception as error:  # the time on a GPU is short; the others are still worth it
            name = getattr(work, "func", work).__name__
            yield f"{name} {getattr(work, 'keywords', '')}", f"failed: {' '.join(str(error).split())[:200]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small shapes")
    small = parser.parse_args(arguments).small
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not small:
        parser.error("There is no GPU. Use --small to try the script.")
    if small:
        torch.compiler.set_stance("force_eager")
    start, failed = time.perf_counter(), 0
    print(
        f"{machine(device)}, `python scripts/gpu_figures.py{' --small' if small else ''}`, random weights:\n"
    )
    print("| what | measured |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for what, figure in measure(Bench(device, SMALL if small else Shapes(), Path(folder))):
            failed += figure.startswith("failed")
            print(f"| {what} | {figure} |", flush=True)
    print(f"\nThis took {time.perf_counter() - start:.0f} s.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
