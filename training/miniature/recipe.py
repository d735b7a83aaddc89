"""Everything of the miniature, trained from nothing in one go; each stage is a folder that resumes, and what is done stays.

out/config.json                what was asked for; the folder takes no other settings
out/autoencoder                the small Stable Diffusion, trained in four stages  -> out/base, a folder in diffusers layout
out/diffusion, refined, finished
out/faces, msid, arcface       identity encoders on class folders  -> out/msid.safetensors, arcface.safetensors, arcface-msf.safetensors
out/expression                 f_exp                               -> out/expression.safetensors
out/verifier, attributes       judges                              -> out/verifier.safetensors, attributes.safetensors
out/photos, cache-*            `f2d-train prepare`, once for each encoder
out/mapper-<preset>-<seed>     `f2d-train mapper`, for every row of Tables 3 to 5
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ...f2d.checkpoint import Checkpoint, read, save
from ...f2d.device import best_device
from ...f2d.files import atomic_file
from ...f2d.miniature import FILES, WEIGHTS
from ...f2d.miniature.evaluators import Attributes, Verifier
from ...f2d.miniature.prompts import SceneAttributes
from ...f2d.miniature.widen import TEXT_WIDTH, widen_words
from ...f2d.networks.expression import ExpressionNetwork
from ...f2d.networks.mapping import load_mapper
from ...f2d.networks.msid import load_msid
from ..config import (
    PRESET_ENCODERS,
    PRESETS,
    MapperTrainingConfig,
    MiniatureConfig,
    MSIDTrainingConfig,
    PrepareConfig,
)
from ..data.prepare import prepare
from ..engine.fit import FitConfig
from ..engine.run_folder import check_finished, lock_config
from ..mapper.train import train_mapper
from ..msid.train import Schedule, train_msid
from .models.autoencoder import Autoencoder, train_autoencoder
from .models.evaluators import train_attributes, train_verifier
from .models.export import write_base
from .models.expression import train_expressions
from .models.text_to_image import Diffusion, Emphasis, middle_times, train_diffusion
from .world.photo_folders import FACE_SIZE, write_class_folders, write_photos
from .world.render import SIZE
from .world.samples import ENROLLED, HELD_OUT, drawing

# Whose portraits are shipped: places in album.HELD_OUT, and an expression.
PEOPLE = {
    "ada": (10, SceneAttributes()),
    "bela": (14, SceneAttributes()),
    "chidi": (24, SceneAttributes()),
    "dora": (7, SceneAttributes(expression="giving a wink")),
    "emre": (13, SceneAttributes()),
    "fay": (38, SceneAttributes()),
}
Say = Callable[[str], None]
MSF_DEPTHS = (3, 6, 9, 12)


class Miniature:
    """The folder of a recipe; each method makes what it names where it is missing."""

    def __init__(self, config: MiniatureConfig, log: Say = print) -> None:
        """Open or make the folder.

        Args:
            config: the recipe.
            log: called with each progress message.

        Raises:
            ValueError: no folder is named, or it was made with other settings.
            OSError: the folder cannot be written to.
        """
        self.config, self.folder, self.log = config, folder_of(config), log
        lock_config(self.folder, config)

    def _fit(self, name: str, steps: int, batch_size: int, lr: float) -> FitConfig:
        return FitConfig(
            out=str(self.folder / name),
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            seed=self.config.seed,
            precision="bf16" if self.config.bf16 else "no",
        )

    def _once(self, name: str, network: nn.Module, train: Callable[[], nn.Module]) -> nn.Module:
        """Read a network that an earlier run has finished, or train and write it."""
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            save(file, train().state_dict(), name)
        network.load_state_dict(load_file(file))
        return network.eval().requires_grad_(False).to(best_device())

    def autoencoder(self) -> Autoencoder:
        """Train the autoencoder."""
        fit = self._fit("autoencoder", self.config.autoencoder_steps, 16, 1.5e-3)
        network = self._once("autoencoder", Autoencoder(), lambda: train_autoencoder(fit, self.log))
        return network.to(memory_format=torch.channels_last)  # type: ignore[return-value]

    def base(self) -> Path:
        """Train the diffusion model and write it as a base model."""
        folder = self.folder / "base"
        if not (folder / "model_index.json").exists():
            autoencoder = self.autoencoder()
            torch.manual_seed(self.config.seed)
            diffusion = Diffusion()
            first = self._fit("diffusion", self.config.diffusion_steps, 32, 5e-4)
            second = replace(
                self._fit("refined", self.config.refine_steps, 32, 4e-4), seed=self.config.seed + 1
            )
            third = replace(
                self._fit("finished", self.config.finish_steps, 32, 4e-4), seed=self.config.seed + 2
            )
            if self.config.compile:
                diffusion.unet.compile(dynamic=False)
            faces = Emphasis(middle_times, features=6.0, expressions=0.7)
            for fit, emphasis in ((first, Emphasis()), (second, Emphasis()), (third, faces)):
                train_diffusion(
                    diffusion,
                    fit,
                    autoencoder,
                    self.folder,
                    (self.config.drawings, self.config.pairs),
                    emphasis,
                    self.log,
                )
            write_base(folder, autoencoder.cpu(), diffusion.cpu())
        return folder

    def encoder(self, name: str) -> Path:
        """Train an identity encoder: "msid", "arcface", or "arcface-msf", which is ArcFace's read at all depths.

        Args:
            name: of the encoder.

        Returns:
            Its weights.

        Raises:
            InterruptedError: a signal stopped the training; the same call goes on.
        """
        file = self.folder / f"{name}.safetensors"
        if not file.exists() and name == "arcface-msf":
            encoder = load_msid(read(self.encoder("arcface")), MSF_DEPTHS)
            save(file, encoder.state_dict(), "msid", encoder.config)
        elif not file.exists():
            people = range(ENROLLED.start, ENROLLED.start + self.config.people)
            config = MSIDTrainingConfig(
                data=str(write_class_folders(self.folder / "faces", people, self.config.pictures)),
                out=str(self.folder / name),
                depths=MSF_DEPTHS if name == "msid" else (12,),
                image_size=FACE_SIZE,
                patch_size=16,
                embed_dim=128,
                heads=4,
                # where one depth alone is told what to do, the higher rate makes its class token burst
                lr=1e-3 if name == "msid" else 3e-4,
                epochs=self.config.msid_epochs,
                warmup_epochs=1,
                batch_size=min(128, self.config.people * self.config.pictures),
                precision="bf16" if self.config.bf16 else "no",
                seed=self.config.seed,
                save_every=100,
            )
            steps = Schedule.of(config, self.config.people * self.config.pictures).steps
            encoder = load_msid(_read_finished(train_msid(config, self.log), steps))
            save(file, _halves(encoder), "msid", encoder.config)
        return file

    def expression(self) -> Path:
        """Train the expression network."""
        file = self.folder / "expression.safetensors"
        if not file.exists():
            network: ExpressionNetwork = train_expressions(
                self._fit("expression", self.config.expression_steps, 32, 1e-3), self.log
            )
            save(file, _halves(network), "expression", network.config)
        return file

    def verifier(self) -> Verifier:
        """Train the judge of identity."""
        fit = self._fit("verifier", self.config.verifier_steps, 64, 2e-3)
        return self._once("verifier", Verifier(), lambda: train_verifier(fit, self.autoencoder(), self.log))  # type: ignore[return-value]

    def attributes(self) -> Attributes:
        """Train the judge of jobs, places and expressions."""
        fit = self._fit("attributes", self.config.attribute_steps, 64, 2e-3)
        return self._once(
            "attributes", Attributes(), lambda: train_attributes(fit, self.autoencoder(), self.log)
        )  # type: ignore[return-value]

    def cache(self, encoder: str) -> Path:
        """Prepare the mapper's cache for an encoder."""
        return prepare(
            PrepareConfig(
                photos=str(write_photos(self.folder / "photos", self.config.photos)),
                out=str(self.folder / f"cache-{encoder}"),
                base=str(self.base()),
                msid=str(self.encoder(encoder)),
                expression=str(self.expression()),
                layout="fastcomposer",
                aligned=True,
                image_size=SIZE,
                batch_size=16,
                workers=1,
            ),
            self.log,
        )

    def mapper(self, preset: str, seed: int = 0) -> Path:
        """Train a mapper for a row of Tables 3 to 5.

        Args:
            preset: the row.
            seed: of the training.

        Returns:
            Its weights.

        Raises:
            InterruptedError: a signal stopped the training; the same call goes on.
        """
        config = MapperTrainingConfig(
            cache=str(self.cache(encoder_of(preset))),
            base=str(self.base()),
            out=str(self.folder / f"mapper-{preset}-{seed}"),
            hidden_dim=512,
            dropout=0.0,
            steps=self.config.mapper_steps,
            lr=2e-3,
            warmup=50,
            decay=self.config.mapper_steps // 5,
            ema=0.99,
            precision="bf16" if self.config.bf16 else "no",
            seed=seed,
            compile=self.config.compile,
            save_every=200,
            keep=1,
            workers=0,
        )
        weights = train_mapper(replace(config, **PRESETS[preset]), self.log)
        _read_finished(weights, config.steps)
        return weights

    def train(self) -> Path:
        """Make everything.

        Returns:
            The folder.

        Raises:
            ValueError: a preset that there is not.
            InterruptedError: a signal stopped the training; the same call goes on.
        """
        if unknown := [preset for preset in self.config.presets if preset not in PRESETS]:
            raise ValueError(
                f"Expected --presets from {', '.join(PRESETS)}, got {', '.join(unknown)}. Choose some of them."
            )
        self.base()
        self.verifier()
        self.attributes()
        for preset in self.config.presets:
            for seed in self.config.seeds or (0,):
                self.mapper(preset, seed)
        return self.folder

    def ship(self, folder: str | os.PathLike = WEIGHTS) -> Path:
        """Copy what runs without training into `f2d.miniature`'s folder, in float16.

        Args:
            folder: anything in it is replaced, once everything is there.

        Returns:
            The folder.
        """
        target, folder = Path(folder), Path(f"{os.fspath(folder)}.new")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.base(), folder / "base")
        for name, file in (("msid", self.encoder("msid")), ("expression", self.expression())):
            shutil.copyfile(file, folder / FILES[name])
        checkpoint = read(self.mapper("cgdr"))
        mapper = load_mapper(checkpoint)
        for word in (mapper.i2t_first, mapper.i2t_last):
            word.fc_out.weight.data, word.fc_out.bias.data = (
                widen_words(word.fc_out.weight.data.T).T,
                widen_words(word.fc_out.bias.data),
            )
        config = replace(mapper.config, word_dim=TEXT_WIDTH)
        save(
            folder / FILES["mapper"],
            _halves(mapper),
            "mapper",
            config,
            msid=checkpoint.metadata["msid"],
            loss=checkpoint.metadata["loss"],
        )
        for name, judge in (("verifier", self.verifier()), ("attributes", self.attributes())):
            save(folder / f"{name}.safetensors", _halves(judge), name)
        (folder / "people").mkdir()
        for name, (number, facts) in PEOPLE.items():
            picture = drawing(number, HELD_OUT.start + number, facts).picture.image
            Image.fromarray(picture).save(folder / "people" / f"{name}.png", optimize=True)
        shutil.rmtree(target, ignore_errors=True)
        return folder.rename(target)

    def unpack(self, folder: str | os.PathLike = WEIGHTS) -> Path:
        """Begin with what `ship` has packed, all but the mapper; what is there already stays.

        Args:
            folder: with the weights.

        Returns:
            The recipe's folder.

        Raises:
            OSError: the folder cannot be written to.
        """
        folder, base = Path(folder), self.folder / "base"
        if not base.exists():
            Path(shutil.copytree(folder / "base", base.with_suffix(".new"), dirs_exist_ok=True)).rename(base)
        for name in (FILES["msid"], FILES["expression"], "verifier.safetensors", "attributes.safetensors"):
            if not (self.folder / name).exists():
                with atomic_file(self.folder / name) as temporary:
                    shutil.copyfile(folder / name, temporary)
        return self.folder


def folder_of(config: MiniatureConfig) -> Path:
    """Name the folder that a config asks for, or raise a ValueError."""
    if not config.out:
        raise ValueError("Expected --out with a folder, got none.")
    return Path(config.out)


def encoder_of(preset: str) -> str:
    """Name the identity encoder of a row of Tables 3 to 5: MSID, but for Table 3's others."""
    return preset if preset in PRESET_ENCODERS else "msid"


def _read_finished(weights: Path, steps: int) -> Checkpoint:
    """Read the weights of a run that has done all its steps; a signal may have stopped it before."""
    checkpoint = read(weights)
    check_finished(weights.parent, int(checkpoint.metadata["step"]), steps)
    return checkpoint


def _halves(network: nn.Module) -> dict[str, torch.Tensor]:
    """Round weights to float16, which is what everything after them then sees."""
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
