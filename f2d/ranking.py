"""Best of N: how like the person and how true to the prompt each image is, and which come first (Fig. 7).

images, faces     -> likeness         (B,) in [0, 1], for each evaluator of identity
embeddings        -> text_likeness    (B,) in [0, 1]
likenesses, text  -> rank             order and scores
                  -> draw_ranking     the images with their scores

Dimension letters: B images, C width of CLIP's joint space, T width of its text encoder, F width of a face's
features, M scores of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import cv2
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .face.alignment import align_face
from .face.detection import Face
from .image import Photo

if TYPE_CHECKING:
    from .encoder import FaceEncoder
    from .identity import FaceIdentity
    from .networks.recognition import FaceRecognizer


def positive_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Compute max(cos(first, second), 0).

    Args:
        first: shape (..., C); need not be normalized.
        second: shape (..., C), or one that broadcasts to it.

    Returns:
        shape (...), in [0, 1]; 0 where one of the two is 0.
    """
    return cosine_similarity(first, second, dim=-1).clamp(0, 1)


def check_scores(scores: Tensor) -> Tensor:
    """Return scores of shape (..., M) as they are; raise a ValueError if one is negative or NaN, or none."""
    if not scores.shape[-1] or not (scores >= 0).all():
        got = f"{scores.min():g}" if scores.numel() else "none"
        raise ValueError(f"Scores are 0 and more, but one is {got}. Clip cosines at 0 first.")
    return scores


def harmonic_mean(scores: Tensor) -> Tensor:
    """Compute the harmonic mean of each image's scores, hMean; 0 where one of them is 0.

    Args:
        scores: shape (..., M), not negative.

    Returns:
        shape (...).

    Raises:
        ValueError: a negative score, or none at all.
    """
    return check_scores(scores).reciprocal().mean(-1).reciprocal()


def geometric_mean(scores: Tensor) -> Tensor:
    """Compute the geometric mean of each image's scores, gMean; shapes are those of `harmonic_mean`."""
    return check_scores(scores).log().mean(-1).exp()


class IdentityEvaluator(Protocol):
    """Scores how much a face is like one person."""

    reference: Tensor  # (F,), the person's features

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Crop a face from a photo of shape (H, W, 3)."""
        ...

    def embed(self, crops: Sequence[Photo]) -> Tensor:
        """Compute the features of crops, shape (N, F)."""
        ...


class MSIDEvaluator:
    """Compares faces with an identity by the features that S* was made from."""

    def __init__(self, encoder: FaceEncoder, identity: FaceIdentity) -> None:
        """Set the identity; raise a ValueError if it comes from another encoder."""
        encoder.check_identity(identity)
        self.encoder, self.reference = encoder, identity.v_id

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Cut ArcFace's crop of the encoder's size, shape (S, S, 3), from a photo of shape (H, W, 3)."""
        return align_face(photo, face.landmarks, self.encoder.msid.config.image_size)

    def embed(self, crops: Sequence[Photo]) -> Tensor:
        """Compute v_id, shape (N, I), of crops of shape (S, S, 3)."""
        return self.encoder.embed(crops)


class RecognizerEvaluator:
    """Compares faces with the one in a photo by a recognizer that has no part in making S*."""

    def __init__(self, network: FaceRecognizer, photo: Photo, face: Face) -> None:
        """Embed the person's face in a photo of shape (H, W, 3)."""
        self.network = network
        self.reference = network.embed([network.crop(photo, face)])[0]

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Cut the network's crop, shape (h, w, 3), from a photo of shape (H, W, 3)."""
        return self.network.crop(photo, face)

    def embed(self, crops: Sequence[Photo]) -> Tensor:
        """Compute features, shape (N, 512), of crops of shape (h, w, 3)."""
        return self.network.embed(crops)


def likeness(
    photos: Sequence[Photo], faces: Sequence[Sequence[Face]], evaluator: IdentityEvaluator
) -> Tensor:
    """Compare the faces in each image with a person.

    Args:
        photos: B of shape (H, W, 3), uint8, RGB.
        faces: those in each photo.
        evaluator: knows the person.

    Returns:
        shape (B,), in [0, 1]: the cosine of the face that is most like the person; 0 without a face.
    """
    crops = [
        evaluator.crop(photo, face) for photo, found in zip(photos, faces, strict=True) for face in found
    ]
    scores = torch.zeros(len(photos))
    if crops:
        cosines = positive_cosine(evaluator.embed(crops), evaluator.reference)
        for index, values in enumerate(cosines.split([len(found) for found in faces])):
            scores[index] = values.max() if len(values) else 0
    return scores


