"""Fine-tuned models of one person each, as public tools write them, loaded as a pipeline of this project.

| kind | files | written by |
|---|---|---|
| pipeline | a folder in diffusers layout, or a single-file checkpoint | DreamBooth |
| LoRA | `pytorch_lora_weights.safetensors`, or any .safetensors with LoRA weights | DreamBooth with LoRA |
| CustomDiffusion | `pytorch_custom_diffusion_weights.bin`, and `<new1>.bin` with the word | diffusers |
| adapter | `unet/adapter_config.json`, and `text_encoder/` if it was trained | peft: OFT, BOFT, LoHa, ... |

Each person's model is loaded afresh: no weights of the person before can remain in it.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from ...f2d.diffusion.pipeline import F2DPipeline
from ..data.photo_files import hash_photos
from .word_files import list_tensors, read_content, read_words

Kind = Literal["pipeline", "LoRA", "CustomDiffusion", "adapter"]
_LORA = "pytorch_lora_weights.safetensors"
_CUSTOM = ("pytorch_custom_diffusion_weights.safetensors", "pytorch_custom_diffusion_weights.bin")
_PARTS = ("unet", "text_encoder")  # that an adapter may be for
_CHECKPOINTS = (".safetensors", ".ckpt")
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt")


@dataclass(frozen=True)
class TunedModel:
    """One person's files."""

    kind: Kind
    folder: Path
    files: tuple[str, ...]  # that are loaded, within the folder

    def check_packages(self) -> None:
        """Raise an ImportError if a package that loads the files is missing."""
        if self.kind in ("LoRA", "adapter"):
            try:
                import peft  # noqa: F401
            except ImportError as error:
                raise ImportError(
                    f"The {self.kind} of '{self.folder.name}' needs peft. "
                    'Run `pip install "face2diffusion[train]"`.'
                ) from error

    def hash_files(self) -> str:
        """Compute the SHA-256 of the names and contents of all files that are loaded."""
        return hash_photos(self.folder, self.files)

    def count_parameters(self) -> int:
        """Count the parameters in the files; 0 for a complete pipeline, which holds untrained ones too."""
        if self.kind == "pipeline":
            return 0
        weights = [name for name in self.files if name.endswith(_WEIGHTS)]
        contents = (read_content(self.folder / name) for name in weights)
        return sum(tensor.numel() for content in contents for tensor in list_tensors(content))


def find_model(folder: str | os.PathLike, identity: str) -> TunedModel | None:
    """Find an identity's model.

    Args:
        folder: with a subfolder or a file for each identity, such as `alice/` or `alice.safetensors`.
        identity: its name.

    Returns:
        The model; None if there is nothing of that name.

    Raises:
        ValueError: a folder or file of an unknown kind.
    """
    folder = Path(folder)
    for name in (f"{identity}{suffix}" for suffix in _CHECKPOINTS):
        if (folder / name).is_file():
            return TunedModel("LoRA" if _is_lora(folder / name) else "pipeline", folder, (name,))
    own = folder / identity
    if not own.is_dir():
        return None
    if (own / "model_index.json").is_file():
        parts = sorted(path for path in own.glob("*/*") if not path.parent.name.startswith("checkpoint-"))
        files = ["model_index.json", *(path.relative_to(own).as_posix() for path in parts if path.is_file())]
        return TunedModel("pipeline", own, tuple(files))
    if (own / _LORA).is_file():
        return TunedModel("LoRA", own, (_LORA,))
    if custom := [name for name in _CUSTOM if (own / name).is_file()]:
        words = sorted(path.name for path in own.glob("<*>.*") if path.suffix in _WEIGHTS)
        return TunedModel("CustomDiffusion", own, (custom[0], *words))
    adapters = [part for part in _PARTS if (own / part / "adapter_config.json").is_file()]
    if adapters:
        found = sorted(path for part in adapters for path in (own / part).glob("adapter_*"))
        return TunedModel("adapter", own, tuple(path.relative_to(own).as_posix() for path in found))
    raise ValueError(
        f"'{own}' holds no model of a known kind. It needs model_index.json, {_LORA}, {_CUSTOM[0]} or "
        "unet/adapter_config.json."
    )


def load_model(
    model: TunedModel, base: str | os.PathLike, device: str, base_config: str | None
) -> F2DPipeline:
    """Load a person's model.

    Args:
        model: of `find_model`.
        base: Stable Diffusion 1.x that it was trained on; unused for a complete pipeline.
        device: where it runs.
        base_config: of a single-file checkpoint.

    Returns:
        The pipeline; words of CustomDiffusion are subjects of it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files fit another base, or are damaged.
        ImportError: peft is missing, see `TunedModel.check_packages`.
    """
    if model.kind == "pipeline":
        whole = model.folder if "model_index.json" in model.files else model.folder / model.files[0]
        return F2DPipeline.load(whole, device, base_config)
    pipeline = F2DPipeline.load(base, device, base_config)
    model.check_packages()
    apply = {"LoRA": _apply_lora, "CustomDiffusion": _apply_custom_diffusion, "adapter": _apply_adapters}
    try:
        apply[model.kind](pipeline, model)
    except (RuntimeError, KeyError, TypeError, UserWarning) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"The {model.kind} of '{model.folder.name}' does not fit '{os.fspath(base)}' ({first}). Set "
            "--base to the model that it was trained on."
        ) from error
    return pipeline


def _apply_lora(pipeline: F2DPipeline, model: TunedModel) -> None:
    diffusion: Any = pipeline.diffusion
    diffusion.load_lora_weights(os.fspath(model.folder), weight_name=model.files[0], local_files_only=True)
    diffusion.fuse_lora()
    diffusion.unload_lora_weights()


def _apply_custom_diffusion(pipeline: F2DPipeline, model: TunedModel) -> None:
    """Replace the trained matrices, and add the words; equal to diffusers' processors, and faster."""
    weights, *words = model.files
    trained = {
        name.replace("_custom_diffusion", "").replace(".processor", ""): value
        for name, value in read_content(model.folder / weights).items()
        if "_custom_diffusion" in name  # the other attention layers have empty entries
    }
    unexpected = pipeline.diffusion.unet.load_state_dict(trained, strict=False).unexpected_keys
    if unexpected or not trained:
        raise RuntimeError(f"{len(unexpected)} of {len(trained)} matrices are unknown")
    for name in words:
        pipeline.add_subject(read_words(model.folder / name), Path(name).stem, "before")


def _apply_adapters(pipeline: F2DPipeline, model: TunedModel) -> None:
    from peft import PeftModel

    for part in _PARTS:
        if any(name.startswith(f"{part}/") for name in model.files):
            network: Any = getattr(pipeline.diffusion, part)
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Found missing adapter keys")
                adapted: Any = PeftModel.from_pretrained(network, os.fspath(model.folder / part))
            setattr(pipeline.diffusion, part, adapted.merge_and_unload().eval())


def _is_lora(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(os.fspath(path), "pt") as file:
            return any("lora" in name.lower() for name in file.keys())  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"'{path}' is damaged ({error}). Get it again.") from error
