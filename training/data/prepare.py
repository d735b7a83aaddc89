r"""Turns a folder of faces into a cache of all that is frozen: VAE latents, v_id, v_exp and M.

    f2d-train prepare --photos photos --base sd-v1-4 --msid msid.pt --expression epoch_20.pth \
        --parser face-parsing --detector yunet.onnx --out cache
    f2d-train prepare --photos ffhq --aligned --detector yunet.onnx ...     (crops of FFHQ)
    torchrun --nproc_per_node 8 -m face2diffusion.training.cli prepare ...  (each process: every eighth shard)

The same command resumes: complete shards stay, the others are written again, with the same bytes. Worker
processes crop ahead, the device encodes, and a thread writes; their number and speed change no byte.

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

The paper does not specify how M is resized to the latents. Here each latent pixel holds the share of its
image pixels that belong to M.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm

from ...f2d.face.detection import load_detector
from ...f2d.files import TEMPORARY, fingerprint, hash_file
from ...f2d.image import PHOTO_SUFFIXES
from ...f2d.networks.expression import EXPRESSION_DIM
from ..config import PrepareConfig
from ..engine.processes import Processes, read_environment
from ..engine.progress import on_terminal
from ..engine.sampling import watch_workers
from .cache import (
    REPORT,
    CachedPhoto,
    CacheInfo,
    Skipped,
    begin_cache,
    photo_bytes,
    read_index,
    shard_name,
    write_report,
    write_shard,
)
from .frozen_encoders import Encoded, FrozenEncoders
from .parsing import check_classes
from .photo_crops import Crops, Cutter, Source, cut_ahead
from .photo_files import hash_photos, log_passed_over, split_files

_LISTED = 3  # skipped photos that are named at the end
_WAITING = 0.2  # share of the time that the device may wait for crops before a message advises more workers


def list_photos(folder: str | os.PathLike) -> list[str]:
    """List the photos in a folder and its subfolders, by their suffixes.

    Args:
        folder: of photos.

    Returns:
        Names within the folder, with '/', sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no images.
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


# --- The plan -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Which photos this process turns into which shards."""

    shards: dict[int, range]  # the photos' numbers in each shard that is to be made
    total: int  # photos of this process's shards
    missing: int  # photos that no process has cached yet

    @classmethod
    def of(cls, info: CacheInfo, out: Path, processes: Processes) -> _Plan:
        shards = {
            shard: range(shard * info.shard_size, min((shard + 1) * info.shard_size, info.faces))
            for shard in range(info.shards)
        }
        missing = {shard: photos for shard, photos in shards.items() if not _is_complete(out, shard)}
        mine = range(processes.rank, info.shards, processes.world)
        return cls(
            {shard: missing[shard] for shard in mine if shard in missing},
            sum(len(shards[shard]) for shard in mine),
            sum(map(len, missing.values())),
        )

    @property
    def todo(self) -> int:
        """Photos that this process is to encode."""
        return sum(map(len, self.shards.values()))


def _is_complete(out: Path, shard: int) -> bool:
    try:
        read_index(out, shard)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _check_space(out: Path, info: CacheInfo, plan: _Plan) -> str:
    """Compare what the cache still needs with the free space.

    Returns:
        Both, for the log.

    Raises:
        OSError: there is too little space.
    """
    each, free = photo_bytes(info), shutil.disk_usage(out).free
    needed = each * plan.missing
    if needed > free:
        raise OSError(
            f"The cache needs {_gigabytes(needed)} more ({each:,} bytes for each of {plan.missing:,} "
            f"photos), but '{out}' has {_gigabytes(free)} free. Free {_gigabytes(needed - free)}, or use "
            "another --out."
        )
    return f"{each:,} bytes per photo, {_gigabytes(needed)} in all, {_gigabytes(free)} free"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# --- The run ------------------------------------------------------------------------------------------------


