"""Pick Best Images: the best of a batch by identity x text."""

import functools

import folder_paths
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from ..f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, replace_placeholders
from .model_folders import full_path, state, weight_files
from .notices import Progress
from .schema_parts import (
    ADVANCED,
    IMAGE,
    NONE,
    check_inputs,
    min_score_input,
    search_aliases,
    supported_fields,
)
from .sockets import Identity
from .subject_clip import SubjectTokenizer, check_clip

_CLIP_FOLDERS = ("text_encoders", "clip_vision")  # where files with CLIP's text projection lie
_BATCH = 8  # images per pass of CLIP Vision


class F2DPickBest(io.ComfyNode):
    """IMAGE batch to its best images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DPickBest",
            display_name="Pick Best Images",
            category=IMAGE,
            description="Scores each image of a batch by identity x text (the harmonic mean of both, 0 to 1) "
            "and keeps the best.",
            inputs=[
                io.Image.Input("images", tooltip="Batch of images to choose from."),
                Identity.Input(
                    "identity", tooltip="The person the images should show. Its encoder needs a detector."
                ),
                io.String.Input(
                    "prompt",
                    default=f"A photo of {PLACEHOLDER} as a chef",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=f"What the images should show. S* is read as '{CLASS_WORDS}'.",
                ),
                io.Int.Input(
                    "keep",
                    default=1,
                    min=1,
                    max=4096,
                    step=1,
                    tooltip="Number of images to keep; all, if the batch has fewer.",
                ),
                min_score_input("An image without a face has the identity score 0."),
                io.Combo.Input(
                    "recogniser",
                    display_name="recognizer",
                    options=[NONE, *weight_files("adaface")],
                    default=NONE,
                    tooltip="Second evaluator of identity: AdaFace, SphereFace or FaceNet from "
                    "models/face2diffusion. Needs reference_photo.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "text_projection",
                    options=[NONE, *_projection_files()],
                    default=NONE,
                    tooltip="File with CLIP's text projection, which SD 1.x checkpoints lack: "
                    "clip_l.safetensors in models/text_encoders.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-L/14, to score the text. If unconnected, only identity counts.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="CLIP of the checkpoint or of Inject S*, to score the text.",
                ),
                io.Image.Input(
                    "reference_photo", optional=True, tooltip="A photo of the person, for the recognizer."
                ),
            ],
            outputs=[
                io.Image.Output("best", display_name="best", tooltip="The best images, best first."),
                io.String.Output("scores", display_name="scores", tooltip="One line per image, best first."),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="All images with their scores; the ones kept are green.",
                ),
            ],
            **search_aliases("best of n", "rank images", "image score", "face similarity"),
            **supported_fields(has_intermediate_output=True),
        )

    @classmethod
    def validate_inputs(cls, recogniser: str | None = None, text_projection: str | None = None) -> bool | str:
        """Refuse a graph that names missing files."""
        return check_inputs(
            (full_path, None if recogniser == NONE else recogniser),
            (_find_projection, None if text_projection == NONE else text_projection),
        )

    @classmethod
    def fingerprint_inputs(cls, recogniser: str, text_projection: str, **inputs) -> tuple:
        """Run again when a file has changed."""
        return state(recogniser), *(state(text_projection, folder) for folder in _CLIP_FOLDERS)

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        identity,
        prompt: str,
        keep: int,
        min_score: float,
        recogniser: str,
        text_projection: str,
        clip_vision=None,
        clip=None,
        reference_photo: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Find the faces, ask each evaluator, and rank."""
        from ..f2d.image import check_comfy, from_comfy, to_comfy
        from ..f2d.ranking import draw_ranking, rank

        photos = from_comfy(images)
        text = _score_text(check_comfy(images), prompt, clip_vision, clip, text_projection)
        ranking = rank(_score_identity(photos, identity, min_score, recogniser, reference_photo), text)
        preview = to_comfy(draw_ranking(photos, ranking, keep))
        return io.NodeOutput(
            images[ranking.order[:keep]], str(ranking), preview, ui=ui.PreviewImage(preview, cls=cls)
        )


