"""Aligned faces with identities, to pre-train MSID: insightface RecordIO, class folders or WebDataset.

    folder/train.rec + train.idx       RecordIO, as MS1M is given out; read without mxnet
    folder/<name>/<any>.jpg            class folders; classes are the names in alphabetical order
    folder/*.tar  or one .tar          WebDataset: <key>.jpg (or .png, ...) with <key>.cls

A record file is a row of parts, each padded to 4 bytes: magic (uint32), kind and length (uint32: 3 and 29
bits), payload. Kind 0 is a whole record; 1, 2 and 3 are the start, middle and end of one that held the magic
number, which belongs between its parts. A record is a head of 24 bytes (flag, label, id, id2), `flag` more
labels, and a JPEG. Record 0 tells which keys are images. A record that cannot be read keeps its number.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import struct
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..engine.seeds import derive_seed
from .label_index import read_labels_once

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAGIC = 0xCED7230A
_HEAD = struct.Struct("<IfQQ")  # flag, label, id, id2
_PART = struct.Struct("<II")  # magic, kind << 29 | length
_LENGTH = (1 << 29) - 1
_CHUNK = 1 << 20  # records whose labels are read at once
_TAR_END = 1024  # bytes of zeros after the last member
_COMPARED = 64  # faces whose files go into a fingerprint
_TRIES = 64  # damaged faces in a row after which something else is wrong
_DAMAGED = -np.inf  # in place of the label of a damaged record
_UNKNOWN = -1  # its identity
_LISTED = 5  # damaged records that are named in the log
_ORDER, _FLIP = range(100, 102)  # what a seed is for


class FaceSet(ABC):
    """Faces by index, each with the number of its identity."""

    labels: np.ndarray  # (N,) int64, in [0, K); -1 where a damaged record hides it
    classes: list[str]  # K names

    def __init__(self, path: str | os.PathLike) -> None:
        """Keep the path.

        Args:
            path: for messages.
        """
        self.path = os.fspath(path)

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.labels)

    @abstractmethod
    def encoded(self, index: int) -> tuple[bytes, str]:
        """Read a face's file, and the name of the place where it lies, for messages."""

    def fingerprint(self) -> str:
        """Hash labels, names of identities, and the files of faces spread over the set: SHA-256, hexadecimal.

        It does not depend on where the faces lie.
        """
        digest = hashlib.sha256("\0".join(self.classes).encode())
        digest.update(self.labels.tobytes())
        for index in np.linspace(0, len(self) - 1, min(_COMPARED, len(self))).astype(int):
            with contextlib.suppress(ValueError, OSError):  # a damaged face is skipped in training
                digest.update(hashlib.sha256(self.encoded(int(index))[0]).digest())
        return digest.hexdigest()

    def load(self, index: int, size: int) -> np.ndarray:
        """Read and decode a face.

        Args:
            index: in [0, N).
            size: side, px; other square images are scaled.

        Returns:
            shape (size, size, 3), uint8, RGB.

        Raises:
            ValueError: not an image, or not a square one.
        """
        data, place = self.encoded(index)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            raise ValueError(f"The {len(data)} bytes at {place} are not an image. Get the face again.")
        if image.shape[0] != image.shape[1]:
            raise ValueError(
                f"The face at {place} has {image.shape[1]}x{image.shape[0]} px, which is not square. "
                "Align the faces to 112x112 px first."
            )
        if len(image) != size:
            image = cv2.resize(
                image,
                (size, size),
                interpolation=cv2.INTER_AREA if len(image) > size else cv2.INTER_LINEAR,
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _number(self, found: np.ndarray, remap: bool) -> None:
        """Check labels as they stand in a file, and set `labels` and `classes`."""
        damaged = found == _DAMAGED
        labels = found[~damaged]
        if not np.isfinite(labels).all() or (labels != np.floor(labels)).any() or labels.min(initial=0) < 0:
            raise ValueError(
                f"'{self.path}' has labels that are negative, fractions or not finite. "
                "They must be 0, 1, 2, ... Get the data again."
            )
        used, labels = np.unique(labels.astype(np.int64), return_inverse=True)
        missing = int(used[-1]) + 1 - len(used) if len(used) else 0
        if missing and not remap and missing <= damaged.sum():  # their faces are the damaged ones
            used, labels = np.arange(len(used) + missing), used[labels]
        elif missing and not remap:
            first = int(np.flatnonzero(np.append(used, -1) != np.arange(len(used) + 1))[0])
            raise ValueError(
                f"{missing} of the labels 0 to {used[-1]} in '{self.path}' have no face (the first is "
                f"{first}). "
                "Add the missing part of the data, or use --remap-labels to renumber the others."
            )
        elif missing:
            logger.warning("Renumbered %d labels of '%s': %d had no face.", len(used), self.path, missing)
        self.labels = np.full(len(found), _UNKNOWN, np.int64)
        self.labels[~damaged] = labels.reshape(-1)
        self.classes = [str(label) for label in used]

    def _check(self) -> None:
        if not len(self.labels):
            raise ValueError(
                f"There are no faces in '{self.path}'. Name a folder with train.rec, class folders or .tar "
                "shards."
            )
        if len(self.classes) < 2:
            raise ValueError(
                f"'{self.path}' has only the identity '{''.join(self.classes)}'. "
                "Add faces of others: MSID learns to tell many people apart."
            )


class ClassFolders(FaceSet):
    """A folder with a folder of images for each identity."""

    def __init__(self, path: str | os.PathLike) -> None:
        """List the images.

        Args:
            path: the folder of folders.

        Raises:
            ValueError: no images, or one identity only.
        """
        super().__init__(path)
        self.files: list[str] = []
        self.classes, labels = [], []
        for folder in sorted(entry.path for entry in os.scandir(self.path) if entry.is_dir()):
            files = sorted(
                entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES)
            )
            if files:
                labels += [len(self.classes)] * len(files)
                self.classes.append(os.path.basename(folder))
                self.files += files
        self.labels = np.array(labels, np.int64)
        self._check()

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Read a face's file."""
        file = self.files[index]
        return Path(file).read_bytes(), f"'{file}'"


