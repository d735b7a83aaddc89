"""The whole evaluation of one method: faces, pictures, scores, results.

    f2d-train evaluate --method F2D --faces ffpp --images eval/f2d --base sd-v1-4 --msid msid.pt ... --out eval/f2d.json
    f2d-train evaluate --method ELITE --faces eval/faces --aligned --images elite ... --out eval/elite.json     (another method)
    accelerate launch --multi_gpu --num_processes 8 -m face2diffusion.training.cli evaluate ...                             (many GPUs)

With several processes both drawing and scoring are divided among them; process 0 cuts the faces and writes the results. The same command
goes on after a kill: pictures that are whole stay, and what the judges have seen is remembered.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ...f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, replace_placeholders
from ..config import EvaluateConfig
from ..engine.processes import Processes, start_processes
from .fid import frechet_distance, real_pictures
from .generate import ImageGenerator, batches, describe, generate, plan
from .protocol import (
    BASE,
    BASE_PROMPT,
    BASE_SEED,
    MANIFEST,
    Inventory,
    Protocol,
    Slot,
    check_some,
    divide,
    scan,
    write_manifest,
)
from .references import References, prepare_references
from .results import Results
from .scoring import METRICS, Request, Scorer, load_scorer

_BASED = "dCLIP"  # needs a base picture
_FACE_JUDGES = ("adaface", "sphereface", "facenet")
_PATIENCE = timedelta(days=7)  # for slower processes
_JUDGES = (*_FACE_JUDGES, "clip", "siglip")


def evaluate(config: EvaluateConfig, log: Callable[[str], None] = print) -> Path:
    """Draw what is missing, score what is there, write the results.

    Args:
        config: of the evaluation.
        log: called with each progress message.

    Returns:
        The JSON of results; the manifest where no judges are named.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: bad settings, files that are something else, no face, or no picture to score.
        OSError: something cannot be written; what is finished stays.
        ImportError: a package is missing.
        ConnectionError: another process has died.
    """
    _check(config)
    out, images = Path(config.out), Path(config.images)
    with start_processes(config.device, "gloo", _PATIENCE) as processes:
        speak = log if processes.first else _silent
        references = processes.share(
            prepare_references(config, config.crops or out.parent / "faces", speak)
            if processes.first
            else None
        )
        protocol = Protocol(tuple(references.crops), config.prompts, config.images_per_prompt, config.size)
        generation = (
            _draw(config, protocol, references, processes, speak) if config.base else _recorded(images)
        )
        inventory = processes.share(scan(images, protocol) if processes.first else None)
        if config.base and processes.first:
            write_manifest(images, config.method, protocol, inventory, generation=generation)
        check_some(inventory, images)
        if not _named_judges(config):
            speak("No judges are named, so nothing is scored.")
            return images / MANIFEST
        scorer = load_scorer(
            **{name: getattr(config, name) or None for name in _JUDGES},
            detector=config.detector or None,
            device=processes.device,
            batch_size=config.score_batch,
            cache=config.cache or out.parent / processes.own("cache.sqlite"),
        )
        wanted = [slot for slot in protocol.slots() if slot in inventory.present]
        mine = score(
            scorer,
            divide(wanted, processes.rank, processes.world),
            inventory,
            references,
            images,
            processes.first,
        )
        scores = [row for part in processes.gather(mine) for row in part]
        if processes.first:
            results = _results(
                config, protocol, references, inventory, scorer, wanted, scores, generation, processes
            )
            results.save(out)
            _tell_gaps(results, len(wanted), speak)
    return out


def score(
    scorer: Scorer,
    slots: Sequence[Slot],
    inventory: Inventory,
    references: References,
    images: Path,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Score pictures; the judges of text read the prompt with the class words in place of S*.

    Args:
        scorer: the judges.
        slots: which pictures.
        inventory: what there is; without the base picture of an identity there is no dCLIP.
        references: the faces.
        images: folder of the pictures.
        progress: show a progress bar.

    Returns:
        The scores by metric, one dict for each picture.
    """
    requests = []
    for slot in slots:
        picture, base = images / slot.name, Slot(slot.identity, BASE, BASE_SEED)
        requests.append(
            Request(
                image=str(picture),
                reference=references.crops[slot.identity],
                prompt=replace_placeholders(slot.text, [PLACEHOLDER], CLASS_WORDS),
                base=str(images / base.name if base in inventory.present else picture),
                base_prompt=replace_placeholders(BASE_PROMPT, [PLACEHOLDER], CLASS_WORDS),
                face=references.faces.get(slot.identity),
            )
        )
    scores = scorer.score(requests, progress)
    return [
        {name: value for name, value in row.items() if name != _BASED or request.base != request.image}
        for request, row in zip(requests, scores, strict=True)
    ]


