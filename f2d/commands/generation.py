"""`f2d generate` and `f2d demo`: words to images."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..command_line import add_command, log
from .arguments import finite, image_size, positive, seed
from .encoding import add_encoder_options, encode_photos, read_words

if TYPE_CHECKING:
    import torch

    from ..networks.mapping import Positional


def add_generate(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "generate",
        "generate images from a prompt with S*",
        'alice.safetensors "A photo of S* as a chef" --model sd-v1-4.ckpt --out grid.png',
        run=_generate,
    )
    parser.add_argument(
        "source",
        metavar="PHOTO",
        help="a photo (with --msid and --mapper), or words from `f2d encode` (.safetensors)",
    )
    parser.add_argument("prompt", metavar="PROMPT", help='such as "A photo of S* as a chef"')
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_FILE",
        help="Stable Diffusion 1.x: diffusers folder or single file",
    )
    parser.add_argument(
        "--config", metavar="DIR", help="for a single file: a diffusers folder with configs and tokenizer"
    )
    add_encoder_options(parser, required=False)
    parser.add_argument(
        "--out",
        required=True,
        metavar="PNG_OR_DIR",
        help="a PNG (a grid if there are several), or a folder for one PNG each",
    )
    _add_generation_options(parser)


def _add_generation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--placeholder", default="S*", help="the word for the person in the prompt (default: S*)"
    )
    parser.add_argument("--strength", type=finite, default=1.0, help='from 0 ("a person") to 1 (S*)')
    parser.add_argument(
        "--negative", default="", metavar="PROMPT", help="negative prompt (default: none, as the authors)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the first image; the others follow (default: 0)"
    )
    parser.add_argument("--count", type=positive, default=1, help="number of images (default: 1)")
    parser.add_argument("--batch", type=positive, default=1, help="batch size (default: 1)")
    parser.add_argument(
        "--steps", type=positive, default=30, help="denoising steps, Euler ancestral (default: 30)"
    )
    parser.add_argument(
        "--cfg", type=finite, default=7.0, help="classifier-free guidance scale (default: 7.0)"
    )
    parser.add_argument(
        "--size", type=image_size, default=(512, 512), metavar="WxH", help="in px (default: 512x512)"
    )
    parser.add_argument(
        "--subject-from",
        type=finite,
        default=0.0,
        help="share of the steps before S* is used; 0.2 = the paper's DSC",
    )


def _generate(options: argparse.Namespace) -> None:
    from ..diffusion.pipeline import F2DPipeline, GenerationConfig
    from ..image import make_grid, save_png
    from ..prompt.injection import replace_placeholders

    config = GenerationConfig(
        steps=options.steps,
        cfg=options.cfg,
        width=options.size[0],
        height=options.size[1],
        negative_prompt=options.negative,
        subject_from=options.subject_from,
    )
    # A bad prompt fails before anything is loaded.
    replace_placeholders(options.prompt, [options.placeholder])
    folder = os.path.isdir(options.out) or options.out.endswith(("/", os.sep))
    if not folder:
        _check_png(options.out)
    words, positional = _words(options)
    pipeline = F2DPipeline.load(options.model, options.device, options.config)
    pipeline.add_subject(words, options.placeholder, positional, options.strength)
    generated = pipeline.generate(options.prompt, config, options.seed, options.count, options.batch)
    if folder:
        for one in generated:
            save_png(os.path.join(options.out, f"{one.parameters['seed']}.png"), one.image, one.text)
    else:
        save_png(options.out, make_grid([one.image for one in generated]), generated[0].text)
    flagged = [one.parameters["seed"] for one in generated if one.flagged]
    if flagged:
        log(f"The base model's safety checker replaced the images with seeds {flagged} by black ones.")
    log(f"{len(generated)} image(s) -> {options.out}")


def _words(options: argparse.Namespace) -> tuple[torch.Tensor, Positional]:
    """Read the words of `f2d generate`, or encode its photo."""
    if options.source.lower().endswith(".safetensors"):
        return read_words(options.source)
    face = encode_photos([options.source], options)
    return face.words, face.positional


def _check_png(path: str) -> None:
    if not path.lower().endswith(".png"):
        raise ValueError(f"'{path}' cannot be written: its name must end with .png.")


def add_demo(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "demo",
        "generate people of the miniature's synthetic dataset from prompts, without any download",
        "--out demo.png",
        run=_demo,
    )
    parser.add_argument("--out", default="demo.png", metavar="PNG", help="output file (default: demo.png)")
    parser.add_argument("--seed", type=seed, default=0, help="of the images (default: 0)")
    parser.add_argument(
        "--comfyui",
        metavar="DIR",
        help="instead, install checkpoint, encoder files, portraits and a workflow into a ComfyUI",
    )


def _demo(options: argparse.Namespace) -> None:
    if options.comfyui:
        from ..miniature.comfyui import install

        *_, workflow = install(options.comfyui, log)
        log(f"Restart ComfyUI, and open Workflows -> {workflow.stem}.")
        return
    from ..demo import run_demo
    from ..image import save_png

    _check_png(options.out)
    sheet = run_demo(log, options.seed)
    save_png(options.out, sheet.image, sheet.text)
    log(f"Sheet -> {options.out}")
