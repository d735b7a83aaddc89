"""Made-up people: small pictures with a pattern each, in every layout that MSID training reads."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import cv2
import numpy as np

MAGIC = struct.pack("<I", 0xCED7230A)


def draw(identity: int, photo: int, size: int = 16) -> np.ndarray:
    """One photo of a person, (size, size, 3) uint8.

    A coarse pattern of theirs in changing light, with noise.
    """
    pattern = np.random.default_rng(1000 + identity).uniform(-1, 1, (4, 4, 3)).astype(np.float32)
    chance = np.random.default_rng([identity, photo])
    light = chance.uniform(0.5, 1.2) * cv2.resize(pattern, (size, size)) + chance.normal(0, 0.3, (1, 1, 3))
    return np.uint8(np.clip(127 + 90 * (light + chance.normal(0, 0.25, (size, size, 3))), 0, 255))


def encode(picture: np.ndarray, ending: str = ".png") -> bytes:
    return cv2.imencode(ending, picture[:, :, ::-1])[1].tobytes()


def write_folders(
    folder: Path, identities: int = 6, photos: int = 8, size: int = 16, first_photo: int = 0
) -> Path:
    for identity in range(identities):
        (folder / f"person-{identity:03d}").mkdir(parents=True)
        for photo in range(first_photo, first_photo + photos):
            (folder / f"person-{identity:03d}" / f"{photo}.png").write_bytes(
                encode(draw(identity, photo, size))
            )
    return folder


def pack_record(data: bytes) -> bytes:
    """A record as mxnet writes it: split where the magic number stands at a multiple of 4 bytes."""
    parts, start = [], 0
    for place in range(0, len(data) - len(data) % 4, 4):
        if data[place : place + 4] == MAGIC:
            parts.append(data[start:place])
            start = place + 4
    parts.append(data[start:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def write_records(
    folder: Path, faces: list[tuple[bytes, int]], about: bool = True, listed: bool = False
) -> Path:
    """train.rec and train.idx.

    Args:
        folder: is made.
        faces: encoded picture and label of each.
        about: with record 0 that tells which keys are pictures, and the records about identities after the
            pictures.
        listed: labels in an array after the head, instead of in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        struct.pack("<IfQQ", 2, 0, key, 0) + struct.pack("<2f", label, 0) + data
        if listed
        else struct.pack("<IfQQ", 0, label, key, 0) + data
        for key, (data, label) in enumerate(faces, start=int(about))
    ]
    if about:
        labels = sorted({label for _, label in faces})
        end = len(faces) + 1
        records.insert(0, struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<2f", end, end + len(labels)))
        records += [
            struct.pack("<IfQQ", 2, 0, end + i, 0) + struct.pack("<2f", 1, end) for i in range(len(labels))
        ]
    offset, lines = 0, []
    with open(folder / "train.rec", "wb") as file:
        for key, record in enumerate(records):
            lines.append(f"{key}\t{offset}\n")
            offset += file.write(pack_record(record))
    (folder / "train.idx").write_text("".join(lines))
    return folder


def write_shard(path: Path, faces: list[tuple[bytes, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, (data, label) in enumerate(faces):
            for ending, content in (("png", data), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{path.stem}-{key:06d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path