def _check(config: EvaluateConfig) -> None:
    for name in ("method", "images", "faces", "out"):
        if not getattr(config, name):
            raise ValueError(f"Expected --{name}, got none. Name it.")
    if not config.out.endswith(".json"):
        raise ValueError(f"Expected --out with a name that ends with .json, got '{config.out}'.")
    if not config.base and not os.path.isdir(config.images):
        raise FileNotFoundError(
            f"Expected --images with a folder of pictures, got '{config.images}', which is no folder. Check the path."
        )
    if not config.base and not _named_judges(config):
        raise ValueError(
            f"Expected something to do, got neither --base to draw nor one of {', '.join(f'--{name}' for name in _JUDGES)} to score. Name one."
        )
    if min(config.identities, config.face_size - 1, config.score_batch - 1) < 0 or not 0 <= config.frame <= 1:
        raise ValueError(
            "Expected --identities from 0, --face-size and --score-batch from 1 and --frame in [0, 1], got "
            f"{config.identities}, {config.face_size}, {config.score_batch} and {config.frame}."
        )
    Protocol((), config.prompts, config.images_per_prompt)
    for name in _named_judges(config):  # better now than after hours of drawing
        if not os.path.exists(getattr(config, name)):
            raise FileNotFoundError(
                f"Expected weights at --{name} '{getattr(config, name)}', got no such file or folder. Check the path."
            )
    if not config.detector and any(getattr(config, name) for name in _FACE_JUDGES):
        raise ValueError("Expected --detector for the identity metrics, got none. Name a YuNet .onnx file.")
    if config.fid:
        real_pictures(config.fid)
        if not os.path.isfile(config.fid_weights):
            raise FileNotFoundError(
                f"Expected --fid-weights with torch-fidelity's InceptionV3, got '{config.fid_weights}'. Get the file."
            )


def _named_judges(config: EvaluateConfig) -> list[str]:
    return [name for name in _JUDGES if getattr(config, name)]


def _silent(message: str) -> None:
    pass


def _draw(
    config: EvaluateConfig,
    protocol: Protocol,
    references: References,
    processes: Processes,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Draw what is missing, each process its part, and write the manifest; gives what it says of the painter."""
    images, painter = Path(config.images), ImageGenerator(config, processes.device)
    generation, todo = {}, []
    if processes.first:
        inventory = scan(images, protocol)
        records = {slot: painter.record(slot, references.hashes[slot.identity]) for slot in inventory.present}
        todo = plan(inventory, records, images)
        first = next(iter(references.crops))
        generation = describe(painter, references.crops[first], references.faces.get(first))
        write_manifest(images, config.method, protocol, inventory, generation=generation)
        log(
            f"Drawing {len(todo)} pictures on {processes.device} x {processes.world}; {len(inventory.present)} were there."
        )
        if inventory.broken:
            log(
                f"{len(inventory.broken)} damaged picture(s) are drawn again: {', '.join(slot.name for slot in sorted(inventory.broken)[:3])}"
            )
    generation, todo = processes.share((generation, todo))
    mine = divide(batches(todo, painter.batch_size), processes.rank, processes.world)
    label = f"draw {processes.rank + 1}/{processes.world}" if processes.world > 1 else "draw"
    for failed in processes.gather(generate(painter, mine, references, images, label)):
        for name, why in failed.items():
            log(f"No pictures of {name}: {why}")
    return generation


def _recorded(images: Path) -> dict[str, Any]:
    """What a manifest of an earlier run says of the painter; nothing of other methods."""
    try:
        found = json.loads((images / MANIFEST).read_text(encoding="utf-8"))["generation"]
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _results(
    config: EvaluateConfig,
    protocol: Protocol,
    references: References,
    inventory: Inventory,
    scorer: Scorer,
    slots: Sequence[Slot],
    scores: Sequence[dict[str, float]],
    generation: dict[str, Any],
    processes: Processes,
) -> Results:
    folder, images = Path(config.out).resolve().parent, Path(config.images)
    costs = {
        name: getattr(config, name) or generation.get(name, 0) for name in ("parameters", "encoding_seconds")
    }
    if config.fid:
        files = [images / slot.name for slot in slots]
        costs["fid"] = frechet_distance(
            files, config.fid, config.fid_weights, config.size, processes.device, config.score_batch
        )
    return Results(
        method=config.method,
        protocol=protocol,
        metrics=tuple(name for name in METRICS if name in scorer.metrics),
        scorer=dict(scorer.description),
        faces=references.hashes,
        pictures=tuple(zip(slots, scores, strict=True)),
        gaps={**inventory.describe(), "skipped": references.skipped},
        costs={name: value for name, value in costs.items() if value},
        folders={
            "images": os.path.relpath(images, folder),
            **{f"face:{name}": os.path.relpath(crop, folder) for name, crop in references.crops.items()},
        },
        details={
            "config": asdict(replace(config, device=processes.device)),
            "machine": _machine(processes),
            "generation": generation or None,
        },
    )


def _machine(processes: Processes) -> dict[str, Any]:
    name = (
        torch.cuda.get_device_name(processes.device)
        if processes.on_gpu
        else platform.processor() or platform.machine()
    )
    return {
        "device": name,
        "processes": processes.world,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _tell_gaps(results: Results, scored: int, log: Callable[[str], None]) -> None:
    log(
        f"Scored {scored} pictures of {len(results.protocol.identities)} identities with {', '.join(results.metrics)}."
    )
    for what in ("missing", "broken", "unexpected"):
        if listed := list(results.gaps[what]):
            log(
                f"{len(listed)} {what} ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}); all are listed in the results."
            )
