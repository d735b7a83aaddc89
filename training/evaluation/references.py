"""The input faces x: drawn from a folder of photos or videos, and cut as FFHQ is (Sec. 4.2).

The paper takes one frame of each of 100 FaceForensics++ videos, and does not say which; here it is the middle one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...f2d.face.cropping import locate_face
from ...f2d.face.detection import Detector, Face, find_faces, load_detector
from ...f2d.image import Photo, load_photo, save_png
from ...f2d.options import FaceChoice
from ..config import EvaluateConfig
from ..data.face_datasets import PICTURES
from .protocol import RECORD

_FACE = "face"  # entry of a crop: where the face lies in it
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class References:
    """The identities of an evaluation."""

    crops: dict[str, str]  # file of each identity's FFHQ crop
    hashes: dict[str, str]  # SHA-256 of its pixels
    faces: dict[str, Face] = field(
        default_factory=dict
    )  # where the detector found the face, in the crop's px
    skipped: dict[str, str] = field(default_factory=dict)  # files without a usable face, and why


def list_faces(folder: str | os.PathLike, count: int = 0, seed: int = 0) -> dict[str, Path]:
    """Choose the identities: one for each photo or video.

    Args:
        folder: of photos, or of videos; subfolders count.
        count: at most so many, drawn at random; 0 = all.
        seed: of the draw.

    Returns:
        File by identity, which is the file's stem; sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing usable is in it, or two files have one stem.
    """
    folder = Path(folder)
    if not os.fspath(folder) or not folder.is_dir():
        raise FileNotFoundError(
            f"Expected --faces with a folder of photos or videos, got '{folder}', which is no folder. Check the path."
        )
    found = sorted(
        Path(where) / name
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if _is_face(name)
    )
    if not found:
        raise ValueError(f"Expected photos or videos in '{folder}', got none. Name the folder that has them.")
    faces: dict[str, Path] = {}
    for path in found:
        if path.stem in faces:
            raise ValueError(
                f"Expected one file for each identity, got '{faces[path.stem]}' and '{path}'. Rename one of them."
            )
        faces[path.stem] = path
    names = sorted(faces)
    if 0 < count < len(names):
        names = sorted(names[place] for place in np.random.default_rng(seed).permutation(len(names))[:count])
    return {name: faces[name] for name in names}


def _is_face(name: str) -> bool:
    return name.lower().endswith((*PICTURES, *VIDEOS)) and not name.startswith(".")


def read_face(path: Path, frame: float = 0.5) -> Photo:
    """Read a photo, or one frame of a video.

    Args:
        path: of the file.
        frame: which, as a share of a video's frames, in [0, 1]: 0.5 is the middle one.

    Returns:
        shape (H, W, 3), uint8, RGB.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.name.lower().endswith(VIDEOS):
        return load_photo(path)
    video = cv2.VideoCapture(str(path))
    try:
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = min(int(count * frame), count - 1)
        for _ in range(max(wanted, 0)):  # seeking lands on key frames only
            video.grab()
        good, picture = video.read()
    finally:
        video.release()
    if not good:
        raise ValueError(
            f"Expected a video with frame {max(wanted, 0)} of {max(count, 0)}, got '{path}', which breaks off or is damaged. Get it again."
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def prepare_references(
    config: EvaluateConfig, out: str | os.PathLike, log: Callable[[str], None] = print
) -> References:
    """Cut all faces; crops that are already there from the same files stay.

    Args:
        config: of the evaluation.
        out: folder for the crops, `<identity>.png`; unused where the faces are FFHQ crops already.
        log: called with each progress message.

    Returns:
        The identities with a usable face.

    Raises:
        FileNotFoundError: there is no folder of faces, or no detector file.
        ValueError: no usable face at all, or no detector.
        OSError: a crop cannot be written.
    """
    chosen = list_faces(config.faces, config.identities, config.seed)
    crops: dict[str, str] = {}
    hashes: dict[str, str] = {}
    faces: dict[str, Face] = {}
    skipped: dict[str, str] = {}
    detector = _load_detector(config)
    for identity, path in chosen.items():
        try:
            crop = path if config.aligned else Path(out) / f"{identity}.png"
            read = _read_aligned if config.aligned else _cut
            picture, face = read(path, crop, detector, config)
        except ValueError as error:  # also of NoFaceError
            skipped[identity] = str(error)
        else:
            crops[identity], hashes[identity] = str(crop), hashlib.sha256(picture.tobytes()).hexdigest()
            if face is not None:
                faces[identity] = face
    if not crops:
        identity, why = next(iter(skipped.items()))
        raise ValueError(
            f"Expected faces in '{config.faces}', got none that can be used of {len(skipped)} (the first: {identity}: {why})"
        )
    where = "" if config.aligned else f"; FFHQ crops -> {out}"
    log(f"Faces: {len(crops)} of {len(chosen)}{where}")
    for identity, why in skipped.items():
        log(f"Left out {identity}: {why}")
    return References(crops, hashes, faces, skipped)


def _load_detector(config: EvaluateConfig) -> Detector | None:
    if not config.detector:
        if config.aligned:
            return None
        raise ValueError(
            "Expected --detector with a YuNet .onnx file, got none. Name it, or say --aligned where the faces are FFHQ crops."
        )
    return load_detector(config.detector, config.device or "cpu")


def _read_aligned(
    path: Path, crop: Path, detector: Detector | None, config: EvaluateConfig
) -> tuple[Photo, Face | None]:
    """Read an FFHQ crop and look for the face in it; what needs the face tells where there is none."""
    if path.name.lower().endswith(VIDEOS):
        raise ValueError(f"Expected an FFHQ crop, got the video '{path}'. Leave --aligned out.")
    picture = load_photo(path)
    if picture.shape[0] != picture.shape[1]:
        raise ValueError(
            f"Expected an FFHQ crop, which is square, got '{path}' with {picture.shape[1]}x{picture.shape[0]} px. Leave --aligned out."
        )
    found = find_faces(detector, picture, config.min_score)[:1] if detector is not None else []
    return picture, (found[0] if found else None)


def _cut(
    path: Path, crop: Path, detector: Detector | None, config: EvaluateConfig
) -> tuple[Photo, Face | None]:
    """Find the face in a photo, once, and write its FFHQ crop with the face's place in it."""
    record = json.dumps(
        {
            "source": hashlib.sha256(path.read_bytes()).hexdigest(),
            "frame": config.frame if path.name.lower().endswith(VIDEOS) else None,
            "size": config.face_size,
            "detector": Path(config.detector).name,
            "min_score": config.min_score,
        }
    )
    if (done := _read_crop(crop, record)) is not None:
        return done
    photo = read_face(path, config.frame)
    located = locate_face(detector, photo, choice=FaceChoice(min_score=config.min_score))
    picture, face = located.align_ffhq(config.face_size), located.face_in_ffhq(config.face_size)
    save_png(crop, picture, {RECORD: record, _FACE: face.to_json()})
    return picture, face


def _read_crop(crop: Path, record: str) -> tuple[Photo, Face] | None:
    """Read a crop that is whole and was made from the same file in the same way."""
    try:
        with Image.open(crop) as image:
            image.load()
            text = getattr(image, "text", {})
            if text.get(RECORD) != record:
                return None
            return np.asarray(image.convert("RGB")), Face.from_json(text[_FACE])
    except Exception:  # missing, or damaged in any way: it is made anew
        return None
