"""The text evaluators, CLIP (ViT-H/14 in the paper) and SigLIP, from local folders in transformers' layout.

Dimension letters: B images or prompts, C width of an embedding, S side of the network's input in px.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...f2d.device import pass_size
from ...f2d.image import Photo

_MODEL_TYPES = {"CLIP": "clip", "SigLIP": "siglip"}  # in config.json


class TextEvaluator:
    """A pair of encoders with a joint space for images and prompts."""

    def __init__(self, name: str, model: Any, tokenizer: Any, processor: Any) -> None:
        """Combine the parts of one folder.

        Args:
            name: "CLIP" or "SigLIP".
            model: transformers' CLIPModel or SiglipModel, in evaluation mode.
            tokenizer: of its prompts.
            processor: of its images.
        """
        self.name, self.model, self._tokenizer, self.processor = name, model, tokenizer, processor

    @property
    def scale(self) -> float:
        """SigLIP's learned temperature, which the file stores as its logarithm."""
        return math.exp(self.model.logit_scale.item())

    @property
    def bias(self) -> float:
        """SigLIP's learned bias."""
        return self.model.logit_bias.item()

    def prepare(self, photo: Photo) -> Tensor:
        """Resize, crop and normalize an image as the folder's preprocessor_config.json specifies.

        Args:
            photo: shape (H, W, 3), uint8, RGB.

        Returns:
            shape (3, S, S), float32.
        """
        return self.processor(images=Image.fromarray(photo), return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Compute E_I(y).

        Args:
            images: B of shape (3, S, S), from `prepare`.

        Returns:
            shape (B, C), float32, CPU; not normalized.
        """
        device = self.model.device
        batches = torch.stack(list(images)).split(pass_size(device))
        return torch.cat(
            [_features(self.model.get_image_features(pixel_values=batch.to(device))) for batch in batches]
        )

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Compute E_T(p); prompts are padded or truncated to the model's full length, as SigLIP was trained.

        Args:
            prompts: B texts.

        Returns:
            shape (B, C), float32, CPU; not normalized.
        """
        device, length = self.model.device, self.model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        batches = tokens["input_ids"].split(pass_size(device))
        return torch.cat(
            [_features(self.model.get_text_features(input_ids=batch.to(device))) for batch in batches]
        )


def _features(output: Any) -> Tensor:
    return getattr(output, "pooler_output", output).float().cpu()  # transformers 4 returns the tensor itself


def load_text_evaluator(folder: str | os.PathLike, name: str) -> TextEvaluator:
    """Load CLIP or SigLIP, in evaluation mode on the CPU.

    Args:
        folder: with config.json, weights, tokenizer and preprocessor_config.json.
        name: "CLIP" or "SigLIP".

    Returns:
        The evaluator, float32.

    Raises:
        FileNotFoundError: the folder or its config.json is missing.
        ValueError: another model, or parts are missing.
        ImportError: a package that the tokenizer needs is missing.
    """
    folder = Path(folder)
    _check_type(folder, name)
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

    model_class: Any = CLIPModel if name == "CLIP" else SiglipModel
    try:
        model, report = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except ImportError:
        raise
    except Exception as error:  # a damaged file may raise anything, by its format
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} in '{folder}' cannot be read ({first}). Download the folder again."
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    if missing:
        raise ValueError(
            f"{name} in '{folder}' lacks {len(missing)} tensors ({', '.join(missing[:3])}). "
            "Download the complete model, with both encoders."
        )
    return TextEvaluator(name, model.float().eval().requires_grad_(False), tokenizer, processor)


def _check_type(folder: Path, name: str) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"'{folder}' has no config.json. Choose a folder of {name} in transformers' layout."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (AttributeError, ValueError) as error:
        raise ValueError(f"'{file}' is not a model's config ({error}). Download it again.") from error
    if found != _MODEL_TYPES[name]:
        raise ValueError(
            f"The model in '{folder}' has the type '{found}', not {name}. Choose another folder."
        )
