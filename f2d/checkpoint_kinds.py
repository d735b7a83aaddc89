"""What a weight file holds: one of our kinds, or another model that people put into the wrong slot."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Kind = Literal["msid", "mapper", "expression"]
KIND_NAMES: dict[str, str] = {
    "msid": "an MSID encoder",
    "mapper": "a mapping network",
    "expression": "an expression network (Deep3DFaceRecon)",
    "identity": "a saved identity",
    "words": "the words S* of one person",
    "features": "features of one face",
}
_TELLTALES: dict[str, tuple[str, ...]] = {  # the tensors that only files of this kind have
    "mapper": ("i2t_first.layers.0.0.weight",),
    "msid": ("patch_embed.proj.weight", "cls_token"),
    "expression": ("backbone.conv1.weight", "final_layers.1.weight"),
}
_FOREIGN = {  # other models, by a piece of one tensor's name
    "model.diffusion_model.": "a Stable Diffusion checkpoint",
    "control_model.": "a ControlNet",
    "controlnet_cond_embedding": "a ControlNet",
    "lora_": "a LoRA",
    "text_model.": "a CLIP text encoder",
    "emb_params": "a textual-inversion embedding",
    "string_to_param": "a textual-inversion embedding",
}


def detect_kind(names: Collection[str], recorded: str | None = None) -> str | None:
    """Return the kind of a file.

    Args:
        names: of its tensors.
        recorded: from its metadata; None for the official files.

    Returns:
        A key of `KIND_NAMES`, or None for anything else.
    """
    if recorded:
        return recorded if recorded in KIND_NAMES else None
    found = (kind for kind, telltales in _TELLTALES.items() if all(name in names for name in telltales))
    return next(found, None)


def describe_content(kind: str | None, names: Collection[str]) -> str:
    """Describe a file in words, by its kind or else by the names of its tensors."""
    if kind is not None:
        return KIND_NAMES[kind]
    joined = " ".join(names)
    first = next(iter(names), "")
    unknown = f"a file with {len(names)} tensors of another model (the first is '{first}')"
    return next((model for piece, model in _FOREIGN.items() if piece in joined), unknown)
