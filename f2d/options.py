"""The choices that nodes, commands and functions share."""

from __future__ import annotations

from typing import Literal

Alignment = Literal[
    "detect", "FFHQ", "112 px"
]  # look for the face, or take a picture that is already aligned
ALIGNMENTS: tuple[Alignment, ...] = ("detect", "FFHQ", "112 px")
Order = Literal["largest", "left to right"]  # how the faces in a photo are counted
ORDERS: tuple[Order, ...] = ("largest", "left to right")
