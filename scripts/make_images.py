"""Takes the pictures of the README, the workflow gallery and the help pages from a real ComfyUI.

python scripts/make_images.py [CHECKOUT [NAME ...]]

The names are those of workflows and nodes whose images are made; without any, all images are.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
from face2diffusion.f2d import miniature
from face2diffusion.f2d.demo import SETTINGS
from face2diffusion.f2d.face.alignment import align_expression, align_face
from face2diffusion.f2d.face.detection import Face, YuNet, draw_faces
from face2diffusion.f2d.face.landmarks import draw_landmarks, find_landmarks
from face2diffusion.f2d.face.regions import FaceRegions, crop_faces, find_region, paste_faces
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature import SIZE
from face2diffusion.f2d.miniature.comfyui import in_miniature, install
from face2diffusion.f2d.miniature.prompts import SceneAttributes, describe, text_accuracy
from face2diffusion.f2d.miniature.sheet import Panel, draw_sheet
from PIL import Image, ImageDraw
from skimage.data import astronaut
from support import graph
from support.browser import FIT, Browser, Frontend
from support.help_graphs import GRAPHS
from support.miniature import in_region
from support.official import write_expression, write_mapper, write_msid
from support.server import REPOSITORY, ComfyServer, find_checkouts
from support.thumbnails import Tile, draw_thumbnail

DETECTOR = REPOSITORY.parent / "shared" / "models" / "face_detection_yunet_2026may.onnx"
IN_USE = {  # pictures of the help pages: a workflow, those of its nodes that are shown, and the size in px
    "EncodeFaceIdentity": ("one_face", (3, 4, 5, 13), (1120, 640)),
    "ExpressionReference": ("expression_reference", (5, 7, 14), (1120, 420)),
    "F2DFaceLandmarks": ("pose_transfer", (3, 4, 7), (800, 640)),
    "InjectSStar": ("one_face", (2, 5, 6, 7), (1120, 540)),
}
WIDE = SIZE * 3 // 2, SIZE
SHOWN = (  # of one person, in the thumbnail of one_face
    SceneAttributes(job="chef"),
    SceneAttributes(place="enjoying cherry blossoms in tokyo"),
    SceneAttributes(job="pilot", place="at mount everest base camp"),
    SceneAttributes(expression="looking shocked"),
)
ASKED = SceneAttributes(job="king", place="at the taj mahal in india")
STYLES = 0.4, 0.7, 1.0  # strengths in the thumbnail of style
STRENGTHS, STARTS, COUNT = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), (0.0, 0.2, 0.5, 0.8), 8
LOAD_API = (
    "async ([prompt, name]) => { await app.refreshComboInNodes(); await app.loadApiJson(prompt, name); }"
)
REMOVE_OTHERS = """kept => app.graph.nodes
    .filter(node => !kept.includes(Number(node.id)))
    .forEach(node => app.graph.remove(node))"""
SET_IN_COLUMNS = """columns => {
    const gap = 60, title = 40, small = {CLIPTextEncode: [260, 110], PreviewImage: [230, 270]};
    let x = 0, bottom = 0;
    for (const column of columns) {
        let y = 0, right = x;
        for (const node of column.map(number => app.graph.getNodeById(number))) {
            node.setSize(small[node.type] ?? [...node.size]);
            node.pos = [x, y];
            right = Math.max(right, x + node.size[0]);
            bottom = Math.max(bottom, y + node.size[1]);
            y += node.size[1] + gap + title;
        }
        x = right + gap;
    }
    return [x - gap, bottom + title];
}"""


def main() -> None:
    """Make the images that are asked for."""
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else find_checkouts()[-1]
    names = set(sys.argv[2:])
    if not names or "F2DPasteFaces" in names:
        paste_faces_in_use().save(REPOSITORY / "web" / "docs" / "F2DPasteFaces.jpg", quality=88)
    if not names:
        draw_strengths().save(REPOSITORY / "web" / "docs" / "strength.jpg", quality=88)
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(checkout, Path(folder))
        place_files(server)
        install(server.base, print)
        with server, Browser() as browser, browser.open(server) as frontend:
            for name, draw in thumbnails(server).items():
                if not names or name in names:
                    draw().save(REPOSITORY / "workflows" / f"{name}.jpg", quality=90)
            if not names:
                shoot_readme(frontend, Path(folder) / "shot.png").save(
                    REPOSITORY / "docs" / "one_face.jpg", quality=90
                )
            for name in (*IN_USE, *GRAPHS):
                if not names or name in names:
                    picture = shoot_in_use(frontend, name, Path(folder) / "shot.png")
                    picture.save(REPOSITORY / "web" / "docs" / f"{name}.jpg", quality=85)


def shoot_readme(frontend: Frontend, path: Path) -> Image.Image:
    """Show the workflow one_face after a run."""
    frontend.server.post("/free", {"free_memory": True})  # what is cached is not shown again
    frontend.load(
        in_miniature(
            bundled("one_face"),
            ["ada"],
            lambda text: text.replace("A photo", "a photo").partition(",")[0],
        )
    )
    assert frontend.run(300).status == "success"
    return shoot(frontend, path, 1800, 640)


def bundled(name: str) -> dict:
    """Read a bundled workflow."""
    return json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def thumbnails(server: ComfyServer) -> dict[str, Callable[[], Image.Image]]:
    """Return a function for each of the gallery's thumbnails, which runs its workflow on the miniature.

    The landmark ControlNet and the second pass of face_detail are for real Stable Diffusion, so there only
    what goes in is shown.
    """
    faces = {name: load_photo(path) for name, path in miniature.portraits().items()}
    info = server.object_info()

    def run(
        name: str,
        people: list[str],
        rewrite: Callable[[str], str],
        size: tuple[int, int] = (SIZE, SIZE),
        strength: float = 1.0,
    ) -> list[np.ndarray]:
        """Images of the workflow, those of Preview Image first."""
        prompt = graph.to_api(in_miniature(bundled(name), people, rewrite, size), info)
        for node in prompt.values():
            if node["class_type"] == "InjectSStar":
                node["inputs"]["strength"] = strength
        files = server.run(prompt, timeout=3600).files
        shown = [
            key
            for kind in ("PreviewImage", "SaveImage")
            for key, node in prompt.items()
            if node["class_type"] == kind
        ]
        return [load_photo(path) for key in shown for path in files[key]]

    def said(facts: SceneAttributes) -> Callable[[str], str]:
        return lambda text: describe(facts, "S*") if "S*" in text else text

    def one_face() -> Image.Image:
        scenes = [run("one_face", ["ada"], said(facts))[-1] for facts in SHOWN]
        rows = [scenes[:2], scenes[2:]]
        return draw_thumbnail([Tile(faces["ada"], "photo")], rows, "One photo, any prompt with S*")

    def expression_reference() -> Image.Image:
        winking = run("expression_reference", ["bela", "dora"], said(SceneAttributes()))[-1]
        shown = [Tile(faces["bela"], "person"), Tile(faces["dora"], "expression")]
        return draw_thumbnail(shown, [[winking]], "The expression of a second photo")

    def two_people() -> Image.Image:
        both = run("two_people", ["ada", "chidi"], in_region, WIDE)[-1]
        shown = [Tile(faces["ada"], "S1*"), Tile(faces["chidi"], "S2*")]
        return draw_thumbnail(shown, [[both]], "Two people, each in a region")

    def drawn_regions() -> Image.Image:
        """Paint a region at the left, as the mask editor saves it, and show what it makes."""
        region = draw_region()
        region.save(server.base / "input" / "miniature_region.png")
        both = run("drawn_regions", ["ada", "chidi", "region"], in_region, WIDE)[-1]
        painted = np.asarray(region.convert("RGBa").convert("RGB").resize((SIZE, SIZE)))
        shown = [Tile(faces["ada"], "S1*"), Tile(faces["chidi"], "S2*"), Tile(painted, "region of S1*")]
        return draw_thumbnail(shown, [[both]], "Two people, each in a painted region")

    def batch_of_people() -> Image.Image:
        people = ["ada", "bela", "chidi"]
        images = run("batch_of_people", people, said(SceneAttributes(job="chef")))
        return draw_thumbnail(
            [Tile(faces[name]) for name in people], [images], "One prompt, one image per person"
        )

    def style() -> Image.Image:
        images = [run("style", ["ada"], said(ASKED), strength=strength)[-1] for strength in STYLES]
        caption = f"Likeness against style: strength {', '.join(f'{one:g}' for one in STYLES)}"
        return draw_thumbnail([Tile(faces["ada"], "photo")], [images], caption)

    return {
        "one_face": one_face,
        "drawn_regions": drawn_regions,
        "batch_of_people": batch_of_people,
        "style": style,
        "expression_reference": expression_reference,
        "two_people": two_people,
        "face_detail": face_detail,
        "landmark_controlnet": lambda: draw_thumbnail(
            astronaut_tiles()[:2], [], "A person in the pose of landmarks (ControlNet)"
        ),
        "pose_transfer": lambda: draw_thumbnail(
            astronaut_tiles(), [], "Person, pose and expression from three photos"
        ),
    }


def draw_region() -> Image.Image:
    """Paint the left half of an image, as ComfyUI's mask editor stores it: transparent is painted."""
    alpha = Image.new("L", (WIDE[0] * 2, WIDE[1] * 2), 255)
    ImageDraw.Draw(alpha).rounded_rectangle((-60, 8, WIDE[0], WIDE[1] * 2 - 8), 60, 0)
    gray = Image.new("RGB", alpha.size, (110, 112, 120))
    return Image.merge("RGBA", (*gray.split(), alpha))


