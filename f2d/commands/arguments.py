"""Types of command line arguments; each raises argparse.ArgumentTypeError for a text that does not fit."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers from 1 with commas between them."""
    return tuple(positive(part) for part in text.split(","))


def image_size(text: str) -> tuple[int, int]:
    """Parse "WIDTHxHEIGHT", px."""
    width, _, height = text.lower().partition("x")
    return positive(width), positive(height)


def landmarks(text: str) -> list[tuple[float, float]]:
    """Parse five points "x,y x,y x,y x,y x,y", px."""
    try:
        points = [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
    except ValueError:
        points = []
    if len(points) != 5:
        raise argparse.ArgumentTypeError(f'"{text}" is not five points "x,y x,y x,y x,y x,y" in px')
    return points
