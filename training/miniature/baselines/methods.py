"""The per-person methods: what each trains, and for how long.

Learning rates and steps are the best of `tune.py`'s, by hMean on the tuning people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .key_locking import lock_keys
from .unet_parts import Adapt, train_cross_attention, train_everything, train_nothing, train_rotations


@dataclass(frozen=True)
class Method:
    """One way to personalize the base model with a photo."""

    name: str
    title: str
    # "class": two words that start as "a person"; "identifier": "<rare token> person"
    subject: Literal["class", "identifier"]
    trained_words: tuple[int, ...]  # which of the two
    adapt: Adapt  # changes a copy of the U-Net; returns its trained parameters
    lr: float
    steps: int  # with DVAR's rule the most
    prior: bool = False  # whether half of each batch shows other people, as "a person"
    stops_early: bool = False  # by DVAR's rule
    locks_keys: bool = False
    batch_size: int = 2  # with a prior, half of it is the person

    @property
    def settings(self) -> dict[str, object]:
        """What the outcome depends on."""
        kept = ("subject", "trained_words", "lr", "steps", "prior", "stops_early", "locks_keys", "batch_size")
        values = {name: getattr(self, name) for name in kept}
        return values | {"trained_words": list(self.trained_words), "adapt": self.adapt.__name__}


METHODS = {
    method.name: method
    for method in (
        Method("textual-inversion", "TextualInversion", "class", (0, 1), train_nothing, 1e-2, 200),
        Method("dvar", "DVAR", "class", (0, 1), train_nothing, 1e-2, 200, stops_early=True),
        Method(
            "custom-diffusion",
            "CustomDiffusion",
            "identifier",
            (0,),
            train_cross_attention,
            1e-3,
            200,
            prior=True,
        ),
        Method("dreambooth", "DreamBooth", "identifier", (), train_everything, 1e-4, 200, prior=True),
        Method("oft", "OFT", "identifier", (), train_rotations, 1e-3, 200, prior=True),
        Method(
            "perfusion", "Perfusion's key locking", "class", (0, 1), lock_keys, 1e-2, 200, locks_keys=True
        ),
    )
}


def choose_methods(names: Sequence[str]) -> list[Method]:
    """Look up methods by name, all for none; raises a ValueError for an unknown name."""
    if unknown := [name for name in names if name not in METHODS]:
        raise ValueError(f"Unknown --baselines: {', '.join(unknown)}. Choose from {', '.join(METHODS)}.")
    return [method for method in METHODS.values() if not names or method.name in names]
