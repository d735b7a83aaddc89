"""`f2d encode`: a face to S*."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from ..command_line import add_command, log
from ..options import ORDERS, FaceChoice
from .arguments import finite, landmarks

if TYPE_CHECKING:
    import torch

    from ..encoder import FaceEncoder
    from ..identity import FaceExpression, FaceIdentity
    from ..image import Photo
    from ..networks.mapping import Positional


@dataclass(frozen=True, eq=False)
class EncodedFace:
    """A person's photos as words."""

    crops: list[Photo]  # one per photo with a face, each (S, S, 3), uint8
    identity: FaceIdentity
    words: torch.Tensor  # (2, D) float32
    positional: Positional  # how the mapper was trained


def add_encode(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "encode",
        "encode a face to S*",
        "photo.jpg --msid msid.pt --mapper mapping.pt --aligned --out a.safetensors",
        run=_encode,
    )
    parser.add_argument(
        "photo", nargs="+", metavar="PHOTO", help="a photo; several of one person are averaged"
    )
    add_encoder_options(parser, required=True)
    parser.add_argument("--out", required=True, metavar="S.safetensors", help="output: `words` (2, 768)")
    parser.add_argument(
        "--features", metavar="F.safetensors", help="output: `face` (112, 112, 3) and `v_id` (1536)"
    )
    parser.add_argument(
        "--identity",
        metavar="I.safetensors",
        help="output: the identity, to share or to mix; it holds no photo",
    )


def add_encoder_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options of `encode_photos` to a command."""
    group = parser.add_argument_group("face encoder")
    group.add_argument(
        "--msid", required=required, metavar="M", help="identity encoder: msid.pt or .safetensors"
    )
    group.add_argument(
        "--mapper", required=required, metavar="P", help="mapping network: mapping.pt or .safetensors"
    )
    group.add_argument("--device", help="cuda, mps or cpu (default: the best available)")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--detector", metavar="D", help="YuNet .onnx, or FAN")
    where.add_argument(
        "--landmarks",
        type=landmarks,
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
        "--face-order",
        default="largest",
        choices=ORDERS,
        help="order in which faces are numbered (default: largest)",
    )
    group.add_argument("--face-index", type=int, default=0, help="number of the face, from 0")
    group.add_argument("--min-score", type=finite, default=0.6, help="minimum detection score (default: 0.6)")
    group.add_argument("--expression-from", metavar="PHOTO", help="photo to copy the expression from")
    group.add_argument("--expression", metavar="E", help="expression network: epoch_20.pth or .safetensors")
    group.add_argument("--expression-strength", type=finite, default=1.0, help="from 0 to 1 (default: 1)")
    group.add_argument(
        "--expression-landmarks",
        type=landmarks,
        metavar='"x,y ..."',
        help="landmarks in that photo, instead of detection",
    )


def encode_photos(paths: Sequence[str], options: argparse.Namespace) -> EncodedFace:
    """Encode photos of one person.

    Args:
        paths: of the photos.
        options: those of `add_encoder_options`.

    Returns:
        The crops of the photos with a face, shape (S, S, 3) each, the identity, and the
        words of shape (2, D).

    Raises:
        ValueError: options that do not fit together, no photo with a face, or one that is not usable.
        OSError: a file that cannot be read.
    """
    from ..face.batch import crop_batch
    from ..image import load_photo

    check_encoder_options(options)
    photos = [load_photo(path) for path in paths]
    encoder, choice = load_encoder(options), face_choice(options)
    batch = crop_batch(
        photos,
        lambda photo: encoder.crop_face(photo, options.aligned or "detect", choice).crop,
        names=[f"'{path}'" for path in paths],
    )
    if batch.report:
        log(batch.report)
    crops = batch.used
    identity = encoder.identify_crops(crops)
    words = encoder.words(identity, read_expression(encoder, options))
    return EncodedFace(crops, identity, words, encoder.mapper.config.positional)


def check_encoder_options(options: argparse.Namespace) -> None:
    """Raise a ValueError for options of `add_encoder_options` that do not fit together."""
    if not (options.msid and options.mapper):
        raise ValueError(
            "A photo needs --msid and --mapper to be encoded. Add both, or give words of `f2d encode`."
        )
    if options.expression_from and not options.expression:
        raise ValueError("--expression-from needs --expression. Name Deep3DFaceRecon's epoch_20.pth.")
    if not (options.detector or options.landmarks or options.aligned):
        raise ValueError(
            "The face cannot be located. Add --detector with a YuNet .onnx file, --landmarks or --aligned."
        )


def load_encoder(options: argparse.Namespace) -> FaceEncoder:
    """Load the encoder that options of `add_encoder_options` name."""
    from ..device import choose_device
    from ..encoder import FaceEncoder

    device = choose_device(options.device)
    return FaceEncoder.load(options.msid, options.mapper, options.expression, options.detector, device)


def face_choice(options: argparse.Namespace) -> FaceChoice:
    """Return the choice of a face that the options describe."""
    return FaceChoice(options.face_order, options.face_index, options.min_score, options.landmarks)


def read_expression(encoder: FaceEncoder, options: argparse.Namespace) -> FaceExpression | None:
    """Encode the expression of --expression-from, if it is given."""
    if not options.expression_from:
        return None
    return encoder.express(
        options.expression_from, options.expression_strength, landmarks=options.expression_landmarks
    )


def _encode(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from ..checkpoint import save

    for path in (options.out, options.features, options.identity):
        check_target(path)
    face = encode_photos(options.photo, options)
    msid = face.identity.msid
    save(options.out, {"words": face.words}, "words", positional=face.positional, msid=msid)
    if options.features:
        crops = face.crops[0] if len(face.crops) == 1 else np.stack(face.crops)
        tensors = {"face": torch.from_numpy(crops.copy()), "v_id": face.identity.v_id}
        save(options.features, tensors, "features", msid=msid)
    if options.identity:
        face.identity.save(options.identity)
    log(f"S* of {len(face.crops)} photo(s) -> {options.out}: words {tuple(face.words.shape)}")


def check_target(path: str | None) -> None:
    """Raise a ValueError, before any work is done, for a target with another ending than .safetensors."""
    if path is not None and not path.lower().endswith(".safetensors"):
        raise ValueError(f"'{path}' cannot be written: its name must end with .safetensors.")


def read_words(path: str) -> tuple[torch.Tensor, Positional]:
    """Read what `f2d encode` has written.

    Args:
        path: the .safetensors file.

    Returns:
        The words, shape (2, D), float32, and how the mapper was trained.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another or a damaged file.
    """
    import torch

    from ..checkpoint import read
    from ..networks.mapping import Positional

    checkpoint = read(path)
    if checkpoint.kind != "words":
        raise ValueError(
            f"'{path}' does not hold the words S* of one person: this is {checkpoint.described}. "
            "Run `f2d encode` first."
        )
    words = checkpoint.tensors.get("words", torch.empty(0)).float()
    positional: Any = checkpoint.metadata.get("positional", "replace")
    if words.ndim != 2 or len(words) != 2 or not words.isfinite().all():
        raise ValueError(
            f"'{path}' does not hold two finite words: their shape is {tuple(words.shape)}, or one is NaN. "
            "Run `f2d encode` again."
        )
    if positional not in get_args(Positional):
        raise ValueError(
            f"'{path}' has positional '{positional}', not "
            f"{' or '.join(get_args(Positional))}. Run `f2d encode` again."
        )
    return words, positional
