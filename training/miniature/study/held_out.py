"""What is shipped, examined: people and sentences that no training has seen, drawn with the weights that `f2d demo` uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ....f2d.demo import generate_couples
from ....f2d.files import write_text
from ....f2d.miniature.evaluators import divide
from ....f2d.miniature.prompts import PROMPTS
from ...config import MiniatureConfig
from ...report.pages import Block, Cell, Heading, Row, Table, Text, to_markdown
from ...report.statistics import bootstrap_mean
from ..recipe import folder_of
from .averages import NOTHING, show
from .claims import Claim, check_targets
from .evaluator_accuracy import evaluate_on_drawings
from .measure import OPENING, Extent, Tools, draw_and_judge, photo_of
from .report import describe_machine

_PAIR_SEED = 3_000_000


def examine(
    tools: Tools, people: int, prompts: Sequence[int] = range(len(PROMPTS)), bf16: bool = True
) -> list[Claim]:
    """Measure the shipped weights against what the miniature is to reach.

    Args:
        tools: what is shipped.
        people: how many held-out people, beginning with those whom nobody had looked at while the recipe was tuned.
        prompts: places in `PROMPTS`.
        bf16: draw in it.

    Returns:
        The targets, and whether they are reached.
    """
    scores = {0: draw_and_judge(tools, Extent(people, prompts), bf16=bf16, label="held-out evaluation")}
    return list(check_targets(scores, scores))


def write_exam(config: MiniatureConfig, log: Callable[[str], None]) -> Path:
    """Examine, and write `shipped.md`.

    Args:
        config: says where to, and how many people and prompts.
        log: called with each progress message.

    Returns:
        The page.

    Raises:
        ValueError: no folder is named.
        OSError: the folder cannot be written to.
    """
    folder, people = folder_of(config), config.report_people
    prompts = range(min(config.report_prompts, len(PROMPTS)))
    tools = Tools.of_shipped()
    claims = examine(tools, people, prompts, config.bf16)
    log("Drawing couples")
    blocks: list[Block] = [
        Text(_lead(people, len(prompts)), "lead"),
        Table(
            ("Target", "reached", "measured"),
            tuple(
                Row((Cell(one.text), Cell("yes" if one.held else "no"), Cell(one.measured)), "measured")
                for one in claims
            ),
            words=True,
            caption="Intervals: 95 %, bootstrap over people. A level is reached where the mean reaches it, a difference where its whole interval does.",
        ),
        Heading("Two people in one picture"),
        compare_couples(tools, people),
        Heading("The judges"),
        evaluate_on_drawings(tools.verifier, tools.attributes, 4 * people),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "shipped.md"
    write_text(page, to_markdown("What is shipped, examined", blocks))
    return page


def compare_couples(tools: Tools, people: int) -> Table:
    """Draw each person beside the next, in two regions and in one sentence.

    Args:
        tools: what is shipped.
        people: how many.

    Returns:
        How much each half of the pictures resembles the own person and the other one.
    """
    photos = [photo_of(who) for who in range(people)]
    words = [tools.encoder.words(tools.encoder.identify(photo, alignment="FFHQ")) for photo in photos]
    known, rows = tools.verifier.embed(photos), []
    right = [(who + 1) % people for who in range(people)]
    for title, apart in (("A region for each", True), ("One sentence, “a photo of S1* and S2*”", False)):
        couples = [(words[one], words[other]) for one, other in enumerate(right)]
        pictures = generate_couples(
            tools.pipeline, couples, [_PAIR_SEED + who for who in range(people)], apart
        )
        halves = [divide(picture) for picture in pictures]
        seen = [tools.verifier.embed([half[side] for half in halves]) for side in (0, 1)]
        own = torch.stack([(seen[0] * known).sum(1), (seen[1] * known[right]).sum(1)])
        other = torch.stack([(seen[0] * known[right]).sum(1), (seen[1] * known).sum(1)])
        columns = [value.numpy().mean(0) for value in (own, other, (own > other).float())]
        means = [bootstrap_mean(column, np.arange(people)) or NOTHING for column in columns]
        rows.append(Row((Cell(title), *(Cell(show(mean)) for mean in means)), "measured"))
    return Table(
        ("", "Cosine with the own person", "with the other one", "Told apart"),
        tuple(rows),
        words=True,
        caption=f"{people} couples, one picture each, the verifier on each half; intervals: 95 %, bootstrap over couples.",
    )


def _lead(people: int, prompts: int) -> str:
    return (
        f"{describe_machine('cpu')}: the shipped weights on {people} people whom no stage of training has seen, and whom nobody had looked at "
        f"before; one photo each. The prompts are {prompts} sentences that begin with “{OPENING}”, as no caption of any training does; their words, and such scenes with other people, the base model "
        "knows. Made by `f2d-train miniature exam`."
    )
