"""What flows through a graph and is saved and shared: a person's identity and an expression, without any photo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .checkpoint import read, save

if TYPE_CHECKING:
    from .encoder import FaceEncoder

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class FaceIdentity:
    """Who someone is: v_id, and which encoder it comes from."""

    v_id: torch.Tensor  # (I,) float32, CPU; the mean over the photos
    msid: str  # fingerprint of the MSID encoder
    photos: int = 1
    encoder: FaceEncoder | None = None  # the encoder in this process that turns it into words; not saved

    def save(self, path: str | os.PathLike) -> None:
        """Write the identity as one .safetensors, atomically; no photo goes into it.

        Args:
            path: where to.

        Raises:
            OSError: the folder cannot be written to.
        """
        save(path, {"v_id": self.v_id}, "identity", version=str(FORMAT_VERSION), msid=self.msid, photos=str(self.photos))

    @classmethod
    def load(cls, path: str | os.PathLike, encoder: FaceEncoder | None = None) -> FaceIdentity:
        """Read an identity.

        Args:
            path: what `save` wrote.
            encoder: the encoder that is to turn it into words.

        Returns:
            The identity, v_id of shape (I,).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: another kind of file, a newer format, or an identity of another encoder.
        """
        checkpoint = read(path)
        if checkpoint.kind != "identity" or "v_id" not in checkpoint.tensors:
            raise ValueError(f"Expected a saved identity, got '{checkpoint.path}': this is {checkpoint.described}. Choose another file.")
        metadata, v_id = checkpoint.metadata, checkpoint.tensors["v_id"].float()
        try:
            version, photos = int(metadata.get("version", "0")), int(metadata.get("photos", "1"))
        except ValueError as error:
            raise ValueError(
                f"Expected a saved identity, got '{checkpoint.path}' with damaged metadata ({error}). Save it again."
            ) from error
        if version > FORMAT_VERSION:
            raise ValueError(
                f"Expected an identity of format {FORMAT_VERSION}, got '{checkpoint.path}' of format {version}. Update the pack."
            )
        if v_id.ndim != 1 or not v_id.isfinite().all():
            raise ValueError(
                f"Expected one vector of finite features, got '{checkpoint.path}' with shape {tuple(v_id.shape)} or NaN. Save it again."
            )
        identity = cls(v_id, metadata.get("msid", ""), photos, encoder)
        if encoder is not None:
            encoder.check_identity(identity)
        return identity


@dataclass(frozen=True, eq=False)
class FaceExpression:
    """How someone looks: v_exp and how far to follow it."""

    v_exp: torch.Tensor  # (E,) float32, CPU
    strength: float = 1.0  # 0 = the mapper's null expression, 1 = the reference
