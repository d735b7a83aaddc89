"""`f2d refine`: better words for one person, by a few gradient steps on their photos."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..command_line import add_command, log
from .arguments import finite, positive, seed
from .encoding import (
    add_encoder_options,
    check_encoder_options,
    check_target,
    face_choice,
    load_encoder,
    read_expression,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..diffusion.pipeline import F2DPipeline
    from ..encoder import FaceEncoder
    from ..face.cropping import LocatedFace
    from ..image import Photo
    from ..options import Alignment
    from ..word_refinement import Target

MINIATURE = "miniature"
_SIZE = 512  # px, of SD 1.x
_PAUSE = 2.0  # seconds between log lines


def add_refine(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "refine",
        "encode a face to S*, then refine the words on its photos with the base model",
        "alice.jpg --model sd-v1-4 --msid msid.pt --mapper mapping.pt --detector yunet.onnx "
        "--out alice.safetensors",
        run=_refine,
    )
    parser.add_argument("photo", nargs="+", metavar="PHOTO", help="a photo, or several of one person")
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_FILE",
        help="Stable Diffusion 1.x: diffusers folder or single file; or 'miniature', which needs no other "
        "files and takes its own FFHQ-aligned portraits",
    )
    parser.add_argument(
        "--config", metavar="DIR", help="for a single file: a diffusers folder with configs and tokenizer"
    )
    _add_refinement_options(parser)
    add_encoder_options(parser, required=False)
    parser.add_argument("--out", required=True, metavar="S.safetensors", help="output: `words` (2, 768)")
    parser.add_argument(
        "--identity",
        metavar="I.safetensors",
        help="output: the refined identity, to share or to mix; it holds no photo",
    )


def _add_refinement_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("refinement")
    group.add_argument("--steps", type=positive, default=60, help="gradient steps (default: 60)")
    group.add_argument(
        "--strength",
        type=finite,
        default=0.4,
        help="step size, %% of the words' root mean square (default: 0.4)",
    )
    group.add_argument("--seed", type=seed, default=0, help="of noise and timesteps (default: 0)")
    group.add_argument(
        "--size", type=positive, help=f"side of the face's crop, px (default: {_SIZE}, what SD 1.x is for)"
    )
    group.add_argument(
        "--mask",
        action="append",
        default=[],
        metavar="IMAGE",
        help="white where the face is, one per photo in their order (default: an oval from the landmarks)",
    )


def _refine(options: argparse.Namespace) -> None:
    from ..checkpoint import save
    from ..diffusion.denoising import PromptDenoiser
    from ..word_refinement import RefinementConfig, refine_words

    config = RefinementConfig(options.steps, options.strength, seed=options.seed)
    for path in (options.out, options.identity):
        check_target(path)
    encoder = _load_encoder(options)
    faces, masks = _locate_faces(encoder, options)
    crop_size = encoder.msid.config.image_size
    identity = encoder.identify_crops([face.align_face(crop_size) for face in faces])
    words = encoder.words(identity)
    pipeline, narrow, widen = _load_pipeline(options)
    positional = encoder.mapper.config.positional
    pipeline.add_subject(narrow(words), positional=positional)  # checks that they fit
    denoiser = PromptDenoiser.from_pipeline(pipeline.diffusion, positional)
    targets = _make_targets(pipeline, faces, masks, options)
    start = narrow(words).to(pipeline.diffusion.device)
    config = replace(config, at_once=_choose_batch(denoiser, start, targets[0], config.batch))
    refined = refine_words(denoiser, start, targets, config, _progress(config.steps))
    identity = encoder.refine(identity, widen(refined.cpu()))
    words, msid = encoder.words(identity, read_expression(encoder, options)), identity.msid
    save(options.out, {"words": words}, "words", positional=positional, msid=msid)
    if options.identity:
        identity.save(options.identity)
    log(f"S* of {len(faces)} photo(s), refined -> {options.out}: words {tuple(words.shape)}")


def _load_encoder(options: argparse.Namespace) -> FaceEncoder:
    if options.model != MINIATURE:
        check_encoder_options(options)
        return load_encoder(options)
    from .. import miniature

    options.aligned = options.aligned or "FFHQ"
    return miniature.load_encoder()


def _load_pipeline(
    options: argparse.Namespace,
) -> tuple[F2DPipeline, Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Load the base model, and what brings words of shape (2, 768) to its width and back."""
    from .. import miniature
    from ..diffusion.pipeline import F2DPipeline

    if options.model == MINIATURE:
        return miniature.load_pipeline(), miniature.narrow, miniature.widen_words
    return F2DPipeline.load(options.model, options.device, options.config), lambda x: x, lambda x: x


