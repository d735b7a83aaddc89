"""The miniature: a small drawn world's Stable Diffusion, face encoder and judges, trained from nothing by `training.miniature`.

weights/base/                    the Stable Diffusion, narrow, as a folder in diffusers layout
weights/msid.safetensors ...     the face encoder's networks, files like any other; the mapper speaks CLIP-L's 768
weights/verifier.safetensors ... judges of who it is and what is to be seen
weights/people/                  portraits of people whom none of them has seen in training
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from ..files import atomic_file
from .widen import widen_text_encoder, widen_unet

if TYPE_CHECKING:
    from ..diffusion.pipeline import F2DPipeline
    from ..encoder import FaceEncoder
    from .evaluators import Attributes, Verifier

SIZE = 128  # px, the side of its pictures
STEPS, CFG = 20, 4.0  # of its sampling
WEIGHTS = Path(__file__).with_name("weights")
FILES = {"msid": "msid.safetensors", "mapper": "mapper.safetensors", "expression": "expression.safetensors"}
_VAE_SCALE = 0.18215  # ComfyUI divides SD 1.x's latents by it


def read_vocabulary() -> dict[str, int]:
    """Read its words and their token ids in CLIP's vocabulary; a word's place in the order is its id here."""
    return json.loads(Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))


def portraits(folder: Path = WEIGHTS) -> dict[str, Path]:
    """List the portraits by name, square and aligned the FFHQ way."""
    return {path.stem: path for path in sorted((folder / "people").glob("*.png"))}


def load_encoder(folder: Path = WEIGHTS) -> FaceEncoder:
    """Load its face encoder, on the CPU; for pictures that are aligned the FFHQ way."""
    from ..encoder import FaceEncoder

    return FaceEncoder.load(folder / FILES["msid"], folder / FILES["mapper"], folder / FILES["expression"])


def load_pipeline(folder: Path = WEIGHTS) -> F2DPipeline:
    """Load its narrow Stable Diffusion, on the CPU; it takes `narrow` words."""
    from ..diffusion.pipeline import F2DPipeline

    pipeline = F2DPipeline.load(folder / "base", device="cpu")
    pipeline.name = "the miniature"
    return pipeline


def narrow(words: torch.Tensor, width: int = 192) -> torch.Tensor:
    """Take S* of shape (2, 768) back to the narrow text encoder's width: one of each group of equal entries."""
    return words[:, :: words.shape[1] // width]


def load_evaluators(folder: Path = WEIGHTS) -> tuple[Verifier, Attributes]:
    """Load the judges of identity and of what is to be seen, on the CPU."""
    from .evaluators import Attributes, Verifier

    verifier, attributes = Verifier(), Attributes()
    for name, network in (("verifier", verifier), ("attributes", attributes)):
        network.load_state_dict(load_file(folder / f"{name}.safetensors"))
        network.eval().requires_grad_(False)
    return verifier, attributes


def write_checkpoint(path: str | os.PathLike, folder: Path = WEIGHTS) -> None:
    """Write the Stable Diffusion as one file in SD 1.x's layout (about 320 MB), which CheckpointLoaderSimple takes.

    Args:
        path: where to.
        folder: with its weights.

    Raises:
        OSError: the folder cannot be written to.
    """
    base = folder / "base"
    text, unet, vae = (_read_part(base / part) for part in ("text_encoder", "unet", "vae"))
    heads = json.loads((base / "text_encoder" / "config.json").read_text(encoding="utf-8"))[
        "num_attention_heads"
    ]
    unet_heads = json.loads((base / "unet" / "config.json").read_text(encoding="utf-8"))[
        "attention_head_dim"
    ]  # diffusers' misnomer
    ids = list(read_vocabulary().values())
    tensors = {
        f"cond_stage_model.transformer.text_model.{name}": t
        for name, t in widen_text_encoder(text, heads, ids).items()
    }
    tensors |= {f"model.diffusion_model.{name}": t for name, t in widen_unet(unet, unet_heads).items()}
    tensors |= {f"first_stage_model.{_taesd_name(name)}": t for name, t in vae.items()}
    tensors |= {
        "first_stage_model.vae_scale": torch.tensor(_VAE_SCALE),
        "first_stage_model.vae_shift": torch.tensor(0.0),
    }
    with atomic_file(path) as temporary:
        save_file(
            {name: tensor.half().contiguous() for name, tensor in tensors.items()},
            temporary,
            {"format": "pt"},
        )


def _read_part(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def _taesd_name(name: str) -> str:
    """Translate diffusers' `decoder.layers.0.weight`, which does not count the limit before it, to `taesd_decoder.1.weight`."""
    half, _, layer, *rest = name.split(".")
    return ".".join([f"taesd_{half}", str(int(layer) + (half == "decoder")), *rest])
