"""The complete evaluation of one method: faces, images, scores, results.

    f2d-train evaluate --method F2D --faces ffpp --images eval/f2d --base sd-v1-4 ... --out eval/f2d.json
    f2d-train evaluate --method DVAR --faces faces --images eval/dvar --base sd-v1-4 --words dvar ...
    f2d-train evaluate --method ELITE --faces faces --aligned --images elite ... --out eval/elite.json
    torchrun --nproc_per_node 8 -m face2diffusion.training.cli evaluate ...

The third line scores images that another program has generated. Several processes divide generation and
scoring among themselves; process 0 crops the faces and writes the results. Rerun the command to resume:
existing images and embeddings are kept.
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

from ...f2d.device import describe_device
from ...f2d.miniature import FILES, WEIGHTS
from ...f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, replace_placeholders
from ..config import EvaluateConfig
from ..engine.processes import Processes, start_processes
from .benchmarks import MINIATURE
from .fid import check_fid, frechet_distance, list_real_images
from .generate import ImageGenerator, describe_generator, generate_images, group_batches, list_missing
from .load_scorer import load_scorer
from .miniature_scorer import MiniatureScorer
from .protocol import (
    BASE,
    BASE_SEED,
    MANIFEST,
    Inventory,
    Protocol,
    Slot,
    check_not_empty,
    divide,
    scan,
    write_manifest,
)
from .references import References, prepare_references
from .results import Results
from .scoring import Request, Score, Scorer

_BASE_METRIC = "dCLIP"  # needs a base image
_FACE_EVALUATORS = ("adaface", "sphereface", "facenet")
_TIMEOUT = timedelta(days=7)  # until slower processes count as lost
_EVALUATORS = (*_FACE_EVALUATORS, "clip", "siglip")
_SHIPPED = {  # what "miniature" stands for in an option
    "base": WEIGHTS / "base",
    "msid": WEIGHTS / FILES["msid"],
    "mapper": WEIGHTS / FILES["mapper"],
    "faces": WEIGHTS / "people",
}


def evaluate(config: EvaluateConfig, log: Callable[[str], None] = print) -> Path:
    """Generate missing images, score all, and write the results.

    Args:
        config: of the evaluation.
        log: called with each progress message.

    Returns:
        The JSON of the results; the manifest if no evaluator is given.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: an invalid setting or input file, or no face or no image to score.
        OSError: an output cannot be written; earlier outputs are kept.
        ImportError: a package is missing.
        ConnectionError: another process crashed.
    """
    config = _name_shipped_files(config)
    _check(config)
    out, images = Path(config.out), Path(config.images)
    with start_processes(config.device, "gloo", _TIMEOUT) as processes:
        log = log if processes.first else _ignore
        references = None
        if processes.first:
            references = prepare_references(config, config.crops or out.parent / "faces", log)
        references = processes.share(references)
        protocol = Protocol(
            tuple(references.crops), config.prompts, config.images_per_prompt, config.size, config.benchmark
        )
        scorer = _load_evaluators(config, references, processes) if _scores(config) else None
        if _generates(config):
            generation = _generate_missing(config, protocol, references, processes, log)
        else:
            generation = _read_generation(images)
        inventory = processes.share(scan(images, protocol) if processes.first else None)
        if _generates(config) and processes.first:
            write_manifest(images, config.method, protocol, inventory, generation=generation)
        check_not_empty(inventory, images)
        if scorer is None:
            log("No evaluator is given, so nothing is scored.")
            return images / MANIFEST
        scores = _score_all(config, scorer, protocol, references, inventory, processes)
        if processes.first:
            results = _build_results(
                config, protocol, references, inventory, scorer, scores, generation, processes
            )
            results.save(out)
            _log_gaps(results, log)
    return out


def _name_shipped_files(config: EvaluateConfig) -> EvaluateConfig:
    """Replace "miniature" by the package's own files."""
    named: dict[str, Any] = {
        name: str(path) for name, path in _SHIPPED.items() if getattr(config, name) == MINIATURE.name
    }
    return replace(config, **named)


def _generates(config: EvaluateConfig) -> bool:
    return bool(config.base or config.models)


def _scores(config: EvaluateConfig) -> bool:
    return config.benchmark == MINIATURE.name or bool(_given_evaluators(config))


