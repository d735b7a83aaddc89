"""Weight files: the official pickles and our own safetensors, read and written.

Our files are `.safetensors` under the official tensor names, with two metadata entries: `f2d.kind` (msid,
mapper or expression) and `f2d.config` (the fields of that network's config as JSON). The official files have
no metadata; there the networks' `infer_config` reads the sizes from the tensors' shapes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import save_file

from .checkpoint_kinds import KIND_NAMES, Kind, describe_content, detect_kind
from .files import atomic_file
from .tensor_files import Tensors, read_tensors


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weight file holds."""

    path: str
    tensors: Tensors
    kind: str | None  # a key of KIND_NAMES, or None where the file is something else
    config: dict[str, Any] | None  # from our metadata; None for the official files
    metadata: dict[str, str]  # all of it; empty for pickles

    @property
    def described(self) -> str:
        """What the file is, in words."""
        return describe_content(self.kind, self.tensors)

    def expect(self, kind: Kind) -> Checkpoint:
        """Return self if it is of the given kind, else raise a ValueError that describes it."""
        if self.kind != kind:
            expected = KIND_NAMES[kind]
            raise ValueError(
                f"'{self.path}' cannot be used here: this is {self.described}, not {expected}. "
                "Choose another file."
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
    tensors, metadata = read_tensors(path, "a weight file")
    try:
        config = json.loads(metadata["f2d.config"]) if "f2d.config" in metadata else None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The metadata of '{os.fspath(path)}' is damaged: 'f2d.config' is not JSON ({error}). "
            "Get the file again."
        ) from error
    return Checkpoint(
        os.fspath(path), tensors, detect_kind(tensors, metadata.get("f2d.kind")), config, metadata
    )


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
    """Write a .pt or .pth in the official layout, atomically.

    That is a plain state dict; Deep3DFaceRecon's stands under `net_recon`.

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
