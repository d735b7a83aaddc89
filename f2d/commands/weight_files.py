"""`f2d convert`, `f2d export` and `f2d download`: weight files and embeddings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_line import add_command, log
from .arguments import numbers, positive
from .encoding import check_target, read_words

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


def add_convert(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "convert",
        "convert weights between .pt/.pth and .safetensors",
        "mapping.pt mapping.safetensors",
        run=_convert,
    )
    parser.add_argument(
        "source", metavar="IN", help="msid.pt, mapping.pt, epoch_20.pth, or a .safetensors of this project"
    )
    parser.add_argument("target", metavar="OUT", help=".safetensors, or .pt/.pth in the official layout")
    parser.add_argument(
        "--depths", type=numbers, metavar="3,6,9,12", help="MSID: take the features at these depths"
    )
    parser.add_argument(
        "--positional",
        choices=["replace", "before"],
        help="mapper: relation of the words to the position embedding",
    )


def _convert(options: argparse.Namespace) -> None:
    from ..checkpoint import read, save, save_pickle
    from ..checkpoint_kinds import KIND_NAMES

    target = options.target.lower()
    if not target.endswith((".safetensors", ".pt", ".pth")):
        raise ValueError(
            f"'{options.target}' cannot be written: its name must end with .safetensors, .pt or .pth."
        )
    checkpoint = read(options.source)
    if options.depths and checkpoint.kind != "msid" or options.positional and checkpoint.kind != "mapper":
        raise ValueError(
            f"'{options.source}' is {checkpoint.described}, but --depths is for an MSID encoder and "
            "--positional for a mapper. Leave the option out."
        )
    network = _load_network(checkpoint, options)
    kind = str(checkpoint.kind)
    if target.endswith(".safetensors"):
        save(options.target, network.state_dict(), kind, getattr(network, "config", None))
    else:
        save_pickle(options.target, network.state_dict(), kind)
    log(f"{KIND_NAMES[kind]} -> {options.target}")


def _load_network(checkpoint: Checkpoint, options: argparse.Namespace) -> Any:
    from ..networks.expression import load_expression
    from ..networks.mapping import load_mapper
    from ..networks.msid import load_msid

    if checkpoint.kind == "msid":
        return load_msid(checkpoint, options.depths)
    if checkpoint.kind == "mapper":
        return load_mapper(checkpoint, options.positional)
    if checkpoint.kind == "expression":
        return load_expression(checkpoint)
    raise ValueError(
        f"'{checkpoint.path}' cannot be converted: this is {checkpoint.described}. Choose MSID, mapper or "
        "expression weights."
    )


def add_export(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "export",
        "write S* as a textual-inversion embedding",
        "alice.safetensors --model sd-v1-4.safetensors --out embeddings/f2d_alice.safetensors",
        run=_export,
    )
    parser.add_argument("words", metavar="S.safetensors", help="from `f2d encode`")
    parser.add_argument(
        "--model", required=True, metavar="DIR_OR_FILE", help="the base model, for its position embedding"
    )
    parser.add_argument(
        "--position",
        type=positive,
        default=4,
        help="token position at which the embedding is exact; the start token is 0 "
        '(default: 4, as in "A photo of S*")',
    )
    parser.add_argument(
        "--out", required=True, metavar="NAME.safetensors", help="its name is the word: embedding:NAME"
    )


def _export(options: argparse.Namespace) -> None:
    from ..diffusion.clip_weights import read_position_embedding
    from ..prompt.embedding import check_name, embedding_rows, save_embedding, warn_of_token

    check_target(options.out)
    check_name(Path(options.out).stem)
    words, positional = read_words(options.words)
    positions = read_position_embedding(options.model)
    name = save_embedding(options.out, embedding_rows(words, positions, positional, options.position))
    log(f"embedding:{name} -> {options.out}: exact at token position {options.position}, near elsewhere")
    if warning := warn_of_token(name, _count_tokens(options.model, name)):
        log(f"Warning: {warning}")


def _count_tokens(model: str, text: str) -> int:
    """Count a text's tokens in the vocabulary of a model; 0 where no tokenizer is installed or in reach."""
    from ..diffusion.folder import load_tokenizer
    from ..diffusion.single_file_config import find_config

    try:
        tokenizer = load_tokenizer(model if Path(model).is_dir() else find_config())
    except (ImportError, OSError, ValueError):
        return 0
    return len(tokenizer(text).input_ids) - 2


def add_download(commands: Any) -> None:
    """Add the command to a parser."""
    parser = add_command(
        commands,
        "download",
        "fetch weights, or list them",
        "yunet --to ComfyUI/models/face2diffusion",
        run=_download,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="file to download; omit it to list all")
    parser.add_argument("--to", default=".", metavar="DIR", help="target folder (default: the current one)")


def _download(options: argparse.Namespace) -> None:
    from ..download import FOLDERS, SD_CONFIG, WEIGHTS, download

    if options.name is None:
        for name, weights in WEIGHTS.items():
            log(f"{name:11} {weights.file:34} {weights.license}\n{'':11} {weights.page}")
        for name, folder in FOLDERS.items():
            page = f"https://huggingface.co/{folder.repository}"
            log(f"{name:16} {folder.size}, {folder.license}\n{'':11} {page}")
        log(f"{SD_CONFIG:11} configs and tokenizer of SD 1.x; `f2d generate` needs them for a single file")
        return
    log(f"{options.name} -> {download(options.name, options.to)}")