def _load_evaluators(
    config: EvaluateConfig, references: References, processes: Processes
) -> Scorer | MiniatureScorer:
    """Load the evaluators and check the faces; they wait on the CPU while images are generated."""
    scorer: Scorer | MiniatureScorer
    if config.benchmark == MINIATURE.name:
        scorer = MiniatureScorer(processes.device, config.score_batch)
    else:
        weights = {name: getattr(config, name) or None for name in (*_EVALUATORS, "detector")}
        scorer = load_scorer(
            **weights,
            device=processes.device,
            batch_size=config.score_batch,
            cache=config.cache or Path(config.out).parent / processes.own("cache.sqlite"),
            min_score=config.min_score,
        )
    if processes.first:
        faces = {references.crops[name]: face for name, face in references.faces.items()}
        scorer.check_references(list(references.crops.values()), faces)
    if _generates(config):
        scorer.to("cpu")
    return scorer


def _score_all(
    config: EvaluateConfig,
    scorer: Scorer | MiniatureScorer,
    protocol: Protocol,
    references: References,
    inventory: Inventory,
    processes: Processes,
) -> list[tuple[Slot, Score]]:
    """Score all present images, each process its part; returns all scores in order."""
    scorer.to(processes.device)
    slots = [slot for slot in protocol.slots() if slot in inventory.present]
    part = divide(slots, processes.rank, processes.world)
    own = score(scorer, part, protocol, inventory, references, Path(config.images), processes.first)
    scores = [row for rows in processes.gather(own) for row in rows]
    return list(zip(slots, scores, strict=True))


def score(
    scorer: Scorer | MiniatureScorer,
    slots: Sequence[Slot],
    protocol: Protocol,
    inventory: Inventory,
    references: References,
    images: Path,
    progress: bool = True,
) -> list[Score]:
    """Score images; the text evaluators read the prompt with the class words in place of S*.

    Args:
        scorer: the evaluators.
        slots: of the images.
        protocol: with their prompts.
        inventory: of the folder; identities without a base image get no dCLIP.
        references: the faces.
        images: folder of the images.
        progress: show a progress bar.

    Returns:
        The scores, one per image.
    """
    requests = []
    for slot in slots:
        image, base = images / slot.name, Slot(slot.identity, BASE, BASE_SEED)
        requests.append(
            Request(
                image=str(image),
                reference=references.crops[slot.identity],
                prompt=_class_prompt(protocol.prompt(slot)),
                base=str(images / base.name if base in inventory.present else image),
                base_prompt=_class_prompt(protocol.prompt(base)),
                face=references.faces.get(slot.identity),
            )
        )
    scores = scorer.score(requests, progress)
    return [
        _without_base_metric(score) if request.base == request.image else score
        for request, score in zip(requests, scores, strict=True)
    ]


def _class_prompt(prompt: str) -> str:
    return replace_placeholders(prompt, [PLACEHOLDER], CLASS_WORDS) if prompt else ""


def _without_base_metric(score: Score) -> Score:
    return replace(
        score, metrics={name: value for name, value in score.metrics.items() if name != _BASE_METRIC}
    )


def _check(config: EvaluateConfig) -> None:
    """Check everything that would otherwise fail after hours of generation."""
    for name in ("method", "images", "faces", "out"):
        if not getattr(config, name):
            raise ValueError(f"--{name} is missing. Set it.")
    if not config.out.endswith(".json"):
        raise ValueError(f"--out '{config.out}' does not end with .json. Name a JSON file.")
    _check_subjects(config)
    if not _generates(config) and not os.path.isdir(config.images):
        raise FileNotFoundError(
            f"--images '{config.images}' is not a folder. Check the path, or set --base to generate images."
        )
    if not _generates(config) and not _scores(config):
        options = ", ".join(f"--{name}" for name in _EVALUATORS)
        raise ValueError(f"There is nothing to do. Set --base to generate, or one of {options} to score.")
    if min(config.identities, config.face_size - 1, config.score_batch - 1) < 0 or not 0 <= config.frame <= 1:
        raise ValueError(
            f"--identities {config.identities}, --face-size {config.face_size}, --score-batch "
            f"{config.score_batch} or --frame {config.frame} is out of range. Use --identities from 0, the "
            "sizes from 1 and --frame in [0, 1]."
        )
    Protocol((), config.prompts, config.images_per_prompt, benchmark=config.benchmark)
    _check_evaluators(config)
    if config.fid:
        check_fid(config.fid, config.fid_weights, config.fid_words)


def _check_subjects(config: EvaluateConfig) -> None:
    given = [f"--{name}" for name in ("mapper", "words", "models") if getattr(config, name)]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other. Set the one of this method.")
    if config.words and not config.base:
        raise ValueError("--words needs --base, the model that the words were trained for. Set it.")


