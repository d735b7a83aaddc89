"""The held-out evaluation of the shipped weights: people and prompts that no training has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....f2d.demo import generate_couples
from ....f2d.files import write_text
from ....f2d.identity import FaceIdentity
from ....f2d.miniature import widen_words
from ....f2d.miniature.evaluators import divide
from ....f2d.miniature.prompts import PROMPTS
from ...config import MiniatureConfig
from ...report.pages import Block, Cell, Heading, Row, Table, Text, to_markdown
from ...report.statistics import bootstrap_mean
from ..recipe import folder_of
from ..shipping import SHIPPED
from .averages import NO_MEAN, format_interval
from .claims import Claim, check_targets
from .evaluator_accuracy import measure_evaluators
from .held_out_data import OPENING, render_photo
from .measure import EvaluationPlan, Models, generate_and_score
from .miniature_report import describe_machine

_PAIR_SEED = 3_000_000


def evaluate_held_out(
    models: Models, people: int, prompts: Sequence[int] = range(len(PROMPTS)), bf16: bool = True
) -> list[Claim]:
    """Measure models against the miniature's targets.

    Args:
        models: the shipped ones.
        people: how many held-out people, starting with those who were not used to tune the recipe.
        prompts: places in `PROMPTS`.
        bf16: generate with autocast.

    Returns:
        The targets, and whether they are reached.
    """
    plan = EvaluationPlan(people, prompts)
    scores = {0: generate_and_score(models, plan, bf16=bf16, label="held-out evaluation")}
    return list(check_targets(scores, scores))


def write_held_out_evaluation(config: MiniatureConfig, log: Callable[[str], None]) -> Path:
    """Evaluate the shipped weights and write `shipped.md`.

    Args:
        config: with the folder and the number of people and prompts.
        log: called with each progress message.

    Returns:
        The page.

    Raises:
        ValueError: `config.out` is empty.
        OSError: the folder cannot be written to.
    """
    folder, people = folder_of(config), config.report_people
    prompts = range(min(config.report_prompts, len(PROMPTS)))
    models = Models.from_package()
    claims = evaluate_held_out(models, people, prompts, config.bf16)
    log("Generating couples")
    blocks: list[Block] = [
        Text(_lead(people, len(prompts)), "lead"),
        Table(
            ("Target", "reached", "measured"),
            tuple(
                Row((Cell(claim.text), Cell("yes" if claim.held else "no"), Cell(claim.measured)), "measured")
                for claim in claims
            ),
            words=True,
            caption="Intervals: 95 %, bootstrap over people. A level is reached if the mean reaches it, "
            "a difference if its whole interval does.",
        ),
        Heading("Two people in one image"),
        compare_couples(models, people),
        Heading("The evaluators"),
        measure_evaluators(models.verifier, models.attributes, 4 * people),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "shipped.md"
    write_text(page, to_markdown("Held-out evaluation of the shipped weights", blocks))
    return page


def compare_couples(models: Models, people: int) -> Table:
    """Generate each person beside the next, in two regions and in one prompt.

    Args:
        models: the shipped ones.
        people: how many.

    Returns:
        The similarity of each half of the images to its own person and to the other one.
    """
    rows = []
    for title, apart in (("A region for each", True), ("One prompt, “a photo of S1* and S2*”", False)):
        own, other = generate_pairs(models, people, apart)
        columns = [value.numpy().mean(0) for value in (own, other, (own > other).float())]
        means = [bootstrap_mean(column, np.arange(people)) or NO_MEAN for column in columns]
        rows.append(Row((Cell(title), *(Cell(format_interval(mean)) for mean in means)), "measured"))
    return Table(
        ("", "Cosine with own photo", "Cosine with the other's photo", "Told apart"),
        tuple(rows),
        words=True,
        caption=f"{people} couples, one image each, the verifier on each half; "
        "intervals: 95 %, bootstrap over couples.",
    )


def generate_pairs(
    models: Models, people: int, apart: bool, identities: Sequence[FaceIdentity] = ()
) -> tuple[Tensor, Tensor]:
    """Generate each person beside the next, and compare the halves of the images with both.

    Args:
        models: the shipped ones, or a recipe's.
        people: how many.
        apart: in a region for each, instead of one prompt.
        identities: of these people; none = encoded from their photo.

    Returns:
        The cosine of the left and right half with the own photo, and that with the other's, both of shape (2,
        people).
    """
    photos = [render_photo(who) for who in range(people)]
    encoder, verifier = models.encoder, models.verifier
    identities = identities or [encoder.identify(photo, alignment="FFHQ") for photo in photos]
    words = [widen_words(encoder.words(identity)) for identity in identities]
    references, neighbors = verifier.embed(photos), [(who + 1) % people for who in range(people)]
    couples = [(words[who], words[neighbor]) for who, neighbor in enumerate(neighbors)]
    seeds = [_PAIR_SEED + who for who in range(people)]
    halves = [divide(image) for image in generate_couples(models.pipeline, couples, seeds, apart)]
    first, second = (verifier.embed([half[side] for half in halves]) for side in (0, 1))
    own = torch.stack([(first * references).sum(1), (second * references[neighbors]).sum(1)])
    other = torch.stack([(first * references[neighbors]).sum(1), (second * references).sum(1)])
    return own, other


def _lead(people: int, prompts: int) -> str:
    return (
        f"{describe_machine('cpu')}: the shipped weights on {people} held-out people, one photo each. The "
        f"mapper was trained with preset `{SHIPPED}`. No stage of training has seen these people, and the "
        f"recipe was not tuned on them. The {prompts} prompts start with “{OPENING}”, as no training caption "
        "does; their words, and the scenes with other people, are in the base model's training set. Made by "
        "`f2d-train miniature exam`."
    )