def _locate_faces(
    encoder: FaceEncoder, options: argparse.Namespace
) -> tuple[list[LocatedFace], list[np.ndarray | None]]:
    """Find the face in each photo, shape (H, W, 3), with its mask, shape (H, W); skip photos without one."""
    from ..face.batch import crop_batch
    from ..face.cropping import locate_face
    from ..image import load_photo

    if options.mask and len(options.mask) != len(options.photo):
        raise ValueError(
            f"There are {len(options.photo)} photo(s) and {len(options.mask)} mask(s). "
            "Give --mask once per photo, in their order, or leave it out."
        )
    masks = [load_photo(path).max(axis=2) > 127 for path in options.mask] or [None] * len(options.photo)
    pairs = list(zip([load_photo(path) for path in options.photo], masks, strict=True))
    choice = face_choice(options)
    alignment: Alignment = options.aligned or "detect"

    def locate(pair: tuple[Photo, np.ndarray | None]) -> tuple[LocatedFace, np.ndarray | None]:
        return locate_face(encoder.detector, pair[0], alignment, choice), pair[1]

    batch = crop_batch(pairs, locate, names=[f"'{path}'" for path in options.photo])
    if batch.report:
        log(batch.report)
    return [face for face, _ in batch.used], [mask for _, mask in batch.used]


def _make_targets(
    pipeline: F2DPipeline,
    faces: list[LocatedFace],
    masks: list[np.ndarray | None],
    options: argparse.Namespace,
) -> list[Target]:
    """Encode the photos; masks have shape (H, W)."""
    from ..diffusion.folder import LATENT_STRIDE
    from ..face.identity_region import crop_identity
    from ..miniature import SIZE
    from ..word_refinement import make_target

    size = options.size or (SIZE if options.model == MINIATURE else _SIZE)
    if size % (LATENT_STRIDE * LATENT_STRIDE):
        raise ValueError(
            f"A crop of {size} px does not fit the U-Net. Use a multiple of 64, such as {_SIZE}."
        )
    return [
        make_target(crop_identity(face, size, mask), pipeline.encode_photos)
        for face, mask in zip(faces, masks, strict=True)
    ]


def _choose_batch(denoiser: Any, words: torch.Tensor, target: Target, batch: int) -> int:
    """Log the memory that refining words, (2, D), needs, and choose the part of a batch that runs at once."""
    from ..device import available_memory
    from ..word_refinement import measure_memory

    memory = measure_memory(denoiser, words, target)
    at_once = min(batch, memory.samples_within(available_memory(words.device)))
    log(f"Refining on {words.device.type} needs {memory.describe(at_once)}")
    return at_once


def _progress(steps: int) -> Callable[[int, float, Any], None]:
    """Log the mean loss since the last line, every few seconds."""
    losses: list[float] = []
    last = time.monotonic()

    def show(step: int, loss: float, words: Any) -> None:
        nonlocal last
        losses.append(loss)
        if step == steps or time.monotonic() - last > _PAUSE:
            log(f"Step {step} of {steps}: loss {sum(losses) / len(losses):.4f}")
            losses.clear()
            last = time.monotonic()

    return show
