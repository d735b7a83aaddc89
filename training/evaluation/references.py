"""The input faces x: sampled from a folder of photos or videos and cropped like FFHQ (Sec. 4.2).

The paper takes an unspecified frame of each of 100 FaceForensics++ videos; here it is the middle one.
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
from ...f2d.files import hash_file
from ...f2d.image import PHOTO_SUFFIXES, Photo, load_photo, save_png
from ...f2d.options import FaceChoice
from ..config import EvaluateConfig
from ..data.photo_files import log_passed_over, split_files
from .protocol import RECORD

_FACE = "face"  # PNG text entry of a crop: the face in it
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class References:
    """The identities of an evaluation."""

    crops: dict[str, str]  # file of each identity's FFHQ crop
    hashes: dict[str, str]  # SHA-256 of its pixels
    faces: dict[str, Face] = field(default_factory=dict)  # detected ones, in px of the crop
    skipped: dict[str, str] = field(default_factory=dict)  # files without a usable face, and why


def list_faces(folder: str | os.PathLike, count: int = 0, seed: int = 0) -> dict[str, Path]:
    """Choose the identities, one per photo or video.

    Args:
        folder: of photos or videos, including subfolders.
        count: maximum, sampled at random; 0 = all.
        seed: of the sampling.

    Returns:
        Sorted files by identity, which is the file's stem.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: the folder holds no photo or video, or two files have the same stem.
    """
    folder = Path(folder)
    if not os.fspath(folder) or not folder.is_dir():
        raise FileNotFoundError(
            f"--faces '{folder}' is not a folder. Set it to a folder of photos or videos."
        )
    names, _ = split_files(folder, (*PHOTO_SUFFIXES, *VIDEOS))
    paths = [folder / name for name in names]
    if not paths:
        raise ValueError(f"--faces '{folder}' holds no photos or videos. Choose another folder.")
    faces: dict[str, Path] = {}
    for path in paths:
        if path.stem in faces:
            raise ValueError(f"'{faces[path.stem]}' and '{path}' would be one identity. Rename one of them.")
        faces[path.stem] = path
    names = sorted(faces)
    if 0 < count < len(names):
        names = sorted(names[place] for place in np.random.default_rng(seed).permutation(len(names))[:count])
    return {name: faces[name] for name in names}


def read_face(path: Path, frame: float = 0.5) -> Photo:
    """Read a photo, or one frame of a video.

    Args:
        path: of the file.
        frame: as a share of a video's frames, in [0, 1]; 0.5 is the middle one.

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
        index = max(min(int(count * frame), count - 1), 0)
        for _ in range(index):  # seeking lands on key frames only
            video.grab()
        read, image = video.read()
    finally:
        video.release()
    if not read:
        raise ValueError(
            f"Frame {index} of {max(count, 0)} of the video '{path}' cannot be read. Download the video "
            "again."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def prepare_references(
    config: EvaluateConfig, out: str | os.PathLike, log: Callable[[str], None] = print
) -> References:
    """Crop all faces; existing crops of the same files are kept.

    Args:
        config: of the evaluation.
        out: folder for the crops, `<identity>.png`; unused if the faces are FFHQ crops already.
        log: called with each progress message.

    Returns:
        The identities with a usable face.

    Raises:
        FileNotFoundError: the folder of faces or the detector's file is missing.
        ValueError: no face is usable, or no detector is given.
        OSError: a crop cannot be written.
    """
    chosen = list_faces(config.faces, config.identities, config.seed)
    log_passed_over(log, split_files(config.faces, (*PHOTO_SUFFIXES, *VIDEOS))[1])
    crops: dict[str, str] = {}
    hashes: dict[str, str] = {}
    faces: dict[str, Face] = {}
    skipped: dict[str, str] = {}
    detector = _load_detector(config)
    for identity, path in chosen.items():
        try:
            crop = path if config.aligned else Path(out) / f"{identity}.png"
            read = _read_aligned if config.aligned else _crop
            image, face = read(path, crop, detector, config)
        except ValueError as error:  # also of NoFaceError
            skipped[identity] = str(error)
        else:
            crops[identity], hashes[identity] = str(crop), hashlib.sha256(image.tobytes()).hexdigest()
            if face is not None:
                faces[identity] = face
    if not crops:
        identity, why = next(iter(skipped.items()))
        raise ValueError(
            f"None of the {len(skipped)} files in '{config.faces}' has a usable face (first: {identity}: "
            f"{why})"
        )
    where = "" if config.aligned else f"; FFHQ crops -> {out}"
    log(f"Faces: {len(crops)} of {len(chosen)}{where}")
    for identity, why in skipped.items():
        log(f"Skipped {identity}: {why}")
    return References(crops, hashes, faces, skipped)


def _load_detector(config: EvaluateConfig) -> Detector | None:
    if not config.detector:
        if config.aligned:
            return None
        raise ValueError(
            "Cropping faces needs --detector. Set it to a YuNet .onnx file, or pass --aligned if the faces "
            "are FFHQ crops."
        )
    return load_detector(config.detector, config.device or "cpu")


def _read_aligned(
    path: Path, crop: Path, detector: Detector | None, config: EvaluateConfig
) -> tuple[Photo, Face | None]:
    """Read an FFHQ crop and detect the face in it; None if there is no face or no detector."""
    if path.name.lower().endswith(VIDEOS):
        raise ValueError(f"'{path}' is a video, not an FFHQ crop. Omit --aligned.")
    image = load_photo(path)
    if image.shape[0] != image.shape[1]:
        raise ValueError(
            f"'{path}' has {image.shape[1]}x{image.shape[0]} px, but FFHQ crops are square. Omit --aligned."
        )
    found = find_faces(detector, image, config.min_score)[:1] if detector is not None else []
    return image, (found[0] if found else None)


def _crop(
    path: Path, crop: Path, detector: Detector | None, config: EvaluateConfig
) -> tuple[Photo, Face | None]:
    """Detect the face in a photo and write its FFHQ crop, with the face's landmarks as PNG text."""
    record = json.dumps(
        {
            "source": hash_file(path),
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
    image, face = located.align_ffhq(config.face_size), located.face_in_ffhq(config.face_size)
    save_png(crop, image, {RECORD: record, _FACE: face.to_json()})
    return image, face


def _read_crop(crop: Path, record: str) -> tuple[Photo, Face] | None:
    """Read a crop that is whole and was made from the same file in the same way."""
    try:
        with Image.open(crop) as image:
            image.load()
            text = getattr(image, "text", {})
            if text.get(RECORD) != record:
                return None
            return np.asarray(image.convert("RGB")), Face.from_json(text[_FACE])
    except Exception:  # missing, or damaged in any way: it is made again
        return None
