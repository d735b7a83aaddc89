"""The per-person methods: what each trains, and for how long.

Learning rates and steps are the best of `tune.py`'s, by hMean on the tuning people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .key_locking import lock_keys
from .unet_parts import Adapt, train_cross_attention, train_everything, train_nothing, train_rotations


@dataclass(frozen=True)
class Method:
    """One way to personalize the base model with a photo."""

    name: str
    title: str
    adapt: Adapt  # changes a copy of the U-Net; returns its trained parameters
    lr: float
    steps: int  # with DVAR's rule the most
    identifier: bool = False  # S* is "<rare token> person" instead of two words that start as "a person"
    trained_words: tuple[int, ...] = (0, 1)  # which of the two
    prior: bool = False  # whether half of each batch shows other people, as "a person"
    stops_early: bool = False  # by DVAR's rule
    locks_keys: bool = False
    batch_size: int = 2  # with a prior, half of it is the person

    @property
    def settings(self) -> dict[str, object]:
        """What the outcome depends on."""
        values = {name: value for name, value in vars(self).items() if name not in ("name", "title")}
        return values | {"trained_words": list(self.trained_words), "adapt": self.adapt.__name__}


_PRIOR: dict[str, Any] = {"identifier": True, "prior": True}
METHODS = {
    method.name: method
    for method in (
        Method("textual-inversion", "TextualInversion", train_nothing, 3e-3, 200),
        Method("dvar", "DVAR", train_nothing, 3e-3, 200, stops_early=True),
        Method(
            "custom-diffusion",
            "CustomDiffusion",
            train_cross_attention,
            1e-3,
            100,
            **_PRIOR,
            trained_words=(0,),
        ),
        Method("dreambooth", "DreamBooth", train_everything, 1e-4, 200, **_PRIOR, trained_words=()),
        Method("oft", "OFT", train_rotations, 3e-3, 100, **_PRIOR, trained_words=()),
        Method("perfusion", "Perfusion's key locking", lock_keys, 1e-2, 100, locks_keys=True),
    )
}


def choose_methods(names: Sequence[str], others: Sequence[str] = ()) -> list[Method]:
    """Look up methods by name.

    Args:
        names: of methods; none for all.
        others: names that are no methods, but may be among them.

    Returns:
        The methods.

    Raises:
        ValueError: an unknown name.
    """
    known = (*METHODS, *others)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"Unknown --baselines: {', '.join(unknown)}. Choose from {', '.join(known)}.")
    return [method for method in METHODS.values() if not names or method.name in names]