class RecordFile(FaceSet):
    """insightface's train.rec with train.idx."""

    def __init__(self, path: str | os.PathLike, remap: bool = False) -> None:
        """Read the index and all labels.

        Args:
            path: train.rec; train.idx lies beside it.
            remap: renumber the labels if some have no face.

        Raises:
            FileNotFoundError: there is no train.idx.
            ValueError: a truncated file, more than half of the records damaged, labels with gaps, or one
                identity only.
        """
        super().__init__(path)
        self._map: mmap.mmap | None = None
        index_file = Path(path).with_suffix(".idx")
        if not index_file.exists():
            raise FileNotFoundError(f"There is no '{index_file}' beside train.rec. Get the data again.")
        words = index_file.read_text(encoding="ascii", errors="replace").split()
        try:
            table = np.array(words, np.int64).reshape(-1, 2)
        except ValueError as error:
            raise ValueError(
                f"'{index_file}' does not have two numbers per line. Get the data again."
            ) from error
        if not len(table):
            raise ValueError(f"'{index_file}' lists no records. Get the data again.")
        table = table[np.argsort(table[:, 0], kind="stable")]
        beyond = table[:, 1] + _PART.size + _HEAD.size > os.path.getsize(path)
        if beyond.any():
            raise ValueError(
                f"'{path}' ends before {int(beyond.sum())} of its {len(table)} records. Get it again."
            )
        keys, self.offsets = table[:, 0], table[:, 1]
        self._keep_images(keys)
        labels = read_labels_once(Path(path), self._read_labels)
        self._report_damaged(np.flatnonzero(labels == _DAMAGED))
        self._number(labels, remap)
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def _keep_images(self, keys: np.ndarray) -> None:
        """Keep the offsets of images; the first record may be about the others and name their keys."""
        try:
            first = self._record(int(self.offsets[0]))
            flag = _HEAD.unpack_from(first)[0]
        except (ValueError, struct.error):
            images = np.array([self._may_be_image(int(offset)) for offset in self.offsets])
            if not images.all():  # the others are about identities, so the first one was about all of them
                self.offsets = self.offsets[1:][images[1:]]
            return
        if flag > 0 and len(first) == _HEAD.size + 4 * flag:  # no image in it: 1 to label - 1 are images
            end = int(struct.unpack_from("<f", first, _HEAD.size)[0])
            self.offsets = self.offsets[(keys >= 1) & (keys < end)]

    def _may_be_image(self, offset: int) -> bool:
        """Return whether a record has something after its labels, or is damaged."""
        try:
            record = self._record(offset)
            return len(record) != _HEAD.size + 4 * _HEAD.unpack_from(record)[0]
        except (ValueError, struct.error):
            return True

    def _report_damaged(self, numbers: np.ndarray) -> None:
        """Log the records that cannot be read; raise a ValueError if they are more than half."""
        if not len(numbers):
            return
        listed = ", ".join(map(str, numbers[:_LISTED])) + (", ..." if len(numbers) > _LISTED else "")
        found = f"{len(numbers)} of {len(self.offsets)} records of '{self.path}' are damaged ({listed})"
        if 2 * len(numbers) > len(self.offsets):
            raise ValueError(f"{found}. Get train.rec and train.idx again.")
        logger.warning("%s. They are skipped; all other faces keep their numbers.", found)

    @property
    def _bytes(self) -> mmap.mmap:
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def _record(self, offset: int) -> bytes:
        """Read a record, whose parts are joined by the magic number that split them."""
        parts: list[bytes] = []
        data, start = self._bytes, offset
        while True:
            if offset + _PART.size > len(data):
                raise ValueError(
                    f"'{self.path}' ends within the record at byte {start}. Get train.rec again."
                )
            magic, kind = _PART.unpack_from(data, offset)
            length, kind = kind & _LENGTH, kind >> 29
            if magic != MAGIC or kind not in ((0, 1) if not parts else (2, 3)):
                raise ValueError(
                    f"There is no record at byte {start} of '{self.path}'. Get train.rec and train.idx again."
                )
            offset += _PART.size
            if offset + length > len(data):
                raise ValueError(
                    f"'{self.path}' ends within the record at byte {start}. Get train.rec again."
                )
            parts.append(data[offset : offset + length])
            if kind in (0, 3):
                return _PART.pack(MAGIC, 0)[:4].join(parts)
            offset += -(-length // 4) * 4

    def _read_labels(self) -> np.ndarray:
        """Read the label of each record, (N,), without its image; `_DAMAGED` where it cannot be read."""
        data = np.memmap(self.path, np.uint8, "r")
        wanted = np.arange(_PART.size + _HEAD.size + 4)
        labels = [np.empty(0, np.float32)]
        for start in range(0, len(self.offsets), _CHUNK):
            offsets = self.offsets[start : start + _CHUNK]
            places = np.minimum(offsets[:, None] + wanted, len(data) - 1)
            words = np.ascontiguousarray(data[places]).view(
                "<u4"
            )  # (n, 9): magic, kind, flag, label, id, id2, first label
            flags, plain, listed = words[:, 2], words[:, 3].view("<f4"), words[:, 8].view("<f4")
            found = np.where(flags > 0, listed, plain)
            odd = (
                (words[:, 0] != MAGIC)
                | (words[:, 1] >> 29 > 0)
                | ((words[:, 1] & _LENGTH) < _HEAD.size + 4 * flags.astype(np.int64))
            )
            for row in np.flatnonzero(odd):  # damaged, or split
                found[row] = self._read_label(int(offsets[row]))
            labels.append(found)
        return np.concatenate(labels)

    def _read_label(self, offset: int) -> float:
        """Read the label of one record; `_DAMAGED` where it cannot be read."""
        try:
            record = self._record(offset)
            flag, label, *_ = _HEAD.unpack_from(record)
            return struct.unpack_from(f"<{flag}f", record, _HEAD.size)[0] if flag else label
        except (ValueError, struct.error):
            return float(_DAMAGED)

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Read a face's record, less its head."""
        offset = int(self.offsets[index])
        record, place = self._record(offset), f"byte {offset} of '{self.path}'"
        return record[_HEAD.size + 4 * _HEAD.unpack_from(record.ljust(_HEAD.size, b"\0"))[0] :], place


class TarShards(FaceSet):
    """WebDataset shards, indexed once so that any face can be read at any time."""

    def __init__(self, path: str | os.PathLike, shards: Sequence[str], remap: bool = False) -> None:
        """Index the shards.

        Args:
            path: where they lie.
            shards: tar files, not compressed.
            remap: renumber the labels if some have no face.

        Raises:
            ValueError: a damaged or truncated shard, a face without label or the reverse, labels with gaps,
                or one identity only.
        """
        super().__init__(path)
        self.shards = list(shards)
        places, labels = [], []
        for number, shard in enumerate(self.shards):
            images, classes = _index_tar(shard)
            odd = sorted(images.keys() ^ classes.keys())
            if odd:
                raise ValueError(
                    f"'{shard}' has an image without a .cls, or the reverse, for '{odd[0]}'. "
                    "Write the shard again."
                )
            places += [(number, *images[key]) for key in images]
            labels += [classes[key] for key in images]
        self.places = np.array(places, np.int64).reshape(-1, 3)  # (N, 3): shard, offset, length
        self._files: dict[int, Any] = {}
        self._number(np.array(labels, np.float64), remap)
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Read a face's member."""
        shard, offset, length = map(int, self.places[index])
        if shard not in self._files:
            self._files[shard] = _Mapped(self.shards[shard])
        return self._files[shard].data[offset : offset + length], f"byte {offset} of '{self.shards[shard]}'"


class _Mapped:
    """A file in memory as far as it is read; it has no position, so forked processes can share it."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _index_tar(shard: str) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Find the images (offset and length) and the labels in a shard, by key."""
    images: dict[str, tuple[int, int]] = {}
    classes: dict[str, int] = {}
    end, size = 0, os.path.getsize(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                key = f"{folder}/{key}"
                if not member.isfile():
                    continue
                if f".{ending.lower()}" in IMAGE_SUFFIXES:
                    images[key] = member.offset_data, member.size
                elif ending.lower() == "cls":
                    classes[key] = int(tar.extractfile(member).read())  # type: ignore[union-attr]
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"The shard '{shard}' is damaged or compressed ({error}). Get it again, as a plain .tar."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"'{shard}' has a .cls that is not a whole number ({error}). Write the shard again."
        ) from error
    if size < end + _TAR_END:
        raise ValueError(f"The shard '{shard}' is truncated after {size} bytes. Get it again.")
    return images, classes


def open_faces(path: str | os.PathLike, remap: bool = False) -> FaceSet:
    """Open faces in any of the three layouts.

    Args:
        path: folder with train.rec and train.idx, class folders, or .tar shards; or one .rec or .tar file.
        remap: renumber integer labels if some have no face; class folders have none.

    Returns:
        The faces.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: nothing that is known, damaged files, labels with gaps, or one identity only.
    """
    if not os.fspath(path):
        raise ValueError("No faces to train on are given. Add --data with their folder.")
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"There is no '{path}' with faces. Check the path.")
    if place.is_file() and place.suffix not in (".rec", ".tar"):
        raise ValueError(f"'{path}' is not a folder of faces, a .rec or a .tar. Name the folder.")
    record = place if place.suffix == ".rec" else place / "train.rec"
    if record.is_file():
        return RecordFile(record, remap)
    shards = [str(place)] if place.is_file() else sorted(str(file) for file in place.glob("*.tar"))
    return TarShards(place, shards, remap) if shards else ClassFolders(place)


