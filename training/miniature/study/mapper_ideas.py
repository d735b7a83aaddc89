"""What each idea beyond the paper gives a mapper: presets trained alike, each compared with the paper's.

out/ideas/<preset>-<seed>.json   one mapper's scores; a finished file is not measured again
out/ideas/person.json            the copying of "a person", as a control
out/ideas.md                     the table, of the presets and seeds that are asked for
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....f2d.checkpoint import read
from ....f2d.files import fingerprint, write_text
from ....f2d.miniature.prompts import PROMPTS
from ....f2d.prompt.injection import CLASS_WORDS
from ...report.pages import Block, Cell, Row, Table, Text, to_markdown
from ...report.statistics import Mean, bootstrap_mean
from ..recipe import Miniature
from .averages import NO_MEAN, format_interval
from .copying import Copying, SceneProbe, compare_scenes, measure_copying, read_scene
from .held_out_data import build_photo
from .held_out_evaluation import generate_pairs
from .measure import EvaluationPlan, Models, generate_and_score
from .scores import Variant, measure_once

BASELINE = "cgdr"  # the paper's mapper
_EVERY = 3  # every third prompt of PROMPTS, to keep it affordable
_PHOTOS = 4  # of each person, for copying
_COUPLES = 2  # couples per person: they need one image each, and each half of it is right or wrong
_TASKS = {  # title: the task of `Score`, and the score's value
    "Identity": ("prompt", "identity"),
    "Text": ("prompt", "text"),
    "At rest if none is requested": ("plain", "expression"),
    "References followed": ("reference", "text"),
}
_TOLD_APART = "Couples told apart"


@dataclass(frozen=True)
class MapperScores:
    """One mapper's scores: by title, a value per person, and the copying over all photos."""

    people: dict[str, list[float]]
    copying: Copying


def write_ideas_study(miniature: Miniature, log: Callable[[str], None]) -> Path:
    """Train and measure the mappers of the config's presets and seeds; the same command resumes.

    Args:
        miniature: the recipe's folder.
        log: called with each progress message.

    Returns:
        The page.

    Raises:
        ValueError: an unknown preset.
        InterruptedError: a signal stopped a training; the same call resumes it.
        OSError: the folder cannot be written to.
    """
    config, measured, page = miniature.config, {}, Path()
    miniature.check_presets()
    probe = SceneProbe(miniature.attributes())
    photos = read_photos(probe, config.report_people)
    for preset in config.presets:
        for seed in config.seeds or (0,):
            log(f"Mapper {preset}, seed {seed}")
            measured[preset, seed] = measure_mapper(miniature, preset, seed, probe)
            controls = {
                "“a person”, the same seeds": measure_person(miniature, probe),
                "the photos themselves": photos,
            }
            page = _write_page(miniature, measured, controls)
    return page


def measure_mapper(miniature: Miniature, preset: str, seed: int, probe: SceneProbe) -> MapperScores:
    """Measure one mapper, or read what an earlier call measured; trains what is missing."""
    config = miniature.config
    mapper = fingerprint(read(miniature.mapper(preset, seed)).tensors)
    counts = {"people": config.report_people, "every": _EVERY, "photos": _PHOTOS, "couples": _COUPLES}

    def measure() -> dict[str, Any]:
        models = Models.from_recipe(miniature, Variant(preset, preset), seed)
        people = _score_people(models, config.report_people, config.bf16, f"{preset}-{seed}")
        copying = measure_copying(models, probe, config.report_people, _PHOTOS, bf16=config.bf16)
        return {"people": people, "copying": asdict(copying)}

    content = measure_once(
        miniature.folder / "ideas" / f"{preset}-{seed}.json", {"mapper": mapper, **counts}, measure
    )
    return MapperScores(content["people"], Copying(**content["copying"]))


def measure_person(miniature: Miniature, probe: SceneProbe) -> Copying:
    """Measure the copying of images of "a person", or read what an earlier call measured."""
    config, preset = miniature.config, miniature.config.presets[0]

    def measure() -> dict[str, Any]:
        models = Models.from_recipe(miniature, Variant(preset, preset), (config.seeds or (0,))[0])
        people, bf16 = config.report_people, config.bf16
        return {"copying": asdict(measure_copying(models, probe, people, _PHOTOS, CLASS_WORDS, bf16))}

    settings = {"people": config.report_people, "photos": _PHOTOS}
    return Copying(**measure_once(miniature.folder / "ideas" / "person.json", settings, measure)["copying"])


