"""Who is it, and what is to be seen: networks that judge the miniature's pictures.

They are trained apart from the encoder under test, on other people, with another architecture and another loss, and on drawings that went
through the autoencoder, so that its blur is nothing new to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from timm import create_model
from torch import Tensor, nn
from torch.nn import functional

from ...f2d.image import Photo
from ..run import stream_seed
from .album import JUDGED, drawing, to_tensor
from .autoencoder import Autoencoder
from .fit import FitConfig, fit
from .world import EXPRESSIONS, JOBS, NEUTRAL, PLACES, Facts

KINDS: dict[str, tuple[str, ...]] = {"job": ("", *JOBS), "place": ("", *PLACES), "expression": (NEUTRAL, *EXPRESSIONS)}
FEATURES = 128
_DRAWINGS_FROM = 40_000_000
_SCALE, _MARGIN = 24.0, 0.2  # of the verifier's cosine softmax


class Judge(nn.Module):
    """A small convolutional network over whole pictures of 128 px."""

    def __init__(self, outputs: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.network: Any = create_model("mobilenetv3_small_100", num_classes=outputs)
        self.network.conv_stem.stride = (1, 1)  # a face's details are few pixels wide

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (B, 3, 128, 128) in [-1, 1] to outputs (B, N)."""
        return self.network(pictures)


class Verifier(Judge):
    """Tells people apart."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__(FEATURES)

    @torch.no_grad()
    def embed(self, pictures: Sequence[Photo]) -> Tensor:
        """Describe who is in pictures of one person, uint8: shape (B, 128), of length 1."""
        return functional.normalize(self(_stack(pictures)).float(), dim=1)


class Attributes(Judge):
    """Recognises jobs, places and expressions."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__(sum(len(names) for names in KINDS.values()))

    def split(self, outputs: Tensor) -> dict[str, Tensor]:
        """Divide outputs (B, N) into the kinds' logits."""
        return dict(zip(KINDS, outputs.split([len(names) for names in KINDS.values()], dim=1), strict=True))

    @torch.no_grad()
    def recognise(self, pictures: Sequence[Photo]) -> list[Facts]:
        """Say what is in pictures, uint8."""
        found = {kind: logits.argmax(1).tolist() for kind, logits in self.split(self(_stack(pictures))).items()}
        return [Facts(**{kind: KINDS[kind][found[kind][row]] for kind in KINDS}) for row in range(len(pictures))]


def text_accuracy(asked: Facts, seen: Facts) -> float:
    """Share of what a prompt asks for that is seen; 1 where it asks for nothing."""
    wanted = [(getattr(asked, kind), getattr(seen, kind)) for kind, names in KINDS.items() if getattr(asked, kind) != names[0]]
    return float(np.mean([want == got for want, got in wanted])) if wanted else 1.0


def _stack(pictures: Sequence[Photo]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def _wear(pictures: Tensor, autoencoder: Autoencoder, generator: torch.Generator) -> Tensor:
    """Send half the pictures through the autoencoder with noise on their latents, as a generated picture has it."""
    half = len(pictures) // 2
    latents = autoencoder.encode(pictures[:half].contiguous(memory_format=torch.channels_last))
    spread = 0.25 * torch.rand(half, 1, 1, 1, generator=generator)
    worn = autoencoder.decode(latents + spread * torch.randn(latents.shape, generator=generator)).float().clamp(-1, 1)
    return torch.cat([worn, pictures[half:]])


def train_verifier(config: FitConfig, autoencoder: Autoencoder, say: Callable[[str], None] = print) -> Verifier:
    """Train on people of `album.JUDGED` with a cosine margin softmax (CosFace).

    Args:
        config: the run.
        autoencoder: trained.
        say: is told how it goes.

    Returns:
        The verifier.
    """
    torch.manual_seed(config.seed)
    network = Verifier()
    both = nn.ModuleDict({"verifier": network, "classes": nn.Linear(FEATURES, len(JUDGED), bias=False)})
    classes: Any = both["classes"]

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(config.seed, 5, step))
        who = torch.randint(len(JUDGED), (config.batch_size,), generator=generator)
        first = _DRAWINGS_FROM + step * config.batch_size
        drawings = [drawing(first + i, JUDGED.start + int(number)) for i, number in enumerate(who)]
        features = functional.normalize(network(_wear(to_tensor(drawings), autoencoder, generator)), dim=1)
        cosine = features.float() @ functional.normalize(classes.weight, dim=1).T
        return functional.cross_entropy(_SCALE * (cosine - _MARGIN * functional.one_hot(who, len(JUDGED))), who)

    fit(both, loss_of, config, say)
    return network.eval()


def train_attributes(config: FitConfig, autoencoder: Autoencoder, say: Callable[[str], None] = print) -> Attributes:
    """Train on drawings of `album.JUDGED`; arguments as for `train_verifier`.

    Returns:
        The classifier.
    """
    torch.manual_seed(config.seed)
    network = Attributes()

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(config.seed, 6, step))
        who = torch.randint(len(JUDGED), (config.batch_size,), generator=generator)
        first = 2 * _DRAWINGS_FROM + step * config.batch_size
        drawings = [drawing(first + i, JUDGED.start + int(number)) for i, number in enumerate(who)]
        logits = network.split(network(_wear(to_tensor(drawings), autoencoder, generator)).float())
        wanted = {kind: torch.tensor([names.index(getattr(one.facts, kind)) for one in drawings]) for kind, names in KINDS.items()}
        return sum((functional.cross_entropy(logits[kind], wanted[kind]) for kind in KINDS), start=torch.zeros(()))

    return fit(network, loss_of, config, say)  # type: ignore[return-value]
