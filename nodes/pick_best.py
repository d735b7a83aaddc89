"""F2D Pick Best."""

import functools

import comfy.utils
import folder_paths
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from ..f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, replace_placeholders
from .clip import SubjectTokenizer, check_clip
from .files import NONE, full_path, state, weight_files
from .sockets import CATEGORY, Identity, min_score_input, supported_fields

_CLIP_FOLDERS = ("text_encoders", "clip_vision")  # where files with CLIP's text projection lie
_BATCH = 8  # pictures a pass of CLIP Vision


class F2DPickBest(io.ComfyNode):
    """Pictures to the best of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DPickBest",
            display_name="F2D Pick Best",
            category=CATEGORY,
            description="Scores each picture of a batch by identity x text (the harmonic mean of the two, from 0 to 1) and keeps the best.",
            inputs=[
                io.Image.Input("images", tooltip="The batch to choose from."),
                Identity.Input(
                    "identity", tooltip="Who should be in the pictures; its encoder needs a detector."
                ),
                io.String.Input(
                    "prompt",
                    default=f"A photo of {PLACEHOLDER} as a chef",
                    multiline=True,
                    tooltip=f"What the pictures should show. S* counts as '{CLASS_WORDS}' here.",
                ),
                io.Int.Input(
                    "keep",
                    default=1,
                    min=1,
                    max=4096,
                    step=1,
                    tooltip="How many pictures to keep; all, where the batch has fewer.",
                ),
                min_score_input("How sure YuNet must be of a face. A picture without a face has identity 0."),
                io.Combo.Input(
                    "recogniser",
                    options=[NONE, *weight_files("adaface")],
                    default=NONE,
                    tooltip="A second judge of identity: AdaFace, SphereFace or FaceNet from models/face2diffusion. Needs reference_photo.",
                ),
                io.Combo.Input(
                    "text_projection",
                    options=[NONE, *_projection_files()],
                    default=NONE,
                    tooltip="A file with CLIP's text projection, which SD 1.x checkpoints leave out: clip_l.safetensors in models/text_encoders.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-L/14, to judge the text. Without it only identity counts.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The CLIP of the checkpoint, or of Inject S*, to judge the text.",
                ),
                io.Image.Input(
                    "reference_photo", optional=True, tooltip="The person's photo, for the recogniser."
                ),
            ],
            outputs=[
                io.Image.Output("best", display_name="best", tooltip="The best pictures, the best first."),
                io.String.Output(
                    "scores", display_name="scores", tooltip="One line a picture, the best first."
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="All pictures with their scores; those kept are green.",
                ),
            ],
            **supported_fields(
                search_aliases=[
                    "face2diffusion",
                    "f2d",
                    "best of n",
                    "rank images",
                    "image score",
                    "face similarity",
                ]
            ),
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
        """Find the faces, ask each judge, and rank."""
        from ..f2d.image import from_comfy, to_comfy
        from ..f2d.ranking import draw_score, rank

        photos = from_comfy(images)
        text = _judge_text(photos, prompt, clip_vision, clip, text_projection)
        ranking = rank(_judge_identity(photos, identity, min_score, recogniser, reference_photo), text)
        labels = [f"{place}: {ranking.describe(index)}" for place, index in enumerate(ranking.order, start=1)]
        preview = to_comfy(
            [
                draw_score(photos[index], labels[place], place < keep)
                for place, index in enumerate(ranking.order)
            ]
        )
        return io.NodeOutput(
            images[ranking.order[:keep]], str(ranking), preview, ui=ui.PreviewImage(preview, cls=cls)
        )


def _judge_identity(
    photos: list, identity, min_score: float, recogniser: str, reference_photo: torch.Tensor | None
) -> list[torch.Tensor]:
    """Score identity: by MSID, and by the recogniser where one is chosen."""
    from ..f2d.face.alignment import align_face
    from ..f2d.networks.recognition import find_faces
    from ..f2d.ranking import likeness

    encoder = identity.encoder
    encoder.check_identity(identity)
    if encoder.detector is None:
        raise ValueError(
            "Expected an encoder with a detector, got one without. Choose a YuNet .onnx file in Load Face Encoder."
        )
    size = encoder.msid.config.image_size
    judges = [(lambda photo, face: align_face(photo, face.landmarks, size), encoder.encode, identity.v_id)]
    if recogniser != NONE:
        network = encoder.ready(_load_recognizer(full_path(recogniser), state(recogniser)))
        judges.append((network.crop, network.embed, _reference(network, encoder, reference_photo, min_score)))
    progress, faces = comfy.utils.ProgressBar(len(photos)), []
    for photo in photos:
        throw_exception_if_processing_interrupted()
        faces.append(find_faces(encoder.detector, photo, min_score))
        progress.update(1)
    return [likeness(photos, faces, *judge) for judge in judges]


def _reference(network, encoder, photo: torch.Tensor | None, min_score: float) -> torch.Tensor:
    """Give the recogniser's features of the person."""
    from ..f2d.image import from_comfy

    if photo is None:
        raise ValueError(
            f"Expected a reference photo for {network.name}, got none: an identity holds no photo. Connect one, or set recogniser to '{NONE}'."
        )
    picture = from_comfy(photo[:1])[0]
    try:
        return network.embed([network.crop(picture, encoder.locate(picture, min_score=min_score)[1])])[0]
    except ValueError as error:
        raise ValueError(f"The reference photo: {error}") from error


