"""ComfyUI nodes for tests only.

They write what flows along a link to the output folder as .safetensors, let keypoints flow, and the like.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import json
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from safetensors.torch import save_file


def _write(name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """Saves `tensors` as output/<name>.safetensors and reports the file as an output of the node."""
    file = Path(folder_paths.get_output_directory()) / f"{name}.safetensors"
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, file, metadata)
    return {"ui": {"files": [{"filename": file.name, "subfolder": "", "type": "output"}]}}


class SaveConditioning:
    """Saves entry i's cond tensor as "i.cond", its tensor options as "i.<option>", the others as JSON in
    metadata["options"].
    """

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {"default": "conditioning"})}
        }

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "f2d_probe"

    def save(self, conditioning: list[Any], name: str) -> dict[str, Any]:
        tensors, scalars = {}, []
        for index, (cond, options) in enumerate(conditioning):
            tensors[f"{index}.cond"] = cond
            tensors |= {f"{index}.{key}": value for key, value in options.items() if torch.is_tensor(value)}
            scalars.append({key: value for key, value in options.items() if not torch.is_tensor(value)})
        return _write(name, tensors, {"options": json.dumps(scalars, default=repr)})


class SaveTensors:
    """Saves an image, mask or latent without rounding, as "image", "mask" and "latent"."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        optional = {"image": ("IMAGE",), "mask": ("MASK",), "latent": ("LATENT",)}
        return {"required": {"name": ("STRING", {"default": "tensors"})}, "optional": optional}

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "f2d_probe"

    def save(self, name: str, image: Any = None, mask: Any = None, latent: Any = None) -> dict[str, Any]:
        found = {"image": image, "mask": mask, "latent": latent and latent["samples"]}
        return _write(name, {key: value for key, value in found.items() if value is not None}, {})


class SaveTokens:
    """Tokenizes `text` with a CLIP.

    Saves ids (-1 where a vector stands), weights and the vectors, and a hash of CLIP's weights.
    """

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        texts = {
            "text": ("STRING", {"default": "", "multiline": True}),
            "name": ("STRING", {"default": "tokens"}),
        }
        return {"required": {"clip": ("CLIP",), **texts}}

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "f2d_probe"

    def save(self, clip: Any, text: str, name: str) -> dict[str, Any]:
        pairs = [pair for chunk in clip.tokenize(text)["l"] for pair in chunk]
        vectors = [token for token, _ in pairs if torch.is_tensor(token)]
        tensors = {
            "ids": torch.tensor([-1 if torch.is_tensor(token) else int(token) for token, _ in pairs]),
            "weights": torch.tensor([float(weight) for _, weight in pairs]),
        }
        if vectors:
            tensors["vectors"] = torch.stack([vector.flatten().float() for vector in vectors])
        digest = hashlib.sha256()
        for key, value in sorted(clip.cond_stage_model.state_dict().items()):
            digest.update(key.encode() + value.cpu().flatten().view(torch.uint8).numpy().tobytes())
        return _write(name, tensors, {"weights_sha256": digest.hexdigest()})


class ReadPose:
    """Gives JSON as POSE_KEYPOINT, in place of a pose preprocessor."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"json": ("STRING", {"default": "[]", "multiline": True})}}

    RETURN_TYPES = ("POSE_KEYPOINT",)
    FUNCTION = "read"
    CATEGORY = "f2d_probe"

    def read(self, **inputs: str) -> tuple[Any]:
        return (json.loads(inputs["json"]),)


class ReadBoxes:
    """BOUNDING_BOX from JSON, in any of its layouts."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {"default": "[]"})}}

    RETURN_TYPES = ("BOUNDING_BOX",)
    FUNCTION = "read"
    CATEGORY = "f2d_probe"

    def read(self, text: str) -> tuple[Any]:
        return (json.loads(text),)


class MakeFaceMesh:
    """FACE_LANDMARKS as core's MediaPipe nodes pass them, from five points of each face of each frame.

    MediaPipe's indices of the corners and lids of the eyes, the nose tip and the mouth corners.
    """

    PLACES = ((33, 133, 159, 145), (263, 362, 386, 374), (1,), (61,), (291,))

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"frames": ("STRING", {"default": "[]"}), "image": ("IMAGE",)}}

    RETURN_TYPES = ("FACE_LANDMARKS",)
    FUNCTION = "make"
    CATEGORY = "f2d_probe"

    def make(self, frames: str, image: Any) -> tuple[Any]:
        found = [[self._face(np.array(points)) for points in frame] for frame in json.loads(frames)]
        return ({"frames": found, "image_size": tuple(image.shape[1:3]), "connection_sets": {}},)

    def _face(self, points: Any) -> dict[str, Any]:
        mesh = np.tile(points.mean(0), (478, 1))
        for place, point in zip(self.PLACES, points, strict=True):
            mesh[list(place)] = point
        corners = np.concatenate([points.min(0), points.max(0)])
        return {"landmarks_xy": mesh, "bbox_xyxy": corners, "score": 0.9, "presence": 0.9}


class CollectGarbage:
    """Lets go of what nothing holds but itself, as ComfyUI does every ten seconds, and gives the system what
    the C library keeps for later.
    """

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "collect"
    CATEGORY = "f2d_probe"

    @classmethod
    def IS_CHANGED(cls) -> float:
        return float("nan")

    def collect(self) -> dict[str, Any]:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        return {"ui": {}}


class ListConditionings:
    """Gives two conditionings as a list."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning_1": ("CONDITIONING",), "conditioning_2": ("CONDITIONING",)}}

    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "gather"
    CATEGORY = "f2d_probe"

    def gather(self, conditioning_1: Any, conditioning_2: Any) -> tuple[list[Any]]:
        return ([conditioning_1, conditioning_2],)


NODE_CLASS_MAPPINGS = {
    "F2DProbeCollectGarbage": CollectGarbage,
    "F2DProbeList": ListConditionings,
    "F2DProbeMakeFaceMesh": MakeFaceMesh,
    "F2DProbeReadBoxes": ReadBoxes,
    "F2DProbeReadPose": ReadPose,
    "F2DProbeSaveConditioning": SaveConditioning,
    "F2DProbeSaveTensors": SaveTensors,
    "F2DProbeSaveTokens": SaveTokens,
}
