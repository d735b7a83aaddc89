"""Puts the miniature into a ComfyUI: checkpoint, face encoder, portraits, and a workflow that uses them."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_file, write_text
from .shipped import CFG, FILES, SIZE, STEPS, WEIGHTS, portraits
from .single_file import write_checkpoint

CHECKPOINT = "face2diffusion_miniature.safetensors"
WORKFLOW = "face2diffusion_miniature.json"
PROMPT = "a photo of S* as a king at the taj mahal in india"
_SUBFOLDER = "miniature"  # of models/face2diffusion
_LIKE = Path(__file__).parents[2] / "workflows" / "one_face.json"
_ABOUT = """# One face and a prompt, in miniature

The same graph as for Stable Diffusion 1.4, with small models of cartoon faces. It runs on a CPU.

1. Load a portrait (`miniature_*.png`). These people are held out of all training.
2. Write a prompt with **S\\*** in it: S\\* is that person.
3. Press Run.

**What it understands**: a photo of S\\* *as a* firefighter, cowboy, chef, racer, king, scientist, tennis
player, dj, knight or pilot; *at* the great wall of china, the grand canyon in sunset, the taj mahal in
india, mount everest base camp; in the streets of rome, on a boat in venice, in front of niagara falls,
surrounded by tall books; smiling warmly, looking shocked, angry, sad or sleepy, giving a wink.
"""


def install(folder: str | os.PathLike, log: Callable[[str], None], weights: Path = WEIGHTS) -> list[Path]:
    """Install the miniature into a ComfyUI.

    Our own files there are replaced, but an existing workflow is kept, since it may have been edited.

    Args:
        folder: of ComfyUI, or what `--base-directory` names: with `models` in it.
        log: called with each progress message.
        weights: of the miniature.

    Returns:
        The files, the workflow last.

    Raises:
        FileNotFoundError: no ComfyUI in that folder.
        OSError: it cannot be written to.
    """
    folder = Path(folder)
    if not (folder / "models").is_dir():
        raise FileNotFoundError(
            f"'{folder}' is not a ComfyUI: it has no folder 'models'. Name the folder that has main.py."
        )
    files = []
    for target, write in _files(folder, weights):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".json" and target.exists():
            log(f"kept: {target}")
        else:
            write(target)
            log(f"{target}")
        files.append(target)
    return files


def _files(folder: Path, weights: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    def copied(source: Path) -> Callable[[Path], None]:
        return lambda target: _copy(source, target)

    yield folder / "models" / "checkpoints" / CHECKPOINT, lambda target: write_checkpoint(target, weights)
    for name in FILES.values():
        yield folder / "models" / "face2diffusion" / _SUBFOLDER / name, copied(weights / name)
    for name, path in portraits(weights).items():
        yield folder / "input" / f"miniature_{name}.png", copied(path)
    first = next(iter(portraits(weights)))
    yield (
        folder / "user" / "default" / "workflows" / WORKFLOW,
        lambda target: write_text(target, json.dumps(workflow(first))),
    )


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def workflow(name: str) -> dict[str, Any]:
    """Make the bundled workflow one_face use the miniature.

    Args:
        name: of the portrait that it shows.

    Returns:
        The workflow as the frontend reads it.
    """
    found = in_miniature(
        json.loads(_LIKE.read_text(encoding="utf-8")), [name], lambda text: PROMPT if "S*" in text else text
    )
    for node in found["nodes"]:
        if node["type"] == "MarkdownNote":
            node["widgets_values"] = [_ABOUT]
        if node["type"] == "EmptyLatentImage":
            node["widgets_values"][2] = 4  # images
    return found


def in_miniature(
    workflow: dict[str, Any],
    people: Sequence[str],
    rewrite: Callable[[str], str],
    size: tuple[int, int] = (SIZE, SIZE),
) -> dict[str, Any]:
    """Make a bundled workflow use the miniature's files, portraits and settings.

    Args:
        workflow: as the frontend saves it; it stays as it is.
        people: names of the portraits for its Load Image nodes, in their order.
        rewrite: returns the new text of a prompt.
        size: width and height of the image, px.

    Returns:
        Another workflow.
    """
    found, names = copy.deepcopy(workflow), iter(people)
    detects = any(node["type"] == "F2DCropFaces" for node in found["nodes"])
    for node in found["nodes"]:
        values = node.get("widgets_values", [])
        match node["type"]:
            case "CheckpointLoaderSimple":
                values[0] = CHECKPOINT
            case "LoadFaceEncoder":
                kinds = ["msid", "mapper", "expression"][: 2 + (values[2] != "none")]
                values[: len(kinds)] = [os.path.join(_SUBFOLDER, FILES[kind]) for kind in kinds]
                values[3] = values[3] if detects else "none"
            case "F2DCropFaces":
                values[1] = size[0]
            case "LoadImage":
                values[0] = f"miniature_{next(names)}.png"
            case "EncodeFaceIdentity":
                values[0] = "FFHQ"
            case "ExpressionReference":
                values[1] = "FFHQ"
            case "CLIPTextEncode" | "F2DConditioning":
                values[0] = rewrite(values[0])
            case "SolidMask":
                values[1:] = [values[1] * size[0] // 512, values[2] * size[1] // 512]
            case "EmptyLatentImage":
                values[:2] = size
            case "KSampler":
                values[2:4] = [STEPS, CFG]
            case "SaveImage":
                values[0] = "f2d/miniature"
    return found