class FaceDataset(Dataset):
    """The endless stream of training samples, by number: a number gives the same whatever ran before."""

    def __init__(self, faces: FaceSet, size: int, seed: int = 0, flip: bool = True) -> None:
        """Take the faces.

        Args:
            faces: to draw from, each once an epoch.
            size: side, px.
            seed: of order and flips.
            flip: mirror half of them.
        """
        self.faces, self.size, self.seed, self.flip = faces, size, seed, flip
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._damaged: set[int] = set()  # reported faces

    def index(self, number: int) -> tuple[int, bool]:
        """Return the face with a number, and whether it is mirrored."""
        epoch, place = divmod(number, len(self.faces))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, _ORDER, epoch))
            self._order = epoch, torch.randperm(len(self.faces), generator=generator).numpy()
        index = int(self._order[1][place])
        return index, self.flip and bool(derive_seed(self.seed, _FLIP, epoch, index) & 1)

    def _load(self, wanted: int) -> tuple[int, np.ndarray]:
        """Load a face, or the next intact one of the set in place of a damaged one; all numbers stay."""
        first: Exception = ValueError(f"'{self.faces.path}' has no faces.")
        for index in (
            place % len(self.faces) for place in range(wanted, wanted + min(_TRIES, len(self.faces)))
        ):
            try:
                return index, self.faces.load(index, self.size)
            except (ValueError, OSError) as error:
                if index == wanted:
                    first = error
                if index not in self._damaged:
                    self._damaged.add(index)
                    logger.warning("Skipped face %d and used the next one instead: %s", index, error)
        raise first

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Load the sample with a number: `face` (size, size, 3) uint8 RGB, `label` () and `index` ()."""
        wanted, mirrored = self.index(number)
        index, face = self._load(wanted)
        if mirrored:
            face = face[:, ::-1].copy()
        return {
            "face": torch.from_numpy(face),
            "label": torch.tensor(self.faces.labels[index]),
            "index": torch.tensor(index),
        }
