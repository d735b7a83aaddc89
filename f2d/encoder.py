"""From a photo to S*: the whole chain.

photo (H, W, 3) uint8
  -> detection   five landmarks (5, 2) px
  -> alignment   face (3, 112, 112) in [-1, 1]
  -> msid        v_id (1536)                 = 4 depths x 384
  -> expression  v_exp (64)                  from a second crop (3, 224, 224) in [0, 1]; may be left out
  -> mapping     S* (2, 768)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from .checkpoint import read
from .face.alignment import (
    ARCFACE_TEMPLATE,
    TEMPLATE_SIZE,
    align_face,
    crop_aligned,
    crop_ffhq,
    ffhq_landmarks,
    square_side,
)
from .face.detection import FAN, Detector, Face, YuNet, choose_face, face_from_landmarks, sort_faces
from .files import fingerprint
from .identity import FaceExpression, FaceIdentity, describe_msid
from .image import Photo, load_photo, to_signed, to_unit
from .networks.expression import ExpressionNetwork, align_expression, expression_landmarks, load_expression
from .networks.mapping import MappingNetwork, load_mapper
from .networks.msid import MSIDEncoder, load_msid
from .options import ALIGNMENTS, Alignment, Order

_BATCH = 32  # faces a forward pass

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class FoundFace:
    """One photo's crop and how it was found."""

    crop: Photo  # (S, S, 3)
    faces: list[Face]  # all faces in the order of their indices; empty where none were looked for
    chosen: Face | None


