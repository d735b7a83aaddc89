"""Trains all models of the miniature; each stage is a run folder that resumes, and finished stages are kept.

out/config.json                the settings; another run with other settings needs another folder
out/autoencoder                Stable Diffusion in four stages    -> base, a folder in diffusers' layout
out/diffusion, refined, finished
out/faces, msid, arcface       identity encoders                  -> msid, arcface and arcface-msf.safetensors
out/expression                 f_exp                              -> expression.safetensors
out/verifier, attributes       evaluators                         -> verifier and attributes.safetensors
out/photos*, cache-*           `f2d-train prepare`, once per encoder; -pairs: two photos of each person;
                               -variants-1: with an altered copy of each photo
out/mapper-<preset>-<seed>     `f2d-train mapper`, for every row of Tables 3 to 5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from ...f2d.checkpoint import Checkpoint, read, save
from ...f2d.device import best_device
from ...f2d.miniature.evaluators import Attributes, Verifier
from ...f2d.miniature.prompts import JOBS, PLACES
from ...f2d.networks.expression import ExpressionNetwork
from ...f2d.networks.msid import load_msid
from ..config import (
    PRESET_ENCODERS,
    PRESET_VARIANTS,
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
from .models.export import write_base
from .models.text_to_image import Diffusion, Emphasis, middle_times, train_diffusion
from .models.train_evaluators import train_attributes, train_verifier
from .models.train_expression import train_expression
from .world.photo_folders import FACE_SIZE, write_class_folders, write_photos
from .world.render import SIZE
from .world.samples import ENCODER_PEOPLE

Log = Callable[[str], None]
Network = TypeVar("Network", bound=nn.Module)
MSF_DEPTHS = (3, 6, 9, 12)
# Half of the jobs and places, alone and together: the other half of the prompts is in no mapper's training.
_WORK, _THERE = [f"as a {job}" for job in JOBS[::2]], PLACES[::2]
CONTEXTS = (*_WORK, *_THERE, *(f"{work} {there}" for work, there in zip(_WORK, _THERE, strict=False)))
_VALIDATIONS = 20  # of a mapper's run, where photos are held out


class Miniature:
    """A recipe's folder; each method trains the model it is named after, unless it is finished."""

    def __init__(self, config: MiniatureConfig, log: Log = print) -> None:
        """Open or create the folder.

        Args:
            config: the recipe.
            log: called with each progress message.

        Raises:
            ValueError: `config.out` is empty, or the folder has other settings.
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

    def _load_or_train(self, name: str, network: Network, train: Callable[[], nn.Module]) -> Network:
        """Load a network that an earlier run has finished, or train and save it."""
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            save(file, train().state_dict(), name)
        network.load_state_dict(load_file(file))
        return network.eval().requires_grad_(False).to(best_device())

    def autoencoder(self) -> Autoencoder:
        """Train the autoencoder."""
        fit = self._fit("autoencoder", self.config.autoencoder_steps, 16, 1.5e-3)
        network = self._load_or_train("autoencoder", Autoencoder(), lambda: train_autoencoder(fit, self.log))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        return network

    def base(self) -> Path:
        """Train the diffusion model in three stages and write it as a base model."""
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
        """Train an identity encoder.

        Args:
            name: "msid", "arcface" or "arcface-msf", which is ArcFace with the features of all depths.

        Returns:
            Its weights.

        Raises:
            InterruptedError: a signal stopped the training; the same call resumes it.
        """
        file = self.folder / f"{name}.safetensors"
        if not file.exists() and name == "arcface-msf":
            encoder = load_msid(read(self.encoder("arcface")), MSF_DEPTHS)
            save(file, encoder.state_dict(), "msid", encoder.config)
        elif not file.exists():
            people = range(ENCODER_PEOPLE.start, ENCODER_PEOPLE.start + self.config.people)
            config = MSIDTrainingConfig(
                data=str(write_class_folders(self.folder / "faces", people, self.config.pictures)),
                out=str(self.folder / name),
                depths=MSF_DEPTHS if name == "msid" else (12,),
                image_size=FACE_SIZE,
                patch_size=16,
                embed_dim=128,
                heads=4,
                # with one supervised depth, the higher rate makes the norm of its class token explode
                lr=1e-3 if name == "msid" else 3e-4,
                epochs=self.config.msid_epochs,
                warmup_epochs=1,
                batch_size=min(128, self.config.people * self.config.pictures),
                precision="bf16" if self.config.bf16 else "no",
                seed=self.config.seed,
                save_every=100,
            )
            steps = Schedule.of(config, self.config.people * self.config.pictures).steps
            encoder = load_msid(read_finished(train_msid(config, self.log), steps))
            save(file, to_half(encoder), "msid", encoder.config)
        return file

    def expression(self) -> Path:
        """Train the expression network."""
        file = self.folder / "expression.safetensors"
        if not file.exists():
            network: ExpressionNetwork = train_expression(
                self._fit("expression", self.config.expression_steps, 32, 1e-3), self.log
            )
            save(file, to_half(network), "expression", network.config)
        return file

    def verifier(self) -> Verifier:
        """Train the identity evaluator."""
        fit = self._fit("verifier", self.config.verifier_steps, 64, 2e-3)
        return self._load_or_train(
            "verifier", Verifier(), lambda: train_verifier(fit, self.autoencoder(), self.log)
        )

    def attributes(self) -> Attributes:
        """Train the evaluator of jobs, places and expressions."""
        fit = self._fit("attributes", self.config.attribute_steps, 64, 2e-3)
        return self._load_or_train(
            "attributes", Attributes(), lambda: train_attributes(fit, self.autoencoder(), self.log)
        )

    def cache(self, encoder: str, pairs: bool = False, variants: int = 0) -> Path:
        """Run `f2d-train prepare` for an encoder.

        Args:
            encoder: as of `encoder`.
            pairs: as many photos, two of each person instead of one.
            variants: altered copies of each photo.

        Returns:
            The cache's folder.
        """
        kind, per_person = ("-pairs", 2) if pairs else ("", 1)
        copies = f"-variants-{variants}" if variants else ""
        photos = write_photos(self.folder / f"photos{kind}", self.config.photos, per_person=per_person)
        return prepare(
            PrepareConfig(
                photos=str(photos),
                out=str(self.folder / f"cache-{encoder}{kind}{copies}"),
                base=str(self.base()),
                msid=str(self.encoder(encoder)),
                expression=str(self.expression()),
                layout="fastcomposer",
                aligned=True,
                variants=variants,
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
            InterruptedError: a signal stopped the training; the same call resumes it.
        """
        config = self.mapper_config(preset, seed)
        weights = train_mapper(config, self.log)
        read_finished(weights, config.steps)
        return weights

    def mapper_config(self, preset: str, seed: int = 0) -> MapperTrainingConfig:
        """Say how `mapper` trains; makes the cache first, arguments as for `mapper`."""
        changes = PRESETS[preset]
        pairs, variants = "cross_photo" in changes, PRESET_VARIANTS.get(preset, 0)
        config = MapperTrainingConfig(
            cache=str(self.cache(encoder_of(preset), pairs, variants)),
            base=str(self.base()),
            out=str(self.folder / f"mapper-{preset}-{seed}"),
            hidden_dim=512,
            dropout=0.0,
            contexts=CONTEXTS,
            identity_msid=str(self.encoder(encoder_of(preset))),
            steps=self.config.mapper_steps,
            batch_size=self.config.mapper_batch,
            lr=self.config.mapper_lr,
            warmup=50,
            decay=self.config.mapper_steps // 5,
            ema=0.99,
            precision="bf16" if self.config.bf16 else "no",
            validation=self.config.validation,
            validate_every=max(1, self.config.mapper_steps // _VALIDATIONS),
            seed=seed,
            compile=self.config.compile,
            save_every=200,
            keep=1,
            workers=0,
        )
        return replace(config, **changes)

    def check_presets(self) -> None:
        """Raise a ValueError if the config names a preset that does not exist."""
        if unknown := [preset for preset in self.config.presets if preset not in PRESETS]:
            raise ValueError(f"Unknown --presets: {', '.join(unknown)}. Choose from {', '.join(PRESETS)}.")

    def train(self) -> Path:
        """Train the base model, the evaluators and the mappers of all presets and seeds.

        Returns:
            The folder.

        Raises:
            ValueError: an unknown preset.
            InterruptedError: a signal stopped the training; the same call resumes it.
        """
        self.check_presets()
        self.base()
        self.verifier()
        self.attributes()
        for preset in self.config.presets:
            for seed in self.config.seeds or (0,):
                self.mapper(preset, seed)
        return self.folder


def folder_of(config: MiniatureConfig) -> Path:
    """Return the output folder; raises a ValueError if none is set."""
    if not config.out:
        raise ValueError("--out is missing. Set it to a folder.")
    return Path(config.out)


def encoder_of(preset: str) -> str:
    """Return the name of a preset's identity encoder: MSID, except for Table 3's other rows."""
    return preset if preset in PRESET_ENCODERS else "msid"


def read_finished(weights: Path, steps: int) -> Checkpoint:
    """Read the weights of a finished run; raises an InterruptedError if a signal stopped it."""
    checkpoint = read(weights)
    check_finished(weights.parent, int(checkpoint.metadata["step"]), steps)
    return checkpoint


def to_half(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights rounded to float16, so that later stages see what is shipped."""
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
