"""Makes the images of the README, the workflow gallery and the help pages, most of them in a real ComfyUI.

python scripts/make_images.py [CHECKOUT [NAME ...]]

The names are those of workflows and nodes whose images are made, README, and strength; default: all.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
from face2diffusion.f2d import miniature
from face2diffusion.f2d.demo import SETTINGS
from face2diffusion.f2d.diffusion.denoising import PromptDenoiser
from face2diffusion.f2d.face.alignment import align_expression, align_face
from face2diffusion.f2d.face.cropping import locate_face
from face2diffusion.f2d.face.detection import Face, YuNet, draw_faces
from face2diffusion.f2d.face.identity_region import crop_identity, draw_region
from face2diffusion.f2d.face.landmarks import draw_landmarks, find_landmarks
from face2diffusion.f2d.face.regions import FaceRegions, crop_faces, find_region, paste_faces
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature import SIZE
from face2diffusion.f2d.miniature.comfyui import in_miniature, install
from face2diffusion.f2d.miniature.comfyui import workflow as miniature_workflow
from face2diffusion.f2d.miniature.prompts import SceneAttributes, describe, text_accuracy
from face2diffusion.f2d.miniature.sheet import Panel, draw_sheet
from face2diffusion.f2d.word_refinement import make_target, refine_words
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
Columns = Sequence[Sequence[int]]  # numbers of nodes, from the left and from the top
README: Columns = (2, 3, 4), (6, 5), (7, 8, 9, 11), (10, 12)
IN_USE: dict[str, tuple[str, Columns]] = {  # images of help pages: a workflow, and its nodes that are shown
    "EncodeFaceIdentity": ("one_face", ((3, 4), (5,), (13,))),
    "ExpressionReference": ("expression_reference", ((5,), (7,), (14,))),
    "F2DFaceLandmarks": ("pose_transfer", ((3, 4), (7,))),
    "InjectSStar": ("one_face", ((2, 5), (6,), (7,))),
}
HELP, README_IMAGE = REPOSITORY / "web" / "docs", REPOSITORY / "docs" / "one_face.jpg"
RUN_TIMEOUT = 1800  # seconds
HELP_WIDTH, README_WIDTH = 1120, 1360  # px, at most
PORTRAIT = 512  # px, in Load Image: the frontend does not enlarge images
WIDE = SIZE * 3 // 2, SIZE
SHOWN = (  # of one person, in the thumbnail of one_face
    SceneAttributes(job="chef"),
    SceneAttributes(place="enjoying cherry blossoms in tokyo"),
    SceneAttributes(job="pilot", place="at mount everest base camp"),
    SceneAttributes(expression="looking shocked"),
)
ASKED = SceneAttributes(job="king", place="at the taj mahal in india")
ROME, REFINED = SceneAttributes(place="in the streets of rome"), ("ada", "bela")
STYLES = 0.5, 1.0  # strengths in the thumbnail of style
STRENGTHS, STARTS, COUNT = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), (0.0, 0.2, 0.5, 0.8), 8
LOAD_API = (
    "async ([prompt, name]) => { await app.refreshComboInNodes(); await app.loadApiJson(prompt, name); }"
)
REMOVE_OTHERS = """kept => app.graph.nodes
    .filter(node => !kept.includes(Number(node.id)))
    .forEach(node => app.graph.remove(node))"""
HAS_IMAGES = """() => app.graph.nodes
    .filter(node => app.nodeOutputs[node.id]?.images || /^(Load|Preview|Save)Image$/.test(node.type))
    .every(node => node.imgs?.length && node.imgs.every(image => image.complete && image.naturalWidth))"""
SET_IN_COLUMNS = """columns => {
    const gap = 60, title = 40, sizes = {
        CLIPTextEncode: [270, 110], PreviewImage: [250, 290], SaveImage: [310, 370], VAEDecode: [270, 50],
        LoadImage: [290, 340], EncodeFaceIdentity: [290, 470], F2DBatchConditioning: [270, 60],
        F2DListIdentities: [230, 130], F2DPickBest: [480, 600],
    };
    let x = 0, bottom = 0;
    for (const column of columns) {
        let y = 0, right = x;
        for (const node of column.map(number => app.graph.getNodeById(number))) {
            node.setSize(sizes[node.type] ?? [Math.min(node.size[0], 290), node.size[1]]);
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
    for path, draw in without_comfyui().items():
        if not names or path.stem in names:
            draw().save(path, quality=80)  # the largest: below 300 kB
    if names and names <= {path.stem for path in without_comfyui()}:
        return
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(checkout, Path(folder))
        place_files(server)
        install(server.base, print)
        enlarge_portraits(server.input)
        with server, Browser() as browser, browser.open(server) as frontend:
            for path, make in in_comfyui(server, frontend, Path(folder) / "shot.png").items():
                if not names or path.stem in names or (path == README_IMAGE and "README" in names):
                    make().save(path, quality=88)


def without_comfyui() -> dict[Path, Callable[[], Image.Image]]:
    """Return a function for each image that needs no ComfyUI."""
    return {
        HELP / "F2DPasteFaces.jpg": paste_faces_in_use,
        HELP / "F2DRefineIdentity.jpg": draw_refinement,
        HELP / "strength.jpg": draw_strengths,
    }


def in_comfyui(server: ComfyServer, frontend: Frontend, shot: Path) -> dict[Path, Callable[[], Image.Image]]:
    """Return a function for each image that comes from a running ComfyUI; `shot` is overwritten."""
    return {
        **{REPOSITORY / "workflows" / f"{name}.jpg": draw for name, draw in thumbnails(server).items()},
        README_IMAGE: partial(shoot_readme, frontend, shot),
        **{HELP / f"{name}.jpg": partial(shoot_in_use, frontend, name, shot) for name in (*IN_USE, *GRAPHS)},
    }


def shoot_readme(frontend: Frontend, path: Path) -> Image.Image:
    """Show the miniature's workflow after a run, without its note."""
    frontend.server.post("/free", {"free_memory": True})  # what is cached is not shown again
    frontend.load(miniature_workflow("ada"))
    frontend.page.evaluate(REMOVE_OTHERS, sum(README, ()))
    result = frontend.run(RUN_TIMEOUT)
    assert result.status == "success", result.message
    return shoot_columns(frontend, path, README, README_WIDTH)


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

    def prompted(scene: SceneAttributes) -> Callable[[str], str]:
        return lambda text: describe(scene, "S*") if "S*" in text else text

    def one_face() -> Image.Image:
        images = [run("one_face", ["ada"], prompted(scene))[-1] for scene in SHOWN]
        rows = [images[:2], images[2:]]
        return draw_thumbnail([Tile(faces["ada"], "photo")], rows, "One photo, any prompt with S*")

    def expression_reference() -> Image.Image:
        winking = run("expression_reference", ["ada", "dora"], prompted(SceneAttributes()))[-1]
        shown = [Tile(faces["ada"], "person"), Tile(faces["dora"], "expression")]
        return draw_thumbnail(shown, [[winking]], "The expression of a second photo")

    def two_people() -> Image.Image:
        both = run("two_people", ["ada", "chidi"], in_region, WIDE)[-1]
        shown = [Tile(faces["ada"], "S1*"), Tile(faces["chidi"], "S2*")]
        return draw_thumbnail(shown, [[both]], "Two people, each in a region")

    def drawn_regions() -> Image.Image:
        """Paint a region at the left, as the mask editor saves it, and show what it makes."""
        region = paint_left_half()
        region.save(server.base / "input" / "miniature_region.png")
        both = run("drawn_regions", ["ada", "chidi", "region"], in_region, WIDE)[-1]
        painted = np.asarray(region.convert("RGBa").convert("RGB").resize((SIZE, SIZE)))
        shown = [Tile(faces["ada"], "S1*"), Tile(faces["chidi"], "S2*"), Tile(painted, "region of S1*")]
        return draw_thumbnail(shown, [[both]], "Two people, each in a painted region")

    def batch_of_people() -> Image.Image:
        people = ["ada", "bela", "chidi"]
        images = run("batch_of_people", people, prompted(SceneAttributes(job="chef")))
        return draw_thumbnail(
            [Tile(faces[name]) for name in people], [images], "One prompt, one image per person"
        )

    def style() -> Image.Image:
        images = [run("style", ["ada"], prompted(ASKED), strength=strength)[-1] for strength in STYLES]
        caption = f"Likeness against style: strength {' and '.join(f'{one:g}' for one in STYLES)}"
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


def paint_left_half() -> Image.Image:
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
    subtitle = f"One of {COUNT} images each; scores of the miniature's evaluators: means over {COUNT}"
    return Image.fromarray(draw_sheet(rows, describe(ASKED, "S*"), subtitle))


def draw_refinement() -> Image.Image:
    """Generate people of the miniature before and after refining, with the evaluator's score of identity."""
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    verifier, _ = miniature.load_evaluators()
    denoiser, prompt, rows = PromptDenoiser.from_pipeline(pipeline.diffusion), describe(ROME, "S*"), []
    for name in REFINED:
        photo = load_photo(miniature.portraits()[name])
        crop = crop_identity(locate_face(None, photo, "FFHQ"), SIZE)
        words = miniature.narrow(encoder.words(encoder.identify(photo, alignment="FFHQ")))
        refined = refine_words(denoiser, words, [make_target(crop, pipeline.encode_photos)])
        panels = [Panel(photo, f"photo of {name}"), Panel(draw_region(crop), "what the words learn")]
        for title, shown in (("before", words), ("after 60 steps", refined)):
            pipeline.subjects.clear()
            pipeline.add_subject(shown)
            found = pipeline.generate(prompt, SETTINGS, count=COUNT, batch_size=COUNT, progress=False)
            features = verifier.embed([photo, *(one.image for one in found)])
            same = float((features[1:] @ features[0]).clamp(min=0).mean())
            panels += [Panel(one.image, title, {"identity": same}) for one in found[:2]]
        rows.append(panels)
    subtitle = f"Two of {COUNT} images each, with the same seeds; scores: means over {COUNT}"
    return Image.fromarray(draw_sheet(rows, prompt, subtitle))


def shoot_in_use(frontend: Frontend, name: str, path: Path) -> Image.Image:
    """Show a node with its neighbors for its help page."""
    if name in IN_USE:
        workflow, columns = IN_USE[name]
        run_face_nodes(frontend, bundled(workflow))
    else:
        columns = GRAPHS[name].shown()
        run_in_miniature(frontend, name)
    frontend.page.evaluate(REMOVE_OTHERS, [number for column in columns for number in column])
    return shoot_columns(frontend, path, columns, HELP_WIDTH)


def run_in_miniature(frontend: Frontend, name: str) -> None:
    """Run a help page's graph."""
    frontend.server.post("/free", {"free_memory": True})  # what is cached is not shown again
    frontend.page.evaluate(LOAD_API, [GRAPHS[name].numbered(), name])
    result = frontend.run(RUN_TIMEOUT)
    assert result.status == "success", result.message


def shoot_columns(frontend: Frontend, path: Path, columns: Columns, widest: int) -> Image.Image:
    """Set the nodes in columns and take a screenshot of them, at most `widest` px wide."""
    frontend.page.evaluate(FIT, 20)
    frontend.page.wait_for_function(HAS_IMAGES, timeout=60_000)
    frontend.page.wait_for_timeout(2000)  # nodes grow with their images while they are in sight
    width, height = frontend.page.evaluate(SET_IN_COLUMNS, columns)
    scale = min((widest - 40) / width, 1)
    size = round(width * scale) + 40, round(height * scale) + 40
    return Image.open(frontend.screenshot(path, *size)).convert("RGB")


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


def enlarge_portraits(folder: Path) -> None:
    """Enlarge the miniature's portraits, so that they fill the nodes that show them."""
    for path in folder.glob("miniature_*.png"):
        Image.open(path).resize((PORTRAIT, PORTRAIT), Image.Resampling.BICUBIC).save(path)


def run_face_nodes(frontend: Frontend, workflow: dict) -> None:
    """Run the face nodes only: without real weights the generated image would be noise."""
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
    while any(frontend.server.get("/queue").values()):
        frontend.page.wait_for_timeout(500)
    frontend.page.wait_for_timeout(3000)  # the nodes load their images


if __name__ == "__main__":
    main()
