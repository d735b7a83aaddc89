"""The cache of all that training needs and that never changes: its files, their writer and reader.

    cache.json            what made it (fingerprints of weights, sizes, settings), and the number of shards
    shard-000000.tar      WebDataset: for each photo <key>.safetensors and <key>.json; the key is its number
    shard-000000.json     the shard's size and SHA-256, where each photo lies in it, and what was skipped, why
    report.json           all skipped photos; written when the last shard is done

A shard counts from the moment its .json is there; both files appear whole or not at all.

Tensors of one photo, each with the photo itself at index 0 and its mirror image at index 1:
    latent_mean, latent_std  (2, C, h, w)  float16, of the VAE's posterior, times the scaling factor
    v_id                     (2, I)        float32
    v_exp                    (2, E)        float32; not there without an expression network
    mask                     (2, h, w)     float16 in [0, 1]: the share of each latent pixel in the region M

Dimension letters: C latent channels, h and w latent sides, I and E widths of v_id and v_exp.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import tarfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...f2d.files import hash_file, write_bytes, write_json

FORMAT = 1
MANIFEST, REPORT = "cache.json", "report.json"
_INDEX_ENTRY = 96  # bytes of a photo in a shard's index
_AGAIN = "Rerun the same `f2d-train prepare` to write that shard again."


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """The content of `cache.json`."""

    format: int = FORMAT
    image_size: int = 512  # px
    latent_size: int = 64  # px
    latent_channels: int = 4
    scaling_factor: float = 0.18215  # the latents have been multiplied by it
    id_dim: int = 1536
    exp_dim: int = 64  # 0 = no expressions
    depths: tuple[int, ...] = (3, 6, 9, 12)  # of the MSID encoder
    normed: tuple[int, ...] = (3, 6, 9, 12)  # of the MSID encoder
    vae: str = ""  # fingerprints (SHA-256) of the weights; "" = not used
    msid: str = ""
    expression: str = ""
    parser: str = ""
    detector: str = ""
    classes: tuple[str, ...] = ()  # of M
    layout: str = "photos"
    aligned: bool = False
    min_score: float = 0.0  # of the detector
    precision: str = "no"  # of VAE and face parser
    photos: int = 0  # found in the folder
    variants: int = 0  # altered copies of each photo
    photos_hash: str = ""  # SHA-256 of their names and contents
    shard_size: int = 512  # photos, the skipped ones included
    shards: int = 1

    @property
    def faces(self) -> int:
        """Photos and altered copies."""
        return self.photos * (1 + self.variants)


@dataclass(frozen=True)
class Skipped:
    """A photo that is not in the cache."""

    photo: str  # its name in the folder
    reason: str  # a few words, to count by
    message: str = ""  # all that is known


@dataclass(frozen=True, eq=False)
class CachedPhoto:
    """One photo on its way into a shard."""

    number: int  # in the folder, from 0; the copies follow all photos
    name: str  # in the folder
    tensors: dict[str, Tensor]  # as above
    notes: dict[str, Any] = field(default_factory=dict)  # for its .json
    variant: int = 0  # number of the altered copy; 0 = the photo itself


# --- Writing ---


def shard_name(number: int) -> str:
    """Name a shard's file."""
    return f"shard-{number:06d}.tar"