def _score_identity(
    photos: list, person, min_score: float, recogniser: str, reference_photo: torch.Tensor | None
) -> list[torch.Tensor]:
    """Score identity by MSID, and by the recognizer if one is chosen: shape (B,) each."""
    from ..f2d.ranking import IdentityEvaluator, MSIDEvaluator, likeness

    encoder = person.encoder
    evaluators: list[IdentityEvaluator] = [MSIDEvaluator(encoder, person.identity)]
    if recogniser != NONE:
        network = _load_recognizer(full_path(recogniser), state(recogniser)).load()
        evaluators.append(_recognize(network, encoder, reference_photo, min_score))
    progress, faces = Progress(len(photos), "Image"), []
    for photo in photos:
        progress.advance()
        faces.append(encoder.find_faces(photo, min_score))
    return [likeness(photos, faces, evaluator) for evaluator in evaluators]


def _recognize(network, encoder, photo: torch.Tensor | None, min_score: float):
    """Pass the recognizer the person's photo."""
    from ..f2d.image import from_comfy
    from ..f2d.options import FaceChoice
    from ..f2d.ranking import RecognizerEvaluator

    if photo is None:
        raise ValueError(
            f"{network.name} needs a reference photo, because an identity holds none. "
            f"Connect one, or set recogniser to '{NONE}'."
        )
    reference = from_comfy(photo[:1])[0]
    try:
        _, face = encoder.detect(reference, FaceChoice(min_score=min_score))
        return RecognizerEvaluator(network, reference, face)
    except ValueError as error:
        raise ValueError(f"The reference photo: {error}") from error


def _score_text(
    images: torch.Tensor, prompt: str, clip_vision, clip, text_projection: str
) -> torch.Tensor | None:
    """Score images of shape (B, H, W, 3) in CLIP's joint space; None where nothing for it is connected."""
    from ..f2d.diffusion.clip_weights import read_text_projection
    from ..f2d.ranking import text_likeness

    projection = None if text_projection == NONE else text_projection
    parts = {"clip_vision": clip_vision, "clip": clip, "text_projection": projection}
    missing = [name for name, part in parts.items() if part is None]
    if len(missing) == len(parts):
        return None
    if missing:
        raise ValueError(
            f"To score the text, {', '.join(parts)} are needed together, but {' and '.join(missing)} is "
            "missing. "
            "Give all three, or none of them to rank by identity alone."
        )
    pooled = _encode_text(clip, prompt)
    matrix = read_text_projection(_find_projection(text_projection))
    embeds = []
    for batch in images.split(_BATCH):
        throw_exception_if_processing_interrupted()
        embeds.append(clip_vision.encode_image(batch)["image_embeds"].cpu())
    return text_likeness(torch.cat(embeds), pooled.cpu(), matrix)


def _encode_text(clip, prompt: str) -> torch.Tensor:
    """Return CLIP's pooled output before its projection, for the prompt with class words for S*."""
    known = isinstance(check_clip(clip).tokenizer, SubjectTokenizer)
    candidates = clip.tokenizer.placeholders if known else [PLACEHOLDER]
    placeholders = [name for name in candidates if name.lower() in prompt.lower()]
    text = replace_placeholders(prompt, placeholders) if placeholders else prompt
    if not text.strip():
        raise ValueError(
            "The prompt is empty, so the text cannot be scored. Type what the images should show."
        )
    tokens = (clip.tokenizer.plain if known else clip.tokenizer).tokenize_with_weights(text)
    if len(tokens) != 1:
        raise ValueError(
            f"This CLIP is of another family ({', '.join(sorted(tokens))}) than Stable Diffusion 1.x. "
            "Connect the CLIP of an SD 1.x checkpoint."
        )
    _, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
    if pooled is None:
        raise ValueError("This CLIP gives no pooled output. Connect the CLIP of an SD 1.x checkpoint.")
    return pooled


@functools.lru_cache(maxsize=1)
def _load_recognizer(path: str, changed: tuple | None):
    """Read a recogniser, and keep the last one: `changed` tells when its file is another."""
    from ..f2d.networks.recognition import load_recognizer
    from .managed_encoder import ManagedNetwork

    return ManagedNetwork(load_recognizer(path))


def _projection_files() -> list[str]:
    names = {name for folder in _CLIP_FOLDERS for name in folder_paths.get_filename_list(folder)}
    return sorted(names, key=lambda name: ("clip_l" not in name.lower(), name))


def _find_projection(name: str) -> str:
    path = next(
        (path for folder in _CLIP_FOLDERS if (path := folder_paths.get_full_path(folder, name))), None
    )
    if path is None:
        raise FileNotFoundError(
            f"There is no '{name}' in models/{' or models/'.join(_CLIP_FOLDERS)}. Choose another."
        )
    return path