def face_detail() -> Image.Image:
    """Show what face_detail crops from a photo."""
    photo, faces, _, crops = crop_astronaut()
    shown = [Tile(draw_faces(photo, faces, faces[0]), "image"), Tile(to_photo(crops[0]), "crop")]
    return draw_thumbnail(shown, [], "Each face generated again at 512 px")


def paste_faces_in_use() -> Image.Image:
    """Show Paste Faces with a crop that an image filter edited."""
    photo, _, regions, crops = crop_astronaut()
    edited = to_photo(crops[0])[..., :1] // 64 * np.array([[[60, 70, 85]]], np.uint8)
    pasted = paste_faces(photo[None] / np.float32(255), edited[None] / np.float32(255), regions, None, 32)
    shown = [Tile(photo, "image"), Tile(edited, "edited crop"), Tile(to_photo(pasted[0]), "pasted")]
    return draw_thumbnail(shown, [], "Paste Faces without color matching")


def crop_astronaut() -> tuple[np.ndarray, list[Face], FaceRegions, np.ndarray]:
    """Return the photo, its faces, their regions and crops of 512 px."""
    photo = astronaut()
    faces = YuNet(DETECTOR).detect(photo, 0.6)
    size = photo.shape[1], photo.shape[0]
    regions = FaceRegions(1, *size, tuple(find_region(face, 0, *size, 2.0) for face in faces))
    return photo, faces, regions, crop_faces(photo[None] / np.float32(255), regions, 512)[0]