def read_photos(probe: SceneProbe, people: int) -> Copying:
    """Measure the photos as if they were the images: how well the probe reads them."""
    samples = [build_photo(who, photo) for who in range(people) for photo in range(_PHOTOS)]
    shown = probe.read([sample.rendering.image for sample in samples])
    return compare_scenes([read_scene(sample) for sample in samples], shown)


def _score_people(models: Models, people: int, bf16: bool, label: str) -> dict[str, list[float]]:
    """Average each person's images, and the couples of each person and the next."""
    plan = EvaluationPlan(people, range(0, len(PROMPTS), _EVERY), plain=False)
    scores = generate_and_score(models, plan, bf16=bf16, label=label)
    own, other = generate_pairs(models, _COUPLES * people, apart=False)
    means = {
        title: [
            float(
                np.mean([getattr(score, value) for score in scores if (score.task, score.who) == (task, who)])
            )
            for who in range(people)
        ]
        for title, (task, value) in _TASKS.items()
    }
    return {**means, _TOLD_APART: (own > other).float().mean(0).tolist()}


def _write_page(
    miniature: Miniature, measured: dict[tuple[str, int], MapperScores], controls: dict[str, Copying]
) -> Path:
    presets = list(dict.fromkeys(preset for preset, _ in measured))
    by_preset = {
        preset: [scores for (name, _), scores in measured.items() if name == preset] for preset in presets
    }
    blocks: list[Block] = [
        Text(_lead(miniature), "lead"),
        _people_table(by_preset),
        _copying_table(by_preset, controls),
    ]
    page = miniature.folder / "ideas.md"
    write_text(page, to_markdown("Ideas for the mapper, on held-out people", blocks))
    return page


def _people_table(measured: dict[str, list[MapperScores]]) -> Table:
    titles = (*_TASKS, _TOLD_APART)
    means = {
        preset: {title: _mean_over_seeds(found, title) for title in titles}
        for preset, found in measured.items()
    }
    rows = []
    for preset, columns in means.items():
        cells = [Cell(format_interval(_mean(values))) for values in columns.values()]
        rows.append(Row((Cell(preset), *cells), "measured"))
        if preset != BASELINE and BASELINE in means:
            less = [_mean(columns[title] - means[BASELINE][title]) for title in titles]
            rows.append(
                Row((Cell(f"{preset} - {BASELINE}"), *(Cell(format_interval(m)) for m in less)), "measured")
            )
    return Table(
        ("", *titles),
        tuple(rows),
        caption="Means over people; intervals: 95 %, bootstrap over people. Differences: paired by person.",
    )


def _mean_over_seeds(found: Sequence[MapperScores], title: str) -> np.ndarray:
    """Average each person's value over seeds: shape (people,)."""
    return np.mean([scores.people[title] for scores in found], axis=0)


def _mean(values: np.ndarray) -> Mean:
    return bootstrap_mean(values, np.arange(len(values))) or NO_MEAN


def _copying_table(measured: dict[str, list[MapperScores]], controls: dict[str, Copying]) -> Table:
    lines = {preset: [dict(scores.copying.rows()) for scores in found] for preset, found in measured.items()}
    lines |= {line: [dict(copying.rows())] for line, copying in controls.items()}
    rows = [
        Row(
            (Cell(line), *(Cell(f"{np.mean([one[name] for one in found]):.2f}") for name in found[0])),
            "measured",
        )
        for line, found in lines.items()
    ]
    return Table(
        ("Copied from the photo", "Yaw", "Sweater", "Place", "Expression"),
        tuple(rows),
        caption="“A photo of S*”, without an expression reference: correlation of the photo's yaw and "
        "sweater color with the image's, and share of the photos' places and expressions in the images.",
    )


def _lead(miniature: Miniature) -> str:
    config = miniature.config
    return (
        f"Each mapper: {config.mapper_steps} steps of batch {config.mapper_batch} on {config.photos:,} "
        f"photos, seeds {', '.join(map(str, config.seeds or (0,)))}. Measured on {config.report_people} "
        f"held-out people: {len(range(0, len(PROMPTS), _EVERY))} prompts, 4 images of “a photo of S*” and 6 "
        f"expression references each; and {_COUPLES * config.report_people} couples, each in one sentence. "
        "Made by `f2d-train miniature ideas`."
    )
