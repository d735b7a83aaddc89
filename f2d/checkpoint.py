"""Weight files: reading official pickles and our safetensors, telling what a file holds, and writing atomically.

Our files are `.safetensors` under the official tensor names, with two metadata entries: `f2d.kind` (msid, mapper or
expression) and `f2d.config` (the fields of that network's config as JSON). The official files have no metadata; there
the networks' `infer_config` reads the sizes from the tensors' shapes.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .files import atomic_file, check_file

Kind = Literal["msid", "mapper", "expression"]
KIND_NAMES: dict[str, str] = {
    "msid": "an MSID encoder",
    "mapper": "a mapping network",
    "expression": "an expression network (Deep3DFaceRecon)",
    "identity": "a saved identity",
    "words": "the words S* of one person",
    "features": "features of one face",
}
# What else people put into the wrong slot, by a piece of one tensor name that gives it away.
_FOREIGN = {
    "model.diffusion_model.": "a Stable Diffusion checkpoint",
    "control_model.": "a ControlNet",
    "controlnet_cond_embedding": "a ControlNet",
    "lora_": "a LoRA",
    "text_model.": "a CLIP text encoder",
    "emb_params": "a textual-inversion embedding",
    "string_to_param": "a textual-inversion embedding",
}
_WRAPPERS = ("net_recon", "state_dict", "model")  # Deep3DFaceRecon, Lightning, and plain training scripts
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
SAFETENSORS = (".safetensors", ".sft")  # endings, in small letters


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weight file holds."""

    path: str
    tensors: dict[str, torch.Tensor]
    kind: str | None  # a key of KIND_NAMES, or None where the file is something else
    config: dict[str, Any] | None  # from our metadata; None for the official files
    metadata: dict[str, str]  # all of it; empty for pickles

    @property
    def described(self) -> str:
        """What the file is, in words."""
        if self.kind is not None:
            return KIND_NAMES[self.kind]
        names = " ".join(self.tensors)
        foreign = next((what for key, what in _FOREIGN.items() if key in names), None)
        return (
            foreign
            or f"a file with {len(self.tensors)} tensors of another model (the first is '{next(iter(self.tensors), '')}')"
        )

    def expect(self, kind: Kind) -> Checkpoint:
        """Return self if it is of the given kind, else raise a ValueError that says what it is."""
        if self.kind != kind:
            raise ValueError(
                f"Expected {KIND_NAMES[kind]}, got '{self.path}': this is {self.described}, not {KIND_NAMES[kind]}. Choose another file."
            )
        return self


def read(path: str | os.PathLike) -> Checkpoint:
    """Read a weight file of any supported format; nothing in a pickle is ever run.

    Args:
        path: .safetensors of ours, or a .pt, .pth, .ckpt or .bin pickle.

    Returns:
        Its tensors, on the CPU, with its kind and config.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else than tensors.
    """
    path = check_file(path, "a weight file")
    metadata: dict[str, str] = {}
    if path.lower().endswith(SAFETENSORS):
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Expected a whole .safetensors file, got '{path}', which is damaged ({error}). Get it again."
            ) from error
    else:
        tensors = _read_pickle(path)
    kind = metadata.get("f2d.kind") or _kind_of(tensors)
    if kind not in KIND_NAMES:
        kind = None
    try:
        config = json.loads(metadata["f2d.config"]) if "f2d.config" in metadata else None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Expected JSON under 'f2d.config' in the metadata of '{path}', got {error}. Get the file again."
        ) from error
    return Checkpoint(path, tensors, kind, config, metadata)


def _read_pickle(path: str) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Expected tensors only, got '{path}', which is damaged or holds other objects, perhaps code; it was not run. "
            f"Get the file from its authors, or convert it to .safetensors where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"Expected a weight file (.pt, .pth or .safetensors), got '{path}', which is damaged or something else. Get it again."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"Expected named tensors, got '{path}' with {type(content).__name__}. Choose a state dict."
        )
    stranger = next((key for key, value in content.items() if not isinstance(value, torch.Tensor)), None)
    if stranger is not None:
        raise ValueError(
            f"Expected tensors only, got '{path}' with {type(content[stranger]).__name__} under '{stranger}'. Choose a state dict."
        )
    return {_strip_prefixes(str(key)): value for key, value in content.items()}


