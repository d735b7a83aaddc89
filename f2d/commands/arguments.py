"""Types of command line arguments; each raises argparse.ArgumentTypeError for a text that does not fit."""

from __future__ import annotations

import argparse
import math

SEEDS = 2**64  # how many seeds there are


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def integer(text: str) -> int:
    """Parse a whole number that PyTorch can hold."""
    if abs(number := int(text)) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is out of range; the largest number is {2**63 - 1}")
    return number


def seed(text: str) -> int:
    """Parse a seed, in ComfyUI's range."""
    if not 0 <= int(text) < SEEDS:
        raise argparse.ArgumentTypeError(f"{text} is not a seed; use one from 0 to {SEEDS - 1}")
    return int(text)


def finite(text: str) -> float:
    """Parse a number that is not NaN or infinity."""
    if not math.isfinite(number := float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return number


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
        points = [(finite(x), finite(y)) for x, y in (pair.split(",") for pair in text.split())]
    except (ValueError, argparse.ArgumentTypeError):
        points = []
    if len(points) != 5:
        raise argparse.ArgumentTypeError(f'"{text}" is not five points "x,y x,y x,y x,y x,y" in px')
    return points
