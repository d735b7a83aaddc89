"""One page for one or more evaluations, in Markdown and in HTML, from their JSONs alone; the grids need the pictures too.

f2d-train report --results eval/f2d.json,eval/elite.json --out eval/report
f2d-train report --results eval/f2d.json --encoders msid.pt --triplets vggface2 --out eval/report     (with Fig. 4)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...f2d.files import atomic_file
from ..config import ReportConfig
from ..evaluation.protocol import PROMPTS
from ..evaluation.results import Results, check_comparable
from ..msid.verification import verify
from .figures import best_of, grids, verification
from .pages import Block, Cell, Figure, Heading, Row, Table, Text, to_html, to_markdown
from .tables import Measured, ablations, comparison, costs, locations, summary

TITLE = "Face2Diffusion: evaluation"
_LISTED = 12  # gaps that are named


def write_evaluation_report(config: ReportConfig, log: Callable[[str], None] = print) -> Path:
    """Write `report.html`, `report.md` and the Markdown page's pictures.

    Args:
        config: of the report.
        log: called with each progress message.

    Returns:
        The HTML page.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no results, a damaged or foreign file, or two results of one method.
        OSError: the folder cannot be written to.
    """
    _check(config)
    results = [Results.load(path) for path in config.results]
    twice = [name for name, count in Counter(one.method for one in results).items() if count > 1]
    if twice:
        raise ValueError(
            f"Expected each method once, got '{twice[0]}' twice. Name them apart with --method, or leave one out."
        )
    encoders = _verifications(config, log)
    log(f"Bootstrap over identities, {config.draws} draws ...")
    blocks = build(results, encoders, config)
    out = Path(config.out)
    for block in blocks:
        if isinstance(block, Figure):
            _write(out / block.name, block.data)
    _write(out / "report.md", to_markdown(TITLE, blocks).encode())
    _write(out / "report.html", to_html(TITLE, blocks).encode())
    return out / "report.html"


def build(
    results: Sequence[Results], encoders: Sequence[tuple[dict[str, Any], bytes]], config: ReportConfig
) -> list[Block]:
    """Make the page.

    Args:
        results: of the methods.
        encoders: JSON and histograms of each encoder.
        config: of the report.

    Returns:
        Its blocks.
    """
    measured = [Measured.of(one, config.draws) for one in results]
    differences = check_comparable(results)
    return [
        *summary(measured, differences),
        *comparison(measured, not differences),
        *costs(measured, not differences),
        *ablations(measured),
        *locations(measured),
        *best_of(measured, config.draws),
        *verification(encoders),
        *grids(results, config),
        *gaps(measured),
        *methods(measured),
    ]


def gaps(measured: Sequence[Measured]) -> list[Block]:
    """What is missing; nothing where nothing is."""
    blocks: list[Block] = []
    for one in measured:
        for what, meaning in (
            ("missing", "pictures that are not there"),
            ("broken", "pictures that cannot be used"),
            ("unexpected", "pictures that the protocol does not know, not scored"),
            ("skipped", "faces without a usable photo, left out"),
        ):
            if listed := one.results.gaps[what]:
                named = [
                    f"{name} ({listed[name]})" if isinstance(listed, dict) else str(name)
                    for name in list(listed)[:_LISTED]
                ]
                more = f", and {len(listed) - _LISTED} more in the JSON" if len(listed) > _LISTED else ""
                blocks.append(Text(f"{one.name}, {meaning} ({len(listed)}): {', '.join(named)}{more}."))
    return [Heading("Gaps"), *blocks] if blocks else []


def methods(measured: Sequence[Measured]) -> list[Block]:
    """How it was measured: judges, protocol, machines."""
    blocks: list[Block] = [Heading("How it was measured")]
    for scorer in {json.dumps(one.results.scorer): one.results.scorer for one in measured}.values():
        names = ", ".join(one.name for one in measured if one.results.scorer == scorer)
        rows = tuple(Row((Cell(judge), Cell(weights))) for judge, weights in scorer.items())
        blocks.append(Table(("Evaluator", "weights"), rows, caption=f"Judges of {names}", words=True))
    for one in measured:
        protocol, machine = one.results.protocol, one.results.details.get("machine") or {}
        generation = one.results.details.get("generation")
        blocks.append(
            Text(
                f"{one.name}: {len(protocol.identities)} identities × {len(protocol.prompts)} prompts of Table 7 × {protocol.images_per_prompt} "
                f"pictures of {protocol.size} px, {'drawn by this project' if generation else 'drawn elsewhere'}, scored on "
                f"{machine.get('device', 'an unknown machine')} with torch {machine.get('torch', '?')}."
            )
        )
        if generation:
            settings = {name.replace("_", " "): value for name, value in generation.items() if value != ""}
            rows = tuple(Row((Cell(name), Cell(str(value)))) for name, value in settings.items())
            blocks.append(Table(("Setting", "value"), rows, caption=f"How {one.name} was drawn", words=True))
    return blocks


def _check(config: ReportConfig) -> None:
    if not config.results:
        raise ValueError(
            "Expected --results with JSONs of `f2d-train evaluate`, got none. Name them, with commas between."
        )
    if not config.out:
        raise ValueError("Expected --out with a folder for the pages, got none. Name it.")
    if config.draws < 1 or config.grid_identities < 0:
        raise ValueError(
            f"Expected --draws from 1 and --grid-identities from 0, got {config.draws} and {config.grid_identities}."
        )
    wrong = [prompt for prompt in config.grid_prompts if not 0 <= prompt < len(PROMPTS)]
    if wrong:
        raise ValueError(
            f"Expected --grid-prompts from 0 to {len(PROMPTS) - 1}, got {wrong[0]}. Name places in Table 7."
        )
    if config.encoders and not config.triplets:
        raise ValueError(
            "Expected --triplets with aligned faces for --encoders, got none. Name a folder with a folder for each identity."
        )


def _verifications(config: ReportConfig, log: Callable[[str], None]) -> list[tuple[dict[str, Any], bytes]]:
    """Read the JSONs of `verification.report`, each with the histograms beside it, and verify further encoders."""
    files = [Path(path) for path in config.verification]
    for number, encoder in enumerate(config.encoders):
        folder = Path(config.out) / f"encoder-{number}"
        log(f"Verifying {encoder} ...")
        verify(encoder, config.triplets, folder, config.depths or None, log=log)
        files.append(folder / "verification.json")
    return [
        (
            _read_verification(path),
            path.with_suffix(".png").read_bytes() if path.with_suffix(".png").is_file() else b"",
        )
        for path in files
    ]


def _read_verification(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected an encoder's verification at '{path}', got no such file. Check the path."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        complete = found["triplets"] and all(
            0 <= depth["auc"] <= 1 and depth["depth"] for depth in found["depths"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected an encoder's verification.json, got '{path}', which is damaged or something else ({error!r})."
        ) from error
    if not complete:
        raise ValueError(
            f"Expected an encoder's verification.json, got '{path}' without triplets. Make it again."
        )
    return found


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as temporary:
        Path(temporary).write_bytes(data)
