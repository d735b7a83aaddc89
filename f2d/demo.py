"""The whole chain on a portrait without any download: networks in their official sizes, with weights drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from .detection import draw_faces
from .encoder import FaceEncoder
from .expression import ExpressionNetwork
from .image import Photo
from .mapping import MappingNetwork
from .msid import MSIDEncoder
from .pipeline import GenerationConfig, Picture, random_pipeline

PROMPT = "A photo of S* as a chef"
# Of scikit-image's portrait of Eileen Collins (NASA, public domain), px; so that no detector is needed.
LANDMARKS = np.array([(200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6)], np.float32)
_PANEL = 384  # px


def random_encoder(seed: int = 0) -> FaceEncoder:
    """Build a FaceEncoder of the official sizes with weights drawn from a seed.

    Args:
        seed: for the weights.

    Returns:
        The encoder, on the CPU, without a detector.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        msid, mapper, expression = MSIDEncoder(), MappingNetwork(), ExpressionNetwork()
    return FaceEncoder(msid.eval(), mapper.eval(), expression.eval())


def run_demo(say: Callable[[str], None]) -> Picture:
    """Encode a portrait and draw a prompt with S*.

    Args:
        say: is told each step.

    Returns:
        A sheet of three labelled panels: the photo, the aligned face and the drawn picture, shape (H, W, 3), uint8.

    Raises:
        ImportError: scikit-image, diffusers or transformers are missing.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise ImportError('Expected scikit-image for its portrait, got none. Run `pip install "face2diffusion[demo]"`.') from error
    photo = np.ascontiguousarray(astronaut())
    say("Networks: official sizes, weights drawn from seed 0. The picture shows that the chain runs, not a likeness.")
    encoder = random_encoder()
    found = encoder.find(photo, landmarks=LANDMARKS)
    identity = encoder.identity([found.crop])
    say(f"Photo {photo.shape} -> face {found.crop.shape} -> v_id {tuple(identity.v_id.shape)}")
    words = encoder.words(identity, encoder.express(photo, landmarks=LANDMARKS))
    say(f"v_id and v_exp (64,) -> S* {tuple(words.shape)}, norms {', '.join(f'{norm:.2f}' for norm in words.norm(dim=1))}")
    pipeline = random_pipeline()
    pipeline.add_subject(words)
    (picture,) = pipeline.generate(PROMPT, GenerationConfig(width=128, height=128))
    say(f'"{PROMPT}" -> picture {picture.image.shape}')
    panels = {
        "photo with landmarks": draw_faces(photo, found.faces, found.chosen),
        "face, aligned": found.crop,
        f"{PROMPT} (random weights)": picture.image,
    }
    return Picture(np.concatenate([_panel(image, label) for label, image in panels.items()], axis=1), picture.parameters)


def _panel(image: Photo, label: str) -> Photo:
    picture = cv2.resize(image, (_PANEL, _PANEL), interpolation=cv2.INTER_AREA if len(image) > _PANEL else cv2.INTER_CUBIC)
    picture = cv2.copyMakeBorder(picture, 36, 12, 12, 12, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return cv2.putText(picture, label, (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
