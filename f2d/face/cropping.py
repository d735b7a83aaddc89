"""The face of a photo and all crops of it: one detection serves every network.

photo (H, W, 3) uint8, how it is aligned, and which face is wanted
  -> locate_face        LocatedFace: five landmarks (5, 2) px
  -> .align_face        (size, size, 3)   ArcFace's crop, for the identity encoder
  -> .align_expression  (224, 224, 3)     Deep3DFaceRecon's crop, for the expression network
  -> .align_ffhq        (size, size, 3)   FFHQ's crop, for the VAE
  -> .mirrored          the same face in the mirror image
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..image import Photo, mirror
from ..options import ALIGNMENTS, LARGEST_FACE, Alignment, FaceChoice
from .alignment import (
    ARCFACE_TEMPLATE,
    TEMPLATE_SIZE,
    align_expression,
    align_face,
    crop_aligned,
    expression_landmarks,
    mirror_landmarks,
    set_upright,
    square_side,
)
from .detection import (
    Detector,
    Face,
    NoFaceError,
    choose_face,
    face_from_landmarks,
    face_in_box,
    require_detector,
    sort_faces,
)
from .ffhq import align_ffhq, crop_ffhq, ffhq_landmarks, ffhq_transform, resize_ffhq
from .landmark_order import mend_order


@dataclass(frozen=True, eq=False)
class LocatedFace:
    """A photo, and where the face that was chosen lies in it; its methods cut the crops."""

    photo: Photo  # (H, W, 3)
    landmarks: np.ndarray  # (5, 2) float64, px
    expression_landmarks: np.ndarray  # (5, 2) float64, px; other eyes where the detector found 68 landmarks
    alignment: Alignment = "detect"
    faces: tuple[Face, ...] = ()  # all faces in the order of their indices; empty where none were looked for
    chosen: Face | None = None

    def align_face(self, size: int = TEMPLATE_SIZE) -> Photo:
        """Cut ArcFace's crop, shape (size, size, 3); raise a ValueError if the face is outside."""
        if self.alignment == "FFHQ":
            return crop_ffhq(self.photo, size)
        if self.alignment == "112 px":
            return crop_aligned(self.photo, size)
        return align_face(self.photo, self.landmarks, size)

    def align_expression(self) -> Photo:
        """Cut Deep3DFaceRecon's crop, shape (224, 224, 3); raise a ValueError if the face is outside.

        The crop keeps the face's roll, as the network expects, but a face that lies on its side or upside
        down is set upright first.
        """
        return align_expression(*set_upright(self.photo, self.expression_landmarks))

    def align_ffhq(self, size: int) -> Photo:
        """Cut FFHQ's crop, shape (size, size, 3); raise a ValueError if the face is outside."""
        if self.alignment == "FFHQ":
            return resize_ffhq(self.photo, size)
        return align_ffhq(self.photo, self.landmarks, size)

    def face_in_ffhq(self, size: int) -> Face:
        """Return the chosen face's position in its FFHQ crop, where it need not be detected again.

        Raises:
            ValueError: no face was chosen, because the image is already aligned.
        """
        if self.chosen is None:
            raise ValueError("No face was detected in this image, which is already aligned.")
        return self.chosen.moved(ffhq_transform(self.landmarks, size))

    def mirrored(self) -> LocatedFace:
        """Return the same face in the mirror image, with left and right swapped."""
        width = self.photo.shape[1]
        return LocatedFace(
            mirror(self.photo),
            mirror_landmarks(self.landmarks, width),
            mirror_landmarks(self.expression_landmarks, width),
            self.alignment,
        )


def detect_face(
    detector: Detector | None, photo: Photo, choice: FaceChoice = LARGEST_FACE
) -> tuple[list[Face], Face]:
    """Find the faces in a photo and choose one.

    Args:
        detector: what finds them.
        photo: shape (H, W, 3), uint8, RGB.
        choice: which one; its landmarks or faces are taken instead of a detection, landmarks in the right
            order where sides or coordinates were exchanged.

    Returns:
        All faces in order, and the chosen one.

    Raises:
        ValueError: there is no detector, no face (NoFaceError), or none with this index or in this box; or
            landmarks that make no sense.
    """
    if choice.landmarks is not None:
        face = face_from_landmarks(choice.landmarks)
        if face.landmarks68 is None:
            face = replace(face, landmarks=mend_order(face.landmarks))
        return [face], face
    if choice.faces is None:
        found = require_detector(detector).detect(photo, choice.min_score)
    elif choice.faces:
        found = list(choice.faces)
    else:
        raise NoFaceError(
            "The given landmarks have no face in this photo. Use one with a larger, frontal face."
        )
    faces = sort_faces(found, choice.order)
    return faces, choose_face(faces, choice.index) if choice.box is None else face_in_box(faces, choice.box)


def locate_face(
    detector: Detector | None,
    photo: Photo,
    alignment: Alignment = "detect",
    choice: FaceChoice = LARGEST_FACE,
) -> LocatedFace:
    """Locate the chosen face in a photo.

    Args:
        detector: what finds faces; not needed for given landmarks and aligned images.
        photo: shape (H, W, 3), uint8, RGB.
        alignment: "detect" looks for faces; in images aligned as "FFHQ" or "112 px" the face's place is
            known.
        choice: which face; its landmarks and faces count more than the alignment.

    Returns:
        The face, ready to be cut out.

    Raises:
        ValueError: no usable face, an image that is not square although aligned, or an unknown alignment.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(
            f"The alignment '{alignment}' does not exist. Choose one of {', '.join(ALIGNMENTS)}."
        )
    if alignment == "detect" or choice.landmarks is not None or choice.faces is not None:
        faces, chosen = detect_face(detector, photo, choice)
        landmarks = np.asarray(chosen.landmarks, np.float64)
        fine = landmarks if chosen.landmarks68 is None else expression_landmarks(chosen.landmarks68)
        return LocatedFace(photo, landmarks, np.asarray(fine, np.float64), "detect", tuple(faces), chosen)
    side = square_side(photo)
    landmarks = ffhq_landmarks(side) if alignment == "FFHQ" else ARCFACE_TEMPLATE * (side / TEMPLATE_SIZE)
    return LocatedFace(photo, landmarks, landmarks, alignment)
