"""Random weight files in the official layouts: the authors' two files and Deep3DFaceRecon's `epoch_20.pth`.

Names and shapes are written out here without the package's own classes, as a second statement of the formats.
The values are random but not degenerate: attention is far from uniform, every normalization has its own
statistics, and S* has the norm of CLIP's words. The same seed gives the same file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]

MSID_LAYERS = (2, 5, 8, 11)  # counted from 0, as in the tensor names
EXPRESSION_HEADS = (80, 64, 80, 3, 27, 2, 1)  # identity, expression, texture, angle, light, shift, depth
_RESNET50 = ((64, 3), (128, 4), (256, 6), (512, 3))  # bottleneck width and number of blocks of each stage
_WORD_NORM = 0.4  # of a row of CLIP ViT-L/14's token embedding


def write_official(folder: Path) -> None:
    """Writes all files at their official sizes, a mapper for Stable Diffusion 2 and a portrait."""
    from PIL import Image
    from skimage.data import astronaut

    write_msid(folder / "msid.pt", seed=1)
    write_mapper(folder / "mapping.pt", seed=2)
    write_mapper(folder / "wide.pt", seed=2, word_dim=1024)
    write_expression(folder / "epoch_20.pth", seed=3)
    Image.fromarray(astronaut()).save(folder / "photo.png")


def write_msid(
    path: Path,
    seed: int = 0,
    *,
    image_size: int = 112,
    patch_size: int = 8,
    width: int = 384,
    depth: int = 12,
    layers: Sequence[int] = MSID_LAYERS,
) -> Path:
    """Writes the identity encoder (178 tensors at the official sizes, a plain state dict) to `path` and
    returns it.
    """
    draw = _Draw(seed)
    state: State = {
        "cls_token": draw.normal(1, 1, width, std=0.1),
        "pos_embed": draw.normal(1, 1 + (image_size // patch_size) ** 2, width, std=0.1),
        "patch_embed.proj.weight": draw.normal(width, 3, patch_size, patch_size, std=0.2),
        "patch_embed.proj.bias": draw.normal(width, std=0.1),
    }
    for block in (f"blocks.{index}." for index in range(depth)):
        state |= draw.layer_norm(f"{block}norm1", width)
        state |= draw.linear(f"{block}attn.qkv", 3 * width, width, std=1.3 / math.sqrt(width))
        state |= draw.linear(f"{block}attn.proj", width, width)
        state |= draw.layer_norm(f"{block}norm2", width)
        state |= draw.linear(f"{block}mlp.fc1", 4 * width, width)
        state |= draw.linear(f"{block}mlp.fc2", width, 4 * width)
    state |= draw.layer_norm("norm", width)  # in the official file, though never used
    for layer in layers:
        state |= draw.batch_norm(f"norms.layer_{layer}.0", width)
        state |= draw.layer_norm(f"norms.layer_{layer}.1", width)
    return _save(state, path)


def write_mapper(
    path: Path,
    seed: int = 0,
    exp_dim: int = 64,
    word_dim: int = 768,
    id_dim: int = 1536,
    hidden_dim: int = 1536,
) -> Path:
    """Writes the mapping network (13 tensors, 12 without expression guidance: `exp_dim=0`) to `path` and
    returns it.
    """
    draw = _Draw(seed)
    state: State = {"null_exp": draw.normal(exp_dim, std=0.5)} if exp_dim else {}
    for mlp in ("i2t_first.", "i2t_last."):
        state |= draw.linear(f"{mlp}layers.0.0", hidden_dim, id_dim + exp_dim)
        state |= draw.linear(f"{mlp}layers.1.0", hidden_dim, hidden_dim)
        state |= draw.linear(
            f"{mlp}fc_out",
            word_dim,
            hidden_dim,
            std=1.8 * _WORD_NORM / math.sqrt(word_dim * hidden_dim),
            bias=0.001,
        )
    return _save(state, path)


def write_expression(path: Path, seed: int = 0) -> Path:
    """Writes Deep3DFaceRecon's checkpoint (332 tensors under `net_recon`, beside optimizer and scheduler) to
    `path` and returns it.
    """
    draw = _Draw(seed)
    state: State = draw.convolution("backbone.conv1", 64, 3, 7) | draw.batch_norm("backbone.bn1", 64)
    inputs = 64
    for stage, (width, blocks) in enumerate(_RESNET50, start=1):
        for index in range(blocks):
            block = f"backbone.layer{stage}.{index}."
            state |= draw.convolution(f"{block}conv1", width, inputs, 1) | draw.batch_norm(
                f"{block}bn1", width
            )
            state |= draw.convolution(f"{block}conv2", width, width, 3) | draw.batch_norm(
                f"{block}bn2", width
            )
            state |= draw.convolution(f"{block}conv3", 4 * width, width, 1) | draw.batch_norm(
                f"{block}bn3", 4 * width, gain=0.4
            )
            if index == 0:
                state |= draw.convolution(f"{block}downsample.0", 4 * width, inputs, 1)
                state |= draw.batch_norm(f"{block}downsample.1", 4 * width)
            inputs = 4 * width
    for head, width in enumerate(EXPRESSION_HEADS):
        state[f"final_layers.{head}.weight"] = draw.normal(width, inputs, 1, 1, std=0.15 / math.sqrt(inputs))
        state[f"final_layers.{head}.bias"] = draw.normal(width, std=0.1)
    adam = {
        "state": {0: {"step": 5, "exp_avg": torch.zeros(3)}},
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
    }
    schedule = {"step_size": 10, "gamma": 0.2, "last_epoch": 20, "_last_lr": [1e-4]}
    return _save({"net_recon": state, "opt_00": adam, "sched_00": schedule}, path)


class _Draw:
    """Draws the tensors of one layer after another."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=self._generator).mul_(std).add_(mean)

    def linear(
        self, name: str, outputs: int, inputs: int, std: float | None = None, bias: float = 0.1
    ) -> State:
        weight = self.normal(outputs, inputs, std=1 / math.sqrt(inputs) if std is None else std)
        return {f"{name}.weight": weight, f"{name}.bias": self.normal(outputs, std=bias)}

    def convolution(self, name: str, outputs: int, inputs: int, size: int) -> State:
        return {
            f"{name}.weight": self.normal(
                outputs, inputs, size, size, std=math.sqrt(2 / (inputs * size * size))
            )
        }

    def layer_norm(self, name: str, width: int, gain: float = 1.0) -> State:
        return {
            f"{name}.weight": self.normal(width, std=0.1 * gain, mean=gain),
            f"{name}.bias": self.normal(width, std=0.1),
        }

    def batch_norm(self, name: str, width: int, gain: float = 1.0) -> State:
        return self.layer_norm(name, width, gain) | {
            f"{name}.running_mean": self.normal(width, std=0.2),
            f"{name}.running_var": torch.rand(width, generator=self._generator) + 0.5,
            f"{name}.num_batches_tracked": torch.tensor(1000),
        }


def _save(content: dict, path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
