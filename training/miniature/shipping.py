"""Copies the trained miniature into the package, and the packaged one into a recipe's folder."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ...f2d.checkpoint import read, save
from ...f2d.files import atomic_file
from ...f2d.miniature import FILES, WEIGHTS
from ...f2d.miniature.prompts import SceneAttributes
from ...f2d.miniature.widen import TEXT_WIDTH, widen_words
from ...f2d.networks.mapping import load_mapper
from .recipe import Miniature, to_half
from .world.samples import HELD_OUT_PEOPLE, render_sample

SHIPPED = "plus-muon"  # preset of the shipped mapper
# The shipped portraits: places in HELD_OUT_PEOPLE, and attributes.
PEOPLE = {
    "ada": (10, SceneAttributes()),
    "bela": (14, SceneAttributes()),
    "chidi": (24, SceneAttributes()),
    "dora": (7, SceneAttributes(expression="giving a wink")),
    "emre": (13, SceneAttributes()),
    "fay": (38, SceneAttributes()),
}


def ship_weights(miniature: Miniature, folder: str | os.PathLike = WEIGHTS) -> Path:
    """Copy all that runs without training into `f2d.miniature`'s folder, in float16; trains what is missing.

    Args:
        miniature: the recipe's folder.
        folder: replaced as a whole, once everything is there.

    Returns:
        The folder.
    """
    target, folder = Path(folder), Path(f"{os.fspath(folder)}.new")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(miniature.base(), folder / "base")
    for name, file in (("msid", miniature.encoder("msid")), ("expression", miniature.expression())):
        shutil.copyfile(file, folder / FILES[name])
    _write_wide_mapper(miniature.mapper(SHIPPED), folder / FILES["mapper"])
    save(folder / "verifier.safetensors", to_half(miniature.verifier()), "verifier")
    save(folder / "attributes.safetensors", to_half(miniature.attributes()), "attributes")
    (folder / "people").mkdir()
    for name, (place, attributes) in PEOPLE.items():
        portrait = render_sample(place, HELD_OUT_PEOPLE[place], attributes).rendering.image
        Image.fromarray(portrait).save(folder / "people" / f"{name}.png", optimize=True)
    shutil.rmtree(target, ignore_errors=True)
    return folder.rename(target)


def _write_wide_mapper(weights: Path, out: Path) -> None:
    """Widen a mapper's words from the miniature's text encoder to SD 1.x's, (2, 768)."""
    checkpoint = read(weights)
    mapper = load_mapper(checkpoint)
    for word in (mapper.i2t_first, mapper.i2t_last):
        word.fc_out.weight.data = widen_words(word.fc_out.weight.data.T).T
        word.fc_out.bias.data = widen_words(word.fc_out.bias.data)
    longer = math.sqrt(TEXT_WIDTH / mapper.config.word_dim)
    config = replace(mapper.config, word_dim=TEXT_WIDTH, word_length=longer * mapper.config.word_length)
    metadata = checkpoint.metadata
    save(out, to_half(mapper), "mapper", config, msid=metadata["msid"], loss=metadata["loss"])


def unpack_weights(miniature: Miniature, folder: str | os.PathLike = WEIGHTS) -> Path:
    """Copy the shipped weights into a recipe's folder, except for the mapper; existing files are kept.

    Args:
        miniature: the recipe's folder.
        folder: with the weights.

    Returns:
        The recipe's folder.

    Raises:
        OSError: the recipe's folder cannot be written to.
    """
    folder, base = Path(folder), miniature.folder / "base"
    if not base.exists():
        copied = shutil.copytree(folder / "base", base.with_suffix(".new"), dirs_exist_ok=True)
        Path(copied).rename(base)
    for name in (FILES["msid"], FILES["expression"], "verifier.safetensors", "attributes.safetensors"):
        if not (miniature.folder / name).exists():
            with atomic_file(miniature.folder / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    return miniature.folder
