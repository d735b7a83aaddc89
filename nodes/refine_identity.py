"""Refine Identity: an identity and photos to better words for this person."""

import logging
from dataclasses import replace
from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..f2d.options import Alignment, Order
from .model_denoiser import ModelDenoiser, check_model
from .notices import notify
from .schema_parts import (
    ADVANCED,
    IDENTITY,
    identity_input,
    min_score_input,
    numbering_inputs,
    search_aliases,
    supported_fields,
)
from .sockets import EncodedIdentity, Identity

log = logging.getLogger("face2diffusion")

_ALIGNMENTS: tuple[Alignment, ...] = ("detect", "FFHQ")  # a 112 px crop shows too little
_PREVIEWS = 20  # loss curves shown during a run


class F2DRefineIdentity(io.ComfyNode):
    """F2D_IDENTITY and IMAGE to a refined F2D_IDENTITY."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DRefineIdentity",
            display_name="Refine Identity",
            category=IDENTITY,
            description="Improves the words of S* for one person by a few gradient steps on their photos. "
            "No weight of the model changes.",
            inputs=[
                io.Model.Input("model", tooltip="MODEL of the SD 1.x checkpoint that will generate."),
                io.Clip.Input("clip", tooltip="CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
                identity_input(),
                io.Image.Input(
                    "image", tooltip="A photo of the person, or a batch; each step uses one of them."
                ),
                *_step_inputs(),
                *_crop_inputs(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the face is, one mask per photo or one for all. "
                    "If unconnected, an oval from the hair line to the chin.",
                ),
            ],
            outputs=[
                Identity.Output(
                    "refined", display_name="identity", tooltip="Connect to Inject S* or Save Identity."
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The crops that were used; what the words do not learn is dark.",
                ),
            ],
            **search_aliases("fine-tune", "textual inversion", "train face", "optimize", "likeness"),
            **supported_fields(has_intermediate_output=True),
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        identity,
        image: torch.Tensor,
        steps: int,
        strength: float,
        seed: int,
        alignment: Alignment,
        face_order: Order,
        face_index: int,
        min_score: float,
        size: int,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Crop the face of each photo, encode the crops, and refine the identity's words on them."""
        from ..f2d.face.identity_region import draw_region
        from ..f2d.image import to_comfy
        from ..f2d.options import FaceChoice
        from ..f2d.word_refinement import RefinementConfig

        config = RefinementConfig(steps, strength, seed=seed)
        check_model(model, identity.words())
        choice = FaceChoice(face_order, face_index, min_score)
        crops = _crop(identity.encoder, image, mask, alignment, choice, size)
        refined = _refine(model, clip, vae, identity, crops, config)
        preview = to_comfy([draw_region(crop) for crop in crops])
        return io.NodeOutput(refined, preview, ui=ui.PreviewImage(preview, cls=cls))


def _step_inputs() -> list[Any]:
    """Declare how the words are refined."""
    return [
        io.Int.Input("steps", default=60, min=1, max=1000, step=1, tooltip="Gradient steps."),
        io.Float.Input(
            "strength",
            default=0.4,
            min=0.05,
            max=3.0,
            step=0.05,
            tooltip="Step size in % of the words' size. Large steps keep the face but lose the prompt.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            step=1,
            control_after_generate=False,
            tooltip="Seed of noise and timesteps.",
        ),
    ]


def _crop_inputs() -> list[Any]:
    """Declare which face of the photos is used, and how large its crop is."""
    return [
        io.Combo.Input(
            "alignment",
            options=list(_ALIGNMENTS),
            default=_ALIGNMENTS[0],
            tooltip="'detect' finds the face in any photo. 'FFHQ': the image is already a square FFHQ crop.",
        ),
        *numbering_inputs(
            "How the faces in a photo are numbered: by size or from left to right.",
            "Number of the person's face, starting at 0.",
        ),
        min_score_input("Lower it for profiles, drawings and blurred photos."),
        io.Int.Input(
            "size",
            default=512,
            min=64,
            max=1024,
            step=64,
            tooltip="Side of the face's crop in px. Less needs less memory; SD 1.x is made for 512.",
            **ADVANCED,
        ),
    ]


