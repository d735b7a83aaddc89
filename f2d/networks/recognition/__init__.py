"""Face-recognition networks that score identity: AdaFace (IR-50, IR-101), SphereFace and FaceNet.

None of them has a part in making S*, so they can evaluate it.

photo (H, W, 3) uint8 and a face
  -> crop        (h, w, 3) uint8: 112 x 112, 112 x 96 or 160 x 160 px
  -> normalize   (3, h, w) in [-1, 1], RGB or BGR
  -> forward     feature (512); two faces are compared by the cosine
"""

from __future__ import annotations

import os

from ...checkpoint import read
from ..loading import fill
from .adaface import AdaFace
from .facenet import FaceNet
from .recognizer import FaceRecognizer
from .sphereface import SphereFace

__all__ = [
    "RECOGNIZERS",
    "AdaFace",
    "FaceNet",
    "FaceRecognizer",
    "SphereFace",
    "load_recognizer",
]

RECOGNIZERS: tuple[type[FaceRecognizer], ...] = (AdaFace, SphereFace, FaceNet)
_TRAINING_HEADS = ("head.", "fc6.", "logits.")  # of the three: classifiers over the training identities
_LIGHTNING_PREFIX = "model."  # of AdaFace's network in its file


def load_recognizer(path: str | os.PathLike, name: str | None = None) -> FaceRecognizer:
    """Load a public weight file, in evaluation mode on the CPU.

    Args:
        path: AdaFace's `.ckpt`, SphereFace's `sphere20a_20171020.pth`, FaceNet's
            `20180402-114759-vggface2.pt` (or `...-casia-webface.pt`), or a .safetensors with the same names.
        name: "AdaFace", "SphereFace" or "FaceNet" where only this one will do.

    Returns:
        The network, float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something else is in it.
    """
    checkpoint = read(path)
    tensors = {
        key.removeprefix(_LIGHTNING_PREFIX): value
        for key, value in checkpoint.tensors.items()
        if not key.startswith(_TRAINING_HEADS)
    }
    found = next((network for network in RECOGNIZERS if network.marker in tensors), None)
    if found is None or name not in (None, found.name):
        wanted = name or "AdaFace, SphereFace or FaceNet"
        what = f"{found.name}'s network" if found else checkpoint.described
        raise ValueError(
            f"'{checkpoint.path}' does not hold the weights of {wanted}: this is {what}. Choose another file."
        )
    return fill(found.for_tensors(tensors), tensors, checkpoint.path)
