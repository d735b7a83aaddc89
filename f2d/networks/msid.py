"""The multi-scale identity encoder: class tokens of several depths of a face-recognition ViT (Sec. 3.2).

Dimension letters: B batch, N tokens, C embedding width, L number of depths.

| here | paper |
|---|---|
| `depths`, counted from 1 | {3, 6, 9, 12} (Sec. 4.1) |
| `forward` | v_id = f_id(x) |
| `forward_levels` | [v_id^1, ..., v_id^D] |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from .loading import fill, read_config

_HEAD_WIDTH = 32  # of the official encoder; a plain state dict does not tell its number of heads


@dataclass(frozen=True)
class MSIDConfig:
    """Sizes of the encoder; the defaults are the paper's run and the official `msid.pt`.

    ArcFace on the deepest layer is `depths=(12,), normed=(12,)`; ArcFace with multi-scale features (Table 3)
    is `depths=(3, 6, 9, 12), normed=(12,)`: its shallow class tokens are taken as they are.
    """

    image_size: int = 112  # px
    patch_size: int = 8  # px
    embed_dim: int = 384
    depth: int = 12  # "12 transformer encoder layers" (Sec. 4.1)
    heads: int = 12
    mlp_ratio: float = 4.0
    depths: tuple[int, ...] = (3, 6, 9, 12)  # where features are taken (Sec. 4.1)
    normed: tuple[int, ...] = (3, 6, 9, 12)  # of these, the ones that have their own normalization

    def __post_init__(self) -> None:
        """Check that the sizes fit together."""
        if min(self.image_size, self.patch_size, self.embed_dim, self.depth, self.heads) < 1:
            raise ValueError(f"A size is below 1 in {self}. Choose another file.")
        if (
            not self.depths
            or list(self.depths) != sorted(set(self.depths))
            or not 1 <= self.depths[0] <= self.depths[-1] <= self.depth
        ):
            raise ValueError(
                f"The depths {self.depths} must increase and be from 1 to {self.depth}. "
                "Choose depths of this encoder."
            )
        if not set(self.normed) <= set(range(1, self.depth + 1)):
            raise ValueError(
                f"The normed depths {self.normed} are not between 1 and {self.depth}. Choose another file."
            )
        if self.image_size % self.patch_size or self.embed_dim % self.heads:
            raise ValueError(
                "The image size must be divisible by the patch size, and the width by the heads, "
                f"but they are {self.image_size} / {self.patch_size} and {self.embed_dim} / {self.heads}. "
                "Choose another file."
            )

    @property
    def feature_dim(self) -> int:
        """Width of v_id."""
        return self.embed_dim * len(self.depths)


class MSIDEncoder(VisionTransformer):
    """timm's ViT with a normalization of the class token at each chosen depth, under the official names."""

    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    blocks: nn.Sequential

    def __init__(self, config: MSIDConfig | None = None, initialize: bool = True) -> None:
        """Build the network with random weights.

        Args:
            config: sizes; the paper's where left out.
            initialize: as timm does, which takes half a second; False if weights are loaded from a file.
        """
        config = config or MSIDConfig()
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            num_classes=0,
            weight_init="" if initialize else "skip",
        )
        self.config = config
        # The official names count layers from 0.
        self.norms = nn.ModuleDict(
            {
                f"layer_{depth - 1}": nn.Sequential(
                    nn.BatchNorm1d(config.embed_dim), nn.LayerNorm(config.embed_dim)
                )
                for depth in config.normed
            }
        )

    def forward_levels(self, face: Tensor) -> list[Tensor]:
        """Compute the feature of each depth.

        Args:
            face: shape (B, 3, image_size, image_size), RGB in [-1, 1].

        Returns:
            L tensors of shape (B, C), from the shallowest depth to the deepest.
        """
        x = self.patch_embed(face)  # (B, N-1, C)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, N, C)
        x = x + self.pos_embed
        levels = []
        for depth, block in enumerate(list(self.blocks)[: self.config.depths[-1]], start=1):
            x = block(x)
            if depth in self.config.depths:
                token, name = x[:, 0], f"layer_{depth - 1}"  # (B, C)
                levels.append(self.norms[name](token) if name in self.norms else token)
        return levels

    def forward(self, face: Tensor) -> Tensor:  # type: ignore[override]
        """Compute v_id = [v_id^1, ..., v_id^D] (Sec. 3.2); it is not normalized to unit length.

        Args:
            face: shape (B, 3, image_size, image_size), RGB in [-1, 1].

        Returns:
            shape (B, L * C).
        """
        return torch.cat(self.forward_levels(face), dim=1)


def infer_config(tensors: Mapping[str, Tensor]) -> MSIDConfig:
    """Read the sizes off the tensors of a plain state dict; a head is taken to be 32 wide, as the official.

    Args:
        tensors: `pos_embed` of shape (1, 1 + patches, C), `patch_embed.proj.weight` of shape (C, 3, P, P),
            and so on.

    Returns:
        The sizes; features are taken where the file has a normalization.

    Raises:
        ValueError: the tensors do not belong to such a ViT.
    """
    try:
        embed_dim, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
        grid = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
        depth = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name)))
        mlp_ratio = tensors["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"These are not the tensors of an MSID encoder, or too few of them ({error}). "
            "Choose another file."
        ) from error
    normed = tuple(
        sorted({1 + int(match[1]) for name in tensors if (match := re.match(r"norms\.layer_(\d+)\.", name))})
    ) or (depth,)
    heads = max(1, embed_dim // _HEAD_WIDTH)
    return MSIDConfig(grid * patch_size, patch_size, embed_dim, depth, heads, mlp_ratio, normed, normed)


def load_msid(checkpoint: Checkpoint, depths: tuple[int, ...] | None = None) -> MSIDEncoder:
    """Build the encoder that a weight file holds, in evaluation mode on the CPU.

    Args:
        checkpoint: of kind "msid".
        depths: take the features at these depths instead of the file's own.

    Returns:
        The encoder, float32.

    Raises:
        ValueError: the file holds something else, or its tensors do not fit.
    """
    config = read_config(checkpoint.expect("msid"), MSIDConfig, infer_config)
    if depths is not None:
        config = replace(config, depths=tuple(depths))
    encoder = MSIDEncoder(config, initialize=False)
    # The final norm is in the file but never used.
    return fill(encoder, checkpoint.tensors, checkpoint.path, optional=("norm.",))
