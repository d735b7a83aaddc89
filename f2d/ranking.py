"""Best of N: how like the person and how true to the prompt each picture is, and which come first (Fig. 7).

pictures, faces   -> likeness         (B,) in [0, 1], for each judge of identity
embeddings        -> text_likeness    (B,) in [0, 1]
likenesses, text  -> rank             order and scores
                  -> draw_score       the scores on the pictures

Dimension letters: B pictures, C width of CLIP's joint space, T width of its text encoder, M scores of one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .face.detection import Face
from .image import Photo


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
    """Return scores of shape (..., M) as they are; a ValueError tells where there is none, or one is negative or NaN."""
    if not scores.shape[-1] or not (scores >= 0).all():
        got = f"{scores.min():g}" if scores.numel() else "none"
        raise ValueError(f"Expected scores of 0 and more, got {got}. Clip cosines at 0 first.")
    return scores


def harmonic_mean(scores: Tensor) -> Tensor:
    """Compute the harmonic mean of each picture's scores, hMean; 0 where one of them is 0.

    Args:
        scores: shape (..., M), not negative.

    Returns:
        shape (...).

    Raises:
        ValueError: a negative score, or none at all.
    """
    return check_scores(scores).reciprocal().mean(-1).reciprocal()


def likeness(
    photos: Sequence[Photo],
    faces: Sequence[Sequence[Face]],
    crop: Callable[[Photo, Face], Photo],
    embed: Callable[[list[Photo]], Tensor],
    reference: Tensor,
) -> Tensor:
    """Compare the faces in each picture with a person.

    Args:
        photos: B of shape (H, W, 3), uint8, RGB.
        faces: those in each photo.
        crop: cuts a face out.
        embed: gives the features of crops, shape (N, F).
        reference: shape (F,), the person's features.

    Returns:
        shape (B,), in [0, 1]: the cosine of the face that is most like the person; 0 without a face.
    """
    crops = [crop(photo, face) for photo, found in zip(photos, faces, strict=True) for face in found]
    scores = torch.zeros(len(photos))
    if crops:
        cosines = positive_cosine(embed(crops), reference).split([len(found) for found in faces])
        for index, values in enumerate(cosines):
            scores[index] = values.max() if len(values) else 0
    return scores


def text_likeness(images: Tensor, text: Tensor, projection: Tensor) -> Tensor:
    """Compare pictures with a prompt in CLIP's joint space.

    Args:
        images: shape (B, C), the picture encoder's projected output.
        text: shape (1, T), the text encoder's pooled output before its projection.
        projection: shape (C, T), of `diffusion.clip_weights.read_text_projection`.

    Returns:
        shape (B,), in [0, 1].

    Raises:
        ValueError: the three do not belong to one CLIP.
    """
    if text.ndim != 2 or text.shape[1] != projection.shape[1]:
        raise ValueError(
            f"Expected a CLIP whose text encoder is {projection.shape[1]} wide, as the text projection takes it, got shape {tuple(text.shape)}. "
            "Use the CLIP of an SD 1.x checkpoint with the text projection of CLIP ViT-L/14."
        )
    if images.ndim != 2 or images.shape[1] != projection.shape[0]:
        raise ValueError(
            f"Expected a CLIP Vision with a joint space {projection.shape[0]} wide, as the text projection's, got shape {tuple(images.shape)}. "
            "Load the vision encoder of the same CLIP: ViT-L/14 for SD 1.x."
        )
    return positive_cosine(images.float(), text.float() @ projection.T)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Pictures with their scores."""

    order: list[int]  # numbers of the pictures from 0, the best first
    score: Tensor  # (B,) identity x text
    identity: Tensor  # (B,)
    text: Tensor | None  # (B,); None where only identity counts

    def describe(self, index: int) -> str:
        """Give one picture's scores in words."""
        identity = f"identity {self.identity[index]:.3f}"
        return (
            identity
            if self.text is None
            else f"{self.score[index]:.3f} = {identity} x text {self.text[index]:.3f}"
        )

    def __str__(self) -> str:
        """One line a picture, the best first."""
        note = (
            ""
            if self.text is not None
            else "By identity alone: no CLIP Vision, CLIP and text projection to judge the text.\n"
        )
        return note + "\n".join(
            f"{place}. picture {index + 1}: {self.describe(index)}"
            for place, index in enumerate(self.order, start=1)
        )


def rank(identity: Sequence[Tensor], text: Tensor | None) -> Ranking:
    """Rank pictures by identity x text: the harmonic mean of the two, each picture by itself.

    Args:
        identity: of each judge, shape (B,), in [0, 1]; several judges are put together by their harmonic mean.
        text: shape (B,), in [0, 1]; None = only identity counts.

    Returns:
        The ranking. Pictures with equal scores (0, without a face) follow each other by the sum, then as they came.
    """
    person = harmonic_mean(torch.stack(list(identity), dim=1))
    score = person if text is None else harmonic_mean(torch.stack([person, text], dim=1))
    total = person if text is None else person + text
    order = sorted(range(len(score)), key=lambda index: (-float(score[index]), -float(total[index])))
    return Ranking(order, score, person, text)


def draw_score(photo: Photo, label: str, chosen: bool) -> Photo:
    """Write a picture's score on a bar at its top.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        label: the text; it is made to fit the width.
        chosen: the bar is green, else orange.

    Returns:
        shape (H, W, 3), uint8, RGB.
    """
    picture, font, color = photo.copy(), cv2.FONT_HERSHEY_SIMPLEX, (40, 220, 90) if chosen else (255, 150, 30)
    (width, height), below = cv2.getTextSize(label, font, 1.0, 1)
    size = min(0.9 * photo.shape[1] / width, photo.shape[0] / 20 / height)
    bar = round((height + 2 * below) * size)
    cv2.rectangle(picture, (0, 0), (photo.shape[1], bar), color, cv2.FILLED)
    cv2.putText(
        picture,
        label,
        (round(0.05 * photo.shape[1]), bar - round(below * size)),
        font,
        size,
        (0, 0, 0),
        max(1, round(size)),
        cv2.LINE_AA,
    )
    return picture
