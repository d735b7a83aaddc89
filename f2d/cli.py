"""The command `f2d`: faces to words, words to pictures, and weight files from one format to another."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from .options import ORDERS

_EPILOG = """examples:
  f2d download yunet && f2d download msid && f2d download mapping
  f2d encode photo.jpg --msid msid.pt --mapper mapping.pt --detector face_detection_yunet_2023mar.onnx --out alice.safetensors
  f2d generate alice.safetensors "A photo of S* as a chef" --model sd-v1-4.safetensors --count 4 --out grid.png
  f2d convert mapping.pt mapping.safetensors
  f2d demo --out demo.png
  f2d demo --comfyui ComfyUI
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None = those of the process.

    Returns:
        0, or 2 on bad input, with one line on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return _fail("Interrupted; nothing was written.", 130)
    except (ValueError, OSError, ImportError) as error:
        return _fail(" ".join(str(error).split()))
    return 0


def _fail(message: str, code: int = 2) -> int:
    print(f"f2d: {message}", file=sys.stderr)
    return code


def _log(message: str) -> None:
    print(message, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="f2d",
        description="Face2Diffusion: one face photo becomes S*, two words for prompts of Stable Diffusion 1.x.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    encode = _command(
        commands,
        "encode",
        _encode,
        "encode a face to S*",
        "photo.jpg --msid msid.pt --mapper mapping.pt --aligned --out a.safetensors",
    )
    encode.add_argument(
        "photo", nargs="+", metavar="PHOTO", help="a photo; several of one person are averaged"
    )
    _add_encoder(encode, required=True)
    encode.add_argument(
        "--out", required=True, metavar="S.safetensors", help="where the words go: `words` (2, 768)"
    )
    encode.add_argument(
        "--features", metavar="F.safetensors", help="where `face` (112, 112, 3) and `v_id` (1536) go"
    )
    encode.add_argument(
        "--identity",
        metavar="I.safetensors",
        help="where the identity goes, to share or to mix; it holds no photo",
    )

    generate = _command(
        commands,
        "generate",
        _generate,
        "draw a prompt with S*",
        'alice.safetensors "A photo of S* as a chef" --model sd-v1-4.ckpt --out grid.png',
    )
    generate.add_argument(
        "source",
        metavar="PHOTO",
        help="a photo (with --msid and --mapper), or words from `f2d encode` (.safetensors)",
    )
    generate.add_argument("prompt", metavar="PROMPT", help='such as "A photo of S* as a chef"')
    generate.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_FILE",
        help="Stable Diffusion 1.x: diffusers folder or single file",
    )
    generate.add_argument(
        "--config", metavar="DIR", help="for a single file: a diffusers folder with configs and tokenizer"
    )
    _add_encoder(generate, required=False)
    generate.add_argument(
        "--out",
        required=True,
        metavar="PNG_OR_DIR",
        help="a PNG (a grid if there are several), or a folder for one PNG each",
    )
    generate.add_argument(
        "--placeholder", default="S*", help="what stands for the person in the prompt (default: S*)"
    )
    generate.add_argument("--strength", type=float, default=1.0, help='from 0 ("a person") to 1 (S*)')
    generate.add_argument(
        "--negative", default="", metavar="PROMPT", help="what not to draw (default: nothing, as the authors)"
    )
    generate.add_argument(
        "--seed", type=int, default=0, help="of the first picture; the others count on (default: 0)"
    )
    generate.add_argument("--count", type=_positive, default=1, help="how many pictures (default: 1)")
    generate.add_argument("--batch", type=_positive, default=1, help="how many at once (default: 1)")
    generate.add_argument(
        "--steps", type=_positive, default=30, help="denoising steps, Euler ancestral (default: 30)"
    )
    generate.add_argument(
        "--cfg", type=float, default=7.0, help="classifier-free guidance scale (default: 7.0)"
    )
    generate.add_argument(
        "--size", type=_size, default=(512, 512), metavar="WxH", help="in px (default: 512x512)"
    )
    generate.add_argument(
        "--subject-from",
        type=float,
        default=0.0,
        help="share of the denoising before the face comes in; 0.2 = the paper's DSC",
    )

    convert = _command(
        commands,
        "convert",
        _convert,
        "convert weights between .pt/.pth and .safetensors",
        "mapping.pt mapping.safetensors",
    )
    convert.add_argument(
        "source", metavar="IN", help="msid.pt, mapping.pt, epoch_20.pth, or a .safetensors of ours"
    )
    convert.add_argument("target", metavar="OUT", help=".safetensors, or .pt/.pth in the official layout")
    convert.add_argument(
        "--depths", type=_numbers, metavar="3,6,9,12", help="MSID: take the features at these depths"
    )
    convert.add_argument(
        "--positional",
        choices=["replace", "before"],
        help="mapper: the words' relation to the position embedding",
    )

    export = _command(
        commands,
        "export",
        _export,
        "write S* as a textual-inversion embedding",
        "alice.safetensors --model sd-v1-4.safetensors --out embeddings/alice.safetensors",
    )
    export.add_argument("words", metavar="S.safetensors", help="from `f2d encode`")
    export.add_argument(
        "--model", required=True, metavar="DIR_OR_FILE", help="the base model, for its position embedding"
    )
    export.add_argument(
        "--position",
        type=_positive,
        default=4,
        help='place of S1* among the tokens; 4 = "A photo of S*" (default)',
    )
    export.add_argument(
        "--out", required=True, metavar="NAME.safetensors", help="its name is the word: embedding:NAME"
    )

    download = _command(
        commands,
        "download",
        _download,
        "fetch weights, or list them",
        "yunet --to ComfyUI/models/face2diffusion",
    )
    download.add_argument("name", nargs="?", metavar="NAME", help="which; without it all are listed")
    download.add_argument("--to", default=".", metavar="DIR", help="folder (default: this one)")

    demo = _command(
        commands,
        "demo",
        _demo,
        "draw people of a small drawn world from prompts, without any download",
        "--out demo.png",
    )
    demo.add_argument(
        "--out", default="demo.png", metavar="PNG", help="where the sheet goes (default: demo.png)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the pictures (default: 0)")
    demo.add_argument(
        "--comfyui",
        metavar="DIR",
        help="instead: put checkpoint, encoder files, portraits and a workflow into a ComfyUI",
    )
    return parser


