"""What the nodes' schemas share: menu categories, search aliases, and inputs that several nodes have."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..f2d.options import ALIGNMENTS, ORDERS
from .sockets import Identity

LOADERS = "face2diffusion/loaders"
IDENTITY = "face2diffusion/identity"
CONDITIONING = "face2diffusion/conditioning"
IMAGE = "face2diffusion/image"

NONE = "none"  # in a list of files: nothing

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}  # 0.3.64 lacks newer ones
# Of a rarely used input, which newer versions fold away.
ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in inspect.signature(io.Int.Input).parameters else {}
)


def supported_fields(**fields: Any) -> dict[str, Any]:
    """Select the arguments of `io.Schema` that this ComfyUI has."""
    return {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}


def search_aliases(*words: str) -> dict[str, Any]:
    """Return the argument of `io.Schema` by which a search finds the node, if this ComfyUI has it."""
    return supported_fields(search_aliases=["face2diffusion", "f2d", *words])


def check_inputs(*checks: tuple[Callable[[str], object], str | None]) -> bool | str:
    """Run checks of widget values, for `validate_inputs`: the node turns red before the queue runs.

    Args:
        *checks: a function that raises a ValueError or OSError, and the value; None needs no check (the value
            comes from a link, is missing, or names no file).

    Returns:
        True, or the message of the first error.
    """
    try:
        for check, value in checks:
            if value is not None:
                check(value)
    except (ValueError, OSError) as error:
        return str(error)
    return True


def strength_input(maximum: float, tooltip: str) -> io.Float.Input:
    """Declare a strength from 0, as a slider."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=maximum,
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def identity_input() -> Any:
    """Declare the input for one person."""
    return Identity.Input(
        "identity", tooltip="The person, from Encode Face Identity, Load Identity or Mix Identities."
    )


def numbering_inputs(order_tooltip: str, index_tooltip: str) -> list[Any]:
    """Declare how faces are numbered, and the number of the chosen one."""
    return [
        io.Combo.Input("face_order", options=list(ORDERS), default=ORDERS[0], tooltip=order_tooltip),
        io.Int.Input("face_index", default=0, min=0, max=99, step=1, tooltip=index_tooltip),
    ]


def min_score_input(note: str) -> io.Float.Input:
    """Declare the threshold of YuNet's detection score; `note` adds what it means for the node."""
    tooltip = f"Minimum detection score of a face (YuNet). {note}"
    return io.Float.Input("min_score", default=0.6, min=0.1, max=1.0, step=0.05, tooltip=tooltip, **ADVANCED)


def alignment_input(**options: Any) -> io.Combo.Input:
    """Declare the choice between a photo and an image that is already aligned."""
    tooltip = (
        "'detect' finds the face in any photo. 'FFHQ': the image is already a square FFHQ crop. "
        "'112 px': the image is already a square crop aligned for ArcFace."
    )
    return io.Combo.Input(
        "alignment", options=list(ALIGNMENTS), default=ALIGNMENTS[0], tooltip=tooltip, **options
    )


def overwrite_input() -> io.Boolean.Input:
    """Declare what happens to a file name that is taken."""
    return io.Boolean.Input(
        "overwrite",
        default=False,
        tooltip="If the name is taken: off appends a number, on replaces the file.",
    )