def _check_evaluators(config: EvaluateConfig) -> None:
    given = _given_evaluators(config)
    if given and config.benchmark == MINIATURE.name:
        raise ValueError(
            f"--{given[0]} cannot score the miniature's images, which have evaluators of their own. Omit it."
        )
    for name in given:
        if not os.path.exists(getattr(config, name)):
            raise FileNotFoundError(f"--{name} '{getattr(config, name)}' does not exist. Check the path.")
    if not config.detector and any(getattr(config, name) for name in _FACE_EVALUATORS):
        raise ValueError("The identity metrics need a detector. Set --detector to a YuNet .onnx file.")


def _given_evaluators(config: EvaluateConfig) -> list[str]:
    return [name for name in _EVALUATORS if getattr(config, name)]


def _ignore(message: str) -> None:
    pass


def _generate_missing(
    config: EvaluateConfig,
    protocol: Protocol,
    references: References,
    processes: Processes,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Generate missing images, each process its part; returns the manifest's entry `generation`."""
    images, generator = Path(config.images), ImageGenerator(config, processes.device)
    generation, todo = {}, []
    generator.subjects.check(references)
    if processes.first:
        inventory = scan(images, protocol)
        records = {slot: generator.record(slot, references) for slot in inventory.present}
        todo = list_missing(inventory, records, images)
        generation = describe_generator(generator, references)
        write_manifest(images, config.method, protocol, inventory, generation=generation)
        log(
            f"Generating {len(todo)} images on {processes.device} x {processes.world}; "
            f"{len(inventory.present)} exist."
        )
        if inventory.broken:
            names = ", ".join(slot.name for slot in sorted(inventory.broken)[:3])
            log(f"Generating {len(inventory.broken)} damaged image(s) again: {names}")
    generation, todo = processes.share((generation, todo))
    part = divide(group_batches(todo, generator.batch_size), processes.rank, processes.world)
    label = f"generate {processes.rank + 1}/{processes.world}" if processes.world > 1 else "generate"
    for failed in processes.gather(generate_images(generator, part, references, images, label)):
        for name, why in failed.items():
            log(f"No images of {name}: {why}")
    return generation


def _read_generation(images: Path) -> dict[str, Any]:
    """Read `generation` of an earlier run's manifest; empty for other methods."""
    try:
        return dict(json.loads((images / MANIFEST).read_text(encoding="utf-8"))["generation"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _build_results(
    config: EvaluateConfig,
    protocol: Protocol,
    references: References,
    inventory: Inventory,
    scorer: Scorer | MiniatureScorer,
    scores: Sequence[tuple[Slot, Score]],
    generation: dict[str, Any],
    processes: Processes,
) -> Results:
    folder, images = Path(config.out).resolve().parent, Path(config.images)
    costs = {
        name: getattr(config, name) or generation.get(name, 0) for name in ("parameters", "encoding_seconds")
    }
    details: dict[str, Any] = {
        "config": asdict(replace(config, device=processes.device)),
        "machine": _describe_machine(processes),
        "generation": generation or None,
    }
    if config.fid:
        files = [images / slot.name for slot, _ in scores]
        real = list_real_images(config.fid, config.fid_words)
        distance = frechet_distance(
            files, real, config.fid_weights, config.size, processes.device, config.score_batch
        )
        costs["fid"], details["fid"] = distance.value, distance.describe()
    return Results(
        method=config.method,
        protocol=protocol,
        metrics=tuple(name for name in protocol.rules.metrics if name in scorer.metrics),
        scorer=dict(scorer.description),
        faces=references.hashes,
        images=tuple((slot, score.metrics) for slot, score in scores),
        gaps={**inventory.describe(), "skipped": references.skipped},
        costs={name: value for name, value in costs.items() if value},
        folders={
            "images": os.path.relpath(images, folder),
            **{f"face:{name}": os.path.relpath(crop, folder) for name, crop in references.crops.items()},
        },
        details=details,
        without_face=_list_faceless(scores),
    )


def _list_faceless(scores: Sequence[tuple[Slot, Score]]) -> frozenset[Slot] | None:
    """List the images without a face; None if no identity metric was computed."""
    if any(score.face is None for _, score in scores):
        return None
    return frozenset(slot for slot, score in scores if not score.face)


def _describe_machine(processes: Processes) -> dict[str, Any]:
    return {
        "device": describe_device(processes.device),
        "processes": processes.world,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _log_gaps(results: Results, log: Callable[[str], None]) -> None:
    identities, metrics = len(results.protocol.identities), ", ".join(results.metrics)
    log(f"Scored {len(results.images)} images of {identities} identities with {metrics}.")
    for what in ("missing", "broken", "unexpected"):
        if names := list(results.gaps[what]):
            first = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            log(f"{len(names)} {what} ({first}); the results list all.")
