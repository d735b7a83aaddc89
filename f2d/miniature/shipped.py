"""The miniature's shipped files: where they are, and loading its networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from ..diffusion.pipeline import F2DPipeline
    from ..encoder import FaceEncoder
    from .evaluators import Attributes, Verifier

SIZE = 128  # px, the side of its images
STEPS, CFG = 20, 4.0  # of its sampling
WEIGHTS = Path(__file__).with_name("weights")
FILES = {"msid": "msid.safetensors", "mapper": "mapper.safetensors", "expression": "expression.safetensors"}


def read_vocabulary() -> dict[str, int]:
    """Read its words and their token ids in CLIP; a word's index is its id in the miniature's vocabulary."""
    return json.loads(Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))


def portraits(folder: Path = WEIGHTS) -> dict[str, Path]:
    """List the portraits by name; they are square and FFHQ-aligned."""
    return {path.stem: path for path in sorted((folder / "people").glob("*.png"))}


def load_encoder(folder: Path = WEIGHTS) -> FaceEncoder:
    """Load its face encoder, on the CPU, for FFHQ-aligned images."""
    from ..encoder import FaceEncoder

    return FaceEncoder.load(folder / FILES["msid"], folder / FILES["mapper"], folder / FILES["expression"])


def load_pipeline(folder: Path = WEIGHTS) -> F2DPipeline:
    """Load its Stable Diffusion, on the CPU, for words of `narrow`."""
    from ..diffusion.pipeline import F2DPipeline

    pipeline = F2DPipeline.load(folder / "base", device="cpu")
    pipeline.name = "the miniature"
    return pipeline


def narrow(words: torch.Tensor, width: int = 192) -> torch.Tensor:
    """Narrow S*, shape (2, 768), to the text encoder's (2, width): drop the repeated entries."""
    return words[:, :: words.shape[1] // width]


def widen_words(words: torch.Tensor, width: int = 768) -> torch.Tensor:
    """Undo `narrow`: words of shape (2, 192) to shape (2, width), by repeating entries."""
    return words.repeat_interleave(width // words.shape[1], dim=1)


def load_evaluators(folder: Path = WEIGHTS) -> tuple[Verifier, Attributes]:
    """Load the evaluators of identity and of scene attributes, on the CPU."""
    from .evaluators import Attributes, Verifier

    verifier, attributes = Verifier(), Attributes()
    for name, network in (("verifier", verifier), ("attributes", attributes)):
        network.load_state_dict(load_file(folder / f"{name}.safetensors"))
        network.eval().requires_grad_(False)
    return verifier, attributes
