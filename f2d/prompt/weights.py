r"""Weights in prompts, as ComfyUI reads them: `(word)`, `(word:1.3)`, nested, and `\(` for a parenthesis."""

from __future__ import annotations

import math
from collections.abc import Iterator

_EMPHASIS = 1.1  # of parentheses without a number
_ESCAPED = {"\\(": "\ue000", "\\)": "\ue001"}  # characters for private use, while the text is parsed


def split_weights(prompt: str) -> list[tuple[str, float]]:
    r"""Split a prompt into pieces of one weight.

    Parentheses multiply the weight by 1.1, and a number in them replaces it. What is not closed, and a colon
    without a number behind it, is text.

    Args:
        prompt: such as "a (red:1.3) hat \(new\)".

    Returns:
        The pieces without their signs, in order, with their weights: here ("a ", 1), ("red", 1.3) and
        (" hat (new)", 1).
    """
    for escape, stand_in in _ESCAPED.items():
        prompt = prompt.replace(escape, stand_in)
    return [(_unescape(text), weight) for text, weight in _pieces(prompt, 1.0)]


def _unescape(text: str) -> str:
    for escape, stand_in in _ESCAPED.items():
        text = text.replace(stand_in, escape[1])
    return text


def _pieces(text: str, weight: float) -> Iterator[tuple[str, float]]:
    for group in _groups(text):
        if len(group) > 1 and group[0] == "(" and group[-1] == ")":
            yield from _pieces(*_read_weight(group[1:-1], weight))
        else:
            yield group, weight


def _read_weight(inside: str, outside: float) -> tuple[str, float]:
    """Strip the weight from a text in parentheses."""
    text, colon, number = inside.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if text and colon and math.isfinite(weight):
        return text, weight
    return inside, outside * _EMPHASIS


def _groups(text: str) -> Iterator[str]:
    """Split a text at its outer parentheses."""
    start = depth = 0
    for place, sign in enumerate(text):
        if sign == "(":
            if depth == 0 and place > start:
                yield text[start:place]
                start = place
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0:
                yield text[start : place + 1]
                start = place + 1
    if start < len(text):
        yield text[start:]
