"""Makes docs/teaser.jpg, the README's first image: a photo, and the best of 4 images for each prompt.

python scripts/make_teaser.py

The rule, the project's own best of N (`f2d/ranking.py`): of seeds 0 to 3 the image with the highest product
of identity (the miniature's verifier) and text (its attributes). The people are the first two portraits.
"""

import textwrap
from pathlib import Path

import numpy as np
from face2diffusion.f2d import miniature
from face2diffusion.f2d.demo import SETTINGS
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature.prompts import LOCATIONS, SceneAttributes, describe, text_accuracy
from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).resolve().parents[1] / "docs" / "teaser.jpg"
PEOPLE, SEEDS = 2, range(4)
SCENES = (
    SceneAttributes(job="chef"),
    SceneAttributes(place=LOCATIONS[0]),
    SceneAttributes(expression="looking shocked"),
    SceneAttributes(job="pilot", place=LOCATIONS[8]),
)
SIDE, GAP, HEAD = 240, 12, 42  # px


def choose(pipeline, verifier, attributes, photo: np.ndarray, scene: SceneAttributes) -> np.ndarray:
    """Generate the prompt with each seed, and return the best image, (128, 128, 3)."""
    prompt = describe(scene, "S*")
    states = pipeline.encode(prompt)
    images = pipeline.generate_encoded([prompt] * len(SEEDS), states, list(SEEDS), SETTINGS, progress=False)
    found = [one.image for one in images]
    identity = (verifier.embed(found) @ verifier.embed([photo]).T)[:, 0].clamp_min(0).tolist()
    text = [text_accuracy(scene, seen) for seen in attributes.recognize(found)]
    return found[int(np.argmax([one * (other or 0.0) for one, other in zip(identity, text, strict=True)]))]


def main() -> None:
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    verifier, attributes = miniature.load_evaluators()
    photos = [load_photo(path) for path in list(miniature.portraits().values())[:PEOPLE]]
    titles = ["the only photo", *(describe(scene, "S*").removeprefix("a photo of ") for scene in SCENES)]
    width = len(titles) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, HEAD + PEOPLE * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, title in enumerate(titles):
        lines = textwrap.fill(title, 28)
        middle = column * (SIDE + GAP) + SIDE // 2
        pen.multiline_text((middle, HEAD - 4), lines, "black", font, anchor="md", align="center")
    for row, photo in enumerate(photos):
        pipeline.subjects.clear()
        words = encoder.words(encoder.identify(photo, alignment="FFHQ"))
        pipeline.add_subject(miniature.narrow(words), positional=encoder.mapper.config.positional)
        images = [photo, *(choose(pipeline, verifier, attributes, photo, scene) for scene in SCENES)]
        for column, image in enumerate(images):
            tile = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (column * (SIDE + GAP), HEAD + row * (SIDE + GAP)))
    sheet.save(OUT, quality=88)


if __name__ == "__main__":
    main()
