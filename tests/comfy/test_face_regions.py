"""Crop Faces and Paste Faces in a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face2diffusion.f2d.image import load_photo
from support.graph import node
from support.server import ComfyServer, Result

Prompt = dict[str, Any]


def crop(image: str, **changes: Any) -> dict[str, Any]:
    """Crop Faces with its default values."""
    values = {"faces": "all", "size": 512, "context": 2.0, "face_order": "largest", "face_index": 0}
    values |= {"min_score": 0.6, **changes}
    return node("F2DCropFaces", encoder=["encoder", 0], image=[image, 0], **values)


def paste(image: str, crops: str, regions: str, **changes: Any) -> dict[str, Any]:
    """Paste Faces without color matching."""
    sources = {"image": [image, 0], "crops": [crops, 0], "regions": [regions, 2]}
    return node("F2DPasteFaces", **{**sources, "feather": 0, "color_match": False, **changes})


@pytest.fixture
def faces(graph: Prompt) -> Prompt:
    """A portrait, a gray image and both as a batch; the encoder with its detector."""
    kept = {name: graph[name] for name in ("encoder", "photo")}
    return {
        **kept,
        "gray": node("EmptyImage", width=512, height=512, batch_size=1, color=0x808080),
        "batch": node("ImageBatch", image1=["gray", 0], image2=["photo", 0]),
    }


def run(pack: ComfyServer, prompt: Prompt, image: str) -> list[np.ndarray]:
    """The images of a node's first output."""
    result = save(pack, prompt, image)
    assert result.status == "success", result.message
    return [load_photo(path) for path in result.files["save"]]


def save(pack: ComfyServer, prompt: Prompt, image: str) -> Result:
    return pack.run({**prompt, "save": node("SaveImage", images=[image, 0], filename_prefix="faces")})


def test_unchanged_crops_give_back_the_photo(pack: ComfyServer, faces: Prompt) -> None:
    faces |= {"crop": crop("photo"), "paste": paste("photo", "crop", "crop", color_match=True, feather=32)}
    (pasted,) = run(pack, faces, "paste")
    photo = load_photo(pack.input / "example.png")
    difference = np.abs(pasted.astype(int) - photo)
    assert difference.mean() < 0.3 and difference.max() < 40
    assert (difference == 0).all(axis=2).mean() > 0.6, "outside the face nothing changes"


def test_each_image_of_a_batch_gets_its_own_faces(pack: ComfyServer, faces: Prompt, tmp_path: Path) -> None:
    faces |= {
        "crop": crop("batch"),
        "inverted": node("ImageInvert", image=["crop", 0]),
        "paste": paste("batch", "inverted", "crop"),
    }
    gray, portrait = run(pack, faces, "paste")
    photo = load_photo(pack.input / "example.png")
    assert (gray == 128).all()
    face = np.abs(portrait.astype(int) - (255 - photo.astype(int))).max(axis=2) < 40
    same = (portrait == photo).all(axis=2)
    assert 0.02 < face.mean() < 0.3 and same.mean() > 0.6
    (cropped,) = run(pack, faces, "crop")
    assert cropped.shape == (512, 512, 3), "one face in two images"


def test_without_a_face_the_image_passes_and_nothing_else_runs(pack: ComfyServer, faces: Prompt) -> None:
    faces |= {
        "crop": crop("photo"),
        "none": crop("gray"),
        "fails": paste("tiny", "crop", "crop"),
        "tiny": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
    }
    (unchanged,) = run(pack, {**faces, "paste": paste("gray", "fails", "none")}, "paste")
    assert (unchanged == 128).all()
    broken = save(pack, {**faces, "paste": paste("photo", "fails", "crop")}, "paste")
    assert broken.status != "success", "with a face the crops are computed"
    assert "512x512 px, but these are 1 of 64x64" in broken.message


def test_a_face_that_is_not_there_leaves_the_image(pack: ComfyServer, faces: Prompt) -> None:
    faces |= {"crop": crop("photo", faces="index", face_index=1), "paste": paste("photo", "gray", "crop")}
    (unchanged,) = run(pack, faces, "paste")
    np.testing.assert_array_equal(unchanged, load_photo(pack.input / "example.png"))


def test_given_masks_choose_what_is_pasted(pack: ComfyServer, faces: Prompt) -> None:
    faces |= {
        "crop": crop("photo"),
        "inverted": node("ImageInvert", image=["crop", 0]),
        "nothing": node("SolidMask", value=0.0, width=512, height=512),
        "everything": node("SolidMask", value=1.0, width=512, height=512),
    }
    photo = load_photo(pack.input / "example.png")
    changed = {}
    for mask in ("nothing", "everything"):
        masked = paste("photo", "inverted", "crop", masks=[mask, 0])
        (pasted,) = run(pack, {**faces, "paste": masked}, "paste")
        changed[mask] = (pasted != photo).any(axis=2).mean()
    ellipse = (run(pack, {**faces, "paste": paste("photo", "inverted", "crop")}, "paste")[0] != photo).any(2)
    assert changed["nothing"] == 0
    assert changed["everything"] > 1.2 * ellipse.mean()


def test_the_faces_are_shown_with_their_numbers(pack: ComfyServer, faces: Prompt) -> None:
    result = save(pack, {**faces, "crop": crop("batch", min_score=0.55)}, "crop")
    assert len(result.files["crop"]) == 2, "a preview of each image"
