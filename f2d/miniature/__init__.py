"""The miniature: Stable Diffusion, face encoder and evaluators, trained on a toy dataset.

weights/base/                    the Stable Diffusion, narrow, as a folder in diffusers layout
weights/msid.safetensors ...     the face encoder's networks; S* has CLIP-L's width of 768
weights/verifier.safetensors ... evaluators of identity and of scene attributes
weights/people/                  portraits of held-out people
"""

from .shipped import (
    CFG,
    FILES,
    SIZE,
    STEPS,
    WEIGHTS,
    load_encoder,
    load_evaluators,
    load_pipeline,
    narrow,
    portraits,
    read_vocabulary,
    widen_words,
)
from .single_file import write_checkpoint

__all__ = [
    "CFG",
    "FILES",
    "SIZE",
    "STEPS",
    "WEIGHTS",
    "load_encoder",
    "load_evaluators",
    "load_pipeline",
    "narrow",
    "portraits",
    "read_vocabulary",
    "widen_words",
    "write_checkpoint",
]
