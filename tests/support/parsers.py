"""Random face-parsing weights in the official layouts: BiSeNet's `79999_iter.pth` and a SegFormer folder.

BiSeNet's names and shapes are written out here without the package's own classes, as a second statement of
the format.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

CELEBAMASK = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip


def bisenet_state(seed: int = 0) -> dict[str, Tensor]:
    """The 191 tensors of BiSeNet with 19 classes, random."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        state[f"{name}.weight"] = (
            torch.randn(outputs, inputs, size, size, generator=generator)
            * (2 / (inputs * size * size)) ** 0.5
        )

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_var"] = torch.rand(width, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(80_000)

    def block(name: str, outputs: int, inputs: int, size: int) -> None:
        conv(f"{name}.conv", outputs, inputs, size)
        norm(f"{name}.bn", outputs)

    conv("cp.resnet.conv1", 64, 3, 7)
    norm("cp.resnet.bn1", 64)
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for index in range(2):
            name = f"cp.resnet.layer{stage}.{index}"
            conv(f"{name}.conv1", width, inputs, 3)
            norm(f"{name}.bn1", width)
            conv(f"{name}.conv2", width, width, 3)
            norm(f"{name}.bn2", width)
            if inputs != width:
                conv(f"{name}.downsample.0", width, inputs, 1)
                norm(f"{name}.downsample.1", width)
            inputs = width
    for arm, inputs in (("arm16", 256), ("arm32", 512)):
        block(f"cp.{arm}.conv", 128, inputs, 3)
        conv(f"cp.{arm}.conv_atten", 128, 128, 1)
        norm(f"cp.{arm}.bn_atten", 128)
    block("cp.conv_head32", 128, 128, 3)
    block("cp.conv_head16", 128, 128, 3)
    block("cp.conv_avg", 128, 512, 1)
    block("ffm.convblk", 256, 256, 1)
    conv("ffm.conv1", 64, 256, 1)
    conv("ffm.conv2", 256, 64, 1)
    for head, inputs, width in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        block(f"{head}.conv", width, inputs, 3)
        conv(f"{head}.conv_out", 19, width, 1)
    return state


def write_bisenet(path: Path, seed: int = 0) -> Path:
    """Write random BiSeNet weights as `79999_iter.pth` has them."""
    torch.save(bisenet_state(seed), path)
    return path


def write_segformer(folder: Path, seed: int = 0, labels: tuple[str, ...] = CELEBAMASK) -> Path:
    """Write a tiny random SegFormer with named labels."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegformerForSemanticSegmentation(config)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data *= 20  # transformers begins so small that all pixels would look alike
    network.save_pretrained(folder)
    return folder