def _strip_prefixes(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _kind_of(tensors: Mapping[str, torch.Tensor]) -> str | None:
    if "i2t_first.layers.0.0.weight" in tensors:
        return "mapper"
    if "patch_embed.proj.weight" in tensors and "cls_token" in tensors:
        return "msid"
    if "backbone.conv1.weight" in tensors and "final_layers.1.weight" in tensors:
        return "expression"
    return None


def load_strictly(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: str, optional: tuple[str, ...] = ()
) -> None:
    """Copy tensors into a module; every name and shape must agree.

    Args:
        module: keeps its own dtype and device.
        tensors: under the module's own names.
        path: where they come from, for the message.
        optional: prefixes of names that may be missing.

    Raises:
        ValueError: names or shapes differ; the message lists the first of each.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in tensors and not key.startswith(optional or ("\0",))]
    unexpected = [key for key in tensors if key not in own]
    shapes = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        found = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unknown", unexpected), ("of another shape", shapes))
            if names
        ]
        raise ValueError(
            f"Expected {len(own)} tensors for {type(module).__name__}, got '{path}' with {'; '.join(found)}. Choose another file."
        )
    module.load_state_dict(dict(tensors), strict=not optional)


def build_config(config_class: type, values: Mapping[str, Any], path: str) -> Any:
    """Make a config dataclass of a file's metadata.

    Args:
        config_class: a dataclass whose sequence fields are tuples, with a default for each field.
        values: its fields; those left out keep their defaults.
        path: where they come from, for the message.

    Returns:
        The config.

    Raises:
        ValueError: a field that this version does not know, or a value that makes no sense.
    """
    try:
        config = config_class(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        )
        for field in fields(config):
            kind, value = type(field.default), getattr(config, field.name)
            if not isinstance(value, (int, float) if kind is float else kind):
                raise TypeError(f"{field.name} is {value!r}")
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"Expected the fields of {config_class.__name__}, got '{path}', which is damaged or of another version ({error}). "
            "Update the pack, or get the file again."
        ) from error
    return config


def save(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], kind: str, config: Any = None, **extra: str
) -> None:
    """Write our .safetensors atomically.

    Args:
        path: where to; folders are made.
        tensors: what to write.
        kind: a key of `KIND_NAMES`.
        config: a dataclass; its fields go into the metadata.
        **extra: more metadata entries.

    Raises:
        OSError: the folder cannot be written to.
    """
    metadata = {"format": "pt", "f2d.kind": kind, **extra}
    if config is not None:
        metadata["f2d.config"] = json.dumps(asdict(config))
    with atomic_file(path) as temporary:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata
        )


def save_pickle(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], kind: str) -> None:
    """Write a .pt or .pth in the official layout, atomically: a plain state dict, or Deep3DFaceRecon's under `net_recon`.

    Args:
        path: where to; folders are made.
        tensors: under the official names, of any shape.
        kind: "msid", "mapper" or "expression".

    Raises:
        OSError: the folder cannot be written to.
    """
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_file(path) as temporary:
        torch.save({"net_recon": content} if kind == "expression" else content, temporary)


def position_embedding(model: str | os.PathLike) -> torch.Tensor:
    """Read the position embedding of a Stable Diffusion model's text encoder.

    Args:
        model: a folder in diffusers layout, or a single-file checkpoint.

    Returns:
        shape (77, D), float32.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: no or several text encoders in it.
    """
    path = os.fspath(model)
    if os.path.isdir(path):
        names = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
        files = [os.path.join(path, "text_encoder", name) for name in names]
        path = next((file for file in files if os.path.exists(file)), files[0])
    path = check_file(path, "a Stable Diffusion 1.x model")
    tail = "embeddings.position_embedding.weight"
    if path.lower().endswith(SAFETENSORS):
        try:
            with safe_open(path, "pt") as file:
                found = [file.get_tensor(key) for key in file.keys() if key.endswith(tail)]  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Expected a whole .safetensors file, got '{path}', which is damaged ({error}). Get it again."
            ) from error
    else:
        found = [value for key, value in _read_pickle(path).items() if key.endswith(tail)]
    if len(found) != 1:
        raise ValueError(
            f"Expected one text encoder in '{path}', got {len(found)} position embeddings. Use a Stable Diffusion 1.x model."
        )
    return found[0].float()