def prepare(config: PrepareConfig, log: Callable[[str], None] = print) -> Path:
    """Fill a cache; shards that are already complete stay as they are.

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
        ConnectionError: a process that crops photos was killed.
        OSError: too little space, or the folder cannot be written to; finished shards stay.
    """
    _check(config)
    processes = read_environment(config.device)
    out, photos = Path(config.out), list_photos(config.photos)
    if processes.first:
        log_passed_over(log, list_passed_over(config))
    encoders = FrozenEncoders.load(config, processes.device)
    info = _describe(config, encoders, photos)
    begin_cache(out, info)
    if processes.world == 1:  # a killed run leaves its temporary file
        _remove(out, f"{TEMPORARY}*")
    plan = _Plan.of(info, out, processes)
    space = _check_space(out, info, plan)
    if config.aligned and not config.detector:
        log(_AVERAGE_LANDMARKS)
    log(
        f"Preparing {plan.todo} of {info.faces} photos in {len(plan.shards)} shard(s) on {encoders.device}; "
        f"{plan.total - plan.todo} are in the cache already. {space}."
    )
    if plan.todo:
        with watch_workers("crops photos"), _Progress(plan, processes, log) as progress:
            sources = [Source(name, copy) for copy in range(1 + config.variants) for name in photos]
            _fill(out, plan, sources, encoders, config, progress)
    return _finish(out, log, list_passed_over(config))


_AVERAGE_LANDMARKS = (
    "Without --detector, faces are cropped at FFHQ's average landmarks, about 15 % smaller than generation "
    "crops a detected face. Add --detector, unless photos will also be encoded as FFHQ crops "
    "(`f2d encode --aligned`)."
)


def _remove(folder: Path, pattern: str) -> None:
    for stale in folder.glob(pattern):
        stale.unlink(missing_ok=True)


class _Progress:
    """A bar on a terminal, elsewhere a line for each shard."""

    def __init__(self, plan: _Plan, processes: Processes, log: Callable[[str], None]) -> None:
        self.log, self.plan = log, plan
        name = f"prepare {processes.rank + 1}/{processes.world}" if processes.world > 1 else "prepare"
        shown = processes.first and on_terminal()
        self._bar = tqdm(
            total=plan.total,
            initial=plan.total - plan.todo,
            unit="photo",
            desc=name,
            dynamic_ncols=True,
            disable=not shown,
        )
        self._done, self._waited, self._since = 0, 0.0, time.perf_counter()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def wait_for(self, crops: Iterator[Crops | Skipped]) -> Iterator[Crops | Skipped]:
        """Pass crops on, and measure how long the device waits for them."""
        since = time.perf_counter()
        for one in crops:
            self._waited += time.perf_counter() - since
            yield one
            since = time.perf_counter()

    def count(self, photos: int) -> None:
        """Count photos that are encoded."""
        self._done += photos
        self._bar.update(photos)

    def end_shard(self) -> None:
        """Log a line if there is no bar."""
        seconds = time.perf_counter() - self._since
        if self._bar.disable:
            left = timedelta(seconds=round((self.plan.todo - self._done) * seconds / self._done))
            done = self.plan.total - self.plan.todo + self._done
            rate = self._done / seconds
            self.log(f"prepare: {done}/{self.plan.total} photos, {rate:.1f} photos/s, {left} left")

    def end(self) -> None:
        """Advise more workers if the device waited for crops."""
        share = self._waited / (time.perf_counter() - self._since)
        if share > _WAITING:
            self.log(f"The device waited for crops {share:.0%} of the time. More --workers may be faster.")