def text_likeness(images: Tensor, text: Tensor, projection: Tensor) -> Tensor:
    """Compare images with a prompt in CLIP's joint space.

    Args:
        images: shape (B, C), the image encoder's projected output.
        text: shape (1, T), the text encoder's pooled output before its projection.
        projection: shape (C, T), of `diffusion.clip_weights.read_text_projection`.

    Returns:
        shape (B,), in [0, 1].

    Raises:
        ValueError: the three do not belong to one CLIP.
    """
    if text.ndim != 2 or text.shape[1] != projection.shape[1]:
        raise ValueError(
            f"The CLIP's output has shape {tuple(text.shape)}, but the text projection takes (1, "
            f"{projection.shape[1]}). "
            "Use the CLIP of an SD 1.x checkpoint with the text projection of CLIP ViT-L/14."
        )
    if images.ndim != 2 or images.shape[1] != projection.shape[0]:
        raise ValueError(
            f"CLIP Vision's output has shape {tuple(images.shape)}, but the text projection leads to "
            f"(B, {projection.shape[0]}). Load the vision encoder of the same CLIP: ViT-L/14 for SD 1.x."
        )
    return positive_cosine(images.float(), text.float() @ projection.T)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Images with their scores."""

    order: list[int]  # numbers of the images from 0, the best first
    score: Tensor  # (B,) identity x text
    identity: Tensor  # (B,)
    text: Tensor | None  # (B,); None where only identity counts

    def describe(self, index: int) -> str:
        """Format one image's scores."""
        identity = f"identity {self.identity[index]:.3f}"
        return (
            identity
            if self.text is None
            else f"{self.score[index]:.3f} = {identity} x text {self.text[index]:.3f}"
        )

    def __str__(self) -> str:
        """One line per image, the best first."""
        note = "By identity alone: no CLIP Vision, CLIP and text projection to score the text.\n"
        lines = [
            f"{place}. image {index + 1}: {self.describe(index)}"
            for place, index in enumerate(self.order, start=1)
        ]
        return ("" if self.text is not None else note) + "\n".join(lines)


def rank(identity: Sequence[Tensor], text: Tensor | None) -> Ranking:
    """Rank images by identity x text: the harmonic mean of the two, each image by itself.

    Args:
        identity: of each evaluator, shape (B,), in [0, 1]; combined by their harmonic mean.
        text: shape (B,), in [0, 1]; None = only identity counts.

    Returns:
        The ranking. Images with equal scores (0, without a face) are ordered by the sum, then by number.
    """
    person = harmonic_mean(torch.stack(list(identity), dim=1))
    score = person if text is None else harmonic_mean(torch.stack([person, text], dim=1))
    total = person if text is None else person + text
    order = sorted(range(len(score)), key=lambda index: (-float(score[index]), -float(total[index])))
    return Ranking(order, score, person, text)


def draw_ranking(photos: Sequence[Photo], ranking: Ranking, keep: int) -> list[Photo]:
    """Write its place and scores on each image.

    Args:
        photos: B of shape (H, W, 3), uint8, RGB.
        ranking: of the photos.
        keep: how many are kept; their bars are green.

    Returns:
        B of the same shape, the best first.
    """
    return [
        draw_score(photos[index], f"{place}: {ranking.describe(index)}", place <= keep)
        for place, index in enumerate(ranking.order, start=1)
    ]


def draw_score(photo: Photo, label: str, chosen: bool) -> Photo:
    """Write an image's score on a bar at its top.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        label: the text; it is made to fit the width.
        chosen: the bar is green, else orange.

    Returns:
        shape (H, W, 3), uint8, RGB.
    """
    image, font, color = photo.copy(), cv2.FONT_HERSHEY_SIMPLEX, (40, 220, 90) if chosen else (255, 150, 30)
    (width, height), below = cv2.getTextSize(label, font, 1.0, 1)
    size = min(0.9 * photo.shape[1] / width, photo.shape[0] / 20 / height)
    bar = round((height + 2 * below) * size)
    cv2.rectangle(image, (0, 0), (photo.shape[1], bar), color, cv2.FILLED)
    cv2.putText(
        image,
        label,
        (round(0.05 * photo.shape[1]), bar - round(below * size)),
        font,
        size,
        (0, 0, 0),
        max(1, round(size)),
        cv2.LINE_AA,
    )
    return image
