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

from ...f2d.checkpoint import atomic_file
from ..config import ReportConfig
from ..verification import verify
from . import sections
from .pages import Block, Figure, Heading, Text, to_html, to_markdown
from .plots import draw_grid
from .protocol import PROMPTS, Slot
from .results import Results, check_comparable
from .sections import Measured

TITLE = "Face2Diffusion: evaluation"
_PREFIX = "A photo of S* "
_GRID_SEED = 0


def report(config: ReportConfig, say: Callable[[str], None] = print) -> Path:
    """Write `report.html`, `report.md` and the Markdown page's pictures.

    Args:
        config: of the report.
        say: is told how it goes.

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
        raise ValueError(f"Expected each method once, got '{twice[0]}' twice. Name them apart with --method, or leave one out.")
    encoders = _verifications(config, say)
    say(f"Bootstrap over identities, {config.draws} draws ...")
    blocks = build(results, encoders, config)
    out = Path(config.out)
    for block in blocks:
        if isinstance(block, Figure):
            _write(out / block.name, block.data)
    _write(out / "report.md", to_markdown(TITLE, blocks).encode())
    _write(out / "report.html", to_html(TITLE, blocks).encode())
    return out / "report.html"


def build(results: Sequence[Results], encoders: Sequence[tuple[dict[str, Any], bytes]], config: ReportConfig) -> list[Block]:
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
        *sections.summary(measured, differences),
        *sections.comparison(measured, not differences),
        *sections.costs(measured, not differences),
        *sections.ablations(measured),
        *sections.locations(measured),
        *sections.best_of(measured, config.draws),
        *sections.verification(encoders),
        *grids(results, config),
        *sections.gaps(measured),
        *sections.methods(measured),
    ]


def grids(results: Sequence[Results], config: ReportConfig) -> list[Block]:
    """Set pictures of the methods side by side; always those of the first identities and seed 0, not the best ones.

    Args:
        results: of the methods.
        config: says how many identities, and which prompts.

    Returns:
        A figure for each identity, as far as the pictures are still there.
    """
    shared = [name for name in results[0].protocol.identities if all(name in one.faces for one in results)]
    drawn = [prompt for prompt in config.grid_prompts if all(prompt in one.protocol.prompts for one in results)]
    drawn = drawn or list(results[0].protocol.prompts[: len(config.grid_prompts)])
    figures: list[Block] = []
    for identity in shared[: config.grid_identities]:
        rows = {one.method: [_picture(one, Slot(identity, prompt, _GRID_SEED)) for prompt in drawn] for one in results}
        face = next((path for one in results if (path := _resolve(one, one.folders.get(f"face:{identity}", ""))).is_file()), None)
        if face is not None and any(path is not None for row in rows.values() for path in row):
            sheet = draw_grid(face, [PROMPTS[prompt].removeprefix(_PREFIX) for prompt in drawn], rows)
            figures.append(
                Figure(f"pictures-{len(figures)}.jpg", sheet, f'{identity}, seed {_GRID_SEED}; "A photo of S*" is left out of the prompts.')
            )
    if not figures:
        return (
            [Heading("Pictures"), Text("The pictures are not on this machine, or none is shared; the tables do not need them.")]
            if shared
            else []
        )
    return [Heading("Pictures"), Text("The first identities by name and the first seed: not chosen by their looks."), *figures]


def _resolve(results: Results, name: str) -> Path:
    return Path(results.path).parent / name


def _picture(results: Results, slot: Slot) -> Path | None:
    path = _resolve(results, results.folders.get("images", "")) / slot.name
    return path if path.is_file() else None


def _check(config: ReportConfig) -> None:
    if not config.results:
        raise ValueError("Expected --results with JSONs of `f2d-train evaluate`, got none. Name them, with commas between.")
    if not config.out:
        raise ValueError("Expected --out with a folder for the pages, got none. Name it.")
    if config.draws < 1 or config.grid_identities < 0:
        raise ValueError(f"Expected --draws from 1 and --grid-identities from 0, got {config.draws} and {config.grid_identities}.")
    wrong = [prompt for prompt in config.grid_prompts if not 0 <= prompt < len(PROMPTS)]
    if wrong:
        raise ValueError(f"Expected --grid-prompts from 0 to {len(PROMPTS) - 1}, got {wrong[0]}. Name places in Table 7.")
    if config.encoders and not config.triplets:
        raise ValueError("Expected --triplets with aligned faces for --encoders, got none. Name a folder with a folder for each identity.")


def _verifications(config: ReportConfig, say: Callable[[str], None]) -> list[tuple[dict[str, Any], bytes]]:
    """Read the JSONs of `verification.report`, each with the histograms beside it, and verify further encoders."""
    files = [Path(path) for path in config.verification]
    for number, encoder in enumerate(config.encoders):
        folder = Path(config.out) / f"encoder-{number}"
        say(f"Verifying {encoder} ...")
        verify(encoder, config.triplets, folder, config.depths or None, say=say)
        files.append(folder / "verification.json")
    return [
        (_read_verification(path), path.with_suffix(".png").read_bytes() if path.with_suffix(".png").is_file() else b"") for path in files
    ]


def _read_verification(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected an encoder's verification at '{path}', got no such file. Check the path.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        complete = found["triplets"] and all(0 <= depth["auc"] <= 1 and depth["depth"] for depth in found["depths"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected an encoder's verification.json, got '{path}', which is damaged or something else ({error!r})."
        ) from error
    if not complete:
        raise ValueError(f"Expected an encoder's verification.json, got '{path}' without triplets. Make it again.")
    return found


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as temporary:
        Path(temporary).write_bytes(data)
