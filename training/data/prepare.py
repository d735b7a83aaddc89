r"""Turns a folder of faces into a cache of all that is frozen: VAE latents, v_id, v_exp and M.

    f2d-train prepare --photos photos --base sd-v1-4 --msid msid.pt --expression epoch_20.pth \
        --parser face-parsing --detector yunet.onnx --out cache
    f2d-train prepare --photos ffhq --aligned --detector yunet.onnx ...     (crops of FFHQ)
    torchrun --nproc_per_node 8 -m face2diffusion.training.cli prepare ...  (each process: every eighth shard)

The same command resumes: whole shards stay, the others are made anew, with the same bytes.

photo (H, W, 3) uint8, and its mirror image
  -> locate_face       five landmarks (5, 2) px  once; mirrored with the photo
  -> align_ffhq        (S, S, 3)     -> VAE      latent_mean, latent_std (C, h, w)
                                     -> parser   mask (h, w)    once; mirrored with the crop
  -> align_face        (112, 112, 3) -> MSID     v_id (I)
  -> align_expression  (224, 224, 3) -> f_exp    v_exp (64)

With `layout="fastcomposer"` the folder is FastComposer's edition of FFHQ [mit-han-lab/fastcomposer]: beside
each photo `00000/00000123.jpg` lie `00000123.npy`, an (H, W) integer map of segments, and `00000123.json`
with `segments`, each with its `id` in the map and its `coco_label`. The segments are whole objects, so the
face's person includes clothes: with a parser M is the parser's region inside that person, else the person.

The paper does not say how M comes to the latents' size. Here each latent pixel holds the share of its image
pixels that belong to M.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ...f2d.checkpoint import read
from ...f2d.diffusion.folder import load_vae
from ...f2d.diffusion.vae import encode_images
from ...f2d.face.cropping import LocatedFace, locate_face
from ...f2d.face.detection import Detector, NoFaceError, load_detector
from ...f2d.face.ffhq import align_ffhq_mask, resize_ffhq, resize_ffhq_mask
from ...f2d.files import fingerprint, hash_file
from ...f2d.image import PHOTO_SUFFIXES, Photo, load_photo, mirror, to_signed, to_unit
from ...f2d.networks.expression import EXPRESSION_DIM, ExpressionNetwork, load_expression
from ...f2d.networks.msid import MSIDEncoder, load_msid
from ...f2d.options import FaceChoice
from ..config import PrepareConfig
from ..engine.processes import read_environment
from .cache import CachedPhoto, CacheInfo, Skipped, begin_cache, read_index, write_report, write_shard
from .parsing import FaceParser, check_classes, load_parser
from .photo_files import hash_photos, log_passed_over, split_files

_PERSON = "person"  # COCO's name
_AHEAD = 2  # batches that are read in advance
_LISTED = 3  # skipped photos that are named at the end


@dataclass(frozen=True, eq=False)
class Crops:
    """What the networks see of one photo; pairs are (the photo's, its mirror image's)."""

    picture: Photo  # (S, S, 3)
    faces: tuple[Photo, Photo]  # (112, 112, 3)
    expressions: tuple[Photo, Photo] | None  # (224, 224, 3)
    region: np.ndarray | None  # (S, S) bool, what M must lie in; None = anywhere
    notes: dict[str, Any]  # for the cache


class _Unusable(ValueError):
    """A photo that is skipped, and why."""

    def __init__(self, reason: str, message: object) -> None:
        super().__init__(str(message))
        self.reason = reason


# --- The frozen networks ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FrozenEncoders:
    """The networks whose outputs are cached."""

    vae: Any  # diffusers' AutoencoderKL or AutoencoderTiny
    msid: MSIDEncoder
    expression: ExpressionNetwork | None
    parser: FaceParser | None
    device: torch.device

    @classmethod
    def load(cls, config: PrepareConfig, device: str) -> FrozenEncoders:
        """Load all networks in float32.

        Args:
            config: names the files.
            device: where they run.

        Returns:
            The networks.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file holds something else.
        """
        vae = load_vae(config.base)
        msid = load_msid(read(config.msid))
        expression = load_expression(read(config.expression)) if config.expression else None
        parser = load_parser(config.parser) if config.parser else None
        for network in (vae, msid, expression, parser):
            if network is not None:
                network.eval().requires_grad_(False).to(device)
        return cls(vae, msid, expression, parser, torch.device(device))

    @property
    def shrink(self) -> int:
        """How many picture pixels make a latent pixel's side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Crops], classes: Sequence[str]) -> list[dict[str, Tensor]]:
        """Encode photos and their mirror images.

        Args:
            batch: B photos.
            classes: of M.

        Returns:
            B times the tensors of `cache.py`.

        Raises:
            ValueError: NaN or infinite values, so a weight file is damaged.
        """
        pictures = [picture for crops in batch for picture in (crops.picture, mirror(crops.picture))]
        mean, spread = encode_images(self.vae, to_signed(pictures).to(self.device))
        tensors = {
            "latent_mean": mean.half(),  # (2B, C, h, w)
            "latent_std": spread.half(),  # (2B, C, h, w)
            "v_id": self.msid(
                to_signed([face for crops in batch for face in crops.faces]).to(self.device)
            ).float(),  # (2B, I)
        }
        if self.expression is not None:
            faces = [face for crops in batch for face in crops.expressions or ()]
            tensors["v_exp"] = self.expression(to_unit(faces).to(self.device)).float()  # (2B, E)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(
                    f"{name} is NaN or infinity in places: the weights are damaged. Download them again."
                )
        mask = self.masks(batch, classes)  # (B, h, w)
        tensors["mask"] = torch.stack([mask, mask.flip(2)], dim=1).flatten(0, 1)  # (2B, h, w)
        pairs = {name: tensor.cpu().unflatten(0, (-1, 2)) for name, tensor in tensors.items()}  # (B, 2, ...)
        return [{name: pair[index].clone() for name, pair in pairs.items()} for index in range(len(batch))]

    def masks(self, batch: Sequence[Crops], classes: Sequence[str]) -> Tensor:
        """Compute M at the latents' size; arguments as for `encode`.

        Returns:
            shape (B, h, w), float16 in [0, 1].
        """
        size = batch[0].picture.shape[0]
        mask = torch.ones(len(batch), size, size, dtype=torch.bool, device=self.device)
        if self.parser is not None:
            mask = self.parser.identity_mask(
                to_unit([crops.picture for crops in batch]).to(self.device), classes
            )
        regions = [crops.region for crops in batch if crops.region is not None]
        if regions:
            mask = mask & torch.from_numpy(np.stack(regions)).to(self.device)
        return functional.adaptive_avg_pool2d(mask[:, None].float(), size // self.shrink)[:, 0].half()


# --- From a photo to crops ----------------------------------------------------------------------------------


class Cutter:
    """Reads photos and cuts them; may be called from several threads."""

    def __init__(self, config: PrepareConfig, face_size: int) -> None:
        """Take the settings.

        Args:
            config: of the run.
            face_size: of the identity encoder's crop, px.
        """
        self.config, self.face_size = config, face_size
        self._threads = threading.local()  # OpenCV's detector serves one thread only

    @property
    def _detector(self) -> Detector | None:
        if not hasattr(self._threads, "detector"):
            self._threads.detector = load_detector(self.config.detector) if self.config.detector else None
        return self._threads.detector

    def cut(self, name: str) -> Crops | Skipped:
        """Cut one photo, or say why not.

        Args:
            name: of the photo in the folder.

        Returns:
            Its crops.
        """
        try:
            return self._cut(Path(self.config.photos) / name)
        except _Unusable as error:
            return Skipped(name, error.reason, str(error))

    def _cut(self, path: Path) -> Crops:
        try:
            photo = load_photo(path)
        except (ValueError, OSError) as error:
            raise _Unusable("unreadable", error) from error
        face = self._locate(photo)
        try:
            return self._crop(face, path)
        except _Unusable:
            raise
        except (ValueError, cv2.error) as error:
            raise _Unusable("cannot be aligned", error) from error

    def _locate(self, photo: Photo) -> LocatedFace:
        height, width = photo.shape[:2]
        if self.config.aligned and height != width:
            raise _Unusable(
                "not square",
                f"An FFHQ crop is square; this has {width}x{height} px. Leave --aligned out for photos.",
            )
        choice = FaceChoice(min_score=self.config.min_score)
        try:
            return locate_face(self._detector, photo, "detect" if self.config.detector else "FFHQ", choice)
        except NoFaceError as error:
            raise _Unusable("no face", error) from error

    def _crop(self, face: LocatedFace, path: Path) -> Crops:
        both, size = (face, face.mirrored()), self.config.image_size
        faces = both[0].align_face(self.face_size), both[1].align_face(self.face_size)
        expressions = None
        if self.config.expression:
            expressions = both[0].align_expression(), both[1].align_expression()
        region = None
        if self.config.layout == "fastcomposer":
            person = self._person(path, face.photo, face.landmarks)
            region = (
                resize_ffhq_mask(person, size)
                if self.config.aligned
                else align_ffhq_mask(person, face.landmarks, size)
            )
        picture = resize_ffhq(face.photo, size) if self.config.aligned else face.align_ffhq(size)
        notes: dict[str, Any] = {}
        if face.chosen is not None:
            notes = {"landmarks": face.landmarks.round(2).tolist(), "score": round(face.chosen.score, 4)}
        return Crops(picture, faces, expressions, region, notes)

    def _person(self, path: Path, photo: Photo, landmarks: np.ndarray) -> np.ndarray:
        """Find the person whose face it is in FastComposer's map: shape (H, W), bool."""
        try:
            segments = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["segments"]
            ids = [int(segment["id"]) for segment in segments if segment["coco_label"] == _PERSON]
            labels = np.load(path.with_suffix(".npy"), allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise _Unusable(
                "no segmentation map",
                f"'{path.stem}.npy' or '{path.stem}.json' beside the photo cannot be read ({error!r}).",
            ) from error
        if labels.shape != photo.shape[:2]:
            raise _Unusable(
                "no segmentation map",
                f"The map '{path.stem}.npy' has shape {labels.shape}, but the photo has {photo.shape[:2]}.",
            )
        x, y = np.rint(landmarks).astype(int).T
        x, y = x.clip(0, labels.shape[1] - 1), y.clip(0, labels.shape[0] - 1)
        hits = [int((labels[y, x] == number).sum()) for number in ids]
        if not any(hits):
            raise _Unusable(
                "no identity region", f"The map '{path.stem}.npy' has no person where the face is."
            )
        return labels == ids[int(np.argmax(hits))]


def list_photos(folder: str | os.PathLike) -> list[str]:
    """List the pictures in a folder and its subfolders, by their suffixes.

    Args:
        folder: of photos.

    Returns:
        Names within the folder, with '/', sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no picture is in it.
    """
    folder = Path(folder)
    if not os.fspath(folder) or not folder.is_dir():
        raise FileNotFoundError(f"--photos '{folder}' is not a folder. Set it to a folder of photos.")
    found, _ = split_files(folder, PHOTO_SUFFIXES)
    if not found:
        raise ValueError(
            f"The folder '{folder}' holds no photos ({', '.join(PHOTO_SUFFIXES)}). "
            "Name the folder that has them."
        )
    return found


def list_passed_over(config: PrepareConfig) -> list[str]:
    """List the files in the folder of photos that are neither photos nor segmentation maps."""
    maps = (".json", ".npy") if config.layout == "fastcomposer" else ()
    return split_files(config.photos, (*PHOTO_SUFFIXES, *maps))[1]


# --- The run ------------------------------------------------------------------------------------------------


def prepare(config: PrepareConfig, log: Callable[[str], None] = print) -> Path:
    """Fill a cache; shards that are already whole stay as they are.

    With RANK and WORLD_SIZE in the environment (torchrun, accelerate launch) this process makes every
    WORLD_SIZE-th shard, on the device LOCAL_RANK; the processes need not see each other, only the folder.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The cache's folder.

    Raises:
        FileNotFoundError: a folder or weight file is missing.
        ValueError: bad settings, a folder without photos, a cache of other weights or settings, or no usable
            photo at all.
        OSError: no space is left, or the folder cannot be written to; finished shards stay.
    """
    _check(config)
    processes = read_environment(config.device)
    rank, world = processes.rank, processes.world
    out, photos = Path(config.out), list_photos(config.photos)
    if processes.first:
        log_passed_over(log, list_passed_over(config))
    encoders = FrozenEncoders.load(config, processes.device)
    info = _describe(config, encoders, photos)
    begin_cache(out, info)
    if world == 1:  # a killed run leaves its temporary file
        for stale in out.glob(".f2d-*"):
            stale.unlink()
    mine = list(range(info.shards))[rank::world]
    todo = [shard for shard in mine if not _is_whole(out, shard)]
    plan = {
        shard: range(shard * config.shard_size, min((shard + 1) * config.shard_size, len(photos)))
        for shard in mine
    }
    done = sum(len(plan[shard]) for shard in mine if shard not in todo)
    total = done + sum(len(plan[shard]) for shard in todo)
    _log_start(config, log, total, done, len(photos), len(todo), encoders.device)
    with tqdm(
        total=total,
        initial=done,
        unit="photo",
        desc=f"prepare {rank + 1}/{world}" if world > 1 else "prepare",
    ) as bar:
        work = [(number, photos[number]) for shard in todo for number in plan[shard]]
        stream = _cut_ahead(Cutter(config, encoders.msid.config.image_size), work, config)
        for shard in todo:
            _make_shard(out, shard, len(plan[shard]), stream, encoders, config, bar)
    return _finish(out, log, list_passed_over(config))


def _log_start(
    config: PrepareConfig,
    log: Callable[[str], None],
    total: int,
    done: int,
    photos: int,
    shards: int,
    device: torch.device,
) -> None:
    if config.aligned and not config.detector:
        log(
            "Without --detector the average landmarks of FFHQ cut the faces, about 15 % smaller than "
            "generation cuts the detected face. Add --detector, unless photos are also encoded as FFHQ crops "
            "later (`f2d encode --aligned`)."
        )
    log(
        f"Preparing {total - done} of {photos} photos in {shards} shard(s) on {device}; "
        f"{done} were done before."
    )


def _make_shard(
    out: Path,
    shard: int,
    count: int,
    stream: Iterator[tuple[int, str, Crops | Skipped]],
    encoders: FrozenEncoders,
    config: PrepareConfig,
    bar: tqdm,
) -> None:
    """Take the shard's photos from the stream, encode them in batches of their own, and write them."""
    photos: list[CachedPhoto] = []
    skipped: list[Skipped] = []
    waiting: list[tuple[int, str, Crops]] = []
    for position in range(count):
        number, name, crops = next(stream)
        if isinstance(crops, Skipped):
            skipped.append(crops)
        else:
            waiting.append((number, name, crops))
        if waiting and (len(waiting) == config.batch_size or position == count - 1):
            encoded = encoders.encode([crops for _, _, crops in waiting], config.classes)
            for (number, name, crops), tensors in zip(waiting, encoded, strict=True):
                if tensors["mask"].any():
                    photos.append(CachedPhoto(number, name, tensors, crops.notes))
                else:
                    skipped.append(
                        Skipped(
                            name,
                            "no identity region",
                            f"The face parser found none of {', '.join(config.classes)}.",
                        )
                    )
            waiting = []
        bar.update()
    write_shard(out, shard, photos, sorted(skipped, key=lambda photo: photo.photo))


def _cut_ahead(
    cutter: Cutter, work: Sequence[tuple[int, str]], config: PrepareConfig
) -> Iterator[tuple[int, str, Crops | Skipped]]:
    """Yield photos in order while threads cut the next ones."""
    workers = 1 if config.detector == "FAN" else max(1, config.workers)  # FAN's network is for one thread
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cut")
    queue: deque[tuple[int, str, Future]] = deque()
    coming = iter(work)
    try:
        while True:
            while (
                len(queue) < _AHEAD * config.batch_size + workers
                and (entry := next(coming, None)) is not None
            ):
                number, name = entry
                queue.append((number, name, pool.submit(cutter.cut, name)))
            if not queue:
                return
            number, name, future = queue.popleft()
            yield number, name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check(config: PrepareConfig) -> None:
    for name in ("photos", "out", "base", "msid"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is missing. Add it.")
    if min(config.image_size, config.shard_size, config.batch_size) < 1:
        raise ValueError(
            f"The image size {config.image_size}, shard size {config.shard_size} or batch size "
            f"{config.batch_size} is below 1. Raise it."
        )
    if not config.parser and config.layout == "photos":
        raise ValueError(
            "--parser is missing. Name face-parsing weights: a SegFormer folder or BiSeNet's .pth."
        )
    if not config.detector and not config.aligned:
        raise ValueError(
            "--detector is missing. Name a YuNet .onnx file, or add --aligned if the photos are FFHQ crops."
        )
    check_classes(config.classes)
    if config.detector and config.detector != "FAN":
        load_detector(config.detector)  # better now than in a thread


def _describe(config: PrepareConfig, encoders: FrozenEncoders, photos: Sequence[str]) -> CacheInfo:
    if config.image_size % encoders.shrink:
        raise ValueError(
            f"The image size {config.image_size} is not divisible by {encoders.shrink}, as the VAE needs. "
            "Change --image-size."
        )
    return CacheInfo(
        image_size=config.image_size,
        latent_size=config.image_size // encoders.shrink,
        latent_channels=encoders.vae.config.latent_channels,
        scaling_factor=encoders.vae.config.scaling_factor,
        id_dim=encoders.msid.config.feature_dim,
        exp_dim=EXPRESSION_DIM if encoders.expression is not None else 0,
        depths=encoders.msid.config.depths,
        normed=encoders.msid.config.normed,
        vae=fingerprint(encoders.vae.state_dict()),
        msid=fingerprint(encoders.msid.state_dict()),
        expression=_fingerprint(encoders.expression),
        parser=_fingerprint(encoders.parser),
        detector=hash_file(config.detector) if os.path.isfile(config.detector) else config.detector,
        classes=tuple(config.classes),
        layout=config.layout,
        aligned=config.aligned,
        min_score=config.min_score if config.detector else 0.0,
        photos=len(photos),
        photos_hash=hash_photos(config.photos, photos),
        shard_size=config.shard_size,
        shards=-(-len(photos) // config.shard_size),
    )


def _fingerprint(network: torch.nn.Module | None) -> str:
    return fingerprint(network.state_dict()) if network is not None else ""


def _is_whole(out: Path, shard: int) -> bool:
    try:
        read_index(out, shard)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _finish(out: Path, log: Callable[[str], None], passed_over: Sequence[str] = ()) -> Path:
    report = write_report(out, passed_over)
    if report is None:
        log("This process's shards are done; others still work on theirs.")
        return out
    if not report["cached"]:
        first = report["list"][0]
        raise ValueError(
            f"None of the {report['photos']} photos can be used (the first: '{first['photo']}': "
            f"{first['message']}). All are listed in '{out / 'report.json'}'."
        )
    log(f"Cached {report['cached']} of {report['photos']} photos.")
    if report["list"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report["skipped"].items())
        named = ", ".join(photo["photo"] for photo in report["list"][:_LISTED])
        more = ", ..." if len(report["list"]) > _LISTED else ""
        log(
            f"Skipped {len(report['list'])}: {reasons} ({named}{more}); "
            f"all are listed in '{out / 'report.json'}'."
        )
    return out