@dataclass
class _Batch:
    """Photos of one shard that are encoded at once, and those before them that were skipped."""

    shard: int
    photos: list[tuple[int, Source, Crops]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    last: bool = False  # of the shard

    def __len__(self) -> int:
        return len(self.photos) + len(self.skipped)


def _fill(
    out: Path,
    plan: _Plan,
    sources: Sequence[Source],
    encoders: FrozenEncoders,
    config: PrepareConfig,
    progress: _Progress,
) -> None:
    """Write all shards of the plan; while one is written, the next one is encoded."""
    work = [sources[number] for photos in plan.shards.values() for number in photos]
    cutter = Cutter(config, encoders.msid.config.image_size)
    cached: list[CachedPhoto] = []
    skipped: list[Skipped] = []
    written: Future | None = None
    with (
        closing(cut_ahead(cutter, work, config)) as crops,  # an error, too, ends the loader processes
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
    ):
        batches = _batches(plan, sources, progress.wait_for(crops), config.batch_size)
        for batch, encoded in _encode_ahead(batches, encoders):
            skipped += batch.skipped
            for (number, (name, variant), one), tensors in zip(batch.photos, encoded, strict=True):
                if tensors["mask"].any():
                    cached.append(CachedPhoto(number, name, tensors, one.notes, variant))
                else:
                    wanted = ", ".join(config.classes)
                    skipped.append(Skipped(name, "no identity region", f"None of {wanted} is in the photo."))
            progress.count(len(batch))
            if batch.last:
                if written:
                    written.result()
                listed = sorted(skipped, key=lambda photo: photo.photo)
                written = writer.submit(write_shard, out, batch.shard, cached, listed)
                progress.end_shard()
                cached, skipped = [], []
        if written:
            written.result()
    progress.end()


def _batches(
    plan: _Plan, sources: Sequence[Source], crops: Iterator[Crops | Skipped], size: int
) -> Iterator[_Batch]:
    """Divide the stream of crops into batches, of which none crosses the end of a shard."""
    for shard, numbers in plan.shards.items():
        batch = _Batch(shard)
        for number in numbers:
            one = next(crops)
            if isinstance(one, Skipped):
                batch.skipped.append(one)
            else:
                batch.photos.append((number, sources[number], one))
            batch.last = number == numbers[-1]
            if batch.last or len(batch.photos) == size:
                yield batch
                batch = _Batch(shard)


def _encode_ahead(batches: Iterator[_Batch], encoders: FrozenEncoders) -> Iterator[tuple[_Batch, Encoded]]:
    """Encode batches in order; a GPU has the next one in its queue before it ends the last one."""
    before = None
    for batch in batches:
        started = batch, encoders.start([crops for _, _, crops in batch.photos])
        if before:
            yield before[0], before[1].wait()
        before = started
    if before:
        yield before[0], before[1].wait()


def _check(config: PrepareConfig) -> None:
    for name in ("photos", "out", "base", "msid"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is missing. Set it; `f2d-train prepare --help` has examples.")
    if min(config.image_size, config.shard_size, config.batch_size) < 1 or config.workers < 0:
        raise ValueError(
            f"Image size {config.image_size}, shard size {config.shard_size}, batch size {config.batch_size} "
            f"or {config.workers} workers is too low. Use at least 1 of each, or 0 workers."
        )
    if not config.parser and config.layout == "photos":
        raise ValueError(
            "--parser is missing. Set it to face-parsing weights: a SegFormer folder or BiSeNet's .pth."
        )
    if not config.detector and not config.aligned:
        raise ValueError(
            "--detector is missing. Set it to YuNet's .onnx file, or add --aligned if the photos are FFHQ "
            "crops."
        )
    if config.variants < 0:
        raise ValueError(f"--variants is {config.variants}. Use a number of copies, or 0 for none.")
    check_classes(config.classes)
    if config.detector and config.detector != "FAN":
        load_detector(config.detector)  # better now than in a worker


def _describe(config: PrepareConfig, encoders: FrozenEncoders, photos: Sequence[str]) -> CacheInfo:
    if config.image_size % encoders.shrink:
        raise ValueError(
            f"The image size {config.image_size} is not divisible by {encoders.shrink}, as the VAE needs. "
            "Change it."
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
        precision=config.precision,
        photos=len(photos),
        variants=config.variants,
        photos_hash=hash_photos(config.photos, photos),
        shard_size=config.shard_size,
        shards=-(-len(photos) * (1 + config.variants) // config.shard_size),
    )


def _fingerprint(network: torch.nn.Module | None) -> str:
    return fingerprint(network.state_dict()) if network is not None else ""


def _finish(out: Path, log: Callable[[str], None], passed_over: Sequence[str] = ()) -> Path:
    report = write_report(out, passed_over)
    if report is None:
        log("This process's shards are done; others are still writing theirs.")
        return out
    _remove(out, f"{TEMPORARY}*{Path(shard_name(0)).suffix}")  # of killed processes; no shard is written now
    if not report["cached"]:
        first = report["list"][0]
        raise ValueError(
            f"None of {report['photos']} photos can be used (the first, '{first['photo']}': "
            f"{first['message'].rstrip('.')}). '{out / REPORT}' lists them all; use other photos."
        )
    log(f"Cached {report['cached']} of {report['photos']} photos.")
    if report["list"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report["skipped"].items())
        named = ", ".join(photo["photo"] for photo in report["list"][:_LISTED])
        more = ", ..." if len(report["list"]) > _LISTED else ""
        log(f"Skipped {len(report['list'])}: {reasons} ({named}{more}); all are listed in '{out / REPORT}'.")
    return out
