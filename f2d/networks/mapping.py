"""The mapping network: from identity and expression to the two words of S* (Sec. 3.3, Sec. 4.1).

Dimension letters: B batch, I identity width, E expression width, D word width.

| here (official tensor names) | paper |
|---|---|
| `i2t_first`, `i2t_last` | f_map^1, f_map^2 |
| `null_exp` | v~_exp |
| `keep` | 1 with probability 0.8, 0 with probability 0.2 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import Checkpoint
from .loading import fill, read_config

Positional = Literal["replace", "before"]


@dataclass(frozen=True)
class MapperConfig:
    """Sizes of the mapping network; the defaults are the paper's and those of the official `mapping.pt`."""

    id_dim: int = 1536  # 4 depths x 384
    exp_dim: int = 64  # Deep3DFaceRecon's expression; 0 = without expression guidance (Eq. 9)
    hidden_dim: int = 1536
    hidden_layers: int = 2  # "two-layer MLP ... followed by an additional linear layer" (Sec. 4.1)
    word_dim: int = 768  # CLIP ViT-L/14; 1024 for Stable Diffusion 2
    dropout: float = 0.1
    slope: float = 0.2  # of the leaky ReLU
    # "replace": the words stand in place of token embedding + position embedding (the authors'); "before":
    # the text encoder adds its position embedding to them, as to any word.
    positional: Positional = "replace"
    word_length: float = 0.0  # L2 norm of every word; 0 = the networks' own (the paper)
    exp_scale: float = 1.0  # what v_exp is multiplied by; 1 in the paper

    def __post_init__(self) -> None:
        """Check the values."""
        if self.positional not in ("replace", "before"):
            raise ValueError(f"positional is '{self.positional}'. Choose 'replace' or 'before'.")
        if min(self.id_dim, self.hidden_dim, self.hidden_layers, self.word_dim) < 1 or self.exp_dim < 0:
            raise ValueError(f"A size is below 1 in {self}. Choose another file.")
        if not 0 <= self.word_length < math.inf:
            raise ValueError(
                f"word_length is {self.word_length}. Use a length, or 0 for words of any length."
            )
        if not 0 < self.exp_scale < math.inf:
            raise ValueError(f"exp_scale is {self.exp_scale}. Use a positive factor; the paper's is 1.")


class WordMLP(nn.Module):
    """f_map^i: an MLP that predicts one word."""

    def __init__(self, config: MapperConfig) -> None:
        """Build the network with random weights.

        Args:
            config: sizes.
        """
        super().__init__()
        widths = [config.id_dim + config.exp_dim] + [config.hidden_dim] * config.hidden_layers
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(wide, narrow), nn.Dropout(config.dropout), nn.LeakyReLU(config.slope))
                for wide, narrow in zip(widths, widths[1:], strict=False)
            )
        )
        self.fc_out = nn.Linear(widths[-1], config.word_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map shape (B, I + E) to shape (B, D)."""
        return self.fc_out(self.layers(x))


class MappingNetwork(nn.Module):
    """f_map: two independent MLPs over [v_id, v_exp]; its tensor names are the official ones."""

    def __init__(self, config: MapperConfig | None = None) -> None:
        """Build the network with random weights and a null expression of zeros.

        Args:
            config: sizes; the paper's where left out.
        """
        super().__init__()
        self.config = config or MapperConfig()
        self.null_exp = nn.Parameter(torch.zeros(self.config.exp_dim)) if self.config.exp_dim else None
        self.i2t_first = WordMLP(self.config)
        self.i2t_last = WordMLP(self.config)

    def forward(self, v_id: Tensor, v_exp: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Map identity and expression, or the null expression, to S* = f_map([v_id, v_exp]) (Eq. 4).

        Args:
            v_id: shape (B, I).
            v_exp: shape (B, E); None = the null expression for the whole batch.
            keep: shape (B,), 1 or True where v_exp is kept, 0 or False where it is dropped; None = all kept.

        Returns:
            shape (B, 2, D): S1* and S2*, with a fixed word length float32.

        Raises:
            ValueError: a width that does not fit, or an expression for a network without expression input.
        """
        if v_id.ndim != 2 or v_id.shape[1] != self.config.id_dim:
            raise ValueError(
                f"The identity features have shape {tuple(v_id.shape)}, but the mapper takes "
                f"(B, {self.config.id_dim}). Use the mapper that was trained with this encoder."
            )
        if self.null_exp is None:
            if v_exp is not None:
                raise ValueError(
                    "This mapper was trained without expression guidance. Disconnect the expression."
                )
            x = v_id  # (B, I)
        else:
            null = self.null_exp.expand(len(v_id), -1)  # (B, E)
            scaled = None if v_exp is None else self.config.exp_scale * v_exp  # (B, E)
            x = torch.cat([v_id, _keep_or_drop(scaled, null, keep)], dim=1)  # (B, I + E)
        words = torch.stack([self.i2t_first(x), self.i2t_last(x)], dim=1)  # (B, 2, D)
        if not self.config.word_length:
            return words
        return self.config.word_length * functional.normalize(words.float(), dim=-1)


def _keep_or_drop(v_exp: Tensor | None, null: Tensor, keep: Tensor | None) -> Tensor:
    """Take the null expression where there is no other or it is dropped; shapes (B, E), keep (B,)."""
    if v_exp is None:
        return null
    if v_exp.shape != null.shape:
        raise ValueError(
            f"The expression has shape {tuple(v_exp.shape)}, but the mapper takes {tuple(null.shape)}. "
            "Use its own expression network."
        )
    return v_exp if keep is None else torch.where(keep.bool().unsqueeze(1), v_exp, null)


def infer_config(tensors: Mapping[str, Tensor]) -> MapperConfig:
    """Read the sizes off the tensors of a plain state dict.

    Args:
        tensors: `null_exp` of shape (E) (may be missing), `i2t_first.layers.0.0.weight` of shape (hidden, I +
            E), and so on.

    Returns:
        The sizes.

    Raises:
        ValueError: the tensors do not belong to such a network.
    """
    try:
        hidden_dim, in_dim = tensors["i2t_first.layers.0.0.weight"].shape
        exp_dim = tensors["null_exp"].shape[0] if "null_exp" in tensors else 0
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"These are not the tensors of a mapping network, or too few of them ({error}). "
            "Choose another file."
        ) from error
    hidden_layers = sum(name.startswith("i2t_first.layers.") and name.endswith(".weight") for name in tensors)
    word_dim = (
        tensors["i2t_first.fc_out.bias"].shape[0]
        if "i2t_first.fc_out.bias" in tensors
        else MapperConfig.word_dim
    )
    return MapperConfig(in_dim - exp_dim, exp_dim, hidden_dim, hidden_layers, word_dim)


def load_mapper(checkpoint: Checkpoint, positional: Positional | None = None) -> MappingNetwork:
    """Build the mapping network that a weight file holds, in evaluation mode on the CPU.

    Args:
        checkpoint: of kind "mapper".
        positional: how the words relate to the position embedding, instead of what the file says.

    Returns:
        The network, float32.

    Raises:
        ValueError: the file holds something else, or its tensors do not fit.
    """
    config = read_config(checkpoint.expect("mapper"), MapperConfig, infer_config)
    if positional is not None:
        config = replace(config, positional=positional)
    return fill(MappingNetwork(config), checkpoint.tensors, checkpoint.path)