def _crop(
    encoder: Any, image: torch.Tensor, mask: torch.Tensor | None, alignment: Alignment, choice: Any, size: int
) -> list[Any]:
    """Crop the faces and their masks from images of shape (B, H, W, 3); masks are (B or 1, H, W)."""
    from ..f2d.face.batch import crop_batch
    from ..f2d.face.cropping import locate_face
    from ..f2d.face.identity_region import crop_identity
    from ..f2d.image import from_comfy

    photos = from_comfy(image)
    masks = [None] * len(photos) if mask is None else _spread(mask, len(photos))

    def crop(pair: tuple) -> Any:
        management.throw_exception_if_processing_interrupted()
        return crop_identity(locate_face(encoder.detector, pair[0], alignment, choice), size, pair[1])

    batch = crop_batch(zip(photos, masks, strict=True), crop)
    if batch.report:
        notify(batch.report)
    return batch.used


def _spread(mask: torch.Tensor, count: int) -> list[Any]:
    """Turn masks of shape (B, H, W) or (H, W) into one of shape (H, W), bool, for each of `count` photos."""
    masks = list((mask[None] if mask.ndim == 2 else mask).cpu().numpy() > 0.5)
    if len(masks) not in (1, count):
        raise ValueError(
            f"There are {len(masks)} masks for {count} photos. Connect one per photo, or one for all."
        )
    return masks * count if len(masks) == 1 else masks


def _refine(model: Any, clip: Any, vae: Any, person: Any, crops: list[Any], config: Any) -> EncodedIdentity:
    """Refine a person's words, with the loss on the node and in the log."""
    from ..f2d.word_refinement import Target, make_target, measure_memory, refine_words

    encoder = person.encoder
    words, positional = person.words(), encoder.mapper.config.positional
    targets = [make_target(crop, lambda pair: _encode(model, vae, pair, config.seed)) for crop in crops]
    denoiser = ModelDenoiser(model, clip, words, positional)
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, because autograd takes no tensors that were made in inference mode.
        start, device = words.clone().to(denoiser.device), denoiser.device
        targets = [Target(target.latents.clone(), target.masks.clone()) for target in targets]
        memory = measure_memory(denoiser, start, targets[0])
        management.free_memory(memory.of_batch(config.batch), device)
        at_once = min(config.batch, memory.samples_within(management.get_free_memory(device)))
        log.info("Refining S* on %s needs %s", device, memory.describe(at_once))
        config = replace(config, at_once=at_once)
        refined = refine_words(denoiser, start, targets, config, _progress(config.steps))
    return EncodedIdentity(encoder.refine(person.identity, refined.cpu()), encoder)


def _encode(model: Any, vae: Any, pair: list[Any], seed: int) -> torch.Tensor:
    """Encode two photos to scaled latents, shape (2, C, H, W); ComfyUI's VAE samples its posterior."""
    from ..f2d.image import to_comfy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        latents = vae.encode(to_comfy(pair)).float()
    channels = model.model.latent_format.latent_channels
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(
            f"This VAE's latents have the shape {tuple(latents.shape)}; the MODEL takes {channels} channels. "
            "Connect the VAE of the same checkpoint."
        )
    return model.model.process_latent_in(latents)


def _progress(steps: int) -> Any:
    """Report each step, stop when the user cancels, and show the curve of the loss now and then."""
    from ..f2d.loss_curve import draw_losses

    bar, losses = comfy.utils.ProgressBar(steps), []
    every = max(1, steps // _PREVIEWS)

    def report(step: int, loss: float, words: torch.Tensor) -> None:
        management.throw_exception_if_processing_interrupted()
        losses.append(loss)
        shown = None
        if step % every == 0 or step == steps:
            recent = sum(losses[-every:]) / len(losses[-every:])
            notify(f"Step {step} of {steps}, loss {recent:.4f}")
            log.info("Step %d of %d: loss %.4f", step, steps, recent)
            shown = "JPEG", draw_losses(losses, steps), None
        bar.update_absolute(step, steps, shown)

    return report