def _judge_text(photos: list, prompt: str, clip_vision, clip, text_projection: str) -> torch.Tensor | None:
    """Score the text in CLIP's joint space; None where nothing for it is connected."""
    from ..f2d.image import to_comfy
    from ..f2d.ranking import read_text_projection, text_likeness

    parts = {
        "clip_vision": clip_vision,
        "clip": clip,
        "text_projection": None if text_projection == NONE else text_projection,
    }
    missing = [name for name, part in parts.items() if part is None]
    if len(missing) == len(parts):
        return None
    if missing:
        raise ValueError(
            f"Expected {', '.join(parts)} together to judge the text, got none for {' and '.join(missing)}. "
            "Give all three, or none of them to rank by identity alone."
        )
    pooled = _encode_text(clip, prompt)
    projection = read_text_projection(_find_projection(text_projection))
    embeds = []
    for start in range(0, len(photos), _BATCH):
        throw_exception_if_processing_interrupted()
        embeds.append(
            clip_vision.encode_image(to_comfy(photos[start : start + _BATCH]))["image_embeds"].cpu()
        )
    return text_likeness(torch.cat(embeds), pooled.cpu(), projection)


def _encode_text(clip, prompt: str) -> torch.Tensor:
    """Give CLIP's pooled output before its projection, of the prompt with class words for S*."""
    known = isinstance(check_clip(clip).tokenizer, SubjectTokenizer)
    placeholders = [
        name
        for name in (clip.tokenizer.placeholders if known else [PLACEHOLDER])
        if name.lower() in prompt.lower()
    ]
    text = replace_placeholders(prompt, placeholders) if placeholders else prompt
    if not text.strip():
        raise ValueError(
            "Expected a prompt to judge the text by, got an empty one. Type what the pictures should show."
        )
    tokens = (clip.tokenizer.plain if known else clip.tokenizer).tokenize_with_weights(text)
    if len(tokens) != 1:
        raise ValueError(
            f"Expected the CLIP of a Stable Diffusion 1.x checkpoint, got one of another family ({', '.join(sorted(tokens))}). "
            "Connect the CLIP of an SD 1.x checkpoint."
        )
    _, pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")
    if pooled is None:
        raise ValueError(
            "Expected a CLIP text encoder, got one without pooled output. Connect the CLIP of an SD 1.x checkpoint."
        )
    return pooled


@functools.lru_cache(maxsize=1)
def _load_recognizer(path: str, changed: tuple | None):
    """Load a recogniser, and keep the last one: `changed` tells when its file is another."""
    from ..f2d.networks.recognition import load_recognizer

    return load_recognizer(path)


def _projection_files() -> list[str]:
    names = {name for folder in _CLIP_FOLDERS for name in folder_paths.get_filename_list(folder)}
    return sorted(names, key=lambda name: ("clip_l" not in name.lower(), name))


def _find_projection(name: str) -> str:
    path = next(
        (path for folder in _CLIP_FOLDERS if (path := folder_paths.get_full_path(folder, name))), None
    )
    if path is None:
        raise FileNotFoundError(
            f"Expected '{name}' in models/{' or models/'.join(_CLIP_FOLDERS)}, got no such file. Choose another."
        )
    return path
