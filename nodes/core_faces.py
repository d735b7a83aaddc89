"""Faces that ComfyUI's own nodes found: BOUNDING_BOX chooses one, FACE_LANDMARKS replaces detection."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy_api.latest import io

from ..f2d.options import FaceChoice

if TYPE_CHECKING:
    from ..f2d.face.face import Face

_MESH = 468  # landmarks of MediaPipe's face mesh; those of the irises may follow


def found_face_inputs(which: str) -> list[Any]:
    """Declare the inputs for what core's nodes found where this ComfyUI has their types; 0.3.64 does not.

    Args:
        which: what several boxes mean for the node, for the tooltip.
    """
    inputs: list[Any] = []
    if hasattr(io, "BoundingBox"):
        tooltip = f"Box around the face or the person. {which}"
        inputs.append(io.BoundingBox.Input("box", optional=True, force_input=True, tooltip=tooltip))
    if find_spec("comfy_extras.nodes_mediapipe"):
        tooltip = (
            "From Detect Face Landmarks (MediaPipe) on the same images. Replaces the encoder's detector."
        )
        inputs.append(io.Custom("FACE_LANDMARKS").Input("face_landmarks", optional=True, tooltip=tooltip))
    return inputs


def choose_found(
    choice: FaceChoice, images: torch.Tensor, number: int, box: Any = None, face_landmarks: Any = None
) -> FaceChoice:
    """Add what core's nodes found in one of the photos to the choice of a face.

    Args:
        choice: from the node's widgets; with a box its order and index choose among the boxes.
        images: the photos, shape (B, H, W, C).
        number: of the photo.
        box: a BOUNDING_BOX: a box, the boxes of an image, or those of each image; None = not connected.
        face_landmarks: FACE_LANDMARKS of the photos; None = not connected.

    Returns:
        The choice for this photo.

    Raises:
        NoFaceError: there is no box for this photo.
        ValueError: boxes or landmarks of other photos, or in another layout.
    """
    if box is not None:
        boxes = _of_photo(_split_boxes(box), len(images), number, "box")
        choice = dataclasses.replace(choice, box=_choose_box(boxes, choice))
    if face_landmarks is not None:
        choice = dataclasses.replace(choice, faces=_read_faces(face_landmarks, images, number))
    return choice


def _split_boxes(value: Any) -> Any:
    if isinstance(value, dict):
        return [[value]]
    return [value] if isinstance(value, list) and value and isinstance(value[0], dict) else value


def _of_photo(frames: Any, photos: int, number: int, name: str) -> Any:
    """Select a photo's entry; a single entry serves all photos."""
    count = len(frames) if isinstance(frames, list) else 0
    if count not in (1, photos):
        raise ValueError(
            f"'{name}' is of {count} image(s), but 'image' has {photos}. Connect the same images to both."
        )
    return frames[number if count > 1 else 0]


def _choose_box(boxes: list[dict[str, Any]], choice: FaceChoice) -> np.ndarray:
    """Choose one of a photo's boxes by order and index, (4,) px."""
    from ..f2d.face.detection import Face, NoFaceError, choose_face, sort_faces

    if not boxes:
        raise NoFaceError("'box' has no box for this photo. Use a photo in which its node finds a face.")
    try:
        sides = [[float(box[key]) for key in ("x", "y", "width", "height")] for box in boxes]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"'box' has an entry without x, y, width and height ({error!r}). Connect a BOUNDING_BOX."
        ) from error
    frames = [Face(np.array(box), np.zeros((5, 2)), score=1.0) for box in sides]
    return choose_face(sort_faces(frames, choice.order), choice.index).box


def _read_faces(value: Any, images: torch.Tensor, number: int) -> list[Face]:
    """Read a photo's faces from FACE_LANDMARKS, whose faces have landmarks_xy (N, 2) and bbox_xyxy (4,)."""
    try:
        frames, size = value["frames"], tuple(value["image_size"])
        faces = [_read_face(face) for face in _of_photo(frames, len(images), number, "face_landmarks")]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"'face_landmarks' are not those of a MediaPipe face mesh ({error!r}). "
            "Connect Detect Face Landmarks (MediaPipe)."
        ) from error
    if size != tuple(images.shape[1:3]):
        raise ValueError(
            f"'face_landmarks' are of an image of {size[1]}x{size[0]} px, but 'image' has "
            f"{images.shape[2]}x{images.shape[1]}. Connect the same images to both."
        )
    return faces


def _read_face(face: dict[str, Any]) -> Face:
    from ..f2d.face.alignment import mesh_landmarks
    from ..f2d.face.detection import face_from_landmarks

    points, corners = np.asarray(face["landmarks_xy"], float), np.asarray(face["bbox_xyxy"], float)
    if points.ndim != 2 or len(points) < _MESH:
        raise IndexError(f"{len(points)} landmarks instead of {_MESH} or more")
    found = face_from_landmarks(mesh_landmarks(points), score=float(face["score"]))
    return dataclasses.replace(found, box=np.concatenate([corners[:2], corners[2:] - corners[:2]]))
