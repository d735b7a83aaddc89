"""Takes the pictures of the README, the workflow gallery and the help pages from a real ComfyUI.

python tests/make_pictures.py [CHECKOUT]
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from face2diffusion.f2d import miniature
from face2diffusion.f2d.demo import SETTINGS
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature import SIZE
from face2diffusion.f2d.miniature.comfyui import in_miniature, install
from face2diffusion.f2d.miniature.prompts import Facts, describe, text_accuracy
from face2diffusion.f2d.miniature.sheet import Panel, draw_sheet
from PIL import Image
from skimage.data import astronaut
from support.browser import Browser, Frontend
from support.miniature import in_region
from support.official import write_expression, write_mapper, write_msid
from support.server import REPOSITORY, ComfyServer, find_checkouts

DETECTOR = REPOSITORY.parent / "shared" / "models" / "face_detection_yunet_2026may.onnx"
THUMBNAIL = 640, 360  # px
IN_USE = {  # pictures of the help pages: a workflow, those of its nodes that are shown, and the size in px
    "EncodeFaceIdentity": ("one_face", (3, 4, 5, 13), (1120, 640)),
    "ExpressionReference": ("expression_reference", (5, 7, 14), (1120, 420)),
    "F2DFaceLandmarks": ("pose_transfer", (3, 4, 7), (800, 640)),
    "InjectSStar": ("one_face", (2, 5, 6, 7), (1120, 540)),
}
WIDE = SIZE * 3 // 2, SIZE
IN_MINIATURE = {  # workflows that are run to their end there: portraits, the prompts said in its words, size
    "one_face": (["ada"], lambda text: text.replace("A photo", "a photo").partition(",")[0], (SIZE, SIZE)),
    "expression_reference": (["bela", "dora"], lambda text: "a photo of S* in the streets of rome", (SIZE, SIZE)),
    "two_people": (["ada", "chidi"], in_region, WIDE),
}
ASKED = Facts(job="king", place="at the taj mahal in india")
STRENGTHS, STARTS, COUNT = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), (0.0, 0.2, 0.5, 0.8), 8
REMOVE_OTHERS = "kept => app.graph.nodes.filter(node => !kept.includes(Number(node.id))).forEach(node => app.graph.remove(node))"


def main() -> None:
    """Draw all of them."""
    draw_strengths().save(REPOSITORY / "web" / "docs" / "strength.jpg", quality=88)
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else find_checkouts()[-1]
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(checkout, Path(folder))
        place_files(server)
        install(server.base, print)
        with server, Browser() as browser, browser.open(server) as frontend:
            for file in sorted((REPOSITORY / "workflows").glob("*.json")):
                workflow = json.loads(file.read_text())
                if file.stem in IN_MINIATURE:
                    frontend.load(in_miniature(workflow, *IN_MINIATURE[file.stem]))
                    assert frontend.run(300).status == "success"
                else:
                    run_what_needs_no_sampling(frontend, workflow)
                picture = shoot(frontend, Path(folder) / "shot.png", 1920, 1080)
                picture.resize(THUMBNAIL, Image.Resampling.LANCZOS).save(file.with_suffix(".jpg"), quality=88)
                if file.stem == "one_face":
                    picture = shoot(frontend, Path(folder) / "shot.png", 1800, 640)
                    (REPOSITORY / "docs").mkdir(exist_ok=True)
                    picture.save(REPOSITORY / "docs" / "one_face.jpg", quality=90)
            for name in IN_USE:
                shoot_in_use(frontend, name, Path(folder) / "shot.png")


def draw_strengths() -> Image.Image:
    """Draw a person of the miniature over Inject S*'s strength and F2D Conditioning's subject_from, with the judges' scores."""
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    verifier, attributes = miniature.load_judges()
    photo = load_photo(miniature.portraits()["ada"])
    words = miniature.narrow(encoder.words(encoder.identify(photo, alignment="FFHQ")))
    known = verifier.embed([photo])[0]
    rows = []
    for start in STARTS:
        config = replace(SETTINGS, subject_from=start)
        panels = [Panel(photo, "the photo")] if not rows else [Panel(np.full_like(photo, 255), "")]
        for strength in STRENGTHS:
            pipeline.subjects.clear()
            pipeline.add_subject(words, positional=encoder.mapper.config.positional, strength=strength)
            images = [one.image for one in pipeline.generate(describe(ASKED, "S*"), config, count=COUNT, batch_size=COUNT, progress=False)]
            scores = {
                "identity": float((verifier.embed(images) @ known).clamp(min=0).mean()),
                "text": float(np.mean([text_accuracy(ASKED, seen) for seen in attributes.recognise(images)])),
            }
            panels.append(Panel(images[0], f"strength {strength:g}\nsubject_from {start:g}", scores))
        rows.append(panels)
    subtitle = f"One of {COUNT} pictures each; scores: means over {COUNT}, by the miniature's judges"
    return Image.fromarray(draw_sheet(rows, describe(ASKED, "S*"), subtitle))


def shoot_in_use(frontend: Frontend, name: str, path: Path) -> None:
    """Draw a node with its neighbours for its help page."""
    workflow, shown, size = IN_USE[name]
    run_what_needs_no_sampling(frontend, json.loads((REPOSITORY / "workflows" / f"{workflow}.json").read_text()))
    frontend.page.evaluate(REMOVE_OTHERS, list(shown))
    shoot(frontend, path, *size).save(REPOSITORY / "web" / "docs" / f"{name}.jpg", quality=85)


def place_files(server: ComfyServer) -> None:
    """Put files under the names that the workflows choose; those of the base models may be empty."""
    models = server.base / "models"
    (models / "face2diffusion").mkdir(parents=True)
    write_msid(models / "face2diffusion" / "msid.pt")
    write_mapper(models / "face2diffusion" / "mapping.pt")
    write_expression(models / "face2diffusion" / "epoch_20.pth")
    for folder, name in (("checkpoints", "sd-v1-4.ckpt"), ("controlnet", "control_sd15_landmarks.pth")):
        server.place(b"", "models", folder, name)
    server.place(DETECTOR, "models", "face2diffusion", "face_detection_yunet_2023mar.onnx")
    (server.base / "input").mkdir()
    Image.fromarray(astronaut()).save(server.base / "input" / "example.png")


def run_what_needs_no_sampling(frontend: Frontend, workflow: dict) -> None:
    """Show what the face nodes show; the drawn picture would be noise without real weights."""
    prompt = frontend.load(workflow).prompt
    face = ("LoadFaceEncoder", "LoadImage", "EncodeFaceIdentity", "ExpressionReference", "F2DFaceLandmarks", "PreviewImage")
    asked = {"EncodeFaceIdentity": 1, "F2DFaceLandmarks": 0}  # something must ask for their outputs
    parts = {name: node for name, node in prompt.items() if node["class_type"] in face}
    for name, output in [(name, asked[node["class_type"]]) for name, node in parts.items() if node["class_type"] in asked]:
        parts[f"run {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [name, output]}}
    frontend.server.post("/free", {"free_memory": True})  # what is cached is not shown again
    frontend.page.evaluate("(output) => app.api.queuePrompt(0, {output, workflow: {}})", parts)
    frontend.page.wait_for_timeout(15_000)


def shoot(frontend: Frontend, path: Path, width: int, height: int) -> Image.Image:
    """Take one picture of the graph."""
    return Image.open(frontend.screenshot(path, width, height)).convert("RGB")


if __name__ == "__main__":
    main()
