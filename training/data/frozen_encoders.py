"""The networks whose outputs are cached: VAE, MSID, expression network and face parser.

Dimension letters: B photos, S side of a crop, C latent channels, h and w latent sides, I and E widths of v_id
and v_exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...f2d.checkpoint import read
from ...f2d.diffusion.folder import load_vae
from ...f2d.diffusion.vae import encode_images
from ...f2d.image import Photo, to_signed, to_unit
from ...f2d.networks.expression import ExpressionNetwork, load_expression
from ...f2d.networks.msid import MSIDEncoder, load_msid
from ..config import Precision, PrepareConfig
from ..engine.precision import autocast
from .parsing import FaceParser, load_parser
from .photo_crops import Crops

Encoded = list[dict[str, Tensor]]  # of each photo, the tensors of `cache.py`


@dataclass(frozen=True, eq=False)
class Encoding:
    """A batch that the device may still be computing."""

    tensors: dict[str, Tensor]  # of the cache, each (2B, ...), on the CPU
    copied: torch.cuda.Event | None  # when they are there; None = they are

    def wait(self) -> Encoded:
        """Wait for the device.

        Returns:
            B times the tensors of `cache.py`.

        Raises:
            ValueError: NaN or infinite values, so a weight file is damaged.
        """
        if self.copied is not None:
            self.copied.synchronize()
        for name, tensor in self.tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(
                    f"{name} is NaN or infinity in places: the weights are damaged. Download them again."
                )
        pairs = {name: tensor.unflatten(0, (-1, 2)) for name, tensor in self.tensors.items()}  # (B, 2, ...)
        count = len(next(iter(pairs.values()), ()))
        return [{name: pair[index].clone() for name, pair in pairs.items()} for index in range(count)]


@dataclass(frozen=True, eq=False)
class FrozenEncoders:
    """The networks, on their device in float32.

    With half precision, VAE and face parser compute in it. MSID and the expression network stay in float32:
    the mapper has to see the v_id and v_exp that generation computes.
    """

    vae: Any  # diffusers' AutoencoderKL or AutoencoderTiny
    msid: MSIDEncoder
    expression: ExpressionNetwork | None
    parser: FaceParser | None
    in_region: Tensor | None  # (K,) bool, which of the parser's classes belong to M
    precision: Precision
    device: torch.device

    @classmethod
    def load(cls, config: PrepareConfig, device: str) -> FrozenEncoders:
        """Load all networks.

        Args:
            config: names files, precision and the classes of M.
            device: where they run.

        Returns:
            The networks.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file holds something else.
        """
        vae = load_vae(config.base)
        msid = load_msid(read(config.msid))
        expression = load_expression(read(config.expression)) if config.expression else None
        parser = load_parser(config.parser) if config.parser else None
        for network in (vae, msid, expression, parser):
            if network is not None:
                network.eval().requires_grad_(False).to(device)
        in_region = parser.class_table(config.classes).to(device) if parser else None
        return cls(vae, msid, expression, parser, in_region, config.precision, torch.device(device))

    @property
    def shrink(self) -> int:
        """How many image pixels make a latent pixel's side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.inference_mode()
    def start(self, batch: Sequence[Crops]) -> Encoding:
        """Begin to encode photos and their mirror images; a GPU computes while this process continues.

        Args:
            batch: B photos.

        Returns:
            What to wait for.
        """
        if not batch:
            return Encoding({}, None)
        images = self._upload([crops.image for crops in batch])  # (B, S, S, 3)
        pairs = torch.stack([images, images.flip(2)], dim=1).flatten(0, 1)  # (2B, S, S, 3)
        with autocast(self.device.type, self.precision):
            mean, spread = encode_images(self.vae, to_signed(pairs))
            labels = self.parser(to_unit(images)) if self.parser is not None else None  # (B, S, S)
        faces = self._upload([face for crops in batch for face in crops.faces])
        tensors = {
            "latent_mean": mean.half(),  # (2B, C, h, w)
            "latent_std": spread.half(),  # (2B, C, h, w)
            "v_id": self.msid(to_signed(faces)).float(),  # (2B, I)
        }
        if self.expression is not None:
            faces = self._upload([face for crops in batch for face in crops.expressions or ()])
            tensors["v_exp"] = self.expression(to_unit(faces)).float()  # (2B, E)
        mask = self._masks(labels, batch)  # (B, h, w)
        tensors["mask"] = torch.stack([mask, mask.flip(2)], dim=1).flatten(0, 1)  # (2B, h, w)
        return self._download(tensors)

    def _masks(self, labels: Tensor | None, batch: Sequence[Crops]) -> Tensor:
        """Compute M at the latents' size.

        Args:
            labels: shape (B, S, S), of the parser.
            batch: B photos.

        Returns:
            shape (B, h, w), float16 in [0, 1].
        """
        size = batch[0].image.shape[0]
        mask = torch.ones(len(batch), size, size, dtype=torch.bool, device=self.device)
        if labels is not None and self.in_region is not None:
            mask = self.in_region[labels]
        regions = [crops.region for crops in batch if crops.region is not None]
        if regions:
            mask = mask & self._upload(regions)
        return functional.adaptive_avg_pool2d(mask[:, None].float(), size // self.shrink)[:, 0].half()

    def _upload(self, arrays: Sequence[np.ndarray | Photo]) -> Tensor:
        """Stack arrays on the device, without waiting for what it computes."""
        stacked = torch.from_numpy(np.stack(arrays))
        on_gpu = self.device.type == "cuda"
        return (stacked.pin_memory() if on_gpu else stacked).to(self.device, non_blocking=on_gpu)

    def _download(self, tensors: dict[str, Tensor]) -> Encoding:
        """Copy tensors to the CPU, without waiting for the next batch, which may be queued behind them."""
        on_gpu = self.device.type == "cuda"
        copies = {name: tensor.to("cpu", non_blocking=on_gpu) for name, tensor in tensors.items()}
        copied = None
        if on_gpu:
            copied = torch.cuda.Event()
            copied.record()
        return Encoding(copies, copied)