class FaceEncoder:
    """The chain's networks, ready to encode photos."""

    def __init__(
        self,
        msid: MSIDEncoder,
        mapper: MappingNetwork,
        expression: ExpressionNetwork | None = None,
        detector: Detector | None = None,
        device: torch.device | str = "cpu",
        msid_file: str = "",
    ) -> None:
        """Tie the networks together.

        Args:
            msid: in evaluation mode.
            mapper: in evaluation mode, for features as wide as the encoder's.
            expression: in evaluation mode; None = no expression references.
            detector: None = only photos with given landmarks or already aligned.
            device: where the networks run.
            msid_file: the name of the file that msid comes from, without its folder; identities keep it, for messages.

        Raises:
            ValueError: the mapper was trained for features of another width.
        """
        if mapper.config.id_dim != msid.config.feature_dim:
            raise ValueError(
                f"Expected a mapper for {msid.config.feature_dim} identity features, got one for {mapper.config.id_dim}. "
                "Use the mapper that was trained with this encoder."
            )
        self.msid, self.mapper, self.expression, self.detector = msid, mapper, expression, detector
        self.device, self.msid_file = torch.device(device), msid_file

    @classmethod
    def load(
        cls,
        msid: str | os.PathLike,
        mapper: str | os.PathLike,
        expression: str | os.PathLike | None = None,
        detector: str | os.PathLike | None = None,
        device: torch.device | str = "cpu",
    ) -> FaceEncoder:
        """Load the networks from files.

        Args:
            msid: `msid.pt`, or our .safetensors.
            mapper: `mapping.pt`, or our .safetensors.
            expression: Deep3DFaceRecon's `epoch_20.pth`, or our .safetensors.
            detector: a YuNet .onnx file, or "FAN" for the package face_alignment.
            device: where the networks run.

        Returns:
            The encoder.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file holds something else, or two do not fit together.
        """
        weights = read(mapper)
        encoder = cls(
            load_msid(read(msid)),
            load_mapper(weights),
            load_expression(read(expression)) if expression is not None else None,
            load_detector(detector, device) if detector is not None else None,
            device,
            os.path.basename(os.fspath(msid)),
        )
        trained_with = weights.metadata.get(
            "msid"
        )  # in mappers of our training; the official file does not say
        if trained_with is not None and trained_with != encoder.msid_fingerprint:
            raise ValueError(
                f"Expected the MSID encoder that '{weights.path}' was trained with ({trained_with[:8]}), got another "
                f"({encoder.msid_described}). Load the two files of one training."
            )
        return encoder

    def ready(self, network: Network) -> Network:
        """Bring a network to its device before use; a host with its own memory management overrides this."""
        return network.to(self.device)

    @cached_property
    def msid_fingerprint(self) -> str:
        """SHA-256 of the identity encoder's weights: identities of two encoders cannot be mixed."""
        return fingerprint(self.msid.state_dict())

    @property
    def msid_described(self) -> str:
        """The identity encoder, in words."""
        return describe_msid(self.msid_file, self.msid_fingerprint)

    def locate(
        self, photo: Photo, order: Order = "largest", index: int = 0, min_score: float = 0.6
    ) -> tuple[list[Face], Face]:
        """Find the faces in a photo and choose one.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            order: how faces are counted.
            index: which one, from 0.
            min_score: in [0, 1].

        Returns:
            All faces in order, and the chosen one.

        Raises:
            ValueError: there is no detector, no face (NoFaceError), or none with this index.
        """
        if self.detector is None:
            raise ValueError(
                "Expected a detector to find faces, got none. Load one with the encoder (a YuNet .onnx file), or use a picture that is already aligned."
            )
        faces = sort_faces(self.detector.detect(photo, min_score), order)
        return faces, choose_face(faces, index)

    def find(
        self,
        photo: Photo,
        alignment: Alignment = "detect",
        order: Order = "largest",
        index: int = 0,
        min_score: float = 0.6,
        landmarks: np.ndarray | None = None,
    ) -> FoundFace:
        """Cut the face out of a photo.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            alignment: "detect" looks for faces; "FFHQ" and "112 px" take pictures that are already aligned.
            order: how faces are counted.
            index: which one, from 0.
            min_score: in [0, 1].
            landmarks: shape (5, 2) or (68, 2), px; used instead of a detector.

        Returns:
            The crop of the encoder's size, shape (S, S, 3), and the faces.

        Raises:
            ValueError: no usable face, a picture that is not square although aligned, or an unknown alignment.
        """
        size = self.msid.config.image_size
        if alignment == "FFHQ":
            return FoundFace(crop_ffhq(photo, size), [], None)
        if alignment == "112 px":
            return FoundFace(crop_aligned(photo, size), [], None)
        if alignment != "detect":
            raise _unknown(alignment)
        faces, chosen = self._faces(photo, order, index, min_score, landmarks)
        return FoundFace(align_face(photo, chosen.landmarks, size), faces, chosen)

    def _faces(
        self, photo: Photo, order: Order, index: int, min_score: float, landmarks: np.ndarray | None
    ) -> tuple[list[Face], Face]:
        if landmarks is None:
            return self.locate(photo, order, index, min_score)
        face = face_from_landmarks(landmarks)
        return [face], face

    @torch.no_grad()
    def encode(self, crops: Sequence[Photo]) -> torch.Tensor:
        """Compute v_id = f_id(x) of aligned faces (Sec. 3.2).

        Args:
            crops: B crops of shape (S, S, 3), uint8, RGB.

        Returns:
            shape (B, I), float32, CPU.
        """
        network = self.ready(self.msid)
        device = next(network.parameters()).device
        batches = [
            to_signed(crops[start : start + _BATCH]).to(device) for start in range(0, len(crops), _BATCH)
        ]
        return torch.cat([network(batch) for batch in batches]).float().cpu()

    def identity(self, crops: Sequence[Photo]) -> FaceIdentity:
        """Encode one person's aligned faces; several are averaged.

        Args:
            crops: B crops of shape (S, S, 3), uint8, RGB.

        Returns:
            The identity.

        Raises:
            ValueError: the features are not finite, so the weights are damaged.
        """
        v_id = self.encode(crops).mean(0)
        if not v_id.isfinite().all():
            raise ValueError(
                "Expected finite identity features, got NaN or infinity: the MSID file is damaged. Download it again."
            )
        return FaceIdentity(v_id, self.msid_fingerprint, len(crops), self, self.msid_file)

    def identify(
        self, *photos: Photo | str | os.PathLike, alignment: Alignment = "detect", **choice
    ) -> FaceIdentity:
        """Encode the person in one photo, or the mean of several.

        Args:
            *photos: shape (H, W, 3), uint8, RGB; or paths.
            alignment: see `find`.
            **choice: `order`, `index`, `min_score` or `landmarks` for `find`.

        Returns:
            The identity.

        Raises:
            ValueError: no photo, or one without a usable face.
        """
        if not photos:
            raise ValueError("Expected at least one photo, got none. Give one.")
        return self.identity([self.find(load_photo(photo), alignment, **choice).crop for photo in photos])

    def find_expression(
        self,
        photo: Photo,
        alignment: Alignment = "detect",
        order: Order = "largest",
        index: int = 0,
        min_score: float = 0.6,
        landmarks: np.ndarray | None = None,
    ) -> FoundFace:
        """Cut the face out of a photo the way the expression network wants it; arguments and errors as for `find`.

        Returns:
            The crop, shape (224, 224, 3), and the faces.
        """
        if alignment != "detect" and landmarks is None:
            return FoundFace(align_expression(photo, _aligned_landmarks(photo, alignment)), [], None)
        faces, chosen = self._faces(photo, order, index, min_score, landmarks)
        points = chosen.landmarks if chosen.landmarks68 is None else expression_landmarks(chosen.landmarks68)
        return FoundFace(align_expression(photo, points), faces, chosen)

    @torch.no_grad()
    def encode_expression(self, crops: Sequence[Photo]) -> torch.Tensor:
        """Compute v_exp = f_exp(x) of aligned faces (Sec. 3.3).

        Args:
            crops: B crops of shape (224, 224, 3), uint8, RGB.

        Returns:
            shape (B, E), float32, CPU.

        Raises:
            ValueError: there is no expression network, or the mapper takes no expression.
        """
        if self.expression is None:
            raise ValueError(
                "Expected an expression network, got none. Load Deep3DFaceRecon's epoch_20.pth with the encoder."
            )
        if not self.mapper.config.exp_dim:
            raise ValueError(
                "Expected a mapper with expression guidance, got one without. Use one that takes expressions, or no reference."
            )
        network = self.ready(self.expression)
        device = next(network.parameters()).device
        return network(to_unit(crops).to(device)).float().cpu()

    def express(self, photo: Photo | str | os.PathLike, strength: float = 1.0, **choice) -> FaceExpression:
        """Encode the expression in a photo.

        Args:
            photo: shape (H, W, 3), uint8, RGB; or a path.
            strength: 0 = the mapper's null expression, 1 = the photo's.
            **choice: `alignment`, `order`, `index`, `min_score` or `landmarks` for `find_expression`.

        Returns:
            The expression.

        Raises:
            ValueError: no usable face, or no expression network.
        """
        crop = self.find_expression(load_photo(photo), **choice).crop
        return FaceExpression(self.encode_expression([crop])[0], strength)

    @torch.no_grad()
    def words(self, identity: FaceIdentity, expression: FaceExpression | None = None) -> torch.Tensor:
        """Compute S* = f_map(f_id(x)) of an encoded face (Eq. 2; without expression guidance Eq. 9).

        Args:
            identity: from this encoder.
            expression: None = the mapper's null expression.

        Returns:
            shape (2, D), float32, CPU: S1*, S2*.

        Raises:
            ValueError: an identity of another encoder, an expression that the mapper cannot take, or damaged values.
        """
        self.check_identity(identity)
        mapper = self.ready(self.mapper)
        device = next(mapper.parameters()).device
        v_exp = None
        if expression is not None:
            if mapper.null_exp is None:
                raise ValueError(
                    "Expected no expression, got one: this mapper was trained without expression guidance. Disconnect it."
                )
            if expression.v_exp.shape != mapper.null_exp.shape:
                raise ValueError(
                    f"Expected an expression of shape {tuple(mapper.null_exp.shape)}, got {tuple(expression.v_exp.shape)}. "
                    "Encode the expression with this encoder."
                )
            v_exp = torch.lerp(mapper.null_exp, expression.v_exp.to(device), expression.strength)[None]
        words = mapper(identity.v_id.to(device)[None], v_exp)[0].float().cpu()
        if not words.isfinite().all():
            raise ValueError(
                "Expected finite words, got NaN or infinity: the mapper or its input is damaged. Get the files again."
            )
        return words

    def check_identity(self, identity: FaceIdentity, name: str = "one") -> None:
        """Raise a ValueError, which calls an identity by a name, if it comes from another MSID encoder."""
        if identity.msid != self.msid_fingerprint:
            raise ValueError(
                f"Expected an identity of this encoder ({self.msid_described}), got {name} of another ({identity.msid_described}). "
                "Encode the photo again, or load the MSID file it was made with."
            )


def _aligned_landmarks(photo: Photo, alignment: Alignment) -> np.ndarray:
    """Where the face is in a picture that is already aligned: shape (5, 2), px."""
    side = square_side(photo, "an aligned picture")
    if alignment == "FFHQ":
        return ffhq_landmarks(side)
    if alignment == "112 px":
        return ARCFACE_TEMPLATE * (side / TEMPLATE_SIZE)
    raise _unknown(alignment)


def _unknown(alignment: str) -> ValueError:
    return ValueError(
        f"Expected the alignment to be one of {', '.join(ALIGNMENTS)}, got '{alignment}'. Choose one of them."
    )


def load_detector(detector: str | os.PathLike, device: torch.device | str = "cpu") -> Detector:
    """Load YuNet from a file, or FAN where the name is "FAN".

    Args:
        detector: path or "FAN".
        device: for FAN; YuNet runs on the CPU.

    Returns:
        The detector.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not YuNet.
        ImportError: FAN's package is missing.
    """
    return FAN(str(device)) if os.fspath(detector) == "FAN" else YuNet(detector)
