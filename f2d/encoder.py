"""From a photo to S*: the whole chain.

photo (H, W, 3) uint8
  -> detection   five landmarks (5, 2) px
  -> alignment   face (3, 112, 112) in [-1, 1]
  -> msid        v_id (1536)                 = 4 depths x 384
  -> expression  v_exp (64)                  from a second crop (3, 224, 224) in [0, 1]; may be left out
  -> mapping     S* (2, 768)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn

from .checkpoint import read
from .face.batch import crop_batch
from .face.cropping import detect_face, locate_face
from .face.detection import Detector, Face, find_faces, load_detector
from .files import fingerprint
from .identity import (
    FaceExpression,
    FaceIdentity,
    Interpolation,
    Refinement,
    describe_msid,
    describe_refined_mix,
    mix,
)
from .image import Photo, load_photo, to_signed, to_unit
from .networks.expression import ExpressionNetwork, load_expression
from .networks.mapping import MappingNetwork, load_mapper
from .networks.msid import MSIDEncoder, load_msid
from .options import LARGEST_FACE, Alignment, FaceChoice

_BATCH = 32  # faces per forward pass

Network = TypeVar("Network", bound=nn.Module)
log = logging.getLogger("face2diffusion")


@dataclass(frozen=True, eq=False)
class CroppedFace:
    """One photo's crop and how it was found."""

    crop: Photo  # (S, S, 3)
    faces: tuple[Face, ...]  # all faces in the order of their indices; empty where none were looked for
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
            msid_file: name of the file that msid comes from; identities keep it, for messages.

        Raises:
            ValueError: the mapper was trained for features of another width.
        """
        if mapper.config.id_dim != msid.config.feature_dim:
            raise ValueError(
                f"The mapper takes {mapper.config.id_dim} identity features, but the encoder gives "
                f"{msid.config.feature_dim}. Use the mapper that was trained with this encoder."
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
        trained_with = weights.metadata.get("msid")  # the official file has no such entry
        if trained_with is not None and trained_with != encoder.msid_fingerprint:
            raise ValueError(
                f"'{weights.path}' was trained with the MSID encoder {trained_with[:8]}, "
                f"not with this one ({encoder.msid_described}). Load the two files of one training."
            )
        return encoder

    def to_device(self, network: Network) -> Network:
        """Move a network to its device before use; a host with its own memory management overrides this."""
        return network.to(self.device)

    @cached_property
    def msid_fingerprint(self) -> str:
        """SHA-256 of the identity encoder's weights: identities of two encoders cannot be mixed."""
        return fingerprint(self.msid.state_dict())

    @cached_property
    def mapper_fingerprint(self) -> str:
        """SHA-256 of the mapping network's weights: a refinement belongs to one mapper's words."""
        return fingerprint(self.mapper.state_dict())

    @property
    def msid_described(self) -> str:
        """The identity encoder, in words."""
        return describe_msid(self.msid_file, self.msid_fingerprint)

    def detect(self, photo: Photo, choice: FaceChoice = LARGEST_FACE) -> tuple[list[Face], Face]:
        """Find the faces in a photo and choose one.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            choice: which one.

        Returns:
            All faces in order, and the chosen one.

        Raises:
            ValueError: there is no detector, no face (NoFaceError), or none with this index.
        """
        return detect_face(self.detector, photo, choice)

    def find_faces(self, photo: Photo, min_score: float = 0.6) -> list[Face]:
        """Find all faces in a photo of shape (H, W, 3), the largest first; none if there are none."""
        return find_faces(self.detector, photo, min_score)

    def crop_face(
        self, photo: Photo, alignment: Alignment = "detect", choice: FaceChoice = LARGEST_FACE
    ) -> CroppedFace:
        """Crop the face from a photo.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            alignment: "detect" looks for faces; "FFHQ" and "112 px" take images that are already aligned.
            choice: which face; its landmarks, if any, are used instead of a detector.

        Returns:
            The crop of the encoder's size, shape (S, S, 3), and the faces.

        Raises:
            ValueError: no usable face, an image that is not square although aligned, or an unknown alignment.
        """
        found = locate_face(self.detector, photo, alignment, choice)
        return CroppedFace(found.align_face(self.msid.config.image_size), found.faces, found.chosen)

    def crop_expression(
        self, photo: Photo, alignment: Alignment = "detect", choice: FaceChoice = LARGEST_FACE
    ) -> CroppedFace:
        """Crop the face for the expression network, to shape (224, 224, 3); else as `crop_face`."""
        found = locate_face(self.detector, photo, alignment, choice)
        return CroppedFace(found.align_expression(), found.faces, found.chosen)

    @torch.no_grad()
    def embed(self, crops: Sequence[Photo]) -> torch.Tensor:
        """Compute v_id = f_id(x) of aligned faces (Sec. 3.2).

        Args:
            crops: B crops of shape (S, S, 3), uint8, RGB.

        Returns:
            shape (B, I), float32, CPU.
        """
        network = self.to_device(self.msid)
        device = next(network.parameters()).device
        batches = [
            to_signed(crops[start : start + _BATCH]).to(device) for start in range(0, len(crops), _BATCH)
        ]
        return torch.cat([network(batch) for batch in batches]).float().cpu()

    def identify_crops(self, crops: Sequence[Photo]) -> FaceIdentity:
        """Encode one person's aligned faces; several are averaged.

        Args:
            crops: B crops of shape (S, S, 3), uint8, RGB.

        Returns:
            The identity.

        Raises:
            ValueError: the features are not finite, so the weights are damaged.
        """
        v_id = self.embed(crops).mean(0)
        if not v_id.isfinite().all():
            raise ValueError(
                "The identity features are NaN or infinity: the MSID file is damaged. Download it again."
            )
        return FaceIdentity(v_id, self.msid_fingerprint, len(crops), self.msid_file)

    def identify(
        self, *photos: Photo | str | os.PathLike, alignment: Alignment = "detect", **choice: Any
    ) -> FaceIdentity:
        """Encode the person in one photo, or the mean of several.

        Args:
            *photos: shape (H, W, 3), uint8, RGB; or paths.
            alignment: see `crop_face`.
            **choice: `order`, `index`, `min_score` or `landmarks` of a `FaceChoice`.

        Returns:
            The identity; photos without a face are left out of the mean, and logged.

        Raises:
            ValueError: no photo, none with a face (NoFaceError), or one that is not usable.
        """
        if not photos:
            raise ValueError("There is no photo to identify. Give at least one.")
        face = FaceChoice(**choice)
        batch = crop_batch(photos, lambda photo: self.crop_face(load_photo(photo), alignment, face).crop)
        if batch.report:
            log.warning(batch.report)
        return self.identify_crops(batch.used)

    def load_identity(self, path: str | os.PathLike) -> FaceIdentity:
        """Read an identity that was saved, and check that it belongs to this encoder.

        Args:
            path: what `FaceIdentity.save` wrote.

        Returns:
            The identity.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: something else is in it, or an identity of another encoder.
        """
        identity = FaceIdentity.load(path)
        self.check_identity(identity, f"'{os.fspath(path)}'")
        return identity

    def mix(
        self,
        identities: Sequence[FaceIdentity],
        weights: Sequence[float],
        interpolation: Interpolation = "spherical",
        names: Sequence[str] | None = None,
    ) -> FaceIdentity:
        """Mix people that this encoder has encoded; all else is as for `identity.mix`."""
        mixed = mix(identities, weights, interpolation, names, depths=len(self.msid.config.depths))
        self.check_identity(mixed)
        if notice := describe_refined_mix(identities, weights):
            log.info("%s", notice)
        return mixed

    @torch.no_grad()
    def embed_expression(self, crops: Sequence[Photo]) -> torch.Tensor:
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
                "No expression network is loaded. Load Deep3DFaceRecon's epoch_20.pth with the encoder."
            )
        if not self.mapper.config.exp_dim:
            raise ValueError(
                "This mapper was trained without expression guidance. "
                "Use one that takes expressions, or no reference."
            )
        network = self.to_device(self.expression)
        device = next(network.parameters()).device
        return network(to_unit(crops).to(device)).float().cpu()

    def express(
        self,
        photo: Photo | str | os.PathLike,
        strength: float = 1.0,
        alignment: Alignment = "detect",
        **choice: Any,
    ) -> FaceExpression:
        """Encode the expression in a photo.

        Args:
            photo: shape (H, W, 3), uint8, RGB; or a path.
            strength: 0 = the mapper's null expression, 1 = the photo's.
            alignment: see `crop_face`.
            **choice: `order`, `index`, `min_score` or `landmarks` of a `FaceChoice`.

        Returns:
            The expression.

        Raises:
            ValueError: no usable face, or no expression network.
        """
        crop = self.crop_expression(load_photo(photo), alignment, FaceChoice(**choice)).crop
        return FaceExpression(self.embed_expression([crop])[0], strength)

    @torch.no_grad()
    def words(self, identity: FaceIdentity, expression: FaceExpression | None = None) -> torch.Tensor:
        """Compute S* = f_map(f_id(x)) of an encoded face (Eq. 2; without expression guidance Eq. 9).

        Args:
            identity: from this encoder.
            expression: None = the mapper's null expression.

        Returns:
            shape (2, D), float32, CPU: S1*, S2*. Those of a refined identity differ from the mapper's by the
            same offset with any expression, so that a reference turns them as it turns the mapper's.

        Raises:
            ValueError: an identity of another encoder or refined for another mapper, an expression that does
                not fit, or damaged values.
        """
        self.check_identity(identity)
        mapper = self.to_device(self.mapper)
        device = next(mapper.parameters()).device
        v_exp = None
        if expression is not None:
            if mapper.null_exp is None:
                raise ValueError(
                    "This mapper was trained without expression guidance. Disconnect the expression."
                )
            if expression.v_exp.shape != mapper.null_exp.shape:
                raise ValueError(
                    f"The expression has shape {tuple(expression.v_exp.shape)}, but the mapper takes "
                    f"{tuple(mapper.null_exp.shape)}. Encode the expression with this encoder."
                )
            v_exp = torch.lerp(mapper.null_exp, expression.v_exp.to(device), expression.strength)[None]
        words = mapper(identity.v_id.to(device)[None], v_exp)[0].float().cpu()
        if identity.refinement is not None:
            words = words + identity.refinement.offset
        if not words.isfinite().all():
            raise ValueError(
                "The words are NaN or infinity: the mapper or its input is damaged. Get the files again."
            )
        return words

    def refine(self, identity: FaceIdentity, words: torch.Tensor) -> FaceIdentity:
        """Build the identity that has given words, such as those of `refine_words`.

        Args:
            identity: of this encoder.
            words: shape (2, D), float32: what `words` is to give for it without an expression.

        Returns:
            The refined identity.

        Raises:
            ValueError: an identity of another encoder.
        """
        plain = self.words(replace(identity, refinement=None))
        return replace(identity, refinement=Refinement(words.float().cpu() - plain, self.mapper_fingerprint))

    def check_identity(self, identity: FaceIdentity, name: str = "this identity") -> None:
        """Raise a ValueError, which calls an identity by a name, if it does not belong to this encoder."""
        if identity.msid != self.msid_fingerprint:
            raise ValueError(
                f"The encoder ({self.msid_described}) did not make {name}; another one did "
                f"({identity.msid_described}). Encode the photo again, "
                "or load the MSID file it was made with."
            )
        if len(identity.v_id) != self.msid.config.feature_dim:
            raise ValueError(
                f"The encoder gives {self.msid.config.feature_dim} features, "
                f"but {name} has {len(identity.v_id)}. Encode the photo and save it again."
            )
        if identity.refinement is not None and identity.refinement.mapper != self.mapper_fingerprint:
            raise ValueError(
                f"{name[0].upper()}{name[1:]} was refined for the mapper "
                f"{identity.refinement.mapper[:8] or 'unknown'}, not for this one "
                f"({self.mapper_fingerprint[:8]}). Load that mapper, or encode the photo again."
            )