def begin_cache(folder: str | os.PathLike, info: CacheInfo) -> None:
    """Write `cache.json`, or check that the existing one is equal.

    Args:
        folder: the cache; it is made.
        info: what makes it now.

    Raises:
        ValueError: the cache was started with other weights, settings or photos; the message names them.
        OSError: the folder cannot be written to.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, asdict(info), indent=1)
        return
    before = read_info(folder)
    changed = [
        f"{field.name} {_short(getattr(before, field.name))}, not {_short(getattr(info, field.name))}"
        for field in fields(CacheInfo)
        if getattr(before, field.name) != getattr(info, field.name)
    ]
    if changed:
        raise ValueError(
            f"The cache '{folder}' was started with other inputs ({'; '.join(changed)}). "
            "Use another --out, or the same weights, photos and settings."
        )


def write_shard(
    folder: str | os.PathLike, number: int, photos: Sequence[CachedPhoto], skipped: Sequence[Skipped] = ()
) -> Path:
    """Write a shard and its index, each atomically.

    Args:
        folder: the cache.
        number: of the shard, from 0.
        photos: in their order.
        skipped: for the report.

    Returns:
        The shard.

    Raises:
        OSError: no space is left, or the folder cannot be written to; no part of the shard is left.
    """
    path = Path(folder) / shard_name(number)
    path.with_suffix(".json").unlink(missing_ok=True)
    buffer, members = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for photo in photos:
            content = save_tensors({name: tensor.contiguous() for name, tensor in photo.tensors.items()})
            _add(archive, f"{photo.number:08d}.safetensors", content)
            source = {"name": photo.name} | ({"variant": photo.variant} if photo.variant else {})
            members.append({**source, "offset": buffer.tell() - _padded(len(content)), "size": len(content)})
            notes = source | photo.notes
            _add(archive, f"{photo.number:08d}.json", json.dumps(notes).encode())
    shard = buffer.getbuffer()
    index = {
        "size": len(shard),
        "sha256": hashlib.sha256(shard).hexdigest(),
        "count": len(photos),
        "members": members,
        "skipped": [asdict(photo) for photo in skipped],
    }
    write_bytes(path, shard)
    write_json(path.with_suffix(".json"), index, indent=1)
    return path


def photo_bytes(info: CacheInfo) -> int:
    """Compute what a photo takes in a shard and its index, bytes; names of more than 20 letters add to it."""
    latent = (2, info.latent_channels, info.latent_size, info.latent_size)
    tensors = {
        "latent_mean": torch.zeros(latent, dtype=torch.float16),
        "latent_std": torch.zeros(latent, dtype=torch.float16),
        "v_id": torch.zeros(2, info.id_dim),
        "mask": torch.zeros(2, *latent[2:], dtype=torch.float16),
        **({"v_exp": torch.zeros(2, info.exp_dim)} if info.exp_dim else {}),
    }
    notes, headers = tarfile.BLOCKSIZE, 2 * tarfile.BLOCKSIZE
    return headers + _padded(len(save_tensors(tensors))) + notes + _INDEX_ENTRY


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner: the same photos give the same bytes
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


# --- Reading ---


def read_info(folder: str | os.PathLike) -> CacheInfo:
    """Read `cache.json`.

    Args:
        folder: the cache.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: the folder is no cache.
        ValueError: it is damaged, or of a newer format.
    """
    file = Path(folder) / MANIFEST
    if not os.fspath(folder) or not file.is_file():
        raise FileNotFoundError(
            f"'{folder}' is not a cache of `f2d-train prepare`: it has no {MANIFEST}. "
            "Prepare one, or check the path."
        )
    values = _read_json(file)
    if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise ValueError(
            f"The cache '{folder}' has format {values['format']}; this version reads up to {FORMAT}. "
            "Update Face2Diffusion."
        )
    try:
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return CacheInfo(**settings)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"'{file}' does not describe a cache ({error}). Prepare it again.") from error


def read_index(folder: str | os.PathLike, number: int) -> dict[str, Any]:
    """Read a shard's index, and check that the shard has the size it gives.

    Args:
        folder: the cache.
        number: of the shard.

    Returns:
        `size`, `sha256`, `count`, `members` and `skipped`.

    Raises:
        FileNotFoundError: the shard is not there, or not finished.
        ValueError: it is truncated, or its index is damaged.
    """
    path = Path(folder) / shard_name(number)
    index = path.with_suffix(".json")
    missing = next((file.name for file in (path, index) if not file.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(
            f"The cache '{folder}' is not finished: the shard '{missing}' is missing. {_AGAIN}"
        )
    found = _read_json(index)
    if not isinstance(found, dict) or not {"size", "sha256", "count", "members", "skipped"} <= found.keys():
        raise ValueError(f"'{index}' is not the index of a shard. Delete it. {_AGAIN}")
    size = path.stat().st_size
    if size != found["size"]:
        raise ValueError(
            f"'{path}' is truncated or was changed: it has {size:,} bytes instead of {found['size']:,}. "
            f"{_AGAIN}"
        )
    return found


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(
            f"'{file}' is damaged ({error}). Delete it, and run `f2d-train prepare` again."
        ) from error


class LatentCache:
    """Random access to a finished cache. Can be handed to loader processes, however they are started."""

    def __init__(self, folder: str | os.PathLike, verify: bool = False) -> None:
        """Open a cache and check it.

        Args:
            folder: of `f2d-train prepare`.
            verify: compare each shard with its SHA-256, which reads all of it; sizes are always checked.

        Raises:
            FileNotFoundError: no cache, or a shard is missing.
            ValueError: a truncated or changed shard, a newer format, or no photo in it.
        """
        self.folder, self.info = Path(folder), read_info(folder)
        self._indices = [read_index(folder, number) for number in range(self.info.shards)]
        self._ends = list(accumulate(index["count"] for index in self._indices))
        self._maps: dict[int, mmap.mmap] = {}
        if not len(self):
            raise ValueError(
                f"There are no photos in the cache '{folder}': all were skipped. Read {REPORT} there."
            )
        if verify:
            self.verify()

    @property
    def image_size(self) -> int:
        """Side of the images, px."""
        return self.info.image_size

    @property
    def latent_size(self) -> int:
        """Side of the latents, px."""
        return self.info.latent_size

    @property
    def id_dim(self) -> int:
        """Width of v_id."""
        return self.info.id_dim

    @property
    def exp_dim(self) -> int:
        """Width of v_exp; 0 = none."""
        return self.info.exp_dim

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of the MSID encoder."""
        return self.info.depths

    @property
    def normed(self) -> tuple[int, ...]:
        """Depths of the MSID encoder that have their own normalization."""
        return self.info.normed

    @property
    def msid(self) -> str:
        """Fingerprint of the MSID encoder."""
        return self.info.msid

    @property
    def vae(self) -> str:
        """Fingerprint of the VAE."""
        return self.info.vae

    def fingerprint(self) -> str:
        """Hash what the cache holds, wherever it lies: SHA-256 in hexadecimal."""
        digest = hashlib.sha256(json.dumps(asdict(self.info), sort_keys=True).encode())
        for index in self._indices:
            digest.update(index["sha256"].encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Number of photos."""
        return self._ends[-1] if self._ends else 0

    def _find(self, index: int) -> tuple[int, dict[str, Any]]:
        if not 0 <= index < len(self):
            raise IndexError(f"There is no photo {index}; the cache has {len(self)}, counted from 0.")
        shard = bisect_right(self._ends, index)
        return shard, self._indices[shard]["members"][
            index - self._ends[shard]
        ]  # counted from the shard's end

    def name(self, index: int) -> str:
        """Name a photo as in the folder it came from; an altered copy has its photo's name."""
        return self._find(index)[1]["name"]

    def variant(self, index: int) -> int:
        """Number of an altered copy, 0 for a photo itself."""
        return self._find(index)[1].get("variant", 0)

    def load(self, index: int, flip: bool = False) -> dict[str, Tensor]:
        """Read one photo.

        Args:
            index: from 0.
            flip: its mirror image instead.

        Returns:
            `latent_mean` and `latent_std` (C, h, w) float16, `v_id` (I) float32, `mask` (h, w) float16 in [0,
            1], and where the cache has expressions `v_exp` (E) float32.

        Raises:
            IndexError: there is no such photo.
            ValueError: the shard is damaged.
        """
        shard, member = self._find(index)
        content = self._map(shard)[member["offset"] : member["offset"] + member["size"]]
        try:
            return {name: tensor[int(flip)] for name, tensor in load_tensors(content).items()}
        except Exception as error:  # whatever damaged bytes lead to
            raise ValueError(
                f"Photo {index} in '{self.folder / shard_name(shard)}' is damaged ({error}). "
                f"{self._delete(shard)}"
            ) from error

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            with open(self.folder / shard_name(shard), "rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def verify(self) -> None:
        """Compare each shard with its SHA-256; raise a ValueError that names the first one that differs."""
        for number, index in enumerate(self._indices):
            path = self.folder / shard_name(number)
            digest = hash_file(path)
            if digest != index["sha256"]:
                raise ValueError(
                    f"'{path}' was changed: its SHA-256 is {_short(digest)} instead of "
                    f"{_short(index['sha256'])}. "
                    f"{self._delete(number)}"
                )

    def _delete(self, number: int) -> str:
        return f"Delete {shard_name(number)}. {_AGAIN}"

    def check(self, **fingerprints: str) -> None:
        """Refuse to be used with other weights.

        Args:
            **fingerprints: `vae`, `msid`, `expression`, `parser` or `detector`, as `checkpoint.fingerprint`
                gives them.

        Raises:
            ValueError: names the weights that differ.
        """
        for name, value in fingerprints.items():
            made_with = getattr(self.info, name)
            if made_with != value:
                raise ValueError(
                    f"The {name} weights ({_short(value) or 'none'}) are not those that the cache "
                    f"'{self.folder}' was made with ({_short(made_with) or 'none'}). "
                    "Use those, or prepare a cache with these."
                )


def write_report(folder: str | os.PathLike, passed_over: Sequence[str] = ()) -> dict[str, Any] | None:
    """Gather the skipped photos of all shards into `report.json`; None while shards are missing.

    Args:
        folder: the cache.
        passed_over: files that are not photos.

    Returns:
        `photos`, `cached`, `skipped` (counts by reason), `list` (each skipped photo) and `passed_over`.
    """
    info = read_info(folder)
    try:
        indices = [read_index(folder, number) for number in range(info.shards)]
    except (FileNotFoundError, ValueError):
        return None
    skipped: list[Mapping[str, str]] = [photo for index in indices for photo in index["skipped"]]
    reasons = sorted({photo["reason"] for photo in skipped})
    report = {
        "photos": info.faces,
        "cached": sum(index["count"] for index in indices),
        "skipped": {reason: sum(photo["reason"] == reason for photo in skipped) for reason in reasons},
        "list": skipped,
        "passed_over": list(passed_over),
    }
    write_json(Path(folder) / REPORT, report, indent=1)
    return report


def _short(value: Any) -> Any:
    return value[:8] if isinstance(value, str) and len(value) == 64 else value
