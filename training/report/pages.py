"""A report as a list of blocks, written as Markdown with separate figures or as one HTML file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

_NARROW = 6  # columns, up to which a table does not span the page
Kind = Literal["published", "measured"]
_MEDIA = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}


@dataclass(frozen=True)
class Heading:
    """A section heading."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["plain", "lead", "warning"] = "plain"


@dataclass(frozen=True)
class Cell:
    """One entry of a table."""

    text: str
    rank: int = 0  # 1, 2, 3; 0 = none
    detail: str = ""  # in small type: an interval


@dataclass(frozen=True)
class Row:
    """One row; a single cell spans all columns as a title."""

    cells: tuple[Cell, ...]
    kind: Kind = "published"


@dataclass(frozen=True)
class Table:
    """A table whose first column holds names."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()  # titles over columns, and how many each spans
    caption: str = ""
    words: bool = False  # whether the cells hold text, not numbers


@dataclass(frozen=True)
class Figure:
    """An image or plot."""

    name: str  # file name; its suffix is the format
    data: bytes = field(repr=False)
    caption: str = ""


Block = Heading | Text | Table | Figure


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Write a page in Markdown, which refers to the figures by name.

    Args:
        title: of the page.
        blocks: in order.

    Returns:
        The text.
    """
    parts = [f"# {title}"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {block.text}")
        elif isinstance(block, Text):
            parts.append(
                f"> **Note:** {_escape(block.text)}" if block.kind == "warning" else _escape(block.text)
            )
        elif isinstance(block, Figure):
            parts.append(f"![{_escape(block.caption)}]({block.name})\n\n*{_escape(block.caption)}*")
        else:
            parts.append(_markdown_table(block))
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    return re.sub(r"([*|<>\[\]])", r"\\\1", text)


def _markdown_table(table: Table) -> str:
    lines = [f"**{_escape(table.caption)}**\n"] if table.caption else []
    lines += [
        "| " + " | ".join(map(_escape, table.columns)) + " |",
        "|---" + ("|---" if table.words else "|---:") * (len(table.columns) - 1) + "|",
    ]
    for row in table.rows:
        if len(row.cells) == 1:
            cells = [f"*{_escape(row.cells[0].text)}*"] + [""] * (len(table.columns) - 1)
        else:
            cells = [_markdown_cell(cell, place == 0) for place, cell in enumerate(row.cells)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _markdown_cell(cell: Cell, name: bool) -> str:
    text = _escape(cell.text)
    if name:
        return f"{text} ({_escape(cell.detail)})" if cell.detail else text
    if cell.rank:
        text = f"**{text}** (1)" if cell.rank == 1 else f"{text} ({cell.rank})"
    return f"{text} {_escape(f'[{cell.detail}]')}" if cell.detail else text


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Write a page in HTML that includes its figures.

    Args:
        title: of the page.
        blocks: in order.

    Returns:
        The text.
    """
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    links = "".join(f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in headings)
    body = "\n".join(_html_block(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{html.escape(title)}</h1>\n"
        f"<nav>{links}</nav>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _html_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f'<h2 id="{_anchor(block.text)}">{html.escape(block.text)}</h2>'
    if isinstance(block, Text):
        return f'<p class="{block.kind}">{html.escape(block.text)}</p>'
    if isinstance(block, Figure):
        source = (
            f"data:{_MEDIA[block.name.rpartition('.')[2]]};base64,{base64.b64encode(block.data).decode()}"
        )
        caption = html.escape(block.caption)
        return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    return _html_table(block)


def _html_table(table: Table) -> str:
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    groups = ""
    if table.groups:
        groups = (
            "<tr><th></th>"
            + "".join(
                f'<th colspan="{span}" class="group">{html.escape(name)}</th>' for name, span in table.groups
            )
            + "</tr>"
        )
    columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = "\n".join(_html_row(row, len(table.columns)) for row in table.rows)
    look = " class=words" if table.words else " class=narrow" if len(table.columns) <= _NARROW else ""
    head = f"<thead>{groups}<tr>{columns}</tr></thead>"
    return f'<div class="table"><table{look}>{caption}{head}<tbody>\n{rows}\n</tbody></table></div>'


def _html_row(row: Row, width: int) -> str:
    if len(row.cells) == 1:
        return f'<tr class="title"><th colspan="{width}">{html.escape(row.cells[0].text)}</th></tr>'
    name, *cells = row.cells
    small = f"<small>{html.escape(name.detail)}</small>" if name.detail else ""
    head = f'<th scope="row">{html.escape(name.text)}{small}</th>'
    return f'<tr class="{row.kind}">{head}{"".join(map(_html_cell, cells))}</tr>'


def _html_cell(cell: Cell) -> str:
    rank = f'<sup title="rank {cell.rank}">{cell.rank}</sup>' if cell.rank else ""
    small = f"<small>{html.escape(cell.detail)}</small>" if cell.detail else ""
    look = f" class=rank{cell.rank}" if cell.rank else ""
    return f"<td{look}><span>{html.escape(cell.text)}{rank}</span>{small}</td>"


_STYLE = """
:root {
  color-scheme: light;
  --ink: #1b1f24;
  --soft: #5b6470;
  --line: #d9dde3;
  --accent: #0b5cad;
  --wash: #f1f6fc;
}
* { box-sizing: border-box; }
body {
  margin: 0;
  background: #fff;
  color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 16px; }
h2 { font-size: 20px; margin: 52px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 28px; font-size: 13.5px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
p { max-width: 78ch; margin: 10px 0; overflow-wrap: anywhere; }
p.lead { font-size: 17px; color: var(--soft); }
p.warning { border-left: 4px solid #d98a00; background: #fff8e8; padding: 10px 14px; max-width: none; }
.table { overflow-x: auto; margin: 18px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
table.narrow { width: auto; }
table.narrow th:first-child { min-width: 240px; padding-right: 40px; }
table.narrow td, table.narrow thead th { min-width: 110px; }
table.words td, table.words th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words th:first-child { white-space: nowrap; padding-right: 28px; }
caption { text-align: left; font-weight: 600; padding: 0 0 8px; }
thead tr:first-child th { border-top: 2px solid var(--ink); }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
th, td { padding: 6px 8px; text-align: right; vertical-align: baseline; white-space: nowrap; }
thead th { font-weight: 600; }
th:first-child, tr.title th { text-align: left; }
tbody th {
  position: sticky;
  left: 0;
  z-index: 1;
  min-width: 120px;
  background: #fff;
  font-weight: 400;
  white-space: normal;
}
th.group { text-align: center; color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
tr.title th { color: var(--soft); font-style: italic; padding-top: 12px; }
tr.published td, tr.published th { color: #444c56; }
tr.measured > * { background: var(--wash); }
tr.measured th { font-weight: 600; color: var(--accent); }
td span { position: relative; }
td sup {
  position: absolute;
  left: 100%;
  top: -.35em;
  font-size: 9.5px;
  line-height: 1.4;
  padding-left: 2px;
  color: var(--accent);
}
td.rank1 span { font-weight: 700; color: var(--ink); }
td.rank2 span { text-decoration: underline; text-underline-offset: 3px; color: var(--ink); }
td.rank3 span { color: var(--ink); }
small { display: block; font-size: 11.5px; font-weight: 400; color: var(--soft); }
figure { margin: 20px 0 28px; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 13.5px; max-width: 90ch; margin-top: 8px; }
@media (max-width: 640px) {
  main { padding: 24px 16px 60px; }
  figure { overflow-x: auto; }
  figure img[src^="data:image/jpeg"] { width: 640px; max-width: none; }
}
@media print {
  nav { display: none; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
}
"""