def to_photo(image: np.ndarray) -> np.ndarray:
    """Round an image in [0, 1] to uint8."""
    return np.rint(image * 255).astype(np.uint8)


def astronaut_tiles() -> list[Tile]:
    """A person, a pose and an expression."""
    ours, detector = astronaut(), YuNet(DETECTOR)
    (face,) = detector.detect(ours, 0.6)
    turned = np.ascontiguousarray(ours[:240, 320:80:-1])  # another pose
    return [
        Tile(align_face(ours, face.landmarks), "person"),
        Tile(draw_landmarks(find_landmarks(turned, detector)), "pose"),
        Tile(align_expression(ours, face.landmarks), "expression"),
    ]


def draw_strengths() -> Image.Image:
    """Generate a person of the miniature over `strength` and `subject_from`, with the evaluators' scores."""
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    verifier, attributes = miniature.load_evaluators()
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
            images = [
                one.image
                for one in pipeline.generate(
                    describe(ASKED, "S*"), config, count=COUNT, batch_size=COUNT, progress=False
                )
            ]
            scores = {
                "identity": float((verifier.embed(images) @ known).clamp(min=0).mean()),
                "text": float(np.mean([text_accuracy(ASKED, seen) for seen in attributes.recognize(images)])),
            }
            panels.append(Panel(images[0], f"strength {strength:g}\nsubject_from {start:g}", scores))
        rows.append(panels)
    subtitle = f"One of {COUNT} pictures each; scores: means over {COUNT}, by the miniature's judges"
    return Image.fromarray(draw_sheet(rows, describe(ASKED, "S*"), subtitle))


def shoot_in_use(frontend: Frontend, name: str, path: Path) -> Image.Image:
    """Draw a node with its neighbors for its help page."""
    if name in IN_USE:
        workflow, shown, size = IN_USE[name]
        run_what_needs_no_sampling(frontend, bundled(workflow))
        frontend.page.evaluate(REMOVE_OTHERS, list(shown))
    else:
        size = run_in_miniature(frontend, name)
    return shoot(frontend, path, *size)


def run_in_miniature(frontend: Frontend, name: str) -> tuple[int, int]:
    """Run a help page's graph, and leave the nodes that are shown; returns the size of their picture."""
    found = GRAPHS[name]
    frontend.server.post("/free", {"free_memory": True})  # what is cached is not shown again
    frontend.page.evaluate(LOAD_API, [found.numbered(), name])
    result = frontend.run(300)
    assert result.status == "success", result.message
    frontend.page.evaluate(REMOVE_OTHERS, sum(found.shown(), []))
    frontend.page.evaluate(FIT, 20)
    frontend.page.wait_for_timeout(2000)  # nodes grow with their pictures, where they are in sight
    width, height = frontend.page.evaluate(SET_IN_COLUMNS, found.shown())
    scale = min((1120 - 40) / width, 1)
    return round(width * scale) + 40, round(height * scale) + 40


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
    face = (
        "LoadFaceEncoder",
        "LoadImage",
        "EncodeFaceIdentity",
        "ExpressionReference",
        "F2DFaceLandmarks",
        "PreviewImage",
    )
    asked = {"EncodeFaceIdentity": 1, "F2DFaceLandmarks": 0}  # something must ask for their outputs
    parts = {name: node for name, node in prompt.items() if node["class_type"] in face}
    for name, output in [
        (name, asked[node["class_type"]]) for name, node in parts.items() if node["class_type"] in asked
    ]:
        parts[f"run {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [name, output]}}
    frontend.server.post("/free", {"free_memory": True})  # what is cached is not shown again
    frontend.page.evaluate("(output) => app.api.queuePrompt(0, {output, workflow: {}})", parts)
    frontend.page.wait_for_timeout(15_000)


def shoot(frontend: Frontend, path: Path, width: int, height: int) -> Image.Image:
    """Take one picture of the graph."""
    return Image.open(frontend.screenshot(path, width, height)).convert("RGB")


if __name__ == "__main__":
    main()