def _command(commands: Any, name: str, run: Callable, summary: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  f2d {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_encoder(parser: argparse.ArgumentParser, required: bool) -> None:
    group = parser.add_argument_group("face encoder")
    group.add_argument(
        "--msid", required=required, metavar="M", help="identity encoder: msid.pt or .safetensors"
    )
    group.add_argument(
        "--mapper", required=required, metavar="P", help="mapping network: mapping.pt or .safetensors"
    )
    group.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--detector", metavar="D", help="YuNet .onnx, or FAN")
    where.add_argument(
        "--landmarks",
        type=_landmarks,
        metavar='"x,y x,y x,y x,y x,y"',
        help="eyes, nose, mouth corners, from image-left, px",
    )
    where.add_argument(
        "--aligned",
        nargs="?",
        const="112 px",
        choices=["112 px", "FFHQ"],
        help="the photo is a 112 px crop, or an FFHQ one",
    )
    group.add_argument(
        "--face-order", default="largest", choices=ORDERS, help="how faces are counted (default: largest)"
    )
    group.add_argument("--face-index", type=int, default=0, help="which face, from 0")
    group.add_argument("--min-score", type=float, default=0.6, help="of the detector (default: 0.6)")
    group.add_argument("--expression-from", metavar="PHOTO", help="take the expression from this photo")
    group.add_argument("--expression", metavar="E", help="expression network: epoch_20.pth or .safetensors")
    group.add_argument("--expression-strength", type=float, default=1.0, help="from 0 to 1 (default: 1)")
    group.add_argument(
        "--expression-landmarks",
        type=_landmarks,
        metavar='"x,y ..."',
        help="instead of detection in that photo",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    return _positive(width), _positive(height)


def _landmarks(text: str) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
    except ValueError:
        points = []
    if len(points) != 5:
        raise argparse.ArgumentTypeError(f'expected five points "x,y x,y x,y x,y x,y" in px, got "{text}"')
    return points


def _words(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Encode the photos; returns the identity with its encoder, the words, and how they relate to the position embedding."""
    from .device import best_device
    from .encoder import FaceEncoder
    from .image import load_photo
    from .options import FaceChoice

    if options.expression_from and not options.expression:
        raise ValueError(
            "Expected --expression with --expression-from, got none. Name Deep3DFaceRecon's epoch_20.pth."
        )
    if not (options.detector or options.landmarks or options.aligned):
        raise ValueError(
            "Expected --detector, --landmarks or --aligned, got none. Name a YuNet .onnx file, for instance."
        )
    photos = [load_photo(path) for path in options.photo]
    encoder = FaceEncoder.load(
        options.msid, options.mapper, options.expression, options.detector, options.device or best_device()
    )
    choice = FaceChoice(options.face_order, options.face_index, options.min_score, options.landmarks)
    options.crops = [encoder.crop_face(photo, options.aligned or "detect", choice).crop for photo in photos]
    identity = encoder.identify_crops(options.crops)
    expression = None
    if options.expression_from:
        expression = encoder.express(
            options.expression_from, options.expression_strength, landmarks=options.expression_landmarks
        )
    return identity, encoder.words(identity, expression), encoder.mapper.config.positional


def _encode(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from .checkpoint import save

    _check_target(options.out, options.features, options.identity)
    identity, words, positional = _words(options)
    save(options.out, {"words": words}, "words", positional=positional, msid=identity.msid)
    if options.features:
        faces = options.crops[0] if len(options.crops) == 1 else np.stack(options.crops)
        save(
            options.features,
            {"face": torch.from_numpy(faces.copy()), "v_id": identity.v_id},
            "features",
            msid=identity.msid,
        )
    if options.identity:
        identity.save(options.identity)
    _log(f"S* of {len(options.crops)} photo(s) -> {options.out}: words {tuple(words.shape)}")


def _check_target(*paths: str | None) -> None:
    """Refuse bad targets before any work is done."""
    for path in paths:
        if path is not None and not path.lower().endswith(".safetensors"):
            raise ValueError(f"Expected a name that ends with .safetensors, got '{path}'.")


def _read_words(path: str) -> tuple[Any, Any]:
    from .checkpoint import KIND_NAMES, read
    from .networks.mapping import Positional

    checkpoint = read(path)
    if checkpoint.kind != "words" or "words" not in checkpoint.tensors:
        raise ValueError(
            f"Expected {KIND_NAMES['words']}, got '{path}': this is {checkpoint.described}. Run `f2d encode` first."
        )
    words, positional = checkpoint.tensors["words"].float(), checkpoint.metadata.get("positional", "replace")
    if words.ndim != 2 or len(words) != 2 or not words.isfinite().all():
        raise ValueError(
            f"Expected two finite words, got '{path}' with shape {tuple(words.shape)} or NaN. Run `f2d encode` again."
        )
    if positional not in get_args(Positional):
        raise ValueError(
            f"Expected positional to be {' or '.join(get_args(Positional))}, got '{path}' with '{positional}'. Run `f2d encode` again."
        )
    return words, positional


def _generate(options: argparse.Namespace) -> None:
    from .diffusion.pipeline import F2DPipeline, GenerationConfig, make_grid
    from .image import save_png
    from .prompt.injection import replace_placeholders

    config = GenerationConfig(
        steps=options.steps,
        cfg=options.cfg,
        width=options.size[0],
        height=options.size[1],
        negative_prompt=options.negative,
        subject_from=options.subject_from,
    )
    replace_placeholders(
        options.prompt, [options.placeholder]
    )  # a bad prompt fails before any model is loaded
    folder = os.path.isdir(options.out) or options.out.endswith(("/", os.sep))
    if not folder and not options.out.lower().endswith(".png"):
        raise ValueError(f"Expected --out with a name that ends with .png, or a folder, got '{options.out}'.")
    if options.source.lower().endswith(".safetensors"):
        words, positional = _read_words(options.source)
    else:
        if not (options.msid and options.mapper):
            raise ValueError(
                "Expected --msid and --mapper to encode a photo, got neither or one. Name them, or give words of `f2d encode`."
            )
        options.photo = [options.source]
        _, words, positional = _words(options)
    pipeline = F2DPipeline.load(options.model, options.device, options.config)
    pipeline.add_subject(words, options.placeholder, positional, options.strength)
    pictures = pipeline.generate(options.prompt, config, options.seed, options.count, options.batch)
    for picture in pictures if folder else ():
        save_png(os.path.join(options.out, f"{picture.parameters['seed']}.png"), picture.image, picture.text)
    if not folder:
        save_png(options.out, make_grid([picture.image for picture in pictures]), pictures[0].text)
    flagged = [picture.parameters["seed"] for picture in pictures if picture.flagged]
    if flagged:
        _log(f"The base model's safety checker has blackened the pictures with seeds {flagged}.")
    _log(f"{len(pictures)} picture(s) -> {options.out}")


def _convert(options: argparse.Namespace) -> None:
    from .checkpoint import KIND_NAMES, read, save, save_pickle
    from .networks.expression import load_expression
    from .networks.mapping import load_mapper
    from .networks.msid import load_msid

    target = options.target.lower()
    if not target.endswith((".safetensors", ".pt", ".pth")):
        raise ValueError(f"Expected OUT to end with .safetensors, .pt or .pth, got '{options.target}'.")
    checkpoint = read(options.source)
    if options.depths and checkpoint.kind != "msid" or options.positional and checkpoint.kind != "mapper":
        raise ValueError(
            f"Expected --depths with an MSID encoder and --positional with a mapper only, got '{options.source}': {checkpoint.described}."
        )
    if checkpoint.kind == "msid":
        network: Any = load_msid(checkpoint, options.depths)
    elif checkpoint.kind == "mapper":
        network = load_mapper(checkpoint, options.positional)
    elif checkpoint.kind == "expression":
        network = load_expression(checkpoint)
    else:
        raise ValueError(
            f"Expected MSID, mapper or expression weights, got '{options.source}': this is {checkpoint.described}. Choose another file."
        )
    if target.endswith(".safetensors"):
        save(options.target, network.state_dict(), checkpoint.kind, getattr(network, "config", None))
    else:
        save_pickle(options.target, network.state_dict(), checkpoint.kind)
    _log(f"{KIND_NAMES[checkpoint.kind]} -> {options.target}")


def _export(options: argparse.Namespace) -> None:
    from .checkpoint import position_embedding
    from .prompt.embedding import check_name, embedding_rows, save_embedding

    _check_target(options.out)
    check_name(Path(options.out).stem)
    words, positional = _read_words(options.words)
    name = save_embedding(
        options.out, embedding_rows(words, position_embedding(options.model), positional, options.position)
    )
    _log(
        f"embedding:{name} -> {options.out}: exact where it is token {options.position} of a prompt, near elsewhere"
    )


def _download(options: argparse.Namespace) -> None:
    from .download import SD_CONFIG, WEIGHTS, download

    if options.name is None:
        for name, weights in WEIGHTS.items():
            _log(f"{name:11} {weights.file:34} {weights.license}\n{'':11} {weights.page}")
        _log(
            f"{SD_CONFIG:11} configs and tokenizer of SD 1.x, for `f2d generate` with a single-file checkpoint"
        )
        return
    _log(f"{options.name} -> {download(options.name, options.to)}")


def _demo(options: argparse.Namespace) -> None:
    if options.comfyui:
        from .miniature.comfyui import install

        *_, workflow = install(options.comfyui, _log)
        _log(f"Restart ComfyUI, and open Workflows -> {workflow.stem}.")
        return
    from .demo import run_demo
    from .image import save_png

    if not options.out.lower().endswith(".png"):
        raise ValueError(f"Expected --out with a name that ends with .png, got '{options.out}'.")
    picture = run_demo(_log, options.seed)
    save_png(options.out, picture.image, picture.text)
    _log(f"Sheet -> {options.out}")


if __name__ == "__main__":
    sys.exit(main())
